package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"soniq/engine"
)

type enqueueCmd struct {
	Name        string         `arg:"" help:"The job's name."`
	Args        string         `default:"{}" placeholder:"JSON" help:"The arguments: a JSON object, @FILE, or - for standard input. Default {}."`
	Queue       *string        `placeholder:"QUEUE" help:"Default 'default'."`
	Priority    *int           `placeholder:"N" help:"Lower runs first. Default 100."`
	MaxAttempts *int           `placeholder:"N" help:"Tries in all. Default 4."`
	Delay       *time.Duration `placeholder:"DURATION" xor:"when" help:"Run it no sooner than after DURATION, such as 90s or 2h."`
	At          string         `placeholder:"TIME" xor:"when" help:"Run it no sooner than at TIME, in RFC 3339."`
	Unique      bool           `help:"Do nothing if an equal unique job is queued already."`
	DedupKey    *string        `placeholder:"KEY" help:"Do nothing if a job with this key is queued already."`
	MaxArgs     int            `name:"max-args-bytes" placeholder:"N" help:"Refuse larger arguments. Default 1 MiB."`
}

func (enqueueCmd) Help() string {
	return `Prints the job's id.

    soniq enqueue emails.send --args '{"user_id": 42}'
    soniq enqueue reports.build --args @report.json --delay 10m
    jq -c .payload event.json | soniq enqueue events.handle --args -`
}

func (c *enqueueCmd) Run(a *app) error {
	opts, err := c.options()
	if err != nil {
		return err
	}
	if c.MaxArgs < 0 {
		return usagef("--max-args-bytes must not be negative: %d", c.MaxArgs)
	}
	args, err := c.args(a)
	if err != nil {
		return err
	}
	pool, err := a.open()
	if err != nil {
		return err
	}
	client, err := engine.NewClient(pool, engine.ClientConfig{MaxArgsBytes: c.MaxArgs})
	if err != nil {
		return err
	}
	job, err := client.Enqueue(a.ctx, c.Name, args, opts...)
	var wrong *engine.ArgumentError
	if errors.As(err, &wrong) {
		return usagef("%w", wrong)
	}
	if err != nil {
		return err
	}
	if job.Duplicate {
		a.note("an equal job is queued already")
	}
	if a.JSON {
		return a.out.document(map[string]any{"id": job.ID, "duplicate": job.Duplicate})
	}
	a.out.printf("%s", job.ID)
	return nil
}

func (c *enqueueCmd) options() (opts []engine.EnqueueOption, err error) {
	if c.Queue != nil {
		opts = append(opts, engine.Queue(*c.Queue))
	}
	if c.Priority != nil {
		opts = append(opts, engine.Priority(*c.Priority))
	}
	if c.MaxAttempts != nil {
		opts = append(opts, engine.MaxAttempts(*c.MaxAttempts))
	}
	if c.Delay != nil {
		opts = append(opts, engine.After(*c.Delay))
	}
	if c.At != "" {
		at, err := time.Parse(time.RFC3339, c.At)
		if err != nil {
			return nil, usagef("--at must be a time such as 2006-01-02T15:04:05Z, not %q", c.At)
		}
		opts = append(opts, engine.At(at))
	}
	if c.Unique {
		opts = append(opts, engine.Unique())
	}
	if c.DedupKey != nil {
		opts = append(opts, engine.DedupKey(*c.DedupKey))
	}
	return opts, nil
}

// args reads the arguments from where the flag says. What they are is the
// client's to judge.
func (c *enqueueCmd) args(a *app) (json.RawMessage, error) {
	source, name := a.stdin, "standard input"
	switch {
	case c.Args == "-":
	case strings.HasPrefix(c.Args, "@"):
		f, err := os.Open(c.Args[1:])
		if err != nil {
			return nil, usagef("--args: %w", err)
		}
		defer func() { _ = f.Close() }()
		source, name = f, c.Args[1:]
	default:
		return json.RawMessage(c.Args), nil
	}
	// Endless input must not fill the memory before it is refused.
	const most = 256 << 20
	args, err := io.ReadAll(io.LimitReader(source, most+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if len(args) > most {
		return nil, usagef("--args: %s is larger than a job's arguments can be", name)
	}
	return args, nil
}
