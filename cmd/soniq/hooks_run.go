package main

import (
	"soniq"
	"soniq/hooks"
)

type hooksRunCmd struct {
	Config         *string `placeholder:"FILE" help:"Read hooks from FILE too. Default soniq.yaml, if there is one."`
	AllowExecHooks bool    `help:"Run the commands of exec hooks. Who may write to the table of hooks can then run commands here."`
	ListenURL      string  `name:"listen-url" placeholder:"URL" help:"A direct connection to listen on, where the database is behind a pooler in transaction mode."`
}

func (hooksRunCmd) Help() string {
	return `For those whose workers must not reach the network ('soniq worker --no-hooks'). Any number may run. Of a configuration file only the hooks are looked at, and of the environment SONIQ_SLACK_WEBHOOK_URL, and SONIQ_WEBHOOK_URL with SONIQ_WEBHOOK_SECRET.

    soniq hooks run
    soniq hooks run --config soniq.yaml`
}

func (c *hooksRunCmd) Run(a *app) error {
	file, err := (&handlerFlags{Config: c.Config}).read(a, configUse{hooks: true})
	if err != nil {
		return err
	}
	if err := file.addEnvironmentHooks(a.getenv); err != nil {
		return err
	}
	pool, err := a.open()
	if err != nil {
		return err
	}
	if err := soniq.Check(a.ctx, pool); err != nil {
		return err
	}
	if err := soniq.WarnOfFindings(a.ctx, pool, a.log); err != nil {
		return err
	}
	listen := pool.Config().ConnConfig
	if c.ListenURL != "" {
		if listen, err = listenConfig(c.ListenURL); err != nil {
			return err
		}
	}
	dispatcher := hooks.NewDispatcher(pool, hooks.Config{Logger: a.log, AllowExec: c.AllowExecHooks})
	if err := a.declare(dispatcher, file); err != nil {
		return err
	}
	a.log.Info("sending hooks")
	return dispatcher.RunAlone(a.ctx, listen)
}
