package pg_test

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"soniq/internal/pg"
	"soniq/internal/testdb"
)

// Of all that ask at once, one leads a turn, and the next turn comes after nine tenths
// of the interval.
func TestTakeTurn_oneLeads(t *testing.T) {
	t.Parallel()
	raw := testdb.New(t)
	pool := pg.Schema{}.Pool(raw)
	take := func() (leaders int32) {
		var count atomic.Int32
		var asking errgroup.Group
		for range 8 {
			asking.Go(func() error {
				leads, err := pg.TakeTurn(t.Context(), pool, "sweep the floor", time.Hour)
				if leads {
					count.Add(1)
				}
				return err
			})
		}
		if err := asking.Wait(); err != nil {
			t.Fatal(err)
		}
		return count.Load()
	}
	for _, step := range []struct {
		since string
		want  int32
	}{{"", 1}, {"", 0}, {"53 minutes", 0}, {"55 minutes", 1}, {"-1 hour", 1}} {
		if step.since != "" {
			if _, err := raw.Exec(t.Context(), `update soniq_leader_tasks set begun_at = now() - $1::interval`, step.since); err != nil {
				t.Fatal(err)
			}
		}
		if got := take(); got != step.want {
			t.Errorf("%q after the last turn, %d lead the next, want %d", step.since, got, step.want)
		}
	}
}

// A statement that begins with Leader does its work in one session at a time.
func TestLeader_lockIsTaken_statementDoesNothing(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	const sql = pg.Leader + `
select count(*) from generate_series(1, 3) where ` + pg.IsLeader
	holder, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Rollback(t.Context()) //nolint:errcheck // it holds a lock and nothing else
	if _, err := holder.Exec(t.Context(), `select pg_advisory_xact_lock(7)`); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[int64]int{0: 3, 6: 3, 7: 0} {
		var n int
		if err := pool.QueryRow(t.Context(), sql, key).Scan(&n); err != nil || n != want {
			t.Errorf("with lock %d it found %d rows, %v, want %d", key, n, err, want)
		}
	}
}

// PostgreSQL uses the index of claims only for expressions that are spelled as its own.
func TestJobExpressions_areThoseOfTheIndex(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	if _, err := pool.Exec(t.Context(), `create index claims_as_spelled on soniq_jobs (`+
		strings.NewReplacer("j.", "").Replace("("+pg.JobQueue+"), ("+pg.JobPriority+"), ("+pg.JobDue+")")+`)`); err != nil {
		t.Fatal(err)
	}
	const columns = `
select string_agg(pg_get_indexdef(indexrelid, n, true), ', ' order by n)
from pg_index
cross join generate_series(1, 3) n
where indexrelid = $1::regclass`
	var claim, spelled string
	if err := pool.QueryRow(t.Context(), columns, "idx_soniq_jobs_claim").Scan(&claim); err != nil {
		t.Fatal(err)
	}
	if err := pool.QueryRow(t.Context(), columns, "claims_as_spelled").Scan(&spelled); err != nil {
		t.Fatal(err)
	}
	if claim != spelled {
		t.Errorf("the index has %s, the statements %s", claim, spelled)
	}
}
