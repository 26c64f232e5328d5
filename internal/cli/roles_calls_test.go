package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/deadletter"
	"soniq/engine"
	"soniq/hooks"
	"soniq/internal/eventually"
	"soniq/internal/pg"
	"soniq/internal/roles"
	"soniq/internal/testkit"
)

// caller is a program in Go that runs as a kind of role.
type caller struct {
	*place
	pool   *pgxpool.Pool
	client *engine.Client
	queue  *deadletter.Queue
	store  *hooks.Store
}

func (p *place) caller(kind roles.Kind) *caller {
	p.t.Helper()
	pool, err := pgxpool.New(p.t.Context(), p.urls[kind])
	if err != nil {
		p.t.Fatal(err)
	}
	return p.callerOn(pool)
}

// callerOn is a program on a pool, which it closes.
func (p *place) callerOn(pool *pgxpool.Pool) *caller {
	p.t.Helper()
	p.t.Cleanup(pool.Close)
	c := &caller{place: p, pool: pool}
	for _, err := range []error{
		func() (err error) { c.client, err = engine.NewClient(pool, engine.ClientConfig{}); return err }(),
		func() (err error) { c.queue, err = deadletter.NewQueue(pool, deadletter.QueueConfig{}); return err }(),
		func() (err error) { c.store, err = hooks.NewStore(pool, hooks.StoreConfig{}); return err }(),
	} {
		if err != nil {
			p.t.Fatal(err)
		}
	}
	return c
}

// apiCall is a line of the table: a call, and the kinds of role for which it works.
type apiCall struct {
	name, may string
	do        func(ctx context.Context, c *caller) error
}

// inTx runs do in a transaction of the program's own, which it takes back.
func (c *caller) inTx(ctx context.Context, do func(tx pgx.Tx) error) error {
	undone := errors.New("undone")
	err := pgx.BeginFunc(ctx, c.pool, func(tx pgx.Tx) error {
		if err := do(tx); err != nil {
			return err
		}
		return undone
	})
	if errors.Is(err, undone) {
		return nil
	}
	return err
}

func only[T any](_ T, err error) error { return err }

func (c *caller) id(what func(*place) string) uuid.UUID { return uuid.MustParse(what(c.place)) }

// of picks the one dead letter of a new name.
func (c *caller) of() deadletter.Filter { return deadletter.Filter{JobNames: []string{c.named()}} }

// nowhere is an archive that keeps nothing.
type nowhere struct{ bytes.Buffer }

func (*nowhere) Commit() error { return nil }

var later = engine.After(24 * time.Hour)

var apiCalls = []apiCall{
	{"Client.Availability", "operator worker", func(ctx context.Context, c *caller) error { return only(c.client.Availability(ctx, "default", "j")) }},
	{"Client.CancelJob", "operator worker", func(ctx context.Context, c *caller) error { return only(c.client.CancelJob(ctx, c.id((*place).job))) }},
	{"Client.CancelJobTx", "operator worker", func(ctx context.Context, c *caller) error {
		return c.inTx(ctx, func(tx pgx.Tx) error { return only(c.client.CancelJobTx(ctx, tx, c.id((*place).job))) })
	}},
	{"Client.DeleteJob", "operator worker", func(ctx context.Context, c *caller) error { return c.client.DeleteJob(ctx, c.id((*place).job)) }},
	{"Client.DeleteJobTx", "operator worker", func(ctx context.Context, c *caller) error {
		return c.inTx(ctx, func(tx pgx.Tx) error { return c.client.DeleteJobTx(ctx, tx, c.id((*place).job)) })
	}},
	{"Client.Enqueue", "producer unique-producer operator", func(ctx context.Context, c *caller) error {
		return only(c.client.Enqueue(ctx, "j", nil, later))
	}},
	{"Client.EnqueueMany", "producer unique-producer operator", func(ctx context.Context, c *caller) error {
		return only(c.client.EnqueueMany(ctx, []engine.Insert{{Name: "j", Options: []engine.EnqueueOption{later}}, {Name: "j", Options: []engine.EnqueueOption{later}}}))
	}},
	{"Client.EnqueueManyTx", "producer unique-producer operator", func(ctx context.Context, c *caller) error {
		return c.inTx(ctx, func(tx pgx.Tx) error {
			return only(c.client.EnqueueManyTx(ctx, tx, []engine.Insert{{Name: "j", Options: []engine.EnqueueOption{later}}}))
		})
	}},
	{"Client.EnqueueTx", "producer unique-producer operator", func(ctx context.Context, c *caller) error {
		return c.inTx(ctx, func(tx pgx.Tx) error { return only(c.client.EnqueueTx(ctx, tx, "j", nil, later)) })
	}},
	{"Client.FindJob", "viewer operator worker", func(ctx context.Context, c *caller) error { return only(c.client.FindJob(ctx, c.job())) }},
	{"Client.Job", "viewer operator worker", func(ctx context.Context, c *caller) error { return only(c.client.Job(ctx, c.id((*place).job))) }},
	{"Client.KnownNames", "operator worker", func(ctx context.Context, c *caller) error { return only(c.client.KnownNames(ctx)) }},
	{"Client.ListJobs", "viewer operator worker", func(ctx context.Context, c *caller) error {
		return only(c.client.ListJobs(ctx, engine.JobFilter{Limit: 1}))
	}},
	{"Client.OpenJobs", "unique-producer viewer operator worker", func(ctx context.Context, c *caller) error {
		return only(c.client.OpenJobs(ctx, []uuid.UUID{uuid.New()}))
	}},
	{"Client.PauseQueue", "operator", func(ctx context.Context, c *caller) error { return only(c.client.PauseQueue(ctx, uuid.NewString())) }},
	{"Client.PauseQueueTx", "operator", func(ctx context.Context, c *caller) error {
		return c.inTx(ctx, func(tx pgx.Tx) error { return only(c.client.PauseQueueTx(ctx, tx, uuid.NewString())) })
	}},
	{"Client.Queues", "viewer operator worker", func(ctx context.Context, c *caller) error { return only(c.client.Queues(ctx)) }},
	{"Client.ResumeQueue", "operator worker", func(ctx context.Context, c *caller) error { return only(c.client.ResumeQueue(ctx, uuid.NewString())) }},
	{"Client.ResumeQueueTx", "operator worker", func(ctx context.Context, c *caller) error {
		return c.inTx(ctx, func(tx pgx.Tx) error { return only(c.client.ResumeQueueTx(ctx, tx, uuid.NewString())) })
	}},
	{"Client.RetryJob", "operator worker", func(ctx context.Context, c *caller) error { return c.client.RetryJob(ctx, c.id((*place).cancelled)) }},
	{"Client.RetryJobTx", "operator worker", func(ctx context.Context, c *caller) error {
		return c.inTx(ctx, func(tx pgx.Tx) error { return c.client.RetryJobTx(ctx, tx, c.id((*place).cancelled)) })
	}},
	{"Client.Status", "viewer operator worker", func(ctx context.Context, c *caller) error { return only(c.client.Status(ctx)) }},
	{"Client.Workers", "viewer operator worker", func(ctx context.Context, c *caller) error { return only(c.client.Workers(ctx)) }},

	{"Queue.ApplyRetention", "operator worker", func(ctx context.Context, c *caller) error {
		return only(c.queue.ApplyRetention(ctx, []deadletter.Retention{{Filter: c.of(), Keep: 24 * time.Hour}, {}}, deadletter.MaintenanceOptions{}))
	}},
	{"Queue.Backlog", "metrics viewer operator worker dispatcher", func(ctx context.Context, c *caller) error { return only(c.queue.Backlog(ctx, deadletter.Filter{})) }},
	{"Queue.CheckReplay", "viewer operator worker", func(ctx context.Context, c *caller) error {
		return c.queue.CheckReplay(ctx, c.id((*place).letter), deadletter.ReplayOptions{})
	}},
	{"Queue.Cleanup", "operator worker", func(ctx context.Context, c *caller) error { return only(c.queue.Cleanup(ctx, 24*time.Hour, c.of())) }},
	{"Queue.CleanupCount", "metrics viewer operator worker dispatcher", func(ctx context.Context, c *caller) error {
		return only(c.queue.CleanupCount(ctx, 24*time.Hour, c.of()))
	}},
	{"Queue.CleanupTo", "operator worker", func(ctx context.Context, c *caller) error {
		return only(c.queue.CleanupTo(ctx, 24*time.Hour, c.of(), &nowhere{}, deadletter.FormatJSONL))
	}},
	{"Queue.Count", "metrics viewer operator worker dispatcher", func(ctx context.Context, c *caller) error { return only(c.queue.Count(ctx, deadletter.Filter{})) }},
	{"Queue.Delete", "operator", func(ctx context.Context, c *caller) error { return c.queue.Delete(ctx, c.id((*place).letter)) }},
	{"Queue.DeleteAll", "operator worker", func(ctx context.Context, c *caller) error { return only(c.queue.DeleteAll(ctx, c.of())) }},
	{"Queue.DeleteTx", "operator", func(ctx context.Context, c *caller) error {
		return c.inTx(ctx, func(tx pgx.Tx) error { return c.queue.DeleteTx(ctx, tx, c.id((*place).letter)) })
	}},
	{"Queue.Export", "viewer operator worker dispatcher", func(ctx context.Context, c *caller) error {
		return only(c.queue.Export(ctx, &nowhere{}, c.of(), deadletter.FormatJSONL))
	}},
	{"Queue.ExportProgress", "viewer operator worker dispatcher", func(ctx context.Context, c *caller) error {
		return only(c.queue.ExportProgress(ctx, &nowhere{}, c.of(), deadletter.FormatJSONL, nil))
	}},
	{"Queue.Find", "metrics viewer operator worker dispatcher", func(ctx context.Context, c *caller) error { return only(c.queue.Find(ctx, c.letter())) }},
	{"Queue.Get", "viewer operator worker dispatcher", func(ctx context.Context, c *caller) error { return only(c.queue.Get(ctx, c.id((*place).letter))) }},
	{"Queue.Groups", "viewer operator worker dispatcher", func(ctx context.Context, c *caller) error { return only(c.queue.Groups(ctx, c.of())) }},
	{"Queue.History", "viewer operator worker", func(ctx context.Context, c *caller) error { return only(c.queue.History(ctx, c.id((*place).letter))) }},
	{"Queue.Import", "operator", func(ctx context.Context, c *caller) error {
		return only(c.queue.Import(ctx, strings.NewReader(strings.ReplaceAll(record, "ID", uuid.NewString())), deadletter.FormatJSON, deadletter.ImportOptions{}))
	}},
	{"Queue.Lineage", "viewer operator worker", func(ctx context.Context, c *caller) error { return only(c.queue.Lineage(ctx, c.id((*place).letter))) }},
	{"Queue.List", "viewer operator worker dispatcher", func(ctx context.Context, c *caller) error { return only(c.queue.List(ctx, c.of())) }},
	{"Queue.Look", "viewer operator worker dispatcher", func(ctx context.Context, c *caller) error {
		return only(c.queue.Look(ctx, c.of(), deadletter.Cursor{}, 10))
	}},
	{"Queue.Recent", "viewer operator worker dispatcher", func(ctx context.Context, c *caller) error {
		_, _, err := c.queue.Recent(ctx, c.of(), 10)
		return err
	}},
	{"Queue.ListAfter", "viewer operator worker dispatcher", func(ctx context.Context, c *caller) error {
		return only(c.queue.ListAfter(ctx, c.of(), deadletter.Cursor{}))
	}},
	{"Queue.MoveQueued", "operator", func(ctx context.Context, c *caller) error {
		return only(c.queue.MoveQueued(ctx, []uuid.UUID{c.id((*place).job)}, ""))
	}},
	{"Queue.Operation", "viewer operator worker", func(ctx context.Context, c *caller) error {
		return only(c.queue.Operation(ctx, c.id((*place).operation)))
	}},
	{"Queue.Operations", "viewer operator worker", func(ctx context.Context, c *caller) error { return only(c.queue.Operations(ctx, 1)) }},
	{"Queue.OperationsOf", "viewer operator worker", func(ctx context.Context, c *caller) error {
		return only(c.queue.OperationsOf(ctx, deadletter.HistoryFilter{Limit: 1}))
	}},
	{"Queue.Picks", "metrics viewer operator worker dispatcher", func(ctx context.Context, c *caller) error {
		return only(c.queue.Picks(ctx, c.of(), c.id((*place).letter)))
	}},
	{"Queue.PlanReplay", "viewer operator worker", func(ctx context.Context, c *caller) error {
		return only(c.queue.PlanReplay(ctx, c.of(), deadletter.ReplayOptions{}))
	}},
	{"Queue.Position", "viewer operator worker", func(ctx context.Context, c *caller) error { return only(c.queue.Position(ctx)) }},
	{"Queue.PruneHistory", "worker", func(ctx context.Context, c *caller) error {
		c.exec(`insert into soniq_dead_letter_audit (dead_letter_id, action, at) values (gen_random_uuid(), 'tag', now() - interval '400 days')`)
		return c.queue.PruneHistory(ctx, deadletter.MaintenanceOptions{})
	}},
	{"Queue.Records", "viewer operator worker", func(ctx context.Context, c *caller) error {
		return only(c.queue.Records(ctx, deadletter.HistoryFilter{Limit: 1}))
	}},
	{"Queue.Replay", "operator", func(ctx context.Context, c *caller) error {
		return only(c.queue.Replay(ctx, c.id((*place).letter), deadletter.ReplayOptions{Delay: time.Hour}))
	}},
	{"Queue.ReplayAll", "operator", func(ctx context.Context, c *caller) error {
		return only(c.queue.ReplayAll(ctx, c.of(), deadletter.ReplayAllOptions{ReplayOptions: deadletter.ReplayOptions{Delay: time.Hour}}))
	}},
	{"Queue.ReplayAllTx", "operator", func(ctx context.Context, c *caller) error {
		return c.inTx(ctx, func(tx pgx.Tx) error {
			return only(c.queue.ReplayAllTx(ctx, tx, c.of(), deadletter.ReplayAllOptions{}))
		})
	}},
	{"Queue.ReplayCount", "viewer operator worker dispatcher", func(ctx context.Context, c *caller) error {
		return only(c.queue.ReplayCount(ctx, c.of(), deadletter.ReplayOptions{}))
	}},
	{"Queue.ReplayList", "viewer operator worker dispatcher", func(ctx context.Context, c *caller) error {
		return only(c.queue.ReplayList(ctx, c.of(), deadletter.ReplayOptions{}, 1))
	}},
	{"Queue.ReplayTx", "operator", func(ctx context.Context, c *caller) error {
		return c.inTx(ctx, func(tx pgx.Tx) error {
			return only(c.queue.ReplayTx(ctx, tx, c.id((*place).letter), deadletter.ReplayOptions{}))
		})
	}},
	{"Queue.ResumeReplay", "operator", func(ctx context.Context, c *caller) error {
		return only(c.queue.ResumeReplay(ctx, c.id((*place).operation), nil))
	}},
	{"Queue.Reveal", "operator", func(ctx context.Context, c *caller) error { return c.queue.Reveal(ctx, c.id((*place).letter)) }},
	{"Queue.RevealList", "operator", func(ctx context.Context, c *caller) error {
		return c.queue.RevealList(ctx, json.RawMessage(`{}`), []uuid.UUID{c.id((*place).letter)})
	}},
	{"Queue.Stats", "viewer operator worker dispatcher", func(ctx context.Context, c *caller) error { return only(c.queue.Stats(ctx, time.Hour)) }},
	{"Queue.Tag", "operator", func(ctx context.Context, c *caller) error {
		return c.queue.Tag(ctx, c.id((*place).letter), map[string]string{"a": "b"})
	}},

	{"Store.Add", "dispatcher", func(ctx context.Context, c *caller) error {
		return only(c.store.Add(ctx, hooks.Spec{Name: uuid.NewString(), Kind: "log", Jobs: []string{"nothing"}}, nil))
	}},
	{"Store.Deliveries", "viewer operator dispatcher", func(ctx context.Context, c *caller) error {
		return only(c.store.Deliveries(ctx, hooks.DeliveryFilter{Limit: 1}))
	}},
	{"Store.Disable", "dispatcher", func(ctx context.Context, c *caller) error { return c.store.Disable(ctx, c.hook()) }},
	{"Store.Enable", "dispatcher", func(ctx context.Context, c *caller) error { return c.store.Enable(ctx, c.hook()) }},
	{"Store.Get", "viewer operator dispatcher", func(ctx context.Context, c *caller) error { return only(c.store.Get(ctx, c.hook())) }},
	{"Store.List", "viewer operator dispatcher", func(ctx context.Context, c *caller) error { return only(c.store.List(ctx)) }},
	{"Store.Remove", "dispatcher", func(ctx context.Context, c *caller) error { return c.store.Remove(ctx, c.hook()) }},
	{"Store.Replace", "dispatcher", func(ctx context.Context, c *caller) error {
		return c.store.Replace(ctx, hooks.Spec{Name: c.hook(), Kind: "log", Jobs: []string{"nothing"}})
	}},
	{"Store.RetryDeliveries", "dispatcher", func(ctx context.Context, c *caller) error { return only(c.store.RetryDeliveries(ctx, nil, c.hook())) }},
	{"Store.RotateSecret", "dispatcher", func(ctx context.Context, c *caller) error {
		return c.store.RotateSecret(ctx, c.webhook(), "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=", false, nil)
	}},
	{"Store.Test", "dispatcher", func(ctx context.Context, c *caller) error {
		d, err := hooks.NewDispatcher(c.pool, hooks.Config{})
		if err != nil {
			return err
		}
		return only(c.store.Test(ctx, d, c.hook()))
	}},
	{"Worker.Run", "worker", func(ctx context.Context, c *caller) error {
		registry := engine.NewRegistry()
		engine.Handle(registry, uuid.NewString(), func(context.Context, struct{}) error { return nil })
		var log testkit.Log
		w, err := engine.NewWorker(c.pool, registry, engine.WorkerConfig{Logger: log.Logger(slog.LevelInfo)})
		if err != nil {
			return err
		}
		return c.until(ctx, &log, "worker started", w.Run)
	}},
	{"Dispatcher.RunAlone", "dispatcher", func(ctx context.Context, c *caller) error {
		var log testkit.Log
		d, err := hooks.NewDispatcher(c.pool, hooks.Config{Logger: log.Logger(slog.LevelInfo)})
		if err != nil {
			return err
		}
		return c.until(ctx, &log, "sending hooks", func(ctx context.Context) error { return d.RunAlone(ctx, c.pool.Config().ConnConfig) })
	}},
	{"deadletter.Subscribe", "viewer operator worker", func(ctx context.Context, c *caller) error {
		c.letter()
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		start := deadletter.Position{}
		return deadletter.Subscribe(ctx, c.pool.Config().ConnConfig, deadletter.SubscribeOptions{From: &start}, func(context.Context, deadletter.Event) { cancel() })
	}},
}

// until runs a program in Go until its log says that it works, or it ends.
func (c *caller) until(ctx context.Context, log *testkit.Log, says string, run func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- run(ctx) }()
	eventually.True(c.t, says, func() bool { return len(ended) > 0 || strings.Contains(log.String(), says) })
	cancel()
	return <-ended
}

// operation is the id of a bulk replay that was stopped.
func (p *place) operation() string {
	id := uuid.NewString()
	p.exec("insert into soniq_dead_letter_operations (id, action, state, options, filter) values ('" + id + "', 'replay', 'stopped', '{}', '{}')")
	return id
}

// cancelled is the id of a job that was cancelled.
func (p *place) cancelled() string {
	id := p.job()
	p.exec("update soniq_jobs set status = 'cancelled' where id = '" + id + "'")
	return id
}

// Each call of the Go API works for the kinds of role that the table names. Every other one is
// refused with an error that names the right that lacks.
func TestCalls_eachKindOfRole_mayWhatTheTableSays(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	for _, kind := range everybody() {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			c := p.within(t).caller(kind)
			for _, call := range apiCalls {
				call.check(c, kind)
			}
		})
	}
}

func (a apiCall) check(c *caller, kind roles.Kind) {
	c.t.Helper()
	err := a.do(c.t.Context(), c)
	var denied *pg.DeniedError
	switch may := kind == owner || slices.Contains(strings.Fields(a.may), string(kind)); {
	case may && err != nil:
		c.t.Errorf("%s as %s: %v", a.name, kind, err)
	case may:
	case err == nil:
		c.t.Errorf("%s as %s is not refused", a.name, kind)
	case atStart.MatchString(err.Error()):
	case strings.Contains(err.Error(), "soniq grants --") && !errors.As(err, &denied):
		// The worker and the dispatcher list all.
	case !errors.As(err, &denied):
		c.t.Errorf("%s as %s names no right: %v", a.name, kind, err)
	case denied.Exact:
		c.wantLacking(a.name, denied.Role, denied.Table, denied.Rights)
	case !strings.Contains(err.Error(), " needs "):
		c.t.Errorf("%s as %s: %v", a.name, kind, err)
	}
}

// A call that is new needs a line in the table.
func TestCalls_areAllInTheTable(t *testing.T) {
	t.Parallel()
	// These ask no database.
	apart := []string{"Client.CheckJob", "Queue.As", "Store.Seal"} // 'hooks seal' stands among the commands
	known := map[string]bool{}
	for _, call := range apiCalls {
		known[call.name] = true
	}
	for _, of := range []any{&engine.Client{}, &deadletter.Queue{}, &hooks.Store{}} {
		typ := reflect.TypeOf(of)
		for i := range typ.NumMethod() {
			name := typ.Elem().Name() + "." + typ.Method(i).Name
			if known[name] == slices.Contains(apart, name) {
				t.Errorf("%s must be in the table of calls, or among those apart", name)
			}
		}
	}
}
