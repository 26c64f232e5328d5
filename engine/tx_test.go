package engine_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/engine"
	"soniq/internal/testdb"
)

// ear is a connection that listens on the channels of public.
type ear struct {
	conn *pgx.Conn
	pool *pgxpool.Pool
}

func listen(t *testing.T, pool *pgxpool.Pool) ear {
	t.Helper()
	conn, err := pgx.ConnectConfig(t.Context(), pool.Config().ConnConfig)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	if _, err := conn.Exec(t.Context(), `listen soniq_new_job; listen soniq_control; listen marker`); err != nil {
		t.Fatal(err)
	}
	return ear{conn, pool}
}

// heard returns all that was notified up to now, as 'channel payload'.
func (e ear) heard(t *testing.T) (heard []string) {
	t.Helper()
	exec(t, e.pool, `select pg_notify('marker', '')`)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		n, err := e.conn.WaitForNotification(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if n.Channel == "marker" {
			return heard
		}
		heard = append(heard, n.Channel+" "+n.Payload)
	}
}

// Each change in the caller's transaction is undone by its rollback, with what it
// notifies of, and is there after its commit.
func TestClient_changesInATransaction_endWithIt(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	client := newClient(t, pool)
	// A live worker that registers no waiters: it is notified of everything.
	exec(t, pool, `
		insert into soniq_workers (id, hostname, pid, queues, status, last_heartbeat)
		values (gen_random_uuid(), 'python', 1, '{default,paused,fresh}', 'active', now())`)
	queued := enqueue(t, client, "n", nil, engine.After(time.Hour))
	unwanted := enqueue(t, client, "n", nil, engine.After(time.Hour))
	scheduled := enqueue(t, client, "n", nil, engine.After(time.Hour))
	runs := enqueue(t, client, "n", nil)
	exec(t, pool, `update soniq_jobs set status = 'processing', claim_token = 1 where id = $1`, runs)
	if _, err := client.PauseQueue(t.Context(), "paused"); err != nil {
		t.Fatal(err)
	}
	listener := listen(t, pool)
	const stateSQL = `
		select coalesce((select string_agg(concat_ws(' ', id, status, cancel_requested_at is not null, scheduled_at), ', ' order by id) from soniq_jobs), '')
		  || coalesce((select string_agg(concat_ws(' ', name, paused_at is not null, paused_by), ', ' order by name) from soniq_queues), '')`
	for what, test := range map[string]struct {
		do    func(tx pgx.Tx) error
		heard string // has this in it
	}{
		"cancel a queued job": {func(tx pgx.Tx) error {
			_, err := client.CancelJobTx(t.Context(), tx, queued)
			return err
		}, ""},
		"cancel a running job": {func(tx pgx.Tx) error {
			_, err := client.CancelJobTx(t.Context(), tx, runs)
			return err
		}, runs.String()},
		"retry":  {func(tx pgx.Tx) error { return client.RetryJobTx(t.Context(), tx, scheduled) }, "soniq_new_job default"},
		"delete": {func(tx pgx.Tx) error { return client.DeleteJobTx(t.Context(), tx, unwanted) }, ""},
		"pause": {func(tx pgx.Tx) error {
			_, err := client.PauseQueueTx(t.Context(), tx, "fresh")
			return err
		}, ""},
		"resume": {func(tx pgx.Tx) error {
			_, err := client.ResumeQueueTx(t.Context(), tx, "paused")
			return err
		}, "soniq_new_job paused"},
		"enqueue": {func(tx pgx.Tx) error {
			_, err := client.EnqueueTx(t.Context(), tx, "n", nil)
			return err
		}, "soniq_new_job default"},
	} {
		before := queryValue[string](t, pool, stateSQL)
		listener.heard(t)
		undo := errors.New("undo")
		err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
			if err := test.do(tx); err != nil {
				return err
			}
			return undo
		})
		if err != undo { //nolint:errorlint // the very one
			t.Errorf("%s: %v", what, err)
		}
		if after := queryValue[string](t, pool, stateSQL); after != before {
			t.Errorf("%s, rolled back:\n%s, was\n%s", what, after, before)
		}
		if heard := listener.heard(t); len(heard) > 0 {
			t.Errorf("%s, rolled back: notified %q", what, heard)
		}
		if err := pgx.BeginFunc(t.Context(), pool, test.do); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if after := queryValue[string](t, pool, stateSQL); after == before {
			t.Errorf("%s, committed: nothing has changed: %s", what, after)
		}
		heard := listener.heard(t)
		if !slices.ContainsFunc(heard, func(n string) bool { return strings.Contains(n, test.heard) }) && test.heard != "" {
			t.Errorf("%s, committed: notified %q, want %q", what, heard, test.heard)
		}
	}
}

// What a transaction changes reaches a worker that sleeps once it commits.
func TestClient_changesInATransaction_wakeTheWorker(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	client := newClient(t, pool)
	reg := engine.NewRegistry()
	noop(reg, "n")
	started := make(chan struct{}, 1)
	engine.HandleRaw(reg, "long", func(ctx context.Context, _ *engine.Job) (any, error) {
		started <- struct{}{}
		<-ctx.Done()
		return nil, context.Cause(ctx)
	})
	w := start(t, pool, reg, engine.WorkerConfig{Queues: []string{"default", "held"}})
	in := func(what string, do func(tx pgx.Tx) error) {
		t.Helper()
		if err := pgx.BeginFunc(t.Context(), pool, do); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	scheduled := enqueue(t, client, "n", nil, engine.After(time.Hour))
	in("retry", func(tx pgx.Tx) error { return client.RetryJobTx(t.Context(), tx, scheduled) })
	w.waitForJob(t, scheduled)

	in("pause", func(tx pgx.Tx) error {
		_, err := client.PauseQueueTx(t.Context(), tx, "held")
		return err
	})
	held := enqueue(t, client, "n", nil, engine.Queue("held"))
	other := enqueue(t, client, "n", nil)
	w.waitForJob(t, other)
	if job := getJob(t, client, held); job.Status != engine.StatusQueued {
		t.Errorf("the job of the paused queue is %s", job.Status)
	}
	in("resume", func(tx pgx.Tx) error {
		_, err := client.ResumeQueueTx(t.Context(), tx, "held")
		return err
	})
	w.waitForJob(t, held)

	long := enqueue(t, client, "long", nil)
	receive(t, "the handler's start", started)
	in("cancel", func(tx pgx.Tx) error {
		status, err := client.CancelJobTx(t.Context(), tx, long)
		if status != engine.StatusProcessing {
			t.Errorf("the job to cancel is %s", status)
		}
		return err
	})
	if o := w.waitForJob(t, long); o[0].Kind != engine.OutcomeCancelled {
		t.Errorf("outcome %s", o[0].Kind)
	}
}

// A refusal leaves the transaction as it was: it can go on.
func TestClient_refusalInATransaction_leavesItUsable(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	client := newClient(t, pool)
	first := enqueue(t, client, "n", nil, engine.Unique())
	cancelJob(t, client, first)
	second := enqueue(t, client, "n", nil, engine.Unique())
	var third engine.Enqueued
	if err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) (err error) {
		var duplicate *engine.DuplicateError
		if err := client.RetryJobTx(t.Context(), tx, first); !errors.As(err, &duplicate) || duplicate.ID != second {
			t.Errorf("retry: %v, want the duplicate %s", err, second)
		}
		if _, err := client.CancelJobTx(t.Context(), tx, uuid.New()); !errors.Is(err, engine.ErrJobNotFound) {
			t.Errorf("cancel: %v", err)
		}
		if err := client.DeleteJobTx(t.Context(), tx, uuid.New()); !errors.Is(err, engine.ErrJobNotFound) {
			t.Errorf("delete: %v", err)
		}
		var wrong *engine.ArgumentError
		if _, err := client.PauseQueueTx(t.Context(), tx, ""); !errors.As(err, &wrong) {
			t.Errorf("pause: %v", err)
		}
		if _, err := client.ResumeQueueTx(t.Context(), tx, ""); !errors.As(err, &wrong) {
			t.Errorf("resume: %v", err)
		}
		third, err = client.EnqueueTx(t.Context(), tx, "n", map[string]int{"n": 3})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	getJob(t, client, third.ID)
}
