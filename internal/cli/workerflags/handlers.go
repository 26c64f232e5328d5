// Package workerflags has the flags that workers and 'soniq hooks' share: the
// configuration file, handlers, and what is lent to hooks.
package workerflags

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"soniq"
	"soniq/engine"
	"soniq/hooks"
	"soniq/internal/cli/app"
	"soniq/internal/handler"
	"soniq/internal/workerfile"
)

// HandlerFlags say where handlers come from.
type HandlerFlags struct {
	Config *string  `placeholder:"FILE" help:"Read handlers and settings from FILE. Default soniq.yaml, if there is one and no --handle."`
	Handle []string `sep:"none" placeholder:"NAME=HANDLER" help:"Run jobs called NAME by HANDLER: exec:COMMAND, through /bin/sh -c, or the http:// or https:// URL of an endpoint. Repeatable for other names: each of them."`
}

// Read reads the configuration file, if there is one. Every mistake in it is noted
// on standard error; the error is for the last line.
func (f *HandlerFlags) Read(a *app.App, options workerfile.Options) (*workerfile.File, error) {
	path, optional := f.path()
	if path == "" {
		return &workerfile.File{}, nil
	}
	options.Found, options.Getenv = optional, a.Getenv
	file, err := workerfile.Read(a.Ctx, path, options)
	var wrong *workerfile.Error
	switch {
	case err == nil:
		a.FileSchema, a.FileSchemaSource = file.Schema, fmt.Sprintf("%s:%d: schema", file.Path, file.SchemaLine)
		return file, nil
	case optional && errors.Is(err, fs.ErrNotExist):
		return &workerfile.File{}, nil
	case errors.As(err, &wrong):
		for _, line := range wrong.Lines() {
			a.Complain(line)
		}
		return nil, app.Usagef("%w", wrong)
	case a.Ctx.Err() != nil:
		return nil, a.Ctx.Err()
	case optional:
		return nil, app.Usagef("%w; --config FILE names the one to read", err)
	default:
		return nil, app.Usagef("--config: %w", err)
	}
}

// Load is read, with the flags' handlers.
func (f *HandlerFlags) Load(a *app.App, options workerfile.Options) (*workerfile.File, error) {
	file, err := f.Read(a, options)
	if err != nil {
		return nil, err
	}
	for _, text := range f.Handle {
		if err := file.AddHandle(text); err != nil {
			return nil, app.Usagef("%w", err)
		}
	}
	switch {
	case len(file.Jobs) > 0:
		return file, nil
	case file.Path != "":
		return nil, app.Usagef("no handler: %s has no jobs; add some there, or give --handle NAME=exec:COMMAND or --handle NAME=https://...", file.Path)
	case f.Config == nil && isThere("soniq.yml"):
		return nil, app.Usagef("no handler: soniq.yml is not read by itself: name it soniq.yaml, or give --config soniq.yml")
	default:
		return nil, app.Usagef("no handler: write a soniq.yaml, name another file by --config, or give --handle NAME=exec:COMMAND or --handle NAME=https://...")
	}
}

func isThere(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func (f *HandlerFlags) path() (path string, optional bool) {
	switch {
	case f.Config != nil:
		return *f.Config, false
	case len(f.Handle) > 0:
		return "", true
	default:
		return workerfile.DefaultPath, true
	}
}

// Register makes handlers of the jobs. They are closed when the command ends.
func Register(a *app.App, jobs []workerfile.Job, config handler.Config) (*engine.Registry, error) {
	registry := engine.NewRegistry()
	set := handler.NewSet(config)
	a.AtExit(set.Close)
	for _, job := range jobs {
		run, err := set.Handler(job.Run)
		if err != nil {
			return nil, app.Usagef("%s: %w", job.Name, err)
		}
		engine.HandleRaw(registry, job.Name, run, job.Options()...)
	}
	if err := registry.Err(); err != nil {
		return nil, app.Usagef("%w", err)
	}
	return registry, nil
}

// Origin is where the hooks of a configuration stand, for other dispatchers: the host and
// the file, or the environment.
func Origin(file *workerfile.File) string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown host"
	}
	path := "environment"
	if file.Path != "" {
		path = file.Path
		if whole, err := filepath.Abs(path); err == nil {
			path = whole
		}
	}
	return host + ":" + path
}

// Declare puts the hooks of the configuration into the table and the dispatcher.
func Declare(a *app.App, d *hooks.Dispatcher, file *workerfile.File) error {
	if len(file.Hooks) == 0 {
		return nil
	}
	pool, err := a.Open()
	if err != nil {
		return err
	}
	if err := soniq.Check(a.Ctx, pool, soniq.Config{Schema: a.SchemaName()}); err != nil {
		return err
	}
	specs := make([]hooks.Spec, len(file.Hooks))
	for i := range file.Hooks {
		specs[i] = file.Hooks[i].Spec
	}
	if err := d.Declare(a.Ctx, specs...); err != nil {
		var wrong *hooks.DeclareError
		if errors.As(err, &wrong) && errors.Is(err, hooks.ErrExists) {
			i := slices.IndexFunc(file.Hooks, func(h workerfile.Hook) bool { return h.Name == wrong.Hook })
			return fmt.Errorf("%s: 'soniq hooks add' has made a hook %q already; give this one another name, or remove that one",
				file.HookOrigin(&file.Hooks[i]), wrong.Hook)
		}
		return err
	}
	for i := range file.Hooks {
		hook := &file.Hooks[i]
		a.Log.Info("hook is declared", "hook", hook.Name, "kind", string(hook.Kind), "target", cmp.Or(hook.Target(), "-"), "from", file.HookOrigin(hook))
	}
	return nil
}
