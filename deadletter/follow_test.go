package deadletter_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/deadletter"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

// follow subscribes from a position. It ends with the test, or by the function.
func follow(t testing.TB, cfg *pgx.ConnConfig, o deadletter.SubscribeOptions) (events chan deadletter.Event, stop func()) {
	t.Helper()
	events = make(chan deadletter.Event, 10_000)
	log := &testkit.Log{}
	o.Logger = log.Logger(slog.LevelInfo)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- deadletter.Subscribe(ctx, cfg, o, func(_ context.Context, e deadletter.Event) { events <- e })
	}()
	ended := false
	stop = func() {
		cancel()
		if !ended {
			if err := <-done; err != nil {
				t.Errorf("subscribe: %v", err)
			}
		}
		ended = true
		if t.Failed() {
			t.Log(log.String())
		}
	}
	t.Cleanup(stop)
	return events, stop
}

// open begins a transaction in which a job has died.
func open(t testing.TB, pool *pgxpool.Pool) (pgx.Tx, uuid.UUID) {
	t.Helper()
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
	id := uuid.New()
	_, err = tx.Exec(t.Context(), `
		insert into soniq_dead_letter_jobs (id, job_name, args, queue, priority, max_attempts, attempts,
		  dead_letter_reason, original_created_at, moved_to_dead_letter_at)
		values ($1, 'older', '{}', 'q', 1, 1, 1, 'timeout', now(), now())`, id)
	if err != nil {
		t.Fatal(err)
	}
	return tx, id
}

func commit(t testing.TB, tx pgx.Tx) {
	t.Helper()
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func wants(t testing.TB, events chan deadletter.Event, ids ...uuid.UUID) (last deadletter.Position) {
	t.Helper()
	for _, id := range ids {
		e := receive(t, events)
		if e.ID != id || e.Position == nil {
			t.Fatalf("got %+v, want %s", e, id)
		}
		last = *e.Position
	}
	return last
}

// From the beginning, from where it was, and from now; an older transaction is waited for,
// and a lost connection hides nothing.
func TestSubscribe_from_missesNothingAndReadsNothingTwice(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	cfg := pool.Config().ConnConfig
	before := insertDead(t, pool, columns{"job_name": "a name"})
	events, stop := follow(t, cfg, deadletter.SubscribeOptions{From: &deadletter.Position{}})
	e := receive(t, events)
	j := get(t, q, before)
	if e.ID != before || e.JobName != "a name" || e.Reason != j.Reason || !e.MovedAt.Equal(j.MovedAt) || e.Attempts != j.Attempts {
		t.Errorf("got %+v", e)
	}

	tx, older := open(t, pool)
	exec(t, pool, `
		select pg_terminate_backend(pid)
		from pg_stat_activity
		where datname = current_database() and application_name = 'soniq-listener'`)
	younger := insertDead(t, pool, nil)
	commit(t, tx)
	last := wants(t, events, older, younger)
	stop()

	away := insertDead(t, pool, nil)
	events, stop = follow(t, cfg, deadletter.SubscribeOptions{From: &last})
	wants(t, events, away)
	stop()

	now, err := q.Position(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	events, _ = follow(t, cfg, deadletter.SubscribeOptions{From: &now})
	wants(t, events, insertDead(t, pool, nil))
	if len(events) != 0 {
		t.Errorf("and %+v", <-events)
	}
}

// What waits for an older transaction is told at once to who wants it, and not again.
func TestSubscribe_eager_doesNotWaitForOlderTransactions(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	first := insertDead(t, pool, nil)
	tx, older := open(t, pool)
	events, stop := follow(t, pool.Config().ConnConfig, deadletter.SubscribeOptions{From: &deadletter.Position{}, Eager: true})
	from := wants(t, events, first)
	younger := insertDead(t, pool, nil)
	if at := wants(t, events, younger); at != from {
		t.Errorf("position %s, which is not safe; want %s", at, from)
	}
	commit(t, tx)
	wants(t, events, older, insertDead(t, pool, nil))
	stop()
	// Whoever starts from the safe position gets it in its turn.
	events, _ = follow(t, pool.Config().ConnConfig, deadletter.SubscribeOptions{From: &from})
	wants(t, events, older, younger)
}

// A second death under one id is another event, even if the first was deleted before its turn.
func TestSubscribe_eager_deletedBeforeItsTurn_nextDeathComes(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	first := insertDead(t, pool, nil)
	tx, older := open(t, pool)
	events, _ := follow(t, pool.Config().ConnConfig, deadletter.SubscribeOptions{From: &deadletter.Position{}, Eager: true})
	wants(t, events, first)
	again := insertDead(t, pool, nil)
	wants(t, events, again)
	exec(t, pool, "delete from soniq_dead_letter_jobs where id = $1", again)
	insertDead(t, pool, columns{"id": again})
	wants(t, events, again)
	commit(t, tx)
	wants(t, events, older, insertDead(t, pool, nil))
}

// Where notifications don't arrive, the table is read from time to time.
func TestSubscribe_from_looksWithoutNotifications(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	events, _ := follow(t, pool.Config().ConnConfig, deadletter.SubscribeOptions{From: &deadletter.Position{}, Poll: 10 * time.Millisecond})
	wants(t, events, insertDead(t, pool, nil))
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
	if _, err := tx.Exec(t.Context(), "set local soniq.notify = off"); err != nil {
		t.Fatal(err)
	}
	id := uuid.New()
	if _, err := tx.Exec(t.Context(), `
		insert into soniq_dead_letter_jobs (id, job_name, args, queue, priority, max_attempts, attempts,
		  dead_letter_reason, original_created_at, moved_to_dead_letter_at)
		values ($1, 'silent', '{}', 'q', 1, 1, 1, 'timeout', now(), now())`, id); err != nil {
		t.Fatal(err)
	}
	commit(t, tx)
	wants(t, events, id)
}

// Imported rows are not new: not even for a reader that was elsewhere before.
func TestSubscribe_from_importedRowsAreNoNews(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	insertDead(t, pool, columns{"moved_xid": nil})
	last := insertDead(t, pool, nil)
	for _, from := range []string{"0", "1/5/" + uuid.NewString()} {
		at, err := deadletter.ParsePosition(from)
		if err != nil {
			t.Fatal(err)
		}
		events, _ := follow(t, pool.Config().ConnConfig, deadletter.SubscribeOptions{From: &at})
		wants(t, events, last)
	}
}
