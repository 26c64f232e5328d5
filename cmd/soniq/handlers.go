package main

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"soniq/engine"
	"soniq/internal/cli/app"
	"soniq/internal/cli/terminal"
	"soniq/internal/handler"
)

// maxConcurrency is the engine's bound.
const maxConcurrency = 10_000

// handlerSpec is how the jobs of one name are run: by a command or by an HTTP
// endpoint, never both.
type handlerSpec struct {
	name string
	// line is where it stands in the configuration file; 0 for a flag.
	line int

	handler.Spec

	queue       string
	timeout     *time.Duration // 0 is none, nil is the worker's
	maxAttempts *int
	retry       engine.RetryPolicy
	concurrency *int
}

// options are what the engine should know.
func (s *handlerSpec) options() (opts []engine.HandleOption) {
	if s.queue != "" {
		opts = append(opts, engine.Queue(s.queue))
	}
	if s.timeout != nil {
		d := *s.timeout
		if d == 0 {
			d = -1
		}
		opts = append(opts, engine.Timeout(d))
	}
	if s.maxAttempts != nil {
		opts = append(opts, engine.AttemptLimit(*s.maxAttempts))
	}
	if s.retry != nil {
		opts = append(opts, engine.Retry(s.retry))
	}
	if s.concurrency != nil {
		opts = append(opts, engine.Concurrency(*s.concurrency))
	}
	return opts
}

// handlerFlags say where handlers come from.
type handlerFlags struct {
	Config *string  `placeholder:"FILE" help:"Read handlers and settings from FILE. Default soniq.yaml, if there is one and no --handle."`
	Handle []string `sep:"none" placeholder:"NAME=HANDLER" help:"Run jobs called NAME by HANDLER: exec:COMMAND, through /bin/sh -c, or the http:// or https:// URL of an endpoint. Repeatable."`
}

// read reads the configuration file, if there is one. Every mistake in it is
// told to the person; the error is for the last line.
func (f *handlerFlags) read(a *app.App, use configUse) (*workerFile, error) {
	var wrong *configError
	if f.Config != nil && *f.Config == "" {
		return nil, app.Usagef("--config is empty")
	}
	if path, optional := f.path(); path != "" {
		use.found = optional
		read, err := readConfig(a.Ctx, path, use, a.Getenv)
		switch {
		case optional && errors.Is(err, fs.ErrNotExist):
		case errors.As(err, &wrong):
			for _, line := range wrong.list() {
				a.Note("%s", terminal.OneLine(line))
			}
			return nil, app.Usagef("%w", wrong)
		case a.Ctx.Err() != nil:
			return nil, a.Ctx.Err()
		case err != nil && optional:
			return nil, app.Usagef("%w; --config FILE names the one to read", err)
		case err != nil:
			return nil, app.Usagef("--config: %w", err)
		default:
			return read, nil
		}
	}
	return &workerFile{}, nil
}

// load is read, with the flags' handlers.
func (f *handlerFlags) load(a *app.App, use configUse) (*workerFile, error) {
	file, err := f.read(a, use)
	if err != nil {
		return nil, err
	}
	for _, text := range f.Handle {
		spec, err := parseHandle(text)
		if err != nil {
			return nil, err
		}
		same := slices.IndexFunc(file.jobs, func(s handlerSpec) bool { return s.name == spec.name })
		switch {
		case same < 0:
			file.jobs = append(file.jobs, spec)
		case file.jobs[same].line == 0:
			return nil, app.Usagef("--handle names %q twice", spec.name)
		default:
			return nil, app.Usagef("--handle names %q, which %s has in line %d already", spec.name, file.path, file.jobs[same].line)
		}
	}
	for i := range file.jobs {
		file.jobs[i].Exec.Withheld = file.requestSecrets
	}
	if len(file.jobs) == 0 {
		if file.path != "" {
			return nil, app.Usagef("no handler: %s has no jobs; add some there, or give --handle NAME=exec:COMMAND or --handle NAME=https://...", file.path)
		}
		return nil, app.Usagef("no handler: write a soniq.yaml, name another file by --config, or give --handle NAME=exec:COMMAND or --handle NAME=https://...")
	}
	return file, nil
}

func (f *handlerFlags) path() (path string, optional bool) {
	switch {
	case f.Config != nil:
		return *f.Config, false
	case len(f.Handle) > 0:
		return "", true
	default:
		return defaultConfig, true
	}
}

// parseHandle takes one --handle apart. What it says of a URL never shows the
// URL, which may hold a password.
func parseHandle(text string) (handlerSpec, error) {
	const form = "NAME=exec:COMMAND or NAME=https://..."
	name, runs, ok := strings.Cut(text, "=")
	name = strings.TrimSpace(name)
	switch {
	case strings.Contains(name, "://"):
		return handlerSpec{}, app.Usagef("--handle must be %s: a URL stands where the name should", form)
	case !ok:
		return handlerSpec{}, app.Usagef("--handle must be %s: %q has no '='", form, text)
	case name == "":
		return handlerSpec{}, app.Usagef("--handle must be %s: it has no name before '='", form)
	case strings.ContainsRune(text, 0):
		return handlerSpec{}, app.Usagef("--handle must not contain a NUL byte")
	}
	spec := handlerSpec{name: name}
	scheme, rest, _ := strings.Cut(runs, ":")
	switch strings.ToLower(scheme) {
	case "exec":
		if strings.TrimSpace(rest) == "" {
			return spec, app.Usagef("--handle must be %s: %q has no command", form, name)
		}
		spec.Exec.Command = rest
	case "http", "https":
		spec.HTTP.URL = runs
		if err := spec.HTTP.Check(); err != nil {
			return spec, app.Usagef("--handle %s: %w", name, err)
		}
	default:
		return spec, app.Usagef("--handle must be %s: after %q comes %q, not exec:, http:// or https://", form, name+"=", scheme)
	}
	return spec, nil
}

// register makes handlers of the jobs. What they hold is given back when the
// command ends.
func register(a *app.App, jobs []handlerSpec, config handler.Config) (*engine.Registry, error) {
	registry := engine.NewRegistry()
	set := handler.NewSet(config)
	a.AtExit(set.Close)
	for _, job := range jobs {
		run, err := set.Handler(job.Spec)
		if err != nil {
			return nil, app.Usagef("%s: %w", job.name, err)
		}
		engine.HandleRaw(registry, job.name, run, job.options()...)
	}
	if err := registry.Err(); err != nil {
		return nil, app.Usagef("%w", err)
	}
	return registry, nil
}

// retryText is a retry policy in words.
func retryText(policy engine.RetryPolicy) string {
	switch p := policy.(type) {
	case engine.Delays:
		delays := make([]string, len(p))
		for i, d := range p {
			delays[i] = terminal.ShortDuration(d)
		}
		return strings.Join(delays, ", ")
	case engine.Exponential:
		base, longest := p.Base, p.Max
		if base == 0 {
			base = time.Second
		}
		if longest == 0 {
			longest = time.Hour
		}
		text := fmt.Sprintf("%s, doubled up to %s", terminal.ShortDuration(base), terminal.ShortDuration(longest))
		if p.NoJitter {
			text += ", exact"
		}
		return text
	default:
		return retryText(engine.Exponential{})
	}
}
