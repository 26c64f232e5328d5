package main

import (
	"context"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"soniq/engine"
)

type workerCmd struct {
	Handle          []string       `sep:"none" placeholder:"NAME=exec:COMMAND" help:"Run jobs called NAME by COMMAND, through /bin/sh -c. Repeatable; at least one."`
	Queues          []string       `placeholder:"QUEUE" help:"Queues to serve. Default 'default'."`
	Concurrency     *int           `placeholder:"N" help:"How many jobs run at once. Default 10."`
	Timeout         *time.Duration `placeholder:"DURATION" help:"End a command that takes longer; 0 for never. Default 5m."`
	ResultTTL       *time.Duration `name:"result-ttl" placeholder:"DURATION" help:"Keep done jobs and their results for DURATION; 0 deletes them at once. Default 5m."`
	ShutdownTimeout *time.Duration `placeholder:"DURATION" help:"Let running jobs go on for DURATION when the worker is stopped. Default 30s."`
	UnknownGrace    *time.Duration `placeholder:"DURATION" help:"A due job that no worker has a handler for becomes a dead letter after DURATION; 0 for never. Default 5m."`
	ListenURL       string         `name:"listen-url" placeholder:"URL" help:"A direct connection to listen on, where the database is behind a pooler in transaction mode."`
}

func (workerCmd) Help() string {
	return `A command gets the job's arguments as JSON on standard input, and SONIQ_JOB_ID, SONIQ_JOB_NAME, SONIQ_QUEUE, SONIQ_ATTEMPT and SONIQ_MAX_ATTEMPTS in its environment. How it exits is the verdict:

    0     done; standard output, if it is JSON, is the result
    65    the arguments are invalid: dead letter at once
    78    it failed for good: dead letter at once
    else  it failed: tried again later, while attempts remain

The end of standard error is recorded as the error. A command that is still running at its timeout, or when the worker must stop, gets SIGTERM, then SIGKILL; so does what it has started. What it leaves running in its process group when it exits is killed.

Ctrl-C (or SIGTERM) lets running jobs end; a second one gives them back to their queue at once; a third one exits.

    soniq worker --handle emails.send='exec:./send-email' --handle 'reports.build=exec:python build.py'`
}

// readsSignals makes the worker count them itself.
func (workerCmd) readsSignals() {}

func (c *workerCmd) Run(a *app) error {
	commands, err := c.commands()
	if err != nil {
		return err
	}
	config, err := c.config()
	if err != nil {
		return err
	}
	config.Logger = a.log

	ctx, stop := context.WithCancel(a.ctx)
	defer stop()
	started := make(chan *engine.Worker, 1)
	defer a.onSignals(
		func() {
			a.note("soniq: stopping once running jobs have ended; Ctrl-C again gives them back")
			stop()
		},
		func() {
			a.note("soniq: giving running jobs back; Ctrl-C again exits at once")
			select {
			case w := <-started:
				w.Cancel()
			default: // it hasn't begun, or is over
			}
		},
		func() { a.exit(exitFailed) },
	)()
	a.ctx = ctx

	warden, err := newWarden()
	if err != nil {
		return err
	}
	a.atExit(warden.close)
	registry := engine.NewRegistry()
	for _, h := range commands {
		handler := &execHandler{command: h.command, warden: warden, grace: killGrace, log: a.log}
		engine.HandleRaw(registry, h.name, handler.run)
	}
	if err := registry.Err(); err != nil {
		return usagef("--handle: %w", err)
	}
	pool, err := a.open()
	if err != nil {
		return err
	}
	worker, err := engine.NewWorker(pool, registry, config)
	if err != nil {
		return err
	}
	started <- worker
	return worker.Run(ctx)
}

// command is one --handle.
type command struct{ name, command string }

// commands takes the flags apart.
func (c *workerCmd) commands() ([]command, error) {
	const form = "NAME=exec:COMMAND"
	if len(c.Handle) == 0 {
		return nil, usagef("no handler: give --handle %s at least once", form)
	}
	seen := map[string]bool{}
	var commands []command
	for _, text := range c.Handle {
		name, handler, ok := strings.Cut(text, "=")
		name = strings.TrimSpace(name)
		if !ok {
			return nil, usagef("--handle must be %s: %q has no '='", form, text)
		}
		if name == "" {
			return nil, usagef("--handle must be %s: %q has no name", form, text)
		}
		line, ok := strings.CutPrefix(handler, "exec:")
		if !ok {
			return nil, usagef("--handle must be %s: after %q comes %q, not exec:", form, name+"=", handler)
		}
		if strings.TrimSpace(line) == "" {
			return nil, usagef("--handle must be %s: %q has no command", form, text)
		}
		if seen[name] {
			return nil, usagef("--handle names %q twice", name)
		}
		seen[name] = true
		commands = append(commands, command{name, line})
	}
	return commands, nil
}

// config turns the flags into a configuration. On the command line 0 is what
// it says; in the configuration it is the default, and negative is none.
func (c *workerCmd) config() (config engine.WorkerConfig, err error) {
	config = engine.WorkerConfig{
		Queues: c.Queues,
		// A command that ignores SIGTERM is killed before its job is given
		// back, so that it never runs twice at once.
		CancelGrace: killGrace + 2*pipeGrace,
	}
	for _, q := range c.Queues {
		if q == "" {
			return config, usagef("--queues has an empty name")
		}
	}
	if c.Concurrency != nil {
		const most = 10_000 // the engine's bound
		if config.Concurrency = *c.Concurrency; config.Concurrency < 1 || config.Concurrency > most {
			return config, usagef("--concurrency must be from 1 to %d, not %d", most, config.Concurrency)
		}
	}
	for _, d := range []struct {
		flag   string
		given  *time.Duration
		target *time.Duration
		zero   time.Duration
	}{
		{"--timeout", c.Timeout, &config.JobTimeout, -1},
		{"--result-ttl", c.ResultTTL, &config.ResultTTL, -1},
		{"--shutdown-timeout", c.ShutdownTimeout, &config.ShutdownTimeout, 1},
		{"--unknown-grace", c.UnknownGrace, &config.UnknownGrace, -1},
	} {
		switch {
		case d.given == nil:
		case *d.given < 0:
			return config, usagef("%s must not be negative: %s", d.flag, *d.given)
		case *d.given == 0:
			*d.target = d.zero
		default:
			*d.target = *d.given
		}
	}
	if c.ListenURL != "" {
		if config.ListenConfig, err = listenConfig(c.ListenURL); err != nil {
			return config, err
		}
	}
	return config, nil
}

func listenConfig(listenURL string) (*pgx.ConnConfig, error) {
	pool, err := poolConfig(listenURL, "--listen-url")
	if err != nil {
		return nil, err
	}
	return pool.ConnConfig, nil
}
