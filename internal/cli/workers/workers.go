// Package workers has the commands that run workers and show them: worker and
// status.
package workers

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"soniq/engine"
	"soniq/hooks"
	"soniq/internal/cli/app"
	"soniq/internal/cli/dashboard"
	"soniq/internal/cli/workerflags"
	"soniq/internal/handler"
	"soniq/internal/health"
	"soniq/internal/opsserver"
	"soniq/internal/unit"
	"soniq/internal/workerfile"
)

// Command has a default subcommand, so that 'soniq worker' alone is the
// worker and 'soniq worker run-once' its dry run.
type Command struct {
	Serve   runCmd           `cmd:"" name:"run" default:"withargs" hidden:"" help:"Run a worker whose handlers are commands and HTTP endpoints."`
	RunOnce workerRunOnceCmd `cmd:"" help:"Try a handler once, without a database."`
	List    workerListCmd    `cmd:"" help:"List the workers of all machines."`
}

// Help implements [kong.HelpProvider].
func (Command) Help() string { return runCmd{}.Help() }

type runCmd struct {
	workerflags.HandlerFlags
	CheckConfig     bool           `help:"Check the configuration, show it, and exit. Needs no database."`
	Queues          []string       `placeholder:"QUEUE" help:"Queues to serve. Repeatable: each of them. Default 'default' and those of the handlers."`
	Concurrency     *int           `placeholder:"N" help:"How many jobs run at once, from 1 on. Default 10."`
	PerQueue        queueLimits    `name:"queue-concurrency" placeholder:"QUEUE=N" help:"How many jobs of a queue run at once. Repeatable for other queues. Default no other limit than --concurrency."`
	Timeout         *time.Duration `placeholder:"DURATION" help:"Limit one attempt, unless its handler has a timeout; 0 for no limit. Default 5m."`
	ResultTTL       *time.Duration `name:"result-ttl" placeholder:"DURATION" help:"Keep done jobs and their results for DURATION; 0 deletes them at once. Default 5m."`
	ShutdownTimeout *time.Duration `placeholder:"DURATION" help:"How long running jobs may go on after the worker is told to stop; 0 gives them back at once. Default 15s; the worker stops within this time and 13s."`
	UnknownGrace    *time.Duration `placeholder:"DURATION" help:"A due job that no worker has a handler for becomes a dead letter after DURATION; 0 for never. Default 5m."`
	MaxArgsSize     *string        `placeholder:"SIZE" help:"A job with larger arguments, as JSON, becomes a dead letter without being loaded: 512KiB, 16MiB. Default 16MiB."`
	MaxArgsMemory   *string        `placeholder:"SIZE" help:"The memory for the arguments of all running jobs; a job that does not fit waits. Default 256MiB."`
	MaxAttempts     *int           `name:"max-attempts-limit" placeholder:"N" help:"The most attempts of any job, unless its handler has max_attempts; 0 for no limit. Default 1000."`
	WarnDead        *int           `placeholder:"N" help:"Log a warning when N or more are dead; 0 for never. One worker logs it for all. Default 1000."`
	WarnDeadAge     *string        `placeholder:"AGE" help:"Log a warning when one has been dead for longer than AGE: 90m, 24h, 7d; 0, the default, for never."`
	Hooks           bool           `default:"true" negatable:"" help:"Send the deliveries of hooks. Default yes; see 'soniq hooks'."`
	workerflags.HookGrants
	workerflags.HookFlow
	app.ListenFlag
	workerflags.HealthFlag
	workerflags.MetricsFlag
	workerflags.TracesFlag
	dashboard.Flag
}

func (runCmd) Help() string {
	return `Handlers come from soniq.yaml, from --config FILE, or from --handle. A flag beats what the file says; docs/worker.md has everything that a file may hold:

    queues: [default, emails]
    jobs:
      emails.send:
        exec: ./send-email
        queue: emails
        timeout: 30s
        retry: [1s, 10s, 1m]
      reports.build:
        http: https://reports.example.com/jobs
        secret: env:REPORTS_SECRET
    hooks:
      on-call:
        slack: env:SLACK_URL

A command gets the job's arguments as JSON on standard input, and SONIQ_JOB_ID, SONIQ_JOB_NAME, SONIQ_QUEUE, SONIQ_ATTEMPT and SONIQ_MAX_ATTEMPTS in its environment. How it exits is the verdict:

    0     done; standard output, if it is JSON, is the result
    65    the arguments are invalid: dead letter at once
    78    it failed for good: dead letter at once
    else  it failed: tried again later, while attempts remain

The rest of its environment is the worker's, with the database's URL and without the secrets of endpoints and hooks. The end of standard error is recorded as the error. A command that is still running at its timeout, or when the worker must stop, gets SIGTERM, then SIGKILL; so does its process group. What it leaves running there when it exits is killed; a child that has left the group goes on.

An endpoint gets the arguments as the body of a POST. 2xx is done and the body, if it is JSON, the result; 400 and 422 are invalid arguments; 429 and 503 with Retry-After run the job again then; 401, 403, 404, 407, 408, 421, 425, other 5xx and network errors are tried again; anything else has failed for good. With a secret, requests are signed; docs/worker.md has code that verifies them.

OTEL_EXPORTER_OTLP_ENDPOINT=http://HOST:4318 and its kin have it send traces; docs/traces.md lists them.

Ctrl-C (or SIGTERM) lets running jobs end; a second one gives them back to their queue at once; a third one exits.

    soniq worker --handle emails.send='exec:./send-email' --handle reports.build=https://reports.example.com/jobs
    soniq worker --config soniq.yaml --check-config
    soniq worker run-once emails.send --args '{"to": "ada@example.com"}'`
}

// queueLimits are the limits of queues, by their names.
type queueLimits map[string]int

// Decode reads QUEUE=N, or several with commas between. A queue that is named twice
// is refused. It implements kong.MapperValue.
func (l *queueLimits) Decode(ctx *kong.DecodeContext) error {
	var text string
	if err := ctx.Scan.PopValueInto("limit", &text); err != nil {
		return err
	}
	if *l == nil {
		*l = queueLimits{}
	}
	for _, part := range strings.Split(text, ",") {
		queue, number, ok := strings.Cut(part, "=")
		n, err := strconv.Atoi(number)
		if !ok || err != nil {
			return fmt.Errorf("must be QUEUE=N, not %q", part)
		}
		if _, twice := (*l)[queue]; twice {
			return fmt.Errorf("is given twice for %q; give it once", queue)
		}
		(*l)[queue] = n
	}
	return nil
}

// LogsErrors makes its errors records of its log.
func (runCmd) LogsErrors() {}

// ReadsSignals makes the worker count them itself.
func (runCmd) ReadsSignals() {}

// served is what a worker will do, checked.
type served struct {
	file   *workerfile.File
	config engine.WorkerConfig
	hooks  hooks.Config
	// ops are the addresses for probes and metrics.
	ops *opsserver.Servers
	// probes answer there.
	probes health.Switch
	// metrics are served there, if that is wanted.
	metrics *workerflags.Metrics
	// traces are sent where the environment says.
	traces *workerflags.Traces
	// dashboard is served too, unless it is nil.
	dashboard *dashboard.Command
}

// load checks the file and the flags as a whole.
func (c *runCmd) load(a *app.App) (*served, error) {
	file, err := c.HandlerFlags.Load(a, workerfile.Options{Jobs: true, Hooks: c.Hooks})
	if err != nil {
		return nil, err
	}
	s := &served{file: file}
	file.Withhold(workerflags.SystemdVariables)
	if !c.Hooks {
		file.Hooks = nil
	} else if err := c.loadHooks(a, s); err != nil {
		return nil, err
	}
	s.config, err = c.config(file)
	if err != nil {
		return nil, err
	}
	if s.config.ListenConfig, err = c.ListenConfig(a); err != nil {
		return nil, err
	}
	if s.dashboard, err = c.Beside(a); err != nil {
		return nil, err
	}
	s.ops = opsserver.New(a.Log)
	if s.metrics, err = c.Metrics(a, s.ops, file.MetricsListen); err != nil {
		return nil, err
	}
	if s.traces, err = c.Traces(a, "soniq-worker", file.TraceLinkOnly); err != nil {
		return nil, err
	}
	return s, c.ServeHealth(a, s.ops, file.HealthListen, &s.probes)
}

// loadHooks checks what is for the dispatcher.
func (c *runCmd) loadHooks(a *app.App, s *served) (err error) {
	if s.hooks, err = c.HookGrants.HookConfig(a); err != nil {
		return err
	}
	if err := c.Into(&s.hooks); err != nil {
		return err
	}
	// What is lent to hooks is not for commands.
	s.file.Withhold(s.hooks.Env)
	if err := s.file.AddEnvironmentHooks(a.Getenv, c.Networks(a)); err != nil {
		return app.Usagef("%w", err)
	}
	return nil
}

func (c *runCmd) Run(a *app.App) error {
	ctx, stop := context.WithCancel(a.Ctx)
	defer stop()
	a.Ctx = ctx
	// Before the worker exists, the first signal ends the command.
	loaded := a.OnSignals(stop, func() { a.Exit(app.ExitFailed) })
	s, err := c.load(a)
	loaded()
	if err != nil {
		return err
	}
	if c.CheckConfig {
		return s.check(a)
	}
	started := make(chan *engine.Worker, 1)
	defer stopInSteps(a, stop, started)()
	// Probes are answered until the worker has stopped: a drain can be seen.
	stopServing, err := s.ops.Start(context.WithoutCancel(a.Ctx))
	if err != nil {
		return err
	}
	defer stopServing()
	worker, err := c.newWorker(a, s)
	if err != nil {
		return err
	}
	started <- worker
	pool, err := a.OpenService() // the worker's
	if err != nil {
		return err
	}
	stopDashboard, err := s.dashboard.Start(a, pool, s.config.ListenConfig)
	if err != nil {
		return err
	}
	defer stopDashboard()
	s.probes.Set(worker.Health())
	defer workerflags.TellSystemd(a.Ctx, a, worker.Health())()
	for i := range s.file.Jobs {
		job := &s.file.Jobs[i]
		a.Log.Info("serving", "job_name", job.Name, job.Run.Kind(), job.Run.Target(), "from", s.file.JobOrigin(job))
	}
	return worker.Run(a.Ctx)
}

// stopInSteps answers signals: the first stops the worker when its jobs have
// ended, the second gives the jobs back, the third ends the process. The function
// that it returns ends that.
func stopInSteps(a *app.App, stop func(), started <-chan *engine.Worker) func() {
	say := func(what, next string) {
		if a.LogsJSON() || !a.StderrIsTTY {
			a.Log.Info(what)
			return
		}
		a.Note("soniq: %s; Ctrl-C again %s", what, next)
	}
	return a.OnSignals(
		func() {
			say("stopping once running jobs have ended", "gives them back")
			stop()
		},
		func() {
			say("giving running jobs back", "exits at once")
			select {
			case w := <-started:
				w.Cancel()
			default: // it has not started, or has ended
			}
		},
		func() { a.Exit(app.ExitFailed) },
	)
}

// newWorker makes the worker, and declares the hooks of the configuration.
func (c *runCmd) newWorker(a *app.App, s *served) (*engine.Worker, error) {
	config := s.config
	config.Logger, config.Schema = a.Log, a.SchemaName()
	registry, err := workerflags.Register(a, s.file.Jobs, handler.Config{Logger: a.Log})
	if err != nil {
		return nil, err
	}
	pool, err := a.OpenService()
	if err != nil {
		return nil, err
	}
	if err := s.metrics.Watch(a, pool); err != nil {
		return nil, err
	}
	config.Tracers = append(s.metrics.Workers(), s.traces.Workers()...)
	s.traces.Log(a.Log)
	if c.Hooks {
		s.hooks.Tracers = append(s.metrics.Hooks(), s.traces.Hooks()...)
		s.hooks.Schema, s.hooks.Origin = a.SchemaName(), workerflags.Origin(s.file)
		dispatcher, err := hooks.NewDispatcher(pool, s.hooks)
		if err != nil {
			return nil, err
		}
		if err := workerflags.Declare(a, dispatcher, s.file); err != nil {
			return nil, err
		}
		config.Services = append(config.Services, dispatcher)
	}
	return engine.NewWorker(pool, registry, config)
}

// config joins the file and the flags; a flag wins. In both, 0 means 0. In the
// engine's configuration 0 is the default, and a negative value means none.
func (c *runCmd) config(file *workerfile.File) (config engine.WorkerConfig, err error) {
	config = engine.WorkerConfig{
		Queues:    file.Queues,
		Retention: file.Retention,
		// A command that ignores SIGTERM is killed before its job is given back.
		// Otherwise the job could run twice at once.
		CancelGrace: handler.CancelGrace,
	}
	if slices.Contains(c.Queues, "") {
		return config, app.Usagef("--queues has an empty name")
	}
	if len(c.Queues) > 0 {
		config.Queues = c.Queues
	}
	for _, set := range []func(*engine.WorkerConfig, *workerfile.File) error{c.concurrency, c.durations, c.limits, c.warnings} {
		if err := set(&config, file); err != nil {
			return config, err
		}
	}
	return config, nil
}

// concurrency sets how many jobs run at once: in all, and of each queue.
func (c *runCmd) concurrency(config *engine.WorkerConfig, file *workerfile.File) error {
	if file.Concurrency != nil {
		config.Concurrency = *file.Concurrency
	}
	if c.Concurrency != nil {
		if config.Concurrency = *c.Concurrency; config.Concurrency < 1 || config.Concurrency > workerfile.MaxConcurrency {
			return app.Usagef("--concurrency must be from 1 to %d, not %d", workerfile.MaxConcurrency, config.Concurrency)
		}
	}
	config.QueueConcurrency = map[string]int{}
	maps.Copy(config.QueueConcurrency, file.QueueConcurrency)
	maps.Copy(config.QueueConcurrency, c.PerQueue)
	served := (&served{file: file, config: *config}).queues()
	for _, queue := range slices.Sorted(maps.Keys(config.QueueConcurrency)) {
		n := config.QueueConcurrency[queue]
		if n < 1 || n > workerfile.MaxConcurrency {
			return app.Usagef("--queue-concurrency: %s must be from 1 to %d, not %d", queue, workerfile.MaxConcurrency, n)
		}
		if !slices.Contains(served, queue) {
			return app.Usagef("queue-concurrency: queue %q is not served; the queues are %s", queue, strings.Join(served, ", "))
		}
	}
	return nil
}

// durations sets the times that are given as durations.
func (c *runCmd) durations(config *engine.WorkerConfig, file *workerfile.File) error {
	for _, d := range []struct {
		flag        string
		given, file *time.Duration
		target      *time.Duration
		zero        time.Duration
	}{
		{"--timeout", c.Timeout, file.Timeout, &config.JobTimeout, -1},
		{"--result-ttl", c.ResultTTL, file.ResultTTL, &config.ResultTTL, -1},
		{"--shutdown-timeout", c.ShutdownTimeout, file.ShutdownTimeout, &config.ShutdownTimeout, 1},
		{"--unknown-grace", c.UnknownGrace, file.UnknownGrace, &config.UnknownGrace, -1},
	} {
		value := cmp.Or(d.given, d.file) // the file's is checked already
		switch {
		case value == nil:
		case *value < 0:
			return app.Usagef("%s must not be negative: %s", d.flag, *value)
		case *value == 0:
			*d.target = d.zero
		default:
			*d.target = *value
		}
	}
	return nil
}

// limits sets what the worker takes on of jobs that anybody may have enqueued.
func (c *runCmd) limits(config *engine.WorkerConfig, file *workerfile.File) error {
	size, memory := file.MaxArgsSize, file.MaxArgsMemory
	for _, s := range []struct {
		flag   string
		given  *string
		target **int64
	}{
		{"--max-args-size", c.MaxArgsSize, &size},
		{"--max-args-memory", c.MaxArgsMemory, &memory},
	} {
		if s.given == nil {
			continue
		}
		bytes, err := unit.ParseSize(*s.given)
		if err != nil {
			return app.Usagef("%s %s", s.flag, err)
		}
		*s.target = &bytes
	}
	most := int64(defaultMaxArgsSize)
	if size != nil {
		if most = *size; most > maxArgsSize {
			return app.Usagef("--max-args-size must be at most 1GiB, not %d bytes", most)
		}
		config.MaxArgsBytes = int(most)
	}
	if memory != nil {
		if *memory < most {
			return app.Usagef("--max-args-memory must be at least --max-args-size, which is %d bytes, not %d", most, *memory)
		}
		config.MaxArgsMemory = *memory
	}
	if n := cmp.Or(c.MaxAttempts, file.MaxAttempts); n != nil {
		switch {
		case *n < 0 || *n > math.MaxInt32:
			return app.Usagef("--max-attempts-limit must be from 0 to %d, not %d", math.MaxInt32, *n)
		case *n == 0:
			config.MaxAttemptsLimit = -1
		default:
			config.MaxAttemptsLimit = *n
		}
	}
	return nil
}

// warnings sets the limits of the dead letters.
func (c *runCmd) warnings(config *engine.WorkerConfig, file *workerfile.File) error {
	if n := cmp.Or(c.WarnDead, file.WarnDead); n != nil {
		switch {
		case *n < 0 || *n > workerfile.MaxWarnDead:
			return app.Usagef("--warn-dead must be from 0 to %d, not %d", workerfile.MaxWarnDead, *n)
		case *n == 0:
			config.WarnDead = -1
		default:
			config.WarnDead = *n
		}
	}
	if file.WarnDeadAge != nil {
		config.WarnDeadAge = *file.WarnDeadAge
	}
	if c.WarnDeadAge != nil {
		age, err := app.ParseDuration("--warn-dead-age", *c.WarnDeadAge)
		if err != nil {
			return err
		}
		config.WarnDeadAge = age
	}
	return nil
}
