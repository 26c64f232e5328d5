package engine_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/engine"
	"soniq/internal/claim"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

// crowds are what a producer can put in the way of all others: many jobs, each
// with a priority of its own, half of them more urgent than the default.
var crowds = map[string]string{
	"far ahead":   `now() + interval '1 year'`,
	"other names": `now() - interval '1 minute'`,
}

func crowd(t *testing.T, pool *pgxpool.Pool, due string, n int) {
	t.Helper()
	exec(t, pool, `alter table soniq_jobs set (autovacuum_enabled = off)`)
	exec(t, pool, `
		insert into soniq_jobs (id, job_name, args, priority, scheduled_at)
		select gen_random_uuid(), 'nobody', '{}', n - $1::int / 2, `+due+` from generate_series(1, $1::int) n where n <> $1::int / 2 + 100`, n)
}

// What a claim costs is bounded: by lanes, by entries of one index, or by what
// was learnt.
func TestClaim_plan_ofACrowd_readsTheIndexOnce(t *testing.T) {
	t.Parallel()
	for name, due := range crowds {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := testdb.New(t)
			crowd(t, pool, due, 100_000)
			exec(t, pool, `insert into soniq_jobs (id, job_name, args) select gen_random_uuid(), 'ours', '{}' from generate_series(1, 50)`)
			exec(t, pool, `vacuum analyze soniq_jobs`)
			queues, names := []string{"default", "other"}, []string{"ours"}
			params := []any{queues, names, 20, uuid.New(), int64(1), "{}", 1000}
			spots := append(slices.Clone(params), []string{"default"}, []int32{100}, []time.Time{time.Now().Add(-time.Hour)})
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
				{"claim", claim.WholeSQL, params, 0, 4500},
				{"claim of a crowd", claim.WholeRestSQL, params, 20, whole},
				{"claim where jobs were found", claim.KnownSQL, spots, 20, 600},
				{"next due", claim.NextSQL, []any{queues, names, 10 * time.Minute}, 1, 4500},
				{"next due of a crowd", claim.NextRestSQL, []any{queues, names, 10 * time.Minute}, 1, whole},
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
			crowd(t, pool, due, testkit.Size(25_000, 100_000))
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
