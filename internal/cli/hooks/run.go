package hooks

import (
	"context"
	"net/http"

	"soniq"
	"soniq/hooks"
	"soniq/internal/cli/app"
	"soniq/internal/cli/workerflags"
	"soniq/internal/health"
	"soniq/internal/opsserver"
	"soniq/internal/pg"
	"soniq/internal/workerfile"
)

type hooksRunCmd struct {
	Config *string `placeholder:"FILE" help:"Read hooks from FILE too. Default soniq.yaml, if there is one."`
	workerflags.HookGrants
	workerflags.HookFlow
	workerflags.HealthFlag
	workerflags.MetricsFlag
	workerflags.TracesFlag
	app.ListenFlag
}

func (hooksRunCmd) Help() string {
	return `For systems whose workers must not reach the network ('soniq worker --no-hooks'). Any number of these may run. It reads the hooks of the configuration file, and the variables SONIQ_SLACK_WEBHOOK_URL, SONIQ_WEBHOOK_URL and SONIQ_WEBHOOK_SECRET.

    soniq hooks run
    soniq hooks run --config soniq.yaml
    soniq hooks run --hook-env ORDERS_TOKEN --hook-allow 10.1.2.0/24`
}

// LogsErrors makes its errors records of its log.
func (*hooksRunCmd) LogsErrors() {}

func (c *hooksRunCmd) Run(a *app.App) error {
	config, err := c.HookConfig(a)
	if err != nil {
		return err
	}
	if err := c.Into(&config); err != nil {
		return err
	}
	file, err := (&workerflags.HandlerFlags{Config: c.Config}).Read(a, workerfile.Options{Hooks: true})
	if err != nil {
		return err
	}
	if err := file.AddEnvironmentHooks(a.Getenv, c.Networks(a)); err != nil {
		return app.Usagef("%w", err)
	}
	traces, err := c.Traces(a, "soniq-hooks", file.TraceLinkOnly)
	if err != nil {
		return err
	}
	probes := health.Switch{Dispatcher: true}
	metrics, stop, err := c.serve(a, file, &probes)
	if err != nil {
		return err
	}
	defer stop()
	pool, err := a.OpenService()
	if err != nil {
		return err
	}
	if err := metrics.Watch(a, pool); err != nil {
		return err
	}
	config.Schema, config.Origin, config.Tracers = a.SchemaName(), workerflags.Origin(file), append(metrics.Hooks(), traces.Hooks()...)
	traces.Log(a.Log)
	if err := soniq.Check(a.Ctx, pool, soniq.Config{Schema: a.SchemaName()}); err != nil {
		return err
	}
	err = a.CheckRowSecurity(pool, pg.ChangesRows, "soniq_hooks", "soniq_hook_deliveries", "soniq_leader_tasks")
	if err == nil {
		err = a.CheckRowSecurity(pool, pg.ReadsRows, "soniq_dead_letter_jobs")
	}
	if err != nil {
		return err
	}
	soniq.WarnOfFindings(a.Ctx, pool, soniq.Config{Schema: a.SchemaName()}, a.Log)
	listen, err := c.Listen(a, pool)
	if err != nil {
		return err
	}
	dispatcher, err := hooks.NewDispatcher(pool, config)
	if err != nil {
		return err
	}
	if err := workerflags.Declare(a, dispatcher, file); err != nil {
		return err
	}
	probes.Set(dispatcher.Health())
	defer workerflags.TellSystemd(a.Ctx, a, dispatcher.Health())()
	return dispatcher.RunAlone(a.Ctx, listen)
}

// serve serves probes and metrics, until stop is called: a drain can be seen.
func (c *hooksRunCmd) serve(a *app.App, file *workerfile.File, probes http.Handler) (metrics *workerflags.Metrics, stop func(), err error) {
	ops := opsserver.New(a.Log)
	if metrics, err = c.Metrics(a, ops, file.MetricsListen); err != nil {
		return nil, nil, err
	}
	if err = c.ServeHealth(a, ops, file.HealthListen, probes); err != nil {
		return nil, nil, err
	}
	stop, err = ops.Start(context.WithoutCancel(a.Ctx))
	return metrics, stop, err
}
