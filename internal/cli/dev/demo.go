package dev

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"soniq/deadletter"
	"soniq/engine"
	"soniq/internal/cli/app"
	"soniq/internal/cli/terminal"
	"soniq/internal/unit"
)

// demoQueue keeps the demo's jobs apart from what else is in the private
// database.
const demoQueue = "demo"

// demoPatience bounds the demo, which takes some four seconds.
const demoPatience = time.Minute

// DemoCommand runs jobs that succeed, fail and come back.
type DemoCommand struct{}

// Help implements [kong.HelpProvider].
func (DemoCommand) Help() string {
	return `Needs nothing but this program. It starts the private PostgreSQL of --dev, or uses it if it runs. Its dead letters stay there, so that you can try the other commands.

    soniq demo
    soniq dead-letter list --dev`
}

// Run runs the command.
func (c *DemoCommand) Run(a *app.App) error {
	if a.DatabaseURL != "" {
		return app.Usagef("demo runs on a private database and takes no --database-url")
	}
	a.Dev = true
	if !a.JSON {
		a.Out.Printf("A worker, seven jobs and the dead-letter queue, on a private PostgreSQL.\n")
	}
	pool, err := a.OpenService()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(a.Ctx, demoPatience,
		fmt.Errorf("demo: not done within %s", demoPatience))
	defer cancel()
	unlock, err := lockDemo(ctx, pool)
	if err != nil {
		return err
	}
	defer unlock()
	d := &demo{App: a, pool: pool, started: a.Now(), news: make(chan any)}
	return d.run(ctx)
}

// lockDemo makes sure that one demo runs at a time: two would run each other's
// jobs.
func lockDemo(ctx context.Context, pool *pgxpool.Pool) (unlock func(), err error) {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	var locked bool
	err = conn.QueryRow(ctx, `select pg_try_advisory_lock(hashtext('soniq demo'))`).Scan(&locked)
	if err == nil && !locked {
		err = errors.New("another demo is running; try again when it has ended")
	}
	if err != nil {
		conn.Release()
		return nil, err
	}
	return func() {
		// Closing the session releases the lock, whatever state it is in.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Conn().Close(ctx)
		conn.Release()
	}, nil
}

// demo is one run of the demo. The worker and the subscription send their news to
// the goroutine that prints.
type demo struct {
	*app.App
	pool    *pgxpool.Pool
	started time.Time
	news    chan any
	// repaired is set before the replay: what was down is up again.
	repaired atomic.Bool
	logged   logHead

	jobs    []demoJob
	done    int
	retries int
	buried  []deadletter.Event
}

// demoJob is what is enqueued, and how it is bound to end.
type demoJob struct {
	name string
	args map[string]any
	dies bool
	id   uuid.UUID
}

type demoConnected struct{}

// shortLog leaves out of the log what differs from run to run.
func shortLog(_ []string, a slog.Attr) slog.Attr {
	if a.Key == slog.TimeKey || a.Key == "worker" {
		return slog.Attr{}
	}
	return a
}

// logHead keeps the first line of a log.
type logHead struct {
	mu   sync.Mutex
	text string
}

func (f *logHead) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.text == "" {
		f.text = strings.TrimSpace(string(p))
	}
	return len(p), nil
}

func (f *logHead) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.text
}

// Settled implements [engine.Observer].
func (d *demo) Settled(ctx context.Context, o engine.Outcome) { d.tell(ctx, o) }

func (d *demo) tell(ctx context.Context, news any) {
	select {
	case d.news <- news:
	case <-ctx.Done():
	}
}

func (d *demo) run(ctx context.Context) error {
	registry := d.registry()
	log := slog.New(slog.NewTextHandler(&d.logged, &slog.HandlerOptions{Level: slog.LevelWarn, ReplaceAttr: shortLog}))
	if d.LogLevel == "debug" {
		log = d.Log
	}
	worker, err := engine.NewWorker(d.pool, registry, engine.WorkerConfig{
		Schema:          d.SchemaName(),
		Queues:          []string{demoQueue},
		UnknownGrace:    2 * time.Second,
		ShutdownTimeout: 5 * time.Second,
		Logger:          log,
		Observer:        d,
	})
	if err != nil {
		return err
	}
	client, err := engine.NewClient(d.pool, engine.ClientConfig{Schema: d.SchemaName(), ProducerID: "soniq demo"})
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var parts errgroup.Group
	parts.Go(func() error { return worker.Run(ctx) })
	parts.Go(func() error {
		return deadletter.Subscribe(ctx, d.pool.Config().ConnConfig, deadletter.SubscribeOptions{
			Schema:    d.SchemaName(),
			Logger:    log,
			OnConnect: func(ctx context.Context) { d.tell(ctx, demoConnected{}) },
		}, func(ctx context.Context, e deadletter.Event) { d.tell(ctx, e) })
	})
	err = d.play(ctx, client)
	stop()
	// Whoever still has news for the printer must not wait for it.
	if partsErr := d.waitFor(&parts); err == nil {
		err = partsErr
	}
	return err
}

func (d *demo) waitFor(parts *errgroup.Group) error {
	ended := make(chan error, 1)
	go func() { ended <- parts.Wait() }()
	for {
		select {
		case <-d.news:
		case err := <-ended:
			return err
		}
	}
}

// play is the demo's plot.
func (d *demo) play(ctx context.Context, client *engine.Client) error {
	// Listening before the first job, so that every announcement is heard.
	if err := d.follow(ctx, func(news any) bool { _, ok := news.(demoConnected); return ok }); err != nil {
		return err
	}
	if err := d.enqueue(ctx, client); err != nil {
		return err
	}
	deaths := 0
	for _, j := range d.jobs {
		if j.dies {
			deaths++
		}
	}
	if err := d.follow(ctx, func(any) bool {
		return d.done >= len(d.jobs)-deaths && len(d.buried) >= deaths
	}); err != nil {
		return err
	}
	replayed, err := d.replay(ctx)
	if err != nil {
		return err
	}
	return d.epilogue(ctx, replayed)
}

// follow prints events until enough have happened.
func (d *demo) follow(ctx context.Context, enough func(news any) bool) error {
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case news := <-d.news:
			d.show(news)
			if enough(news) {
				return nil
			}
		}
	}
}

func (d *demo) show(news any) {
	switch n := news.(type) {
	case engine.Outcome:
		// A demo that was killed may have left jobs in the queue.
		if !d.mine(n.Job.ID) && (n.Job.ReplayOf == nil || !d.mine(*n.Job.ReplayOf)) {
			return
		}
		switch n.Kind {
		case engine.OutcomeDone:
			d.done++
			text := "done"
			if n.Job.Attempts > 1 {
				text = fmt.Sprintf("done, on attempt %d", n.Job.Attempts)
			}
			d.line(n.Job.Name, text)
		case engine.OutcomeRetry:
			d.retries++
			d.line(n.Job.Name, fmt.Sprintf("attempt %d of %d failed: %s; again in %s",
				n.Job.Attempts, n.Job.MaxAttempts, n.Verdict.Message, n.Delay.Round(time.Millisecond)))
		}
	case deadletter.Event:
		if !d.mine(n.ID) {
			return
		}
		d.buried = append(d.buried, n)
		d.line(n.JobName, "dead letter, "+string(n.Reason)+" (heard on soniq_dead_letter)")
	}
}

func (d *demo) mine(id uuid.UUID) bool {
	for _, j := range d.jobs {
		if j.id == id {
			return true
		}
	}
	return false
}

func (d *demo) line(name, text string) {
	if !d.JSON {
		d.Out.Printf("  %6.2f s  %-20s  %s", d.Now().Sub(d.started).Seconds(), terminal.OneLine(name), terminal.OneLine(text))
	}
}

func (d *demo) say(format string, args ...any) {
	if !d.JSON {
		d.Out.Printf(format, args...)
	}
}

// registry has a handler for each way a job can go.
func (d *demo) registry() *engine.Registry {
	type welcome struct {
		UserID int `json:"user_id"`
	}
	type invoice struct {
		Number int `json:"number"`
	}
	reg := engine.NewRegistry()
	quickly := engine.Retry(engine.Exponential{Base: 150 * time.Millisecond})
	engine.HandleResult(reg, "emails.send_welcome", func(_ context.Context, w welcome) (map[string]int, error) {
		return map[string]int{"sent_to": w.UserID}, nil
	})
	engine.HandleRaw(reg, "reports.build", func(_ context.Context, job *engine.Job) (any, error) {
		if job.Attempts < 3 {
			return nil, errors.New("the warehouse is busy")
		}
		return nil, nil
	}, quickly)
	engine.HandleRaw(reg, "inventory.sync", func(context.Context, *engine.Job) (any, error) {
		if !d.repaired.Load() {
			return nil, errors.New("supplier API: 503 service unavailable")
		}
		return nil, nil
	}, quickly)
	engine.HandleRaw(reg, "payments.charge", func(context.Context, *engine.Job) (any, error) {
		return nil, engine.Permanent(errors.New("the card was reported stolen"))
	})
	engine.Handle(reg, "invoices.render", func(context.Context, invoice) error { return nil })
	engine.HandleRaw(reg, "videos.transcode", func(ctx context.Context, _ *engine.Job) (any, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}, quickly, engine.Timeout(300*time.Millisecond))
	return reg
}

func (d *demo) enqueue(ctx context.Context, client *engine.Client) error {
	d.jobs = []demoJob{
		{name: "emails.send_welcome", args: map[string]any{"user_id": 42}},
		{name: "reports.build", args: map[string]any{"month": "2026-10"}},
		{name: "payments.charge", args: map[string]any{"order": 1007}, dies: true},
		{name: "invoices.render", args: map[string]any{"number": "next"}, dies: true},
		{name: "inventory.sync", args: map[string]any{"sku": "A-113"}, dies: true},
		{name: "videos.transcode", args: map[string]any{"video": "launch.mov"}, dies: true},
		{name: "faxes.send", args: map[string]any{"to": "head office"}, dies: true},
	}
	for i := range d.jobs {
		j := &d.jobs[i]
		e, err := client.Enqueue(ctx, j.name, j.args, engine.Queue(demoQueue), engine.MaxAttempts(3))
		if err != nil {
			return err
		}
		j.id = e.ID
	}
	d.line("", "seven jobs enqueued; no worker has a handler for faxes.send")
	return nil
}

// replay fixes the cause of one dead letter and replays it.
func (d *demo) replay(ctx context.Context) (deadletter.Job, error) {
	queue, err := d.DeadLetters(d.pool)
	if err != nil {
		return deadletter.Job{}, err
	}
	var dead uuid.UUID
	for _, j := range d.jobs {
		if j.name == "inventory.sync" {
			dead = j.id
		}
	}
	d.repaired.Store(true)
	d.say("\nThe supplier is back: %s dead-letter replay %s --dev%s", d.Self, dead, d.schemaFlag())
	done := d.done
	if _, err := queue.Replay(ctx, dead, deadletter.ReplayOptions{}); err != nil {
		return deadletter.Job{}, err
	}
	if err := d.follow(ctx, func(any) bool { return d.done > done }); err != nil {
		return deadletter.Job{}, err
	}
	return queue.Get(ctx, dead)
}

// demoReport is the demo's outcome as JSON.
type demoReport struct {
	Done        int              `json:"done"`
	Retries     int              `json:"retries"`
	DeadLetters []deadletter.Job `json:"dead_letters"`
	ReplayedID  uuid.UUID        `json:"replayed_id"`
	ReplayState deadletter.State `json:"replay_state"`
}

func (d *demo) epilogue(ctx context.Context, replayed deadletter.Job) error {
	queue, err := d.DeadLetters(d.pool)
	if err != nil {
		return err
	}
	report := demoReport{
		Done: d.done, Retries: d.retries, ReplayedID: replayed.ID, ReplayState: replayed.State,
	}
	for _, e := range d.buried {
		j, err := queue.Get(ctx, e.ID)
		if err != nil {
			return err
		}
		report.DeadLetters = append(report.DeadLetters, j)
	}
	if d.JSON {
		return d.Out.Document(report)
	}
	d.say("\nWhy they died:\n")
	t := terminal.Table{Columns: []terminal.Column{
		{Title: "REASON"}, {Title: "JOB"}, {Title: "TRIES", Right: true}, {Title: "STATE"}, {Title: "ERROR", Min: 20},
	}}
	for _, j := range report.DeadLetters {
		t.Add(string(j.Reason), j.JobName, fmt.Sprint(j.Attempts), string(j.State), j.LastError)
	}
	if err := t.Write(d.Out, d.TableWidth()); err != nil {
		return err
	}
	d.say("\n%s done, %d retries, %s announced, 1 replayed and %s.",
		unit.Plural(int64(d.done), "job"), d.retries, unit.Plural(int64(len(d.buried)), "dead letter"), replayed.State)
	if line := d.logged.String(); line != "" {
		d.say("\nThe worker's log has a line for each death:\n\n  %s", line)
	}
	d.say("\nThey are still there. Try:\n")
	for _, command := range []string{
		"list", "show " + report.DeadLetters[0].ID.String(), "stats", "export --output dead_jobs.csv",
	} {
		d.say("  %s dead-letter %s --dev%s", d.Self, command, d.schemaFlag())
	}
	return nil
}

// schemaFlag is the flag that other commands need for the tables of the demo.
func (d *demo) schemaFlag() string {
	if d.Schema == nil {
		return ""
	}
	return " --schema " + app.ShellWord(*d.Schema)
}
