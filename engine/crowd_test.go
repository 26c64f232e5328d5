package engine_test

import (
	"context"
	"errors"
	"fmt"
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

// crowds are what a producer can put in the way of all others: 100,000 jobs, each
// with a priority of its own, half of them more urgent than the default.
var crowds = map[string]string{
	"far ahead":   `now() + interval '1 year'`,
	"other names": `now() - interval '1 minute'`,
}

func crowd(t *testing.T, pool *pgxpool.Pool, due string) {
	t.Helper()
	exec(t, pool, `alter table soniq_jobs set (autovacuum_enabled = off)`)
	exec(t, pool, `
		insert into soniq_jobs (id, job_name, args, priority, scheduled_at)
		select gen_random_uuid(), 'nobody', '{}', n - 50000, `+due+` from generate_series(1, 100000) n where n <> 50100`)
}

// What a claim costs is bounded: by lanes, by entries of one index, or by what
// was learnt.
func TestClaim_plan_ofACrowd_readsTheIndexOnce(t *testing.T) {
	t.Parallel()
	for name, due := range crowds {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := testdb.New(t)
			crowd(t, pool, due)
			exec(t, pool, `insert into soniq_jobs (id, job_name, args) select gen_random_uuid(), 'ours', '{}' from generate_series(1, 50)`)
			exec(t, pool, `vacuum analyze soniq_jobs`)
			queues, names := []string{"default", "other"}, []string{"ours"}
			claim := []any{queues, names, 20, uuid.New(), int64(1), "{}", 1000}
			spots := append(slices.Clone(claim), []string{"default"}, []int32{100}, []time.Time{time.Now().Add(-time.Hour)})
			// An entry of the index is 40 bytes, and a row that is due is read for its
			// name: rows come in the order of the index here.
			whole := 6500
			if name == "other names" {
				whole += 3000
			}
			for _, s := range []struct {
				name, sql string
				args      []any
				rows      int
				most      int
			}{
				{"claim", engine.ClaimSQL, claim, 0, 4500},
				{"claim of a crowd", engine.ClaimCrowdSQL, claim, 20, whole},
				{"claim where jobs were found", engine.ClaimLanesSQL, spots, 20, 600},
				{"next due", engine.NextDueSQL, []any{queues, names, 10 * time.Minute}, 1, 4500},
				{"next due of a crowd", engine.NextDueCrowdSQL, []any{queues, names, 10 * time.Minute}, 1, whole},
			} {
				plan, rows, pages := explain(t, pool, s.sql, s.args)
				if rows != s.rows {
					t.Errorf("%s: %d rows, want %d", s.name, rows, s.rows)
				}
				if pages == 0 || pages > s.most || strings.Contains(plan, "Seq Scan on soniq_jobs") || strings.Contains(plan, "Bitmap") {
					t.Errorf("%s: %d pages, want at most %d:\n%s", s.name, pages, s.most, plan)
				}
			}
		})
	}
}

// explain runs a statement in a transaction that is rolled back, planned as
// workers have it planned, and returns how many rows it had and how many pages it
// touched.
func explain(t *testing.T, pool *pgxpool.Pool, sql string, args []any) (plan string, rows, pages int) {
	t.Helper()
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background()) //nolint:errcheck // explain analyze has claimed rows
	if _, err := tx.Exec(t.Context(), `set local enable_seqscan = off`); err != nil {
		t.Fatal(err)
	}
	result, _ := tx.Query(t.Context(), "explain (analyze, buffers, costs off, timing off) "+sql, args...)
	lines, err := pgx.CollectRows(result, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	if i := strings.Index(lines[0], "actual rows="); i >= 0 {
		_, _ = fmt.Sscanf(lines[0][i:], "actual rows=%d", &rows)
	}
	for _, line := range lines {
		// The first is the whole statement's.
		if i := strings.Index(line, "Buffers: shared "); i >= 0 {
			for field := range strings.FieldsSeq(line[i:]) {
				var n int
				if _, err := fmt.Sscanf(field, "hit=%d", &n); err == nil {
					pages += n
				} else if _, err := fmt.Sscanf(field, "read=%d", &n); err == nil {
					pages += n
				}
			}
			break
		}
	}
	return strings.Join(lines, "\n"), rows, pages
}

func TestWorker_crowdOfLanes_othersJobsStart(t *testing.T) {
	t.Parallel()
	for name, due := range crowds {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := testdb.New(t)
			crowd(t, pool, due)
			reg := engine.NewRegistry()
			noop(reg, "ours")
			noop(reg, "bounded", engine.Concurrency(1))
			client := newClient(t, pool)
			w := start(t, pool, reg, engine.WorkerConfig{Concurrency: 4, UnknownGrace: -1})
			waitTrue(t, "trust in notifications", w.Hears)
			// More than it can run at once, some scheduled, and then one by one.
			var ids []uuid.UUID
			for n := range 40 {
				ids = append(ids, enqueue(t, client, "ours", nil, engine.Priority(100+n%3)), enqueue(t, client, "bounded", nil))
			}
			ids = append(ids, enqueue(t, client, "ours", nil, engine.After(time.Second)))
			for _, id := range ids {
				w.waitForJob(t, id)
			}
			for n := range 5 {
				w.waitForJob(t, enqueue(t, client, "ours", nil, engine.Priority(40_000*n)))
			}
		})
	}
}

func (c claimer) crowd(t *testing.T) {
	t.Helper()
	exec(t, c.pool, `
		insert into soniq_jobs (id, job_name, args, queue, priority, scheduled_at)
		select gen_random_uuid(), 'x', '{}', 'q', n, now() + interval '1 year' from generate_series(1, 700) n where n <> 650`)
}

// Beyond the lanes that are walked nothing is found at first, and a claim that
// has not seen everything is never taken for one that has.
func TestClaims_crowd_isSeenAndForgotten(t *testing.T) {
	t.Parallel()
	c := newClaimer(t)
	c.crowd(t)
	c.fill(t, 3, 650, "q")
	look := func(wantCrowded, wantUnsure bool) {
		t.Helper()
		crowded, unsure, err := c.LookAhead(t.Context(), []string{"q", "r"}, []string{"x"})
		if err != nil || crowded != wantCrowded || unsure != wantUnsure {
			t.Errorf("crowded %t, unsure %t, %v; want %t, %t", crowded, unsure, err, wantCrowded, wantUnsure)
		}
	}
	c.takes(t)
	look(true, true)
	c.takes(t, "1", "2")
	look(true, false)
	// What comes with the default priority need not wait for a whole claim.
	c.StayDear(true)
	c.fill(t, 1, 100, "r")
	c.takes(t, "1", "3")
	c.fill(t, 3, 650, "q")
	exec(t, c.pool, `delete from soniq_jobs where priority <> 650`)
	look(false, false)
	c.takes(t, "1", "2")
}

// The order of priorities holds over all queues, however many lanes one of them
// has.
func TestClaims_crowd_keepsTheOrderOfPriorities(t *testing.T) {
	t.Parallel()
	c := newClaimer(t)
	c.crowd(t)
	c.Crowded(true)
	c.fill(t, 2, 650, "q")
	exec(t, c.pool, `
		insert into soniq_jobs (id, job_name, args, queue, priority)
		values (gen_random_uuid(), 'x', '4', 'r', 649), (gen_random_uuid(), 'x', '5', 'r', 651), (gen_random_uuid(), 'x', '6', 'q', -1)`)
	for _, want := range []string{"4 6", "1 2", "5", ""} {
		if got := strings.Join(c.take(t, 2), " "); got != want {
			t.Errorf("it took %q, want %q", got, want)
		}
		c.StayDear(false)
	}
}

// More queues than lanes are walked.
func TestClaims_manyQueues_allAreServed(t *testing.T) {
	t.Parallel()
	c := newClaimer(t)
	exec(t, c.pool, `
		insert into soniq_jobs (id, job_name, args, queue, priority)
		select gen_random_uuid(), 'x', '{}', 'q' || n, case when n % 2 = 0 then -2147483648 else n end from generate_series(1, 800) n`)
	exec(t, c.pool, `insert into soniq_queues (name, paused_at) values ('q7', now()), ('q795', now())`)
	var queues []string
	for n := range 800 {
		queues = append(queues, fmt.Sprint("q", n+1))
	}
	taken := map[string]int{}
	for range 3 {
		jobs, err := c.Take(t.Context(), queues, []string{"x"}, 1000)
		if err != nil {
			t.Fatal(err)
		}
		for _, j := range jobs {
			taken[j.Queue]++
		}
		if _, _, err := c.LookAhead(t.Context(), queues, []string{"x"}); err != nil {
			t.Fatal(err)
		}
	}
	if len(taken) != 798 || taken["q7"]+taken["q795"] != 0 {
		t.Errorf("jobs of %d queues were taken, want 798", len(taken))
	}
}

// Between two whole claims only the lanes count where jobs were found.
func TestClaims_crowd_goesOnWhereJobsWereFound(t *testing.T) {
	t.Parallel()
	c := newClaimer(t)
	c.crowd(t)
	c.Crowded(true)
	c.fill(t, 5, 650, "q")
	c.takes(t, "1", "2")
	c.StayDear(true)
	exec(t, c.pool, `insert into soniq_jobs (id, job_name, args, queue, priority) values (gen_random_uuid(), 'x', '9', 'q', 5)`)
	c.takes(t, "3", "4")
	exec(t, c.pool, `insert into soniq_queues (name, paused_at) values ('q', now())`)
	c.takes(t)
	exec(t, c.pool, `delete from soniq_queues`)
	c.takes(t, "5")
	c.StayDear(false)
	c.takes(t, "9")
}

// A claim that takes too long is not made again and again as it is.
func TestClaims_timeout_asksForFewer(t *testing.T) {
	t.Parallel()
	c := newClaimer(t)
	c.fill(t, 40, 100, "q")
	over, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	for range 2 {
		if _, err := c.Take(over, []string{"q"}, []string{"x"}, 32); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
	}
	for _, want := range []int{2, 4, 8, 16} {
		if got := len(c.take(t, 32)); got != want {
			t.Errorf("it took %d, want %d", got, want)
		}
	}
}
