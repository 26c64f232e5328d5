package claim

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/internal/eventually"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

// manyQueues is a claimer that serves so many queues, called q1, q2 and so on.
func manyQueues(t *testing.T, pool *pgxpool.Pool, n int) (claimer, Scope) {
	t.Helper()
	var queues []string
	for i := range n {
		queues = append(queues, fmt.Sprint("q", i+1))
	}
	names := []string{"x"}
	return claimer{newLimited(pool, NewLimits(1000, queues, names, nil, nil)), pool}, Scope{Queues: queues, Names: names}
}

// fillQueues adds jobs to each of the first queues, the first of all first.
func fillQueues(t *testing.T, pool *pgxpool.Pool, queues, each int) {
	t.Helper()
	exec(t, pool, `
		insert into soniq_jobs (id, job_name, args, queue, created_at)
		select gen_random_uuid(), 'x', to_jsonb(q), 'q' || q, now() - interval '1 day' + (n * $1 + q) * interval '1 ms'
		from generate_series(1, $1::int) q, generate_series(1, $2::int) n`, queues, each)
}

// keep makes a survey last, or makes it old, and reports whether there is one.
func (c claimer) keep(long bool) bool {
	if c.survey == nil || c.survey.few || c.survey.until.IsZero() {
		return false
	}
	if c.survey.until = time.Now(); long {
		c.survey.until = time.Now().Add(time.Hour)
	}
	return true
}

// Many queues with few jobs each, or with one that has many more: the lanes are walked a few
// times, and not by each claim of ten.
func TestClaimer_fewJobsInEachOfManyQueues_lanesAreWalkedAFewTimes(t *testing.T) {
	t.Parallel()
	for name, fill := range map[string]func(t *testing.T, pool *pgxpool.Pool){
		"one job in each of 1,000": func(t *testing.T, pool *pgxpool.Pool) { t.Helper(); fillQueues(t, pool, 1000, 1) },
		"three in each of 300":     func(t *testing.T, pool *pgxpool.Pool) { t.Helper(); fillQueues(t, pool, 300, 3) },
		"2,000 in one, one in each of 500": func(t *testing.T, pool *pgxpool.Pool) {
			t.Helper()
			claimer{pool: pool}.fill(t, 2000, 100, "q1")
			fillQueues(t, pool, 500, 1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := testdb.New(t)
			fill(t, pool)
			jobs := 0
			if err := pool.QueryRow(t.Context(), `select count(*) from soniq_jobs`).Scan(&jobs); err != nil {
				t.Fatal(err)
			}
			// Another pool, whose connections tell what they have read when they end.
			claiming, err := pgxpool.NewWithConfig(t.Context(), pool.Config())
			if err != nil {
				t.Fatal(err)
			}
			defer claiming.Close()
			c, scope := manyQueues(t, claiming, 1000)
			// On a busy machine each claim is slow, and a second is soon over.
			c.learnt, c.lookedAt = time.Now().Add(time.Hour), time.Now().Add(time.Hour)
			got, claims, surveyed := 0, 0, 0
			for more := true; more; claims++ {
				taken, err := c.Take(t.Context(), 1, scope, 10)
				if err != nil || !taken.Again.IsZero() {
					t.Fatalf("after %d of %d jobs it waits for %s, %v", got, jobs, taken.Again, err)
				}
				got += len(taken.Jobs)
				more = taken.Full || taken.Unfinished
				if c.keep(true) {
					surveyed++
				}
			}
			if got != jobs || claims > jobs/10+10 || surveyed == 0 {
				t.Errorf("%d claims took %d of %d jobs, %d by a survey", claims, got, jobs, surveyed)
			}
			claiming.Close()
			var read int
			const readSQL = `select idx_tup_read from pg_stat_user_indexes where indexrelname = 'idx_soniq_jobs_claim'`
			eventually.True(t, "what was read", func() bool {
				if err := pool.QueryRow(t.Context(), readSQL).Scan(&read); err != nil {
					t.Fatal(err)
				}
				return read >= jobs
			})
			// The first claim, the survey and the last claim read each lane, some twice.
			// By each claim it would be 100 for each job.
			if read > 10*jobs {
				t.Errorf("%d entries were read for %d jobs", read, jobs)
			}
		})
	}
}

// A survey is of what was there. What has come since then, or is more urgent, is taken by the
// next one, and what is left out by a whole claim.
func TestClaimer_comesAfterTheSurvey_isTakenWithTheNext(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	c, scope := manyQueues(t, pool, 100)
	c.learnt = time.Now().Add(time.Hour) // no claim is slow
	fillQueues(t, pool, 50, 2)
	take := func(n, want int) []Job {
		t.Helper()
		taken, err := c.Take(t.Context(), 1, scope, n)
		if err != nil || len(taken.Jobs) != want {
			t.Fatalf("it took %d, %v; want %d", len(taken.Jobs), err, want)
		}
		return taken.Jobs
	}
	take(10, 10)
	take(10, 10)
	if !c.keep(true) {
		t.Fatal("there is no survey")
	}
	exec(t, pool, `insert into soniq_jobs (id, job_name, args, queue, priority) values (gen_random_uuid(), 'x', '{}', 'q90', 1)`)
	exec(t, pool, `insert into soniq_queues (name, paused_at) values ('q40', now())`)
	for _, j := range take(10, 10) {
		if j.Queue == "q90" || j.Queue == "q40" {
			t.Errorf("it took one of %s", j.Queue)
		}
	}
	c.keep(false)
	if got := take(10, 10); got[0].Queue != "q90" {
		t.Errorf("the first that it took is of %s, want q90", got[0].Queue)
	}
	c.keep(true)
	exec(t, pool, `insert into soniq_jobs (id, job_name, args, queue) values (gen_random_uuid(), 'x', '{}', 'q91')`)
	var last string
	left := 60
	for range 20 {
		taken, err := c.Take(t.Context(), 1, scope, 7)
		if err != nil {
			t.Fatal(err)
		}
		for _, j := range taken.Jobs {
			last = j.Queue
		}
		if left -= len(taken.Jobs); !taken.Full && !taken.Unfinished {
			break
		}
		c.keep(true)
	}
	// Two of the paused queue stay.
	if left != 0 || last != "q91" {
		t.Errorf("%d jobs are left, and the last one was of %s; want none, and q91", left, last)
	}
}

// A survey reads one entry of each lane, whatever the statistics say.
func TestClaim_plan_survey_readsOneEntryOfEachLane(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	exec(t, pool, `alter table soniq_jobs set (autovacuum_enabled = off)`)
	c, scope := manyQueues(t, pool, 1000)
	for _, statistics := range []string{"none", "of an empty table", "of a full one"} {
		switch statistics {
		case "of an empty table":
			exec(t, pool, `truncate soniq_jobs`)
			exec(t, pool, `vacuum analyze soniq_jobs`)
		case "of a full one":
			exec(t, pool, `analyze soniq_jobs`)
		}
		if statistics != "of a full one" {
			fillQueues(t, pool, 200, 50)
		}
		tx, err := pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(t.Context(), `set local enable_seqscan = off; set local jit = off; set local plan_cache_mode = force_generic_plan`, pgx.QueryExecModeSimpleProtocol); err != nil {
			t.Fatal(err)
		}
		testkit.Touched(t, tx, c.form(false).survey, scope.Queues).Within(t, "a survey, statistics "+statistics, 1500, 6000)
		queues, priorities, dues := make([]string, 20), make([]int32, 20), make([]time.Time, 20)
		for i := range queues {
			queues[i], priorities[i], dues[i] = fmt.Sprint("q", i+1), 100, time.Now().Add(-48*time.Hour)
		}
		args := []any{queues, scope.Names, 10, uuid.New(), int64(1), map[string]int{}, 1000, queues, priorities, dues}
		testkit.Touched(t, tx, c.form(false).known, args...).Within(t, "a claim in its lanes, statistics "+statistics, 100, 400)
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}
