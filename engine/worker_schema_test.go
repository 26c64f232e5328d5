package engine_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq"
	"soniq/deadletter"
	"soniq/engine"
	"soniq/internal/pg"
	"soniq/internal/testdb"
)

// schemaClient is a client in a schema, and a function that writes the schema's name
// into a statement.
func schemaClient(t *testing.T, pool *pgxpool.Pool, name string) (*engine.Client, func(string) string) {
	t.Helper()
	client, err := engine.NewClient(pool, engine.ClientConfig{Schema: name})
	if err != nil {
		t.Fatal(err)
	}
	schema, err := pg.NewSchema(name)
	if err != nil {
		t.Fatal(err)
	}
	return client, schema.SQL
}

// Everything that a worker does works in a schema of any name, with nothing on the
// search_path and no table in public. Nothing but notifications wakes it.
func TestWorker_schemaOfItsOwn_doesEverything(t *testing.T) {
	t.Parallel()
	const name = `It's "ours".`
	pool := testdb.NewInSchema(t, name)
	client, in := schemaClient(t, pool, name)
	reg := engine.NewRegistry()
	noop(reg, "quick")
	engine.HandleRaw(reg, "large", func(_ context.Context, job *engine.Job) (any, error) { return len(job.Args), nil })
	engine.HandleRaw(reg, "completes", func(ctx context.Context, _ *engine.Job) (any, error) {
		return nil, pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error { return engine.CompleteTx(ctx, tx, map[string]int{"n": 1}) })
	})
	var tried atomic.Int32
	engine.HandleRaw(reg, "again", func(context.Context, *engine.Job) (any, error) {
		switch tried.Add(1) {
		case 1:
			return nil, errors.New("not yet")
		case 2:
			return nil, engine.Snooze(time.Millisecond)
		}
		return nil, nil
	}, soon)
	engine.HandleRaw(reg, "dies", func(context.Context, *engine.Job) (any, error) {
		return nil, engine.Permanent(errors.New("never"))
	})
	began := make(chan struct{}, 1)
	engine.HandleRaw(reg, "hangs", func(ctx context.Context, _ *engine.Job) (any, error) {
		began <- struct{}{}
		<-ctx.Done()
		return nil, ctx.Err()
	})
	var log journal
	w := start(t, pool, reg, engine.WorkerConfig{
		Schema: name, Logger: log.logger(), UnknownGrace: time.Millisecond,
		WarnDead: 1, Retention: []deadletter.Retention{{Keep: time.Hour}},
	}, engine.Timing{Trust: -1})
	waitTrue(t, "the listener", w.Hears)

	expect := func(job uuid.UUID, status engine.JobStatus) {
		t.Helper()
		w.waitForJob(t, job)
		if got := getJob(t, client, job); got.Status != status {
			t.Errorf("%s is %s, want %s: %s", got.Name, got.Status, status, got.LastError)
		}
	}
	expect(enqueue(t, client, "quick", nil), engine.StatusDone)
	for _, size := range []int{10_000, 50_000, 500_000} {
		expect(enqueue(t, client, "large", map[string]string{"x": strings.Repeat("ab1", size/3)}), engine.StatusDone)
	}
	completed := enqueue(t, client, "completes", nil)
	expect(completed, engine.StatusDone)
	if got := getJob(t, client, completed); string(got.Result) != `{"n": 1}` {
		t.Errorf("the result is %s", got.Result)
	}
	expect(enqueue(t, client, "again", nil), engine.StatusDone)
	expect(enqueue(t, client, "dies", nil), engine.StatusDeadLetter)
	hangs := enqueue(t, client, "hangs", nil)
	receive(t, "the job that hangs", began)
	if _, err := client.CancelJob(t.Context(), hangs); err != nil {
		t.Fatal(err)
	}
	expect(hangs, engine.StatusCancelled)

	if _, err := client.PauseQueue(t.Context(), "default"); err != nil {
		t.Fatal(err)
	}
	paused := enqueue(t, client, "quick", nil)
	if _, err := client.ResumeQueue(t.Context(), "default"); err != nil {
		t.Fatal(err)
	}
	expect(paused, engine.StatusDone)

	// A dead worker, and a job without a worker.
	orphan, lost, dead := uuid.New(), uuid.New(), uuid.New()
	exec(t, pool, in(`
		insert into public.soniq_workers (id, hostname, pid, queues, version, last_heartbeat)
		values ($1, 'h', 1, '{default}', 'go/0', now() - interval '1 hour')`), dead)
	exec(t, pool, in(`
		insert into public.soniq_jobs (id, job_name, args, status, attempts, worker_id, updated_at)
		values ($1, 'quick', '{}', 'processing', 1, $3, now()), ($2, 'quick', '{}', 'processing', 1, null, now() - interval '1 day')`),
		orphan, lost, dead)
	if err := w.RecoverOrphans(t.Context()); err != nil {
		t.Error(err)
	}
	expect(orphan, engine.StatusDone)
	expect(lost, engine.StatusDone)

	unknown := enqueue(t, client, "unknown", nil)
	// The turns that the worker took at its start are over.
	exec(t, pool, in(`update public.soniq_leader_tasks set begun_at = begun_at - interval '2 hours'`))
	exec(t, pool, in(`update public.soniq_workers set started_at = now() - interval '1 day'`))
	exec(t, pool, in(`update public.soniq_jobs set created_at = now() - interval '1 day', scheduled_at = null where id = $1`), unknown)
	for what, task := range map[string]func(context.Context) error{
		"move unknown": w.MoveUnknown, "expire": w.Expire, "prune": w.Prune, "retain": w.Retain, "alarms": w.WatchDeadLetters,
	} {
		if err := task(t.Context()); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	if got := getJob(t, client, unknown); got.DeadLetterReason != "job_not_found" {
		t.Errorf("the unknown job is %s, %s", got.Status, got.DeadLetterReason)
	}
	if err := w.stop(); err != nil {
		t.Error(err)
	}
	if n := queryValue[int](t, pool, `select count(*)::int from pg_class where relname like 'soniq%' and relnamespace = 'public'::regnamespace`); n != 0 {
		t.Errorf("%d relations of ours are in public", n)
	}
	if strings.Contains(log.String(), "SQLSTATE") || !strings.Contains(log.String(), "dead letters pile up") {
		t.Errorf("the log has an error of the database, or no warning of the dead letters:\n%s", log.String())
	}
}

func TestNewWorker_impossibleSchema_isRefused(t *testing.T) {
	t.Parallel()
	reg := engine.NewRegistry()
	noop(reg, "quick")
	_, err := engine.NewWorker(testdb.New(t), reg, engine.WorkerConfig{Schema: "pg_ours"})
	if !errors.Is(err, pg.ErrSchemaName) || !strings.Contains(err.Error(), "Schema") {
		t.Error(err)
	}
}

// Two Soniqs in one database don't hear each other, have leaders of their own, and
// don't declare each other's workers dead.
func TestWorkers_twoSchemas_areApart(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	if _, err := soniq.Setup(t.Context(), pool, soniq.Config{Schema: "other"}); err != nil {
		t.Fatal(err)
	}
	heard := listenTo(t, pool, "soniq_new_job", "other.soniq_new_job")
	workers := map[string]*running{}
	for _, name := range []string{"public", "other"} {
		reg := engine.NewRegistry()
		noop(reg, "quick")
		workers[name] = start(t, pool, reg, engine.WorkerConfig{Schema: name}, engine.Timing{Trust: -1})
	}
	for name, w := range workers {
		waitTrue(t, name+"'s listener", w.Hears)
	}

	// Notifications and jobs.
	for name, channel := range map[string]string{"public": "soniq_new_job", "other": "other.soniq_new_job"} {
		client, _ := schemaClient(t, pool, name)
		workers[name].waitForJob(t, enqueue(t, client, "quick", nil))
		exec(t, pool, `select pg_notify($1, 'end')`, channel)
		for payload := ""; payload != "end"; {
			n := receive(t, "a notification", heard)
			if payload = n.Payload; n.Channel != channel {
				t.Errorf("%s announced %q on %s", name, n.Payload, n.Channel)
			}
		}
	}

	// Workers: each schema has a dead one, and each live worker finds its own alone.
	stopped := func(in func(string) string) string {
		return queryValue[string](t, pool, in(`select coalesce(string_agg(hostname, ' ' order by hostname), '') from public.soniq_workers where status = 'stopped'`))
	}
	_, inPublic := schemaClient(t, pool, "public")
	_, inOther := schemaClient(t, pool, "other")
	for _, in := range []func(string) string{inPublic, inOther} {
		exec(t, pool, in(`
			insert into public.soniq_workers (id, hostname, pid, queues, version, last_heartbeat)
			values (gen_random_uuid(), 'dead', 1, '{default}', 'go/0', now() - interval '1 hour')`))
	}
	if err := workers["other"].RecoverOrphans(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := stopped(inOther); got != "dead" {
		t.Errorf("in its own schema the worker found %q dead", got)
	}
	if err := workers["public"].RecoverOrphans(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := stopped(inPublic); got != "dead" {
		t.Errorf("in public, %q are dead", got)
	}

	// Leaders: the one's lock and turn don't hold up the other.
	expired := func(in func(string) string) int {
		exec(t, pool, in(`insert into public.soniq_jobs (id, job_name, args, status, expires_at) values (gen_random_uuid(), 'old', '{}', 'done', now() - interval '1 hour')`))
		return queryValue[int](t, pool, in(`select count(*)::int from public.soniq_jobs where job_name = 'old'`))
	}
	expired(inOther)
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background()) //nolint:errcheck // it is over already, or the test has failed
	if _, err := tx.Exec(t.Context(), `select pg_advisory_xact_lock($1)`, pg.MaintenanceLock); err != nil {
		t.Fatal(err)
	}
	if err := workers["other"].Expire(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := queryValue[int](t, pool, `select count(*)::int from other.soniq_jobs where job_name = 'old'`); n != 0 {
		t.Error("the lock of public kept the other schema's leader from working")
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"public", "other"} {
		schema, err := pg.NewSchema(name)
		if err != nil {
			t.Fatal(err)
		}
		if leads, err := pg.TakeTurn(t.Context(), schema.Pool(pool), "a task", time.Hour); err != nil || !leads {
			t.Errorf("%s leads its turn: %t, %v", name, leads, err)
		}
	}
}

// listenTo returns the notifications on these channels until the test ends.
func listenTo(t *testing.T, pool *pgxpool.Pool, channels ...string) <-chan *pgconn.Notification {
	t.Helper()
	conn, err := pgx.ConnectConfig(t.Context(), pool.Config().ConnConfig)
	if err != nil {
		t.Fatal(err)
	}
	for _, channel := range channels {
		if _, err := conn.Exec(t.Context(), "listen "+pgx.Identifier{channel}.Sanitize()); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	heard := make(chan *pgconn.Notification, 100)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			n, err := conn.WaitForNotification(ctx)
			if err != nil {
				return
			}
			heard <- n
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		_ = conn.Close(context.Background())
	})
	return heard
}
