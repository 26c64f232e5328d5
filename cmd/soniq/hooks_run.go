package main

import (
	"soniq"
	"soniq/hooks"
)

type hooksRunCmd struct {
	AllowExecHooks bool   `help:"Run the commands of exec hooks. Who may write to the table of hooks can then run commands here."`
	ListenURL      string `name:"listen-url" placeholder:"URL" help:"A direct connection to listen on, where the database is behind a pooler in transaction mode."`
}

func (hooksRunCmd) Help() string {
	return `For those whose workers must not reach the network ('soniq worker --no-hooks'). Any number may run.

    soniq hooks run`
}

func (c *hooksRunCmd) Run(a *app) error {
	pool, err := a.open()
	if err != nil {
		return err
	}
	if err := soniq.Check(a.ctx, pool); err != nil {
		return err
	}
	listen := pool.Config().ConnConfig
	if c.ListenURL != "" {
		if listen, err = listenConfig(c.ListenURL); err != nil {
			return err
		}
	}
	a.log.Info("sending hooks")
	return hooks.NewDispatcher(pool, hooks.Config{Logger: a.log, AllowExec: c.AllowExecHooks}).RunAlone(a.ctx, listen)
}
