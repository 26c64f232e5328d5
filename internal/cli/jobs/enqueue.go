package jobs

import (
	"encoding/json"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/engine"
	"soniq/internal/cli/app"
	"soniq/internal/input"
	"soniq/internal/tracecontext"
	"soniq/internal/unit"
)

// EnqueueCommand adds one job, or the jobs of a file.
type EnqueueCommand struct {
	Name        *string        `arg:"" optional:"" help:"The job's name; with --from, the name of lines that have none."`
	Args        string         `default:"{}" placeholder:"JSON" help:"The arguments: a JSON object, @FILE, or - for standard input. Default {}."`
	From        string         `placeholder:"FILE" help:"Add many jobs, all or none: one JSON object a line, from FILE or - for standard input."`
	Queue       *string        `placeholder:"QUEUE" help:"Default 'default'."`
	Priority    *int           `placeholder:"N" help:"Lower runs first. Default 100."`
	MaxAttempts *int           `placeholder:"N" help:"The number of attempts, from 1 on. Default 4."`
	Delay       *time.Duration `placeholder:"DURATION" xor:"when" help:"Run it after DURATION, such as 90s, 2h or 1d; 0 is now."`
	At          string         `placeholder:"TIME" xor:"when" help:"Run it at TIME: 2006-01-02, '2006-01-02 15:04:05 UTC' or 2006-01-02T15:04:05Z. Without a zone it is in UTC."`
	Unique      bool           `help:"Do nothing if an equal unique job is queued already."`
	DedupKey    *string        `placeholder:"KEY" help:"Do nothing if a job with this key is queued already."`
	Traceparent *string        `placeholder:"HEADER" help:"The W3C trace context that the job belongs to. Default $$TRACEPARENT and $$TRACESTATE."`
	Tracestate  *string        `placeholder:"HEADER" help:"The tracestate that goes with --traceparent."`
	MaxArgs     *int           `name:"max-args-bytes" placeholder:"N" help:"Refuse arguments of more than N bytes, from 1 on. Default 1 MiB."`
	waitFlags
	app.RevealFlags
}

// Help implements [kong.HelpProvider].
func (EnqueueCommand) Help() string {
	return `Prints the job's id. With --wait it waits for the job and prints its result, without secrets unless --reveal is given. The exit code is then 0 if the job is done, and 1 if it became a dead letter, was cancelled, or has not ended when the wait ends.

    soniq enqueue emails.send --args '{"user_id": 42}'
    soniq enqueue reports.build --args @report.json --delay 10m
    soniq enqueue reports.build --wait --wait-timeout 1m
    jq -c .payload event.json | soniq enqueue events.handle --args -

Each line of --from is an object with job_name (or name), args, queue, priority, max_attempts, delay ("5m", "1d"), scheduled_at (a time, as for --at), unique, dedup_key, traceparent and tracestate; the flags are the defaults. All lines are checked first, and enqueued in one transaction. The ids are printed in the order of the lines.

    soniq enqueue --from jobs.jsonl --queue bulk
    jq -c '.users[] | {args: {user_id: .id}}' users.json | soniq enqueue emails.send --from -`
}

// Run runs the command.
func (c *EnqueueCommand) Run(a *app.App) error {
	defaults, err := c.order(a)
	if err != nil {
		return err
	}
	if c.MaxArgs != nil && *c.MaxArgs < 1 {
		return app.Usagef("--max-args-bytes must be at least 1, not %d", *c.MaxArgs)
	}
	if err := errors.Join(c.waitFlags.check(), c.RevealFlags.Check()); err != nil {
		return err
	}
	if c.Reveal && !c.Wait {
		return app.Usagef("--reveal shows the result that --wait waits for: add --wait")
	}
	switch {
	case c.From == "" && c.Name == nil:
		return app.Usagef("which job? give its NAME, or --from FILE for many")
	case c.From == "":
	case c.DedupKey != nil:
		return app.Usagef("--dedup-key would make one job of all lines of --from: give each line its dedup_key")
	case c.From == "-" && (c.Args == "-" || c.Args == "@-"):
		return app.Usagef("--args - and --from - would both read standard input")
	}
	defaults.args, err = app.ReadArgs(a, c.Args, c.mostArgs()+lineOverhead)
	var long *input.TooLongError
	if errors.As(err, &long) || err == nil && len(defaults.args) > c.mostArgs() {
		return app.Usagef("--args are over the limit of %d bytes; %s", c.mostArgs(), storeElsewhere)
	}
	if err != nil {
		return err
	}
	if c.From != "" {
		return c.many(a, defaults)
	}
	// A mistake is told without a server, too.
	if err := c.config(a).CheckJob(defaults.name, defaults.args, defaults.options()...); err != nil {
		return ofArgument(err)
	}
	pool, client, err := c.client(a)
	if err != nil {
		return err
	}
	job, err := client.Enqueue(a.Ctx, defaults.name, defaults.args, defaults.options()...)
	if err != nil {
		return ofArgument(err)
	}
	if job.Duplicate {
		a.Note("an equal job is queued already")
	}
	if c.Wait {
		a.Note("job %s", job.ID)
		if err := c.Show(a, pool, job.ID); err != nil {
			return err
		}
		return c.waitForResult(a, pool, client, job)
	}
	return c.print(a, client, job, defaults.name)
}

// ofArgument is err, or a usage error for a mistake of the person.
func ofArgument(err error) error {
	var wrong *engine.ArgumentError
	if errors.As(err, &wrong) {
		return app.Usagef("%w", wrong)
	}
	return err
}

// print prints the job's id, and warns if nobody could run the job.
func (c *EnqueueCommand) print(a *app.App, client *engine.Client, job engine.Enqueued, name string) error {
	if a.JSON {
		if err := a.Out.Document(enqueued{job.ID, job.Duplicate}); err != nil {
			return err
		}
	} else {
		a.Out.Printf("%s", job.ID)
	}
	if w := placeOf(c.Queue, name).unserved(a, client); w != "" {
		a.Note("%s", w)
	}
	return nil
}

// enqueued is what --json says of a job.
type enqueued struct {
	ID        uuid.UUID `json:"id"`
	Duplicate bool      `json:"duplicate"`
}

// storeElsewhere is what to do about arguments that are too large.
const storeElsewhere = "store large data elsewhere and enqueue a reference to it, or allow more with --max-args-bytes"

// mostArgs is how many bytes the arguments of a job may have.
func (c *EnqueueCommand) mostArgs() int {
	if c.MaxArgs == nil {
		return 1 << 20
	}
	return min(*c.MaxArgs, app.MostStored)
}

func (c *EnqueueCommand) client(a *app.App) (*pgxpool.Pool, *engine.Client, error) {
	pool, err := a.Open()
	if err != nil {
		return nil, nil, err
	}
	client, err := engine.NewClient(pool, c.config(a))
	return pool, client, err
}

func (c *EnqueueCommand) config(a *app.App) engine.ClientConfig {
	return engine.ClientConfig{Schema: a.SchemaName(), MaxArgsBytes: c.mostArgs()}
}

// order is a job before it is enqueued.
type order struct {
	name        string
	args        json.RawMessage
	queue       *string
	priority    *int
	maxAttempts *int
	delay       *time.Duration
	at          *time.Time
	unique      bool
	dedupKey    *string
	trace       engine.TraceContext
}

// order is what the flags say, without the arguments.
func (c *EnqueueCommand) order(a *app.App) (order, error) {
	o := order{
		queue: c.Queue, priority: c.Priority, maxAttempts: c.MaxAttempts,
		delay: c.Delay, unique: c.Unique, dedupKey: c.DedupKey,
	}
	if c.Name != nil {
		o.name = *c.Name
	}
	if c.At != "" {
		at, err := unit.ParseTime(c.At)
		var clock *unit.ClockError
		if errors.As(err, &clock) {
			return o, app.Usagef("--at: %w", clock)
		}
		if err != nil {
			return o, app.Usagef("--at must be a time such as '2006-01-02 15:04:05 UTC' or 2006-01-02T15:04:05Z, not %q", c.At)
		}
		o.at = &at.Time
	}
	var err error
	o.trace, err = c.trace(a)
	return o, err
}

// trace is what the flags say, or the environment, which other programs set: an invalid
// variable is none.
func (c *EnqueueCommand) trace(a *app.App) (engine.TraceContext, error) {
	if c.Traceparent == nil && c.Tracestate == nil {
		return engine.NewTraceContext(a.Getenv(tracecontext.ParentVariable), a.Getenv(tracecontext.StateVariable)), nil
	}
	if c.Traceparent == nil {
		return engine.TraceContext{}, app.Usagef("--tracestate goes with --traceparent: give both")
	}
	state := ""
	if c.Tracestate != nil {
		state = *c.Tracestate
	}
	trace := engine.NewTraceContext(*c.Traceparent, state)
	switch {
	case trace.IsZero():
		return trace, app.Usagef("--traceparent must be VERSION-TRACE-SPAN-FLAGS, 55 characters in lower case such as 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	case trace.State() != state:
		return trace, app.Usagef("--tracestate must be KEY=VALUE, or several with commas between, of at most 512 bytes")
	}
	return trace, nil
}

func (o *order) options() (opts []engine.EnqueueOption) {
	if o.queue != nil {
		opts = append(opts, engine.Queue(*o.queue))
	}
	if o.priority != nil {
		opts = append(opts, engine.Priority(*o.priority))
	}
	if o.maxAttempts != nil {
		opts = append(opts, engine.MaxAttempts(*o.maxAttempts))
	}
	if o.delay != nil {
		opts = append(opts, engine.After(*o.delay))
	}
	if o.at != nil {
		opts = append(opts, engine.At(*o.at))
	}
	if o.unique {
		opts = append(opts, engine.Unique())
	}
	if o.dedupKey != nil {
		opts = append(opts, engine.DedupKey(*o.dedupKey))
	}
	if !o.trace.IsZero() {
		opts = append(opts, engine.InTrace(o.trace))
	}
	return opts
}
