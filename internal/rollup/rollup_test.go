package rollup_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/internal/eventually"
	"soniq/internal/pg"
	"soniq/internal/rollup"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

func TestMain(m *testing.M) { testdb.Main(m) }

func recorder(pool *pgxpool.Pool, log *testkit.Log) *rollup.Recorder {
	return rollup.NewRecorder(pg.Schema{}.Pool(pool), log.Logger(0))
}

func read(t *testing.T, pool *pgxpool.Pool, window int) *rollup.Past {
	t.Helper()
	p, err := rollup.ReadPool(t.Context(), pg.Schema{}.Pool(pool), rollup.Windows()[window], rollup.Pick{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func serverNow(t *testing.T, pool *pgxpool.Pool) time.Time {
	t.Helper()
	return testkit.Value[time.Time](t, pool, "select now()")
}

// job finds what a job has done.
func job(p *rollup.Past, queue, name string) rollup.Job {
	for _, j := range p.Jobs {
		if j.Queue == queue && j.Name == name {
			return j
		}
	}
	return rollup.Job{}
}

// Each window has all that workers have counted in its span, at its time, whatever became of the jobs' rows.
func TestRecorder_attempts_areInEachWindowThatHasTheirTime(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	r := recorder(pool, &testkit.Log{})
	now := serverNow(t, pool)
	ages := []time.Duration{0, 50 * time.Minute, 20 * time.Hour, 6 * 24 * time.Hour, 29 * 24 * time.Hour, 40 * 24 * time.Hour}
	for i, age := range ages {
		r.Add(rollup.Attempt{Queue: "q", JobName: fmt.Sprint(i), Ended: now.Add(-age), Waited: time.Second, Ran: 2 * time.Second})
		r.Add(rollup.Attempt{Queue: "q", JobName: fmt.Sprint(i), Ended: now.Add(-age), Failed: true, Ran: time.Minute})
	}
	// The server's clock was set back since: it counts now.
	r.Add(rollup.Attempt{Queue: "q", JobName: "ahead", Ended: now.Add(time.Hour), Resolved: true})
	r.Flush(t.Context())
	for window, jobs := range []int{2, 3, 4, 5} {
		p := read(t, pool, window)
		if p.Total.Completed != int64(jobs)+1 || p.Total.Failed != int64(jobs) || p.Total.Resolved != 1 || len(p.Jobs) != jobs+1 {
			t.Errorf("%s: %d completed, %d failed, %d resolved of %d jobs; want %d jobs", p.Window.Name, p.Total.Completed, p.Total.Failed, p.Total.Resolved, len(p.Jobs), jobs+1)
		}
		if got := job(p, "q", "0"); got.Waited != time.Second || got.Ran != 62*time.Second || got.Runs.Count() != 2 {
			t.Errorf("%s: waited %s, ran %s", p.Window.Name, got.Waited, got.Ran)
		}
		if last := p.Points[len(p.Points)-1]; last.Completed == 0 || p.Now.Before(now) || p.Now.Sub(p.From) > p.Window.Span {
			t.Errorf("%s: from %s to %s, the last point has %d", p.Window.Name, p.From, p.Now, last.Completed)
		}
		if median, _ := job(p, "q", "0").Runs.Quantile(0.25); median < 1700*time.Millisecond || median > 2400*time.Millisecond {
			t.Errorf("%s: a quarter ran for %s", p.Window.Name, median)
		}
	}
}

// Workers that write at once, and the same names, lose nothing and wait for each other without a deadlock.
func TestRecorder_manyAtOnce_addUp(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	now := serverNow(t, pool)
	var running sync.WaitGroup
	const workers, rounds, names = 6, 8, 10
	for w := range workers {
		log := &testkit.Log{}
		r := recorder(pool, log)
		running.Go(func() {
			for range rounds {
				for n := range names {
					name := fmt.Sprint((n + w) % names)
					r.Add(rollup.Attempt{Queue: "q", JobName: name, Ended: now.Add(-time.Duration(n) * time.Minute), Ran: time.Duration(w+1) * time.Second})
				}
				r.Flush(context.WithoutCancel(t.Context()))
			}
			if log.String() != "" {
				t.Error(log)
			}
		})
	}
	running.Wait()
	for window := range 4 {
		p := read(t, pool, window)
		if p.Total.Completed != workers*rounds*names || p.Total.Runs.Count() != workers*rounds*names || len(p.Jobs) != names {
			t.Errorf("%s: %d completed, %d times of %d jobs", p.Window.Name, p.Total.Completed, p.Total.Runs.Count(), len(p.Jobs))
		}
	}
}

// However many names there are, the table has few rows, and nothing is left out of the sums.
func TestRecorder_manyNames_areOther(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	now := serverNow(t, pool)
	const names = 3 * rollup.MaxNames
	for w := range 2 {
		r := recorder(pool, &testkit.Log{})
		for n := range names {
			r.Add(rollup.Attempt{Queue: fmt.Sprint("tenant ", n), JobName: strings.Repeat("x", 3000) + "\x00\xff", Ended: now, Ran: time.Second, Failed: w == 1})
		}
		r.Flush(t.Context())
	}
	p := read(t, pool, 0)
	if p.Total.Completed != names || p.Total.Failed != names || len(p.Jobs) != rollup.MaxNames+1 {
		t.Errorf("%d completed and %d failed of %d jobs", p.Total.Completed, p.Total.Failed, len(p.Jobs))
	}
	if other := job(p, rollup.Other, rollup.Other); other.Completed != names-rollup.MaxNames || other.Runs.Count() != 2*(names-rollup.MaxNames) {
		t.Errorf("other: %d completed, %d times", other.Completed, other.Runs.Count())
	}
	if n := testkit.Count(t, pool, "select max(rows) from (select count(*) as rows from soniq_job_stats group by step, at) s"); n != rollup.MaxNames+1 {
		t.Errorf("%d rows of one step", n)
	}
	if n := testkit.Count(t, pool, "select max(char_length(job_name)) from soniq_job_stats"); n > 200 {
		t.Errorf("a name of %d characters", n)
	}
}

// A worker that may not write says so once, and takes no room for what it can't write.
func TestRecorder_mayNotWrite_saysSoOnce(t *testing.T) {
	t.Parallel()
	url := testdb.NewURL(t)
	owner := testkit.Open(t, url)
	role := "counts_" + strings.ReplaceAll(testkit.Value[string](t, owner, "select current_database()"), "-", "_")
	testkit.Exec(t, owner, fmt.Sprintf(`create role %[1]s; grant usage on schema public to %[1]s; grant select on soniq_job_stats to %[1]s`, role))
	defer func() { testkit.Exec(t, owner, fmt.Sprintf("drop owned by %[1]s; drop role %[1]s", role)) }()
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	config.ConnConfig.RuntimeParams["role"] = role
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	log := &testkit.Log{}
	r := recorder(pool, log)
	for range 3 {
		r.Add(rollup.Attempt{Queue: "q", JobName: "j", Ended: time.Now()})
		r.Flush(t.Context())
	}
	if n := strings.Count(log.String(), "WARN"); n != 1 || !strings.Contains(log.String(), "soniq grants") {
		t.Errorf("%d warnings:\n%s", n, log)
	}
	if n := r.Pending(); n != 0 {
		t.Errorf("%d rows wait", n)
	}
}

// While the table is away, counts wait in a bounded room, and are added when it is back.
func TestRecorder_refusedForAWhile_addsLater(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	now := serverNow(t, pool)
	log := &testkit.Log{}
	r := recorder(pool, log)
	testkit.Exec(t, pool, "alter table soniq_job_stats add constraint closed check (false) not valid")
	for n := range 4 * rollup.MaxPending {
		r.Add(rollup.Attempt{Queue: "q", JobName: fmt.Sprint(n % 2), Ended: now.Add(-time.Duration(n%50) * time.Minute)})
		if n%1000 == 0 {
			r.Flush(t.Context())
		}
	}
	r.Flush(t.Context())
	if n := strings.Count(log.String(), "WARN"); n != 1 || r.Pending() != 50 {
		t.Errorf("%d warnings, %d rows wait:\n%s", n, r.Pending(), log)
	}
	testkit.Exec(t, pool, "alter table soniq_job_stats drop constraint closed")
	r.Flush(t.Context())
	if p := read(t, pool, 0); p.Total.Completed != 4*rollup.MaxPending {
		t.Errorf("%d of %d", p.Total.Completed, 4*rollup.MaxPending)
	}
	for n := range 10 * rollup.MaxPending {
		r.Add(rollup.Attempt{Queue: fmt.Sprint(n), JobName: "j", Ended: now.Add(-time.Duration(n%50) * time.Minute)})
	}
	if n := r.Pending(); n > rollup.MaxPending+60 {
		t.Errorf("%d rows wait", n)
	}
}

// Run adds what was counted when it is told to stop.
func TestRecorder_stopped_addsTheRest(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	r := recorder(pool, &testkit.Log{})
	r.Add(rollup.Attempt{Queue: "q", JobName: "j", Ended: serverNow(t, pool)})
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := r.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if p := read(t, pool, 0); p.Total.Completed != 1 {
		t.Errorf("%d completed", p.Total.Completed)
	}
}

const dieSQL = `
insert into soniq_dead_letter_jobs (id, job_name, args, queue, priority, max_attempts, attempts, dead_letter_reason, original_created_at, moved_to_dead_letter_at)
select coalesce($5, gen_random_uuid()), $1, '{}', 'q', 1, 1, 1, $2, now(), now() - $4::interval from generate_series(1, $3)`

func die(t *testing.T, pool *pgxpool.Pool, name, reason string, n int, age time.Duration) {
	t.Helper()
	testkit.Exec(t, pool, dieSQL, name, reason, n, age, nil)
}

// countAll counts until everything is counted: transactions of other tests hold up the feed.
func countAll(t *testing.T, pool *pg.Pool) {
	t.Helper()
	eventually.True(t, "the deaths to be counted", func() bool {
		if err := rollup.CountNow(t.Context(), pool); err != nil {
			t.Fatal(err)
		}
		n, err := rollup.Uncounted(t.Context(), pool)
		if err != nil {
			t.Fatal(err)
		}
		return n == 0
	})
}

// Deaths are counted once each, whoever wrote them, and stay counted when the rows are gone. Those that no worker has
// counted yet are read from the rows.
func TestDeaths_areCountedOnce_whateverBecomesOfTheRows(t *testing.T) {
	t.Parallel()
	raw := testdb.New(t)
	pool := pg.Schema{}.Pool(raw)
	check := func(when string, month, hour int64) {
		t.Helper()
		for window, want := range map[int]int64{3: month, 0: hour} {
			if p := read(t, raw, window); p.Total.Dead != want || p.Behind {
				t.Errorf("%s: %d deaths in %s, want %d", when, p.Total.Dead, p.Window.Name, want)
			}
		}
	}
	count := func() { t.Helper(); countAll(t, pool) }
	die(t, raw, "a", "timeout", 3, time.Minute)
	die(t, raw, "b", "python's own", 2, 48*time.Hour)
	die(t, raw, "old", "timeout", 1, 60*24*time.Hour)
	check("not counted yet", 5, 3)
	count()
	check("counted", 5, 3)
	count()
	check("counted again", 5, 3)
	testkit.Exec(t, raw, "delete from soniq_dead_letter_jobs")
	count()
	check("deleted", 5, 3)
	again := uuid.New()
	testkit.Exec(t, raw, dieSQL, "a", "timeout", 1, time.Duration(0), again)
	count()
	check("another one", 6, 4)
	testkit.Exec(t, raw, "update soniq_dead_letter_jobs set moved_xid = pg_current_xact_id(), moved_to_dead_letter_at = now() where id = $1", again)
	check("the same again", 7, 5)
	count()
	check("the same again, counted", 7, 5)
	// An import restores what was counted when it died.
	testkit.Exec(t, raw, "delete from soniq_dead_letter_jobs")
	testkit.Exec(t, raw, dieSQL, "a", "timeout", 4, time.Duration(0), nil)
	testkit.Exec(t, raw, "update soniq_dead_letter_jobs set moved_xid = null")
	count()
	check("imported", 7, 5)
	p := read(t, raw, 3)
	sum := func(reason string) (n int64) {
		for _, at := range p.Reasons[reason] {
			n += at
		}
		return n
	}
	if a := job(p, "q", "a"); sum("timeout") != 5 || sum(rollup.Other) != 2 || a.Dead != 5 || p.Counted.IsZero() {
		t.Errorf("%d, %d, %d", sum("timeout"), sum(rollup.Other), a.Dead)
	}
	// Whoever deletes the position has them counted anew, from what is there.
	testkit.Exec(t, raw, "delete from soniq_leader_tasks")
	die(t, raw, "a", "timeout", 1, 0)
	count()
	check("begun anew", 1, 1)
}

// Deaths in a transaction that is still open are counted when it has ended, although later ones were before.
func TestDeaths_openTransaction_isCountedLater(t *testing.T) {
	t.Parallel()
	raw := testdb.New(t)
	pool := pg.Schema{}.Pool(raw)
	tx, err := raw.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), dieSQL, "slow", "timeout", 2, time.Duration(0), nil); err != nil {
		t.Fatal(err)
	}
	die(t, raw, "quick", "timeout", 3, 0)
	for _, step := range []struct {
		end  bool
		want int64
	}{{false, 3}, {true, 5}} {
		if step.end {
			if err := tx.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			if p := read(t, raw, 0); p.Total.Dead != step.want {
				t.Errorf("%d deaths, want %d", p.Total.Dead, step.want)
			}
			if err := rollup.CountNow(t.Context(), pool); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// Two that count at once count each death once, over many batches.
func TestDeaths_countedByTwoAtOnce_areCountedOnce(t *testing.T) {
	t.Parallel()
	raw := testdb.New(t)
	pool := pg.Schema{}.Pool(raw)
	const deaths = 2*rollup.DeathsBatch + 17
	testkit.Exec(t, raw, "set session_replication_role = replica;"+`
		insert into soniq_dead_letter_jobs (id, job_name, args, queue, priority, max_attempts, attempts, dead_letter_reason, original_created_at, moved_to_dead_letter_at)
		select gen_random_uuid(), 'j' || n % 5, '{}', 'q', 1, 1, 1, 'timeout', now(), now() - n * interval '1 second' from generate_series(1, `+fmt.Sprint(deaths)+`) n;
		reset session_replication_role`)
	var counting sync.WaitGroup
	for range 3 {
		counting.Go(func() {
			if err := rollup.CountNow(context.WithoutCancel(t.Context()), pool); err != nil {
				t.Error(err)
			}
		})
	}
	counting.Wait()
	if p := read(t, raw, 1); p.Total.Dead != deaths {
		t.Errorf("%d of %d", p.Total.Dead, deaths)
	}
	if n := testkit.Count(t, raw, "select sum(dead) from soniq_job_stats where step = 60"); n != deaths {
		t.Errorf("%d of %d in minutes", n, deaths)
	}
}

// Rows of each length are deleted when they have served their time, and no window misses one. The rows stay within
// what MaxRows says.
func TestPrune_keepsWhatWindowsShow(t *testing.T) {
	t.Parallel()
	raw := testdb.New(t)
	pool := pg.Schema{}.Pool(raw)
	testkit.Exec(t, raw, `
		insert into soniq_job_stats (step, at, queue, job_name, reason, completed)
		select l.step, date_bin(make_interval(secs => l.step), now(), 'epoch') - n * make_interval(secs => l.step), 'q', 'j', reason, 1
		from (values (60), (1800), (10800), (43200)) l (step), generate_series(-3, 500) n, unnest(array['', 'timeout']) reason`)
	sums := func() (all [4]int64) {
		for window := range 4 {
			all[window] = read(t, raw, window).Total.Completed
		}
		return all
	}
	before := sums()
	if err := rollup.PruneNow(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	after := sums()
	for i, b := range before {
		// A point may have ended between the two.
		if after[i] < b-2 || after[i] > b+2 {
			t.Errorf("%v became %v", before, after)
		}
	}
	if n := testkit.Count(t, raw, "select count(*) from soniq_job_stats where reason = ''"); n > rollup.MaxRows(1)/8 || n < 250 {
		t.Errorf("%d rows of one job, want at most %d", n, rollup.MaxRows(1)/8)
	}
	if n := testkit.Count(t, raw, "select count(*) from soniq_job_stats where at > now() + interval '1 day'"); n != 0 {
		t.Errorf("%d rows of the future", n)
	}
}
