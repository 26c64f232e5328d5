package deadletter_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/deadletter"
	"soniq/internal/history"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

// oldHistory is n rows of each table of the history that are to be forgotten, and
// before them 2,500 that are not, in the places that the first ones to be looked
// for have.
func oldHistory(t *testing.T, pool *pgxpool.Pool, n int) {
	t.Helper()
	exec(t, pool, `
		insert into soniq_dead_letter_audit (id, dead_letter_id, action, at) overriding system value
		select -n, gen_random_uuid(), 'tag', 'infinity' from generate_series(1, 2500) n`)
	exec(t, pool, `
		insert into soniq_dead_letter_audit (dead_letter_id, action, at)
		select gen_random_uuid(), 'tag', now() - interval '366 days' from generate_series(1, $1::int) n`, n)
	exec(t, pool, `
		insert into soniq_dead_letter_operations (id, action, state, created_at, updated_at)
		select gen_random_uuid(), 'delete', 'done', '-infinity', 'infinity' from generate_series(1, 2500) n`)
	exec(t, pool, `
		insert into soniq_dead_letter_operations (id, action, state, created_at, updated_at)
		select gen_random_uuid(), 'delete', 'done', now() - interval '366 days', now() - interval '366 days' from generate_series(1, $1::int) n`, n)
	exec(t, pool, `
		with killed as (
		  insert into soniq_dead_letter_operations (id, action, state, options, created_at, updated_at)
		  values (gen_random_uuid(), 'replay', 'running', '{}', now() - interval '31 days', now() - interval '31 days')
		  returning id
		)
		insert into soniq_dead_letter_selections (operation_id, place, dead_letter_id)
		select id, n, gen_random_uuid() from killed, generate_series(1, $1::int) n`, n)
}

const historyLeft = `
	select (select count(*) from soniq_dead_letter_audit) || ' ' || (select count(*) from soniq_dead_letter_operations) || ' ' ||
	  (select count(*) from soniq_dead_letter_selections)`

// However much there is, one pass takes it all, whatever else is in the tables.
func TestQueue_PruneHistory_onePass_takesAllThereIs(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	oldHistory(t, pool, 25_000)
	if err := newQueue(t, pool).PruneHistory(t.Context(), deadletter.MaintenanceOptions{Lock: 7}); err != nil {
		t.Fatal(err)
	}
	// The killed operation is remembered for a year, without what it had picked.
	if got := value[string](t, pool, historyLeft); got != "2500 2501 0" {
		t.Errorf("left: %s", got)
	}
}

// A row that something of the application's refers to stays, and is told of; no
// other does.
func TestQueue_PruneHistory_aRowThatCantBeDeleted_keepsNoOther(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	oldHistory(t, pool, 3000)
	exec(t, pool, `
		create table tickets (record bigint references soniq_dead_letter_audit, operation uuid references soniq_dead_letter_operations);
		insert into tickets
		select (select id from soniq_dead_letter_audit where at < now() order by id limit 1),
		  (select id from soniq_dead_letter_operations where updated_at < now() - interval '365 days' limit 1)`)
	err := newQueue(t, pool).PruneHistory(t.Context(), deadletter.MaintenanceOptions{Lock: 7})
	if err == nil || !strings.Contains(err.Error(), "delete old records: 1 rows can't be deleted: ERROR: ") ||
		!strings.Contains(err.Error(), "delete old operations: 1 rows can't be deleted: ERROR: ") {
		t.Error(err)
	}
	if got := value[string](t, pool, historyLeft); got != "2501 2502 0" {
		t.Errorf("left: %s", got)
	}
}

// A pass ends with its context, also while somebody else has the lock.
func TestQueue_PruneHistory_endsWithItsContext(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	oldHistory(t, pool, 3000)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := newQueue(t, pool).PruneHistory(ctx, deadletter.MaintenanceOptions{Lock: 7}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	if _, err := tx.Exec(t.Context(), "select pg_advisory_xact_lock(7)"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := newQueue(t, pool).PruneHistory(ctx, deadletter.MaintenanceOptions{Lock: 7}); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	if got := value[string](t, pool, historyLeft); got != "5500 5501 3000" {
		t.Errorf("left: %s", got)
	}
}

// referred makes n of the dead letters ones that an application refers to.
func referred(t *testing.T, pool *pgxpool.Pool, n int) {
	t.Helper()
	exec(t, pool, `create table tickets (letter uuid references soniq_dead_letter_jobs)`)
	exec(t, pool, `insert into tickets select id from soniq_dead_letter_jobs order by md5(id::text) limit $1`, n)
}

func TestQueue_Cleanup_aRowThatCantBeDeleted_keepsNoOther(t *testing.T) {
	t.Parallel()
	for name, cleanUp := range map[string]func(q *deadletter.Queue) (int64, error){
		"cleanup": func(q *deadletter.Queue) (int64, error) {
			return q.Cleanup(t.Context(), time.Hour, deadletter.Filter{})
		},
		"archive": func(q *deadletter.Queue) (int64, error) {
			return q.CleanupTo(t.Context(), time.Hour, deadletter.Filter{}, &memory{}, deadletter.FormatJSONL)
		},
		"retention": func(q *deadletter.Queue) (int64, error) {
			return q.ApplyRetention(t.Context(), []deadletter.Retention{{Filter: deadletter.Filter{JobNames: []string{"bulk"}}, Keep: time.Hour}, {Keep: 2 * time.Hour}}, deadletter.MaintenanceOptions{Lock: 7})
		},
	} {
		pool := testdb.New(t)
		q := newQueue(t, pool)
		// More than a batch, which the three share but for its size: of a refused one each row is tried alone.
		rows := testkit.Size(map[string]int{"cleanup": 6000, "archive": 600, "retention": 1500}[name], 6000)
		fill(t, pool, rows)
		insertDead(t, pool, columns{"moved_to_dead_letter_at": time.Now().Add(-72 * time.Hour)})
		insertDead(t, pool, columns{"moved_to_dead_letter_at": time.Now().Add(-72 * time.Hour)})
		referred(t, pool, 3)
		want := value[int64](t, pool, "select $1::int + 2 - count(*) from tickets", rows)
		n, err := cleanUp(q)
		if n != want || err == nil || !strings.Contains(err.Error(), "can't be deleted, such as ") || strings.Contains(err.Error(), "\n") && name != "retention" {
			t.Errorf("%s: deleted %d, want %d; %v", name, n, want, err)
		}
		if got := value[string](t, pool, "select count(*) || ' ' || count(letter) from soniq_dead_letter_jobs left join tickets on letter = id"); got != "3 3" {
			t.Errorf("%s: left %s", name, got)
		}
		if n, err := cleanUp(q); n != 0 || err == nil {
			t.Errorf("%s, again: %d, %v", name, n, err)
		}
	}
}

// memory is an archive that keeps nothing.
type memory struct{}

func (memory) Write(p []byte) (int, error) { return len(p), nil }
func (memory) Commit() error               { return nil }

// What another program put into the column 'errors' takes a bounded memory: the
// first entry and the last nine are read, as there would be of ours.
func TestDecodeFailures_manyEntries_firstAndLastAreRead(t *testing.T) {
	t.Parallel()
	var column strings.Builder
	column.WriteString("[{\"message\": \"first\"}")
	for range 100_000 {
		column.WriteString(", {}, 7")
	}
	for range 8 {
		column.WriteString(", {\"message\": \"late\"}")
	}
	column.WriteString(", {\"message\": \"last\", \"worker_id\": \"" + uuid.Nil.String() + "\"}]")
	got := history.Decode([]byte(column.String()))
	if len(got) != 10 || got[0].Message != "first" || got[1].Message != "late" || got[9].Message != "last" {
		t.Errorf("%d: %+v", len(got), got)
	}
}
