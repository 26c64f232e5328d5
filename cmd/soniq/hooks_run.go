package main

import (
	"soniq"
	"soniq/hooks"
	"soniq/internal/cli/app"
	"soniq/internal/workerfile"
)

type hooksRunCmd struct {
	Config *string `placeholder:"FILE" help:"Read hooks from FILE too. Default soniq.yaml, if there is one."`
	hookGrants
	hookFlow
	ListenURL string `name:"listen-url" placeholder:"URL" help:"A direct connection to listen on, where the database is behind a pooler in transaction mode."`
}

func (hooksRunCmd) Help() string {
	return `For those whose workers must not reach the network ('soniq worker --no-hooks'). Any number may run. Of a configuration file only the hooks are looked at, and of the environment SONIQ_SLACK_WEBHOOK_URL, and SONIQ_WEBHOOK_URL with SONIQ_WEBHOOK_SECRET.

    soniq hooks run
    soniq hooks run --config soniq.yaml
    soniq hooks run --hook-env ORDERS_TOKEN --hook-allow 10.1.2.0/24`
}

func (c *hooksRunCmd) Run(a *app.App) error {
	config, err := c.config(a)
	if err != nil {
		return err
	}
	if err := c.into(&config); err != nil {
		return err
	}
	file, err := (&handlerFlags{Config: c.Config}).read(a, workerfile.Options{Hooks: true})
	if err != nil {
		return err
	}
	if err := file.AddEnvironmentHooks(a.Getenv, c.networks(a)); err != nil {
		return app.Usagef("%w", err)
	}
	pool, err := a.Open()
	if err != nil {
		return err
	}
	if err := soniq.Check(a.Ctx, pool, soniq.Config{Schema: a.SchemaName()}); err != nil {
		return err
	}
	soniq.WarnOfFindings(a.Ctx, pool, soniq.Config{Schema: a.SchemaName()}, a.Log)
	listen := pool.Config().ConnConfig
	if c.ListenURL != "" {
		if listen, err = app.ListenConfig(c.ListenURL); err != nil {
			return err
		}
	}
	config.Schema = a.SchemaName()
	dispatcher, err := hooks.NewDispatcher(pool, config)
	if err != nil {
		return err
	}
	if err := declare(a, dispatcher, file); err != nil {
		return err
	}
	a.Log.Info("sending hooks")
	return dispatcher.RunAlone(a.Ctx, listen)
}
