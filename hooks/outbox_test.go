package hooks

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/internal/testdb"
)

func scalar[T any](t *testing.T, pool *pgxpool.Pool, sql string, args ...any) (v T) {
	t.Helper()
	if err := pool.QueryRow(t.Context(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

func outboxOf(t *testing.T, pool *pgxpool.Pool) outbox {
	t.Helper()
	o, err := newOutbox(pool, "")
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func storeOf(t *testing.T, pool *pgxpool.Pool) *Store {
	t.Helper()
	store, err := NewStore(pool, StoreConfig{})
	if err != nil {
		t.Fatal(err)
	}
	return store
}

func dispatcherOf(t *testing.T, pool *pgxpool.Pool, config Config) *Dispatcher {
	t.Helper()
	d, err := NewDispatcher(pool, config)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// A delivery that was made some days ago, and due, or failed, then.
const makeDeliverySQL = `
insert into soniq_hook_deliveries (hook_id, event, dead_letter_id, facts, group_key, state, created_at, next_attempt_at)
values ($1, 'job.dead_lettered', gen_random_uuid(), '{}', 'g', $2, now() - $3::float8 * interval '1 day', now() - $3::float8 * interval '1 day')
returning id`

// One who was slower than his lease writes nothing over what the next has found
// out.
func TestOutbox_lateMark_changesNothing(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	o := outboxOf(t, pool)
	hook := scalar[uuid.UUID](t, pool, `insert into soniq_hooks (name, kind) values ('h', 'log') returning id`)
	id := scalar[uuid.UUID](t, pool, makeDeliverySQL, hook, "pending", 0)
	h := dueHook{ID: hook, Server: scalar[time.Time](t, pool, `select pg_postmaster_start_time()`)}
	late, next := uuid.New(), uuid.New()
	for _, lease := range []uuid.UUID{late, next} {
		rows, err := o.claim(t.Context(), h, lease, 10, 0, 0)
		if err != nil || len(rows) != 1 || rows[0].ID != id {
			t.Fatalf("claimed %v, %v", rows, err)
		}
	}
	ids, d := []uuid.UUID{id}, &Delivery{ID: id, Status: 200}
	if n, err := o.delivered(t.Context(), hook, late, ids, d); err != nil || n != 0 {
		t.Errorf("marked %d rows, %v", n, err)
	}
	if n, err := o.failed(t.Context(), late, ids, d, "late", true, time.Hour, false); err != nil || n != 0 {
		t.Fatalf("marked %d rows, %v", n, err)
	}
	if err := o.release(t.Context(), late, ids); err != nil {
		t.Fatal(err)
	}
	if n := scalar[int](t, pool, `
		select count(*) from soniq_hook_deliveries
		where state = 'pending' and lease = $1 and attempts = 2 and last_error is null`, next); n != 1 {
		t.Error("the row was changed")
	}
	if n, err := o.delivered(t.Context(), hook, next, ids, d); err != nil || n != 1 {
		t.Errorf("marked %d rows, %v", n, err)
	}
}

func TestOutbox_prune_deletesWhatIsOld(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	hook := scalar[uuid.UUID](t, pool, `insert into soniq_hooks (name, kind) values ('h', 'log') returning id`)
	kept := map[uuid.UUID]bool{}
	for _, row := range []struct {
		hook  uuid.UUID
		state string
		days  float64
		keep  bool
	}{
		{hook, "delivered", 6, true},
		{hook, "delivered", 8, false},
		{hook, "failed", 29, true},
		{hook, "failed", 31, false},
		{hook, "pending", 29, true},
		{hook, "pending", 100, true}, // as failed
		{uuid.New(), "pending", 0, false},
	} {
		kept[scalar[uuid.UUID](t, pool, makeDeliverySQL, row.hook, row.state, row.days)] = row.keep
	}
	if err := outboxOf(t, pool).prune(t.Context()); err != nil {
		t.Fatal(err)
	}
	for id, want := range kept {
		if got := scalar[bool](t, pool, `select exists (select from soniq_hook_deliveries where id = $1)`, id); got != want {
			t.Errorf("%s is kept: %v, want %v", id, got, want)
		}
	}
}
