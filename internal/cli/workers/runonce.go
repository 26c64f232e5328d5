package workers

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"soniq/engine"
	"soniq/internal/cli/app"
	"soniq/internal/cli/terminal"
	"soniq/internal/cli/workerflags"
	"soniq/internal/command"
	"soniq/internal/handler"
	"soniq/internal/suggest"
	"soniq/internal/workerfile"
)

type workerRunOnceCmd struct {
	workerflags.HandlerFlags
	Name    string `arg:"" help:"The name of the job whose handler runs."`
	Args    string `default:"{}" placeholder:"JSON" help:"The arguments: a JSON object, @FILE, or - for standard input. Default {}."`
	Attempt int    `default:"1" placeholder:"N" help:"Run it as attempt N, from 1 on. Default 1."`
}

func (workerRunOnceCmd) Help() string {
	return `Runs the handler once, as a worker would, without a database: same environment, timeout and verdict. Prints the result on standard output, and the verdict and what a command writes to standard error on standard error, without secrets. Exits with 0 if the job would be done, else with 1.

    soniq worker run-once emails.send --args '{"to": "ada@example.com"}'
    soniq worker run-once emails.send --args '{"to": "ada@example.com"}' --attempt 2
    soniq worker run-once emails.send --args @job.json --handle emails.send='exec:./send-email'
    soniq worker run-once reports.build --config soniq.yaml --json`
}

// tried is what run-once --json prints.
type tried struct {
	Name    string             `json:"job_name"`
	Outcome engine.OutcomeKind `json:"outcome"`
	Reason  string             `json:"dead_letter_reason,omitempty"`
	Error   string             `json:"error,omitempty"`
	Code    string             `json:"error_code,omitempty"`
	// Delay is the time to the next attempt.
	Delay       string          `json:"delay,omitempty"`
	Attempt     int             `json:"attempt"`
	MaxAttempts int             `json:"max_attempts"`
	Duration    string          `json:"duration"`
	Result      json.RawMessage `json:"result,omitempty"`
}

func (c *workerRunOnceCmd) Run(a *app.App) error {
	run := runCmd{HandlerFlags: c.HandlerFlags}
	s, err := run.load(a)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(s.file.Jobs, func(job workerfile.Job) bool { return job.Name == c.Name })
	if i < 0 {
		return app.Usagef("%s", c.Unknown(s.file.Jobs))
	}
	most := cmp.Or(s.config.MaxArgsBytes, defaultMaxArgsSize)
	args, err := app.ReadArgs(a, c.Args, most)
	if err == nil && len(args) > most {
		err = app.Usagef("--args are %d bytes, over the limit of %d: a worker loads no more, unless max_args_size allows it", len(args), most)
	}
	if err != nil {
		return err
	}
	stdout := &command.Head{Limit: handler.MaxResult}
	stderr := &terminal.LiveText{To: a.Notes}
	registry, err := workerflags.Register(a, s.file.Jobs[i:i+1], handler.Config{Logger: a.Log, Stdout: stdout, Stderr: stderr})
	if err != nil {
		return err
	}
	outcome, err := registry.DryRun(a.Ctx, c.Name, args, c.Attempt, cmp.Or(s.config.JobTimeout, defaultTimeout))
	stderr.End()
	var wrong *engine.ArgumentError
	switch {
	case errors.As(err, &wrong):
		return app.Usagef("%w", wrong)
	case err != nil:
		return err
	case a.Ctx.Err() != nil:
		return a.Ctx.Err()
	}
	if err := tell(a, &s.file.Jobs[i], outcome, stdout); err != nil {
		return err
	}
	if outcome.Kind != engine.OutcomeDone {
		return app.ErrReported
	}
	return nil
}

func (c *workerRunOnceCmd) Unknown(jobs []workerfile.Job) string {
	names := make([]string, len(jobs))
	for i, spec := range jobs {
		names[i] = spec.Name
	}
	if guess := suggest.Closest(c.Name, names); guess != "" {
		return fmt.Sprintf("no handler for %q; did you mean %q?", c.Name, guess)
	}
	return fmt.Sprintf("no handler for %q; there is one for %s", c.Name, strings.Join(names, ", "))
}

// tell prints the result and the verdict.
func tell(a *app.App, spec *workerfile.Job, o engine.Outcome, stdout *command.Head) error {
	took := o.Duration.Round(time.Millisecond).String()
	if a.JSON {
		t := tried{
			Name: o.Job.Name, Outcome: o.Kind, Reason: string(o.Verdict.Reason), Error: o.Verdict.Message, Code: o.Verdict.Code,
			Attempt: o.Job.Attempts, MaxAttempts: o.Job.MaxAttempts, Duration: took, Result: o.Job.Result,
		}
		if o.Kind == engine.OutcomeRetry || o.Kind == engine.OutcomeSnooze {
			t.Delay = o.Delay.String()
		}
		return a.Out.Document(t)
	}
	if o.Job.Result != nil {
		if err := a.Out.Record(o.Job.Result); err != nil {
			return err
		}
	} else if text := strings.TrimSpace(string(stdout.Bytes())); text != "" {
		a.Note("%s", text)
		a.Note("what it printed is no JSON that can be kept: the job would have no result")
	}
	switch o.Kind {
	case engine.OutcomeDone:
		a.Note("would be done, in %s", took)
	case engine.OutcomeRetry:
		a.Note("would be retried in %s, as attempt %d of %d: %s", o.Delay.Round(time.Millisecond), o.Job.Attempts+1, o.Job.MaxAttempts, why(spec, o))
	case engine.OutcomeSnooze:
		a.Note("would run again in %s, without that counting as an attempt", o.Delay)
	default:
		a.Note("would be a dead letter: %s: %s", o.Verdict.Reason, why(spec, o))
	}
	return nil
}

// why is the error in a line. What a command wrote to standard error has been
// seen already, so its exit code is enough.
func why(spec *workerfile.Job, o engine.Outcome) string {
	if spec.Run.Exec.Command != "" && o.Verdict.Code != "" {
		return o.Verdict.Code
	}
	return terminal.OneLine(o.Verdict.Message)
}
