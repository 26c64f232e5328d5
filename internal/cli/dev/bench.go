package dev

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"soniq"
	"soniq/internal/bench"
	"soniq/internal/cli/app"
	"soniq/internal/cli/terminal"
	"soniq/internal/unit"
)

// BenchCommand measures this program beside plain SQL.
type BenchCommand struct {
	Only        []string      `placeholder:"NAME" help:"Only these workloads, such as burn-down; see --list. Repeatable: each of them."`
	List        bool          `help:"List the workloads, and measure nothing."`
	Jobs        int           `placeholder:"N" default:"50000" help:"Jobs of a burn-down, a batch and the failures, from 1 on. Default 50000."`
	Rounds      int           `placeholder:"N" default:"3" help:"The number of rounds, from 1 on. The medians are shown. Default 3."`
	Concurrency int           `placeholder:"N" default:"2000" help:"Concurrency of the tuned worker, from 1 on. Default 2000."`
	Rate        int           `placeholder:"N" default:"1000" help:"Jobs a second of 'sustained', from 1 on. Default 1000."`
	Samples     int           `placeholder:"N" default:"100" help:"Wakes that are measured, from 1 on. Default 100."`
	Workers     int           `placeholder:"N" default:"400" help:"Workers of the largest fleet, from 1 on: 1, 10, 40 and 400 are measured. 400 need 80 connections. Default 400."`
	For         time.Duration `placeholder:"DURATION" default:"3s" help:"How long 'sustained' and the single inserts last, above 0. Default 3s."`
	IdleFor     time.Duration `placeholder:"DURATION" default:"30s" help:"How long idle workers are watched, and then given a job each 30 ms. Above 0: from 1s to 1h. Default 30s."`
}

// Help implements [kong.HelpProvider].
func (BenchCommand) Help() string {
	return `Measures this program beside plain SQL on the same server: the same work in a small table, without retries and without protection against crashes. Fleets of workers are measured beside one worker. All of it takes an hour; --only and --rounds make it shorter. Each measurement runs in a database of its own, soniq_bench_..., which is dropped afterwards; your tables and workers are not touched. Only the ratios describe Soniq; the other figures depend on your machine.

    soniq bench --dev
    soniq bench --dev --only burn-down --jobs 200000 --rounds 5
    soniq bench --dev --only fleet --rounds 1`
}

// benchMost bounds a benchmark that somebody mistypes.
const benchMost = 10_000_000

func (c *BenchCommand) validate() error {
	for _, v := range []struct {
		flag string
		n    int
	}{
		{"--jobs", c.Jobs},
		{"--rounds", c.Rounds},
		{"--concurrency", c.Concurrency},
		{"--rate", c.Rate},
		{"--samples", c.Samples},
		{"--workers", c.Workers},
	} {
		if v.n < 1 || v.n > benchMost {
			return app.Usagef("%s must be from 1 to %d, not %d", v.flag, benchMost, v.n)
		}
	}
	for _, v := range []struct {
		flag string
		d    time.Duration
	}{{"--for", c.For}, {"--idle-for", c.IdleFor}} {
		if v.d < time.Second || v.d > time.Hour {
			return app.Usagef("%s must be from 1s to 1h, not %s", v.flag, v.d)
		}
	}
	return nil
}

// Run runs the command.
func (c *BenchCommand) Run(a *app.App) error {
	if c.List {
		return c.list(a)
	}
	if err := c.validate(); err != nil {
		return err
	}
	matches, err := c.matches(a.SchemaName())
	if err != nil {
		return err
	}
	pool, err := a.OpenService()
	if err != nil {
		return err
	}
	on, err := describeMachine(a.Ctx, pool)
	if err != nil {
		return err
	}
	bar := a.Progress("", 1, 0)
	results, err := bench.Run(a.Ctx, pool.Config().ConnString(), matches, c.Rounds, bench.Options{
		Jobs: c.Jobs, Rate: c.Rate, For: c.For, Idle: c.IdleFor, Samples: c.Samples,
	}, func(doing string, done, of int) {
		bar.ChangeMax(of)
		bar.Describe(doing)
		_ = bar.Set(done)
	})
	_ = bar.Finish()
	if errors.Is(err, bench.ErrNoRight) {
		return fmt.Errorf("%w; give the URL of one that may, or use --dev", err)
	}
	if err != nil {
		return err
	}
	if a.JSON {
		return a.Out.Document(map[string]any{"machine": on, "rounds": c.Rounds, "results": results})
	}
	return c.show(a, on, results)
}

func (c *BenchCommand) list(a *app.App) error {
	if a.JSON {
		names := map[string]string{}
		for _, w := range bench.Workloads() {
			names[w.Name] = w.About
		}
		return a.Out.Document(names)
	}
	t := &terminal.Table{Columns: []terminal.Column{{Title: "WORKLOAD"}, {Title: "WHAT IT MEASURES"}}}
	for _, w := range bench.Workloads() {
		t.Add(w.Name, w.About)
	}
	return t.Write(a.Out, a.TableWidth())
}

// matches compares each with the plain SQL that does the same.
func (c *BenchCommand) matches(schema string) ([]bench.Match, error) {
	defaults := bench.Soniq{Schema: schema, Label: "soniq, defaults"}
	tuned := bench.Soniq{Schema: schema, Label: "soniq, tuned", Concurrency: c.Concurrency}
	deleting := bench.Soniq{Schema: schema, Label: "soniq, tuned, deleting", Concurrency: c.Concurrency, ResultTTL: -1}
	failing := bench.Soniq{Schema: schema, Label: "soniq, tuned", Concurrency: c.Concurrency, Fails: true}
	plain, told := bench.Plain{}, bench.Plain{Notify: true}
	all := []bench.Match{
		{Workload: bench.BurnDown, Systems: []bench.System{plain, tuned}},
		{Workload: bench.BurnDown, Systems: []bench.System{bench.Plain{Delete: true}, deleting}},
		{Workload: bench.BurnDownFew, Systems: []bench.System{plain, defaults}},
		{Workload: bench.BurnDownHeld, Systems: []bench.System{plain, tuned}},
		{Workload: bench.Sustained, Systems: []bench.System{told, defaults}},
		{Workload: bench.Enqueue, Systems: []bench.System{plain, defaults}},
		{Workload: bench.EnqueueEight, Systems: []bench.System{plain, defaults}},
		{Workload: bench.EnqueueAwake, Systems: []bench.System{told, defaults}},
		{Workload: bench.EnqueueMany, Systems: []bench.System{plain, defaults}},
		{Workload: bench.WakeIdle, Systems: []bench.System{told, defaults}},
		{Workload: bench.WakePairs, Systems: []bench.System{told, defaults}},
		{Workload: bench.WakeRollback, Systems: []bench.System{told, defaults}},
		{Workload: bench.Failures, Systems: []bench.System{failing}},
		{Workload: bench.BulkReplay, Systems: []bench.System{tuned}},
		{Workload: bench.Import, Systems: []bench.System{tuned}},
		{Workload: bench.MassDeath, Systems: []bench.System{failing}},
		{Workload: bench.Idle, Systems: []bench.System{defaults}},
		{Workload: bench.ManyWorkers, Systems: bench.Fleets(schema)},
		{Workload: bench.ManyQueues, Systems: bench.QueueCounts(schema)},
		{Workload: bench.Limits, Systems: bench.LimitCounts(schema)},
	}
	for i, m := range all {
		all[i].Systems = slices.DeleteFunc(m.Systems, func(s bench.System) bool {
			fleet, ok := s.(bench.Fleet)
			return ok && fleet.Workers > c.Workers
		})
	}
	if len(c.Only) == 0 {
		return all, nil
	}
	for _, name := range c.Only {
		if !slices.ContainsFunc(all, func(m bench.Match) bool { return m.Workload.Name == name }) {
			return nil, app.Usagef("--only: there is no workload %q; see 'soniq bench --list'", name)
		}
	}
	return slices.DeleteFunc(all, func(m bench.Match) bool { return !slices.Contains(c.Only, m.Workload.Name) }), nil
}

// A machine is what a ratio was measured on.
type machine struct {
	Soniq    string `json:"soniq"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
	CPUs     int    `json:"cpus"`
	Server   string `json:"server"`
}

func describeMachine(ctx context.Context, pool *pgxpool.Pool) (machine, error) {
	m := machine{
		Soniq: soniq.Version, Go: strings.TrimPrefix(runtime.Version(), "go"),
		Platform: runtime.GOOS + "/" + runtime.GOARCH, CPUs: runtime.NumCPU(),
	}
	err := pool.QueryRow(ctx, `select split_part(current_setting('server_version'), ' ', 1)`).Scan(&m.Server)
	return m, err
}

func (c *BenchCommand) show(a *app.App, on machine, results []bench.Result) error {
	a.Out.Printf("Soniq %s, Go %s, %s with %d CPUs, PostgreSQL %s; medians of %d rounds.\n",
		on.Soniq, on.Go, on.Platform, on.CPUs, on.Server, c.Rounds)
	t := &terminal.Table{Columns: []terminal.Column{
		{Title: "WORKLOAD"},
		{Title: "SYSTEM", Min: 8},
		{Title: "FIGURE", Min: 10},
		{Title: "VALUE", Right: true},
		{Title: "UNIT"},
		{Title: "OF THE FIRST", Right: true},
	}}
	for i, r := range results {
		workload, system := r.Workload, r.System
		if i > 0 && results[i-1].Workload == workload {
			workload = ""
		}
		for _, f := range r.Figures {
			ratio := ""
			if f.Ratio != 0 {
				ratio = strconv.FormatFloat(f.Ratio, 'f', 2, 64)
			}
			t.Add(workload, system, f.Name, figure(f.Value), f.Unit, ratio)
			workload, system = "", ""
		}
	}
	return t.Write(a.Out, a.TableWidth())
}

// figure has three figures that count, or all digits of a large one.
func figure(v float64) string {
	switch {
	case v >= 1000:
		return unit.Thousands(int64(math.Round(v)))
	case v >= 100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case v >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strconv.FormatFloat(v, 'f', 2, 64)
}
