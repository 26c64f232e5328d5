// Package metrics has the command that serves metrics of the database.
package metrics

import (
	"time"

	"soniq/internal/cli/app"
	"soniq/internal/cli/workerflags"
	"soniq/internal/opsserver"
	"soniq/telemetry/prom"
)

// Command serves metrics of the database.
type Command struct {
	Listen   string        `default:"127.0.0.1:9464" placeholder:"ADDR" help:"Serve /metrics there: PORT, HOST:PORT or unix:PATH. Without a host, on this machine alone. Default 127.0.0.1:9464."`
	Interval time.Duration `default:"15s" placeholder:"DURATION" help:"Read the database at most this often; processes with the same interval share a reading. Above 0, and at least 1s. Default 15s."`
	Once     bool          `help:"Print the metrics once, and exit."`
}

// Help implements [kong.HelpProvider].
func (Command) Help() string {
	return `For fleets without a Go worker, or whose workers should not be scraped: it has what the database knows. A worker that is started with --metrics-listen has the same, and counts and times its jobs as well. docs/metrics.md lists all of them.

Whoever is scraped, and however often, the database is read once in an interval. While it is away, soniq_database_up is 0.

    soniq metrics
    soniq metrics --listen 0.0.0.0:9464
    soniq metrics --once > /var/lib/node_exporter/soniq.prom
    soniq metrics --once --json`
}

// Run runs the command.
func (c *Command) Run(a *app.App) error {
	switch {
	case c.Interval < time.Second:
		return app.Usagef("--interval must be at least 1s, not %s", c.Interval)
	case a.JSON && !c.Once:
		return app.Usagef("--json needs --once: what is served is in Prometheus's formats")
	}
	ops := opsserver.New(a.Log)
	exporter, err := prom.New(prom.Config{WithoutProcess: c.Once})
	if err == nil && !c.Once {
		if err := ops.Handle(c.Listen, workerflags.MetricsPath, exporter.Handler(a.Log)); err != nil {
			return app.Usagef("--listen %w", err)
		}
	}
	if err != nil {
		return err
	}
	pool, err := a.Open()
	if err != nil {
		return err
	}
	fleet, err := workerflags.WatchFleet(a, pool, exporter, c.Interval)
	if err != nil {
		return err
	}
	// What is wrong with the tables or with rights is told at once.
	reading, _, err := fleet.Read(a.Ctx)
	switch {
	case err != nil:
		return err
	case a.JSON:
		return a.Out.Document(reading)
	case c.Once:
		return exporter.WriteText(a.Out)
	}
	stop, err := ops.Start(a.Ctx)
	if err != nil {
		return err
	}
	<-a.Ctx.Done()
	stop()
	return nil
}
