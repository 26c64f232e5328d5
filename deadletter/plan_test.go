package deadletter

import (
	"context"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/deadletter/classify"
	"soniq/internal/byindex"
	"soniq/internal/pg"
	"soniq/internal/replaysql"
	"soniq/internal/sweep"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

// explain returns the plan of a statement, as it is for these parameters.
func explain(t *testing.T, db pg.Querier, sql string, params ...any) string {
	t.Helper()
	return testkit.Explain(t, db, sql, params...)
}

func TestQueue_plansUseTheIndexes(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	const fill = `
		insert into soniq_dead_letter_jobs (
		  id, job_name, args, queue, priority, max_attempts, attempts,
		  dead_letter_reason, original_created_at, moved_to_dead_letter_at
		)
		select gen_random_uuid(), 'job.' || n % 500, '{}', 'q' || n % 500, 100, 3, 3, 'r' || n % 500, now(), now() - n * interval '1 minute'
		from generate_series(1, 20000) n`
	for _, sql := range []string{"set soniq.notify = off; " + fill, "analyze soniq_dead_letter_jobs"} {
		if _, err := pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	list := func(f Filter) (string, []any) {
		f.Limit = 50
		sql, params := pageSQL(f, Cursor{})
		return sql(bounded(pg.ListedBytes)), params
	}
	tests := map[string]struct {
		filter Filter
		index  string
	}{
		"a name":   {Filter{JobNames: []string{"job.7"}}, "idx_soniq_dead_letter_jobs_job_name"},
		"a queue":  {Filter{Queues: []string{"q7"}}, "idx_soniq_dead_letter_jobs_queue"},
		"a reason": {Filter{Reasons: []classify.Reason{"r7"}}, "idx_soniq_dead_letter_jobs_reason"},
		"names":    {Filter{JobNames: []string{"job.7", "job.8"}}, "idx_soniq_dead_letter_jobs_job_name_moved"},
		"a group":  {Filter{Groups: []string{"0123456789abcdef"}}, "idx_soniq_dead_letter_jobs_group_moved"},
		"nothing":  {Filter{}, "idx_soniq_dead_letter_jobs_moved_at"},
	}
	for name, tt := range tests {
		sql, params := list(tt.filter)
		plan := explain(t, pool, sql, params...)
		if !strings.Contains(plan, tt.index) || strings.Contains(plan, "Seq Scan") {
			t.Errorf("%s: %s isn't used:\n%s", name, tt.index, plan)
		}
	}

	if plan := explain(t, pool, namesSQL+"true)", 2000); strings.Contains(plan, "Seq Scan") {
		t.Errorf("the names that there are: reads the whole table:\n%s", plan)
	}
	sql, params := groupsSQLOf(Filter{From: time.Now().Add(-time.Hour), Limit: 5})
	if plan := explain(t, pool, sql, params...); !strings.Contains(plan, "idx_soniq_dead_letter_jobs_group_moved") || strings.Contains(plan, "Seq Scan") {
		t.Errorf("the groups of an hour read the whole table:\n%s", plan)
	}

	sql, params = statsOf(time.Hour)
	if plan := explain(t, pool, sql, params...); strings.Contains(plan, "Seq Scan on soniq_dead_letter_jobs") {
		t.Errorf("the stats of an hour read the whole table:\n%s", plan)
	}
	if plan := explain(t, pool, bounded(pg.SingleBytes).selectJobs()+"\nwhere d.id = $1", uuid.New()); !strings.Contains(plan, "Index Scan using soniq_dead_letter_jobs_pkey") {
		t.Errorf("one dead letter isn't found by its id:\n%s", plan)
	}
	replay := replayer{options: ReplayOptions{MaxReplays: 3}}.replayable(Filter{JobNames: []string{"job.7"}})
	plan := explain(t, pool, selectReplayable+replay.SQL()+oldestFirst+replay.Limit(100), replay.Params()...)
	if !strings.Contains(plan, "idx_soniq_dead_letter_jobs_job_name") || strings.Contains(plan, "Seq Scan on soniq_dead_letter_jobs d") {
		t.Errorf("what is replayed of a job is not found by its name:\n%s", plan)
	}

	old := &where{}
	old.And("d.moved_to_dead_letter_at < now() - interval '13 days'")
	for _, from := range []bool{false, true} {
		if from {
			// As in every batch but the first.
			old.And("d.moved_to_dead_letter_at >= now() - interval '300 hours'")
		}
		o := sweep.Oldest{Table: deadLetters, Time: "moved_to_dead_letter_at", Where: old.Where, Batch: deleteBatch}
		sql, params, _ := o.SQL()
		if plan := explain(t, pool, sql, params...); !strings.Contains(plan, "idx_soniq_dead_letter_jobs_moved_at") {
			t.Errorf("cleanup reads the whole table:\n%s", plan)
		}
	}
}

// Where the table is large enough for several processes, they count their parts
// by themselves, in little memory: nothing is sorted, and few rows are handed on.
func TestQueue_plansCountSideBySide(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	const fill = `
		insert into soniq_dead_letter_jobs (
		  id, job_name, args, queue, priority, max_attempts, attempts,
		  dead_letter_reason, original_created_at, moved_to_dead_letter_at, fingerprint
		)
		select gen_random_uuid(), 'job.' || n % 30, '{}', 'q' || n % 10, 100, 3, 3, 'r' || n % 5, now(), now() - n * interval '5 minutes', n % 200
		from generate_series(1, 20000) n`
	for _, sql := range []string{"set soniq.notify = off; " + fill, "vacuum analyze soniq_dead_letter_jobs"} {
		if _, err := pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	// 20,000 rows stand for many more: handing a group on costs half of its
	// default, or PostgreSQL 18, which expects more groups, counts them alone.
	const large = `
		set local min_parallel_table_scan_size = 0;
		set local min_parallel_index_scan_size = 0;
		set local parallel_setup_cost = 0;
		set local parallel_tuple_cost = 0.05;
		set local max_parallel_workers_per_gather = 2`
	if _, err := tx.Exec(t.Context(), large); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		sql    func() (string, []any)
		counts int
	}{
		"stats":  {func() (string, []any) { return statsOf(0) }, 2},
		"groups": {func() (string, []any) { return groupsSQLOf(Filter{Limit: 21}) }, 1},
	} {
		sql, params := c.sql()
		if plan := explain(t, tx, sql, params...); strings.Count(plan, "Partial HashAggregate") < c.counts {
			t.Errorf("%s: fewer than %d counts are made in parts:\n%s", name, c.counts, plan)
		}
	}
}

// Most rows are a record of what was mended: none of them is read.
func TestQueue_Backlog_planReadsTheDeadAlone(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	const fill = `
		insert into soniq_dead_letter_jobs (
		  id, job_name, args, queue, priority, max_attempts, attempts,
		  dead_letter_reason, original_created_at, moved_to_dead_letter_at, state, closed
		)
		select gen_random_uuid(), 'job', '{}', 'q', 100, 3, 3, 'r', now(), now() - n * interval '1 minute',
		  case when n <= 100 then 'dead' else 'resolved' end, case when n > 100 then 'resolved' end
		from generate_series(1, 10000) n`
	for _, sql := range []string{"set soniq.notify = off; " + fill, "analyze soniq_dead_letter_jobs"} {
		if _, err := pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	for _, limit := range []int{0, 51} {
		sql, params := backlogSQLOf(Filter{State: StateDead, Limit: limit})
		if plan := explain(t, pool, sql, params...); strings.Count(plan, "idx_soniq_dead_letter_jobs_open") != 2 {
			t.Errorf("limit %d:\n%s", limit, plan)
		}
	}
}

// The tables of a bulk replay are full a moment after they were empty. Whatever the planner
// knows of them, a batch reads its own rows and not those of the whole operation, nor all
// that are dead.
func TestReplayRun_anyStatistics_readsItsRowsAlone(t *testing.T) {
	t.Parallel()
	const (
		selected = 12_000
		fill     = `
			insert into soniq_dead_letter_jobs (
			  id, job_name, args, queue, priority, max_attempts, attempts,
			  dead_letter_reason, original_created_at, moved_to_dead_letter_at
			)
			select gen_random_uuid(), 'job.' || n % 30, '{}', 'q' || n % 10, 100, 3, 3, 'r' || n % 5, now(), now() - n * interval '1 second'
			from generate_series(1, 20000) n`
		choose = `
			insert into soniq_dead_letter_selections
			select $1, row_number() over (order by moved_to_dead_letter_at, id), id
			from soniq_dead_letter_jobs
			limit 12000`
	)
	tests := map[string][]string{
		"of none":           {},
		"of empty tables":   {"analyze"},
		"of full tables":    {fill, "analyze", "fill"},
		"of another replay": {fill, "other", "analyze", "delete from soniq_dead_letter_selections", "vacuum soniq_dead_letter_selections", "fill"},
	}
	for name, before := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := testdb.New(t)
			exec := func(sql string, params ...any) {
				t.Helper()
				if _, err := pool.Exec(t.Context(), sql, params...); err != nil {
					t.Fatalf("%s: %v", sql, err)
				}
			}
			begin := func() uuid.UUID {
				operation := uuid.New()
				exec("insert into soniq_dead_letter_operations (id, action, state, total) values ($1, 'replay', 'running', 0)", operation)
				return operation
			}
			for _, table := range []string{"jobs", "dead_letter_jobs", "dead_letter_selections", "dead_letter_audit"} {
				exec("alter table soniq_" + table + " set (autovacuum_enabled = off)")
			}
			filled := false
			for _, sql := range before {
				switch sql {
				case "other":
					other := begin()
					exec(choose, other)
					exec("insert into soniq_dead_letter_audit (dead_letter_id, operation_id, action) select dead_letter_id, operation_id, 'replay' from soniq_dead_letter_selections limit 2000")
				case "fill":
					filled = true
				default:
					exec("select set_config('soniq.silent', 'on', false)")
					exec(sql)
				}
			}
			if !filled {
				exec(fill)
			}
			operation := begin()
			exec(choose, operation)
			batchReads(t, pool, operation, selected)
		})
	}
}

var nodeType = regexp.MustCompile(`"Node Type": "([^"]+)"`)

// locksAlone reports whether what is below the lock of a plan reads no part of the same statement.
func locksAlone(plan string) bool {
	var below []string
	for _, node := range nodeType.FindAllStringSubmatch(plan, -1) {
		switch {
		case node[1] == "LockRows":
			below = []string{}
		case below != nil && node[1] == "ModifyTable":
			return !slices.Contains(below, "CTE Scan")
		case below != nil:
			below = append(below, node[1])
		}
	}
	return false
}

// batchReads checks what the statements of the batches read that follow each other.
func batchReads(t *testing.T, pool *pgxpool.Pool, operation uuid.UUID, selected int) {
	t.Helper()
	const most = 500
	queue, err := NewQueue(pool, QueueConfig{})
	if err != nil {
		t.Fatal(err)
	}
	r := queue.newReplayRun(nil)
	r.op.ID = operation
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	if _, err := tx.Exec(t.Context(), byindex.LookupSQL); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		fresh, err := freshIDs(most)
		if err != nil {
			t.Fatal(err)
		}
		sql, params := r.nextBatch(operation, fresh, most)
		// A row has some 60: of eleven indexes, three levels each, and of three tables.
		batch := testkit.Touched(t, tx, sql, params...)
		batch.Within(t, "a batch", 2*most, 80*most)
		// A row that another replay has changed is looked at again, with all that is joined below the lock.
		if !locksAlone(batch.Plan) {
			t.Errorf("the lock of a row is above the rows of the batch:\n%s", batch.Plan)
		}
		r.after += most
		taken := testkit.Touched(t, tx, replaysql.Take(), operation, r.after, most)
		taken.Within(t, "a batch with edits", most, 10*most)
		r.after += most
	}
	testkit.Touched(t, tx, replaysql.Breaker, operation, 0, most).Within(t, "the breaker", most, 12*most)
	var left int
	if err := tx.QueryRow(t.Context(), "select count(*) from soniq_dead_letter_selections where operation_id = $1", operation).Scan(&left); err != nil || left != selected-6*most {
		t.Errorf("%d of the selection are left, %v", left, err)
	}
}

// A page of ten million dead letters takes no longer than one of ten thousand.
func TestLook_readsAWindow_whateverTheFilter(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	testkit.Exec(t, pool, `
		with quiet as (select set_config('soniq.notify', 'off', true))
		insert into soniq_dead_letter_jobs (
		  id, job_name, args, queue, priority, max_attempts, attempts, last_error, fingerprint,
		  dead_letter_reason, original_created_at, moved_to_dead_letter_at, state, closed
		)
		select gen_random_uuid(), 'job.' || n % 2, '{}', 'q' || n % 2, 100, 3, 3, 'e', 'f' || n % 2, 'r' || n % 2, now(), now() - n * interval '1 minute',
		  case when n % 2 = 0 then 'resolved' else 'dead' end, case when n % 2 = 0 then 'resolved' end
		from quiet, generate_series(1, 30000) n`)
	for _, analyzed := range []bool{false, true} {
		if analyzed {
			testkit.Exec(t, pool, `analyze soniq_dead_letter_jobs`)
		}
		for name, f := range map[string]Filter{
			"nothing": {}, "a job": {JobNames: []string{"job.1"}}, "a queue": {Queues: []string{"q1"}}, "a reason": {Reasons: []classify.Reason{"r1"}},
			"a group": {Groups: []string{"f1"}}, "a state": {State: StateDead}, "a tag": {Tags: map[string]string{"a": "b"}}, "a text": {Text: "nowhere"},
			"a job and a queue": {JobNames: []string{"job.1"}, Queues: []string{"q0"}}, "a part of a name": {NameLike: "nowhere"},
		} {
			f.Limit = 50
			sql, params := lookSQLOf(f, Cursor{}, 500)
			err := pg.InTx(t.Context(), pool, func(tx pgx.Tx) error {
				if _, err := tx.Exec(t.Context(), byindex.LookupSQL); err != nil {
					return err
				}
				testkit.Touched(t, tx, sql, params...).Within(t, name, 2000, 3000)
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
}
