package claim

import (
	"context"
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/internal/eventually"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

// behind puts n jobs of a name into the queue q, before all others.
func behind(t *testing.T, pool *pgxpool.Pool, n int, name string, priority int) {
	t.Helper()
	exec(t, pool, `
		insert into soniq_jobs (id, job_name, args, queue, priority, created_at)
		select gen_random_uuid(), $2, '{}', 'q', $3, now() - interval '2 days' + n * interval '1 ms' from generate_series(1, $1::int) n`, n, name, priority)
}

// use makes the floors last, or makes them old.
func (f *floors) use(long bool) {
	if f.until, f.tried = time.Now(), false; long {
		f.until = time.Now().Add(time.Hour)
	}
}

// behindOthers is a claimer that has met jobs of names that it does not serve, and knows
// where its own begin.
func behindOthers(t *testing.T, priority int) claimer {
	t.Helper()
	c := newClaimer(t)
	c.slowFloors = 0
	behind(t, c.pool, 50, "other", priority)
	c.fill(t, 6, 100, "q")
	c.floors = &floors{tried: true}
	c.takes(t, "1", "2")
	if c.floors == nil || len(c.floors.lanes) != 1 {
		t.Fatalf("the floors are %+v", c.floors)
	}
	return c
}

func TestClaimer_floors_areWhereItBegins(t *testing.T) {
	t.Parallel()
	for _, priority := range []int{1, 100} {
		c := behindOthers(t, priority)
		c.floors.use(true)
		c.cursor = nil
		// What has come before them since then waits until they are learnt anew.
		exec(t, c.pool, `insert into soniq_jobs (id, job_name, args, queue, priority, created_at)
			values (gen_random_uuid(), 'x', '0', 'q', $1, now() - interval '2 days')`, priority)
		c.takes(t, "3", "4")
		c.cursor = nil
		taken, err := c.Take(t.Context(), 1, Scope{Queues: []string{"q", "r"}, Names: []string{"x"}}, 3)
		if err != nil || len(taken.Jobs) != 2 || taken.Full || taken.Unfinished || !taken.Again.Equal(c.floors.until) {
			t.Errorf("it took %+v, %v; want the last two jobs, and when it looks at all again", taken, err)
		}
		// So it can't say what is due.
		if next, err := c.UntilNext(t.Context(), taken.scope()); err != nil || !next.Unsure {
			t.Errorf("it is sure of %+v, %v", next, err)
		}
		c.floors.use(false)
		c.takes(t) // once more with the old ones, unfinished
		c.takes(t, "0")
		if next, err := c.UntilNext(t.Context(), taken.scope()); err != nil || next.Unsure || next.OK {
			t.Errorf("it found %+v, %v; want nothing", next, err)
		}
	}
}

func (Taken[J]) scope() Scope { return Scope{Queues: []string{"q", "r"}, Names: []string{"x"}} }

// A job that has just come need not wait until the floors are learnt anew.
func TestClaimer_oldFloors_aJobThatHasComeIsTakenFirst(t *testing.T) {
	t.Parallel()
	c := behindOthers(t, 100)
	c.cursor = nil
	c.floors.use(false)
	taken, err := c.Take(t.Context(), 1, Scope{Queues: []string{"q"}, Names: []string{"x"}}, 10)
	if err != nil || len(taken.Jobs) != 4 || !taken.Unfinished {
		t.Errorf("it took %+v, %v; want four jobs, unfinished", taken, err)
	}
	if c.floors.fresh {
		t.Error("the floors were learnt before that")
	}
	taken, err = c.Take(t.Context(), 1, Scope{Queues: []string{"q"}, Names: []string{"x"}}, 10)
	if err != nil || len(taken.Jobs) != 0 || taken.Unfinished || !taken.Again.IsZero() {
		t.Errorf("it took %+v, %v; want nothing, of all", taken, err)
	}
}

// Where nothing is in the way there are none.
func TestClaimer_floors_areForgottenWhenNothingIsInTheWay(t *testing.T) {
	t.Parallel()
	c := behindOthers(t, 100)
	exec(t, c.pool, `delete from soniq_jobs where job_name = 'other'`)
	c.cursor = nil
	c.floors.use(false)
	c.floors.tried = true
	c.takes(t, "3", "4")
	if c.floors != nil {
		t.Errorf("the floors are %+v", c.floors)
	}
}

// A transaction that began before the floors were learnt, and commits its job later, is no
// reason to wait, unless it is longer than a second.
func TestClaimer_floors_areNotAfterWhatIsCommittedNow(t *testing.T) {
	t.Parallel()
	c := newClaimer(t)
	c.slowFloors = 0
	behind(t, c.pool, 50, "other", 100)
	tx, err := c.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background()) //nolint:errcheck // it is committed by then
	if _, err := tx.Exec(t.Context(), `
		insert into soniq_jobs (id, job_name, args, queue, created_at) values (gen_random_uuid(), 'x', '1', 'q', clock_timestamp() + interval '20 s')`); err != nil {
		t.Fatal(err)
	}
	c.floors = &floors{tried: true}
	c.takes(t)
	if c.floors == nil || len(c.floors.lanes) != 1 {
		t.Fatalf("the floors are %+v", c.floors)
	}
	var ago time.Duration
	if err := c.pool.QueryRow(t.Context(), `select now() - $1::timestamptz`, c.floors.lanes[0].due).Scan(&ago); err != nil || ago < time.Second {
		t.Errorf("the floor is %s ago, %v; want a second at least", ago, err)
	}
}

// obstacles are what can be in the way of a claim: 100,000 jobs that it can't take.
var obstacles = map[string]struct {
	name     string
	priority int
}{
	"names that it does not serve":                   {"other", 100},
	"more urgent names that it does not serve":       {"other", 1},
	"a name that runs as many as it may":             {"low", 100},
	"a more urgent name that runs as many as it may": {"low", 1},
}

// What 100,000 jobs cost that can't be taken: they are read when the floors are learnt, and
// not by claims and looks. The plans are the same whatever the statistics say.
func TestClaim_plan_behindManyJobs_readsItsOwn(t *testing.T) {
	t.Parallel()
	queues := []string{"q", "r"}
	for i := range 998 {
		queues = append(queues, fmt.Sprint("idle", i))
	}
	for name, o := range obstacles {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := testdb.New(t)
			exec(t, pool, `alter table soniq_jobs set (autovacuum_enabled = off)`)
			for _, statistics := range []string{"none", "of an empty table", "of a full one"} {
				switch statistics {
				case "of an empty table":
					exec(t, pool, `truncate soniq_jobs`)
					exec(t, pool, `vacuum analyze soniq_jobs`)
				case "of a full one":
					exec(t, pool, `analyze soniq_jobs`)
				}
				if statistics != "of a full one" {
					behind(t, pool, 100_000, o.name, o.priority)
					c := claimer{pool: pool}
					c.fill(t, 1000, 100, "q")
					c.fill(t, 1000, 100, "r")
				}
				limits := NewLimits(20, queues[:2], []string{"low", "x"}, map[string]int{"r": 5}, map[string]int{"low": 1})
				limits.Started("q", "low")
				open, _ := limits.Open()
				c := newLimited(pool, limits)
				c.slowFloors = 0
				if err := c.learnFloors(t.Context()); err != nil || len(c.floors.lanes) != 1 {
					t.Fatalf("%s: the floors are %+v, %v", statistics, c.floors, err)
				}
				within(t, pool, statistics, c, open, queues)
			}
		})
	}
}

// within looks at what each statement reads that uses floors, or a cursor.
func within(t *testing.T, pool *pgxpool.Pool, statistics string, c *Claimer[Job], open Scope, all []string) {
	t.Helper()
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background()) //nolint:errcheck // explain analyze has claimed rows
	if _, err := tx.Exec(t.Context(), `set local enable_seqscan = off; set local jit = off; set local plan_cache_mode = force_generic_plan`, pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatal(err)
	}
	floors := c.floors.of(open)
	at := []any{"q", 100, time.Now().Add(-24 * time.Hour)}
	for _, limited := range []bool{false, true} {
		for _, many := range []bool{false, true} {
			s := forms[form{many, limited}]
			queues := all[:2]
			if many {
				queues = all
			}
			args := []any{queues, open.Names, 20, uuid.New(), int64(1), map[string]int{}, 1000}
			if limited {
				args = append(args, open.mostOfQueue, asJSON(open.mostOfName))
			}
			args = args[:len(args):len(args)]
			what := fmt.Sprintf("statistics %s, %d queues, limited %t: ", statistics, len(queues), limited)
			// Queues are an array's elements, 1,000 where there are many.
			rows := len(queues) + 60
			testkit.Touched(t, tx, s.floored, append(args, floors...)...).Within(t, what+"a claim from the floors", rows, 600)
			testkit.Touched(t, tx, s.known, append(args, floors...)...).Within(t, what+"a claim in known lanes", rows, 600)
			testkit.Touched(t, tx, s.nextFloored, append([]any{queues, open.Names, horizon}, floors...)...).Within(t, what+"a look", rows, 100)
			testkit.Touched(t, tx, s.past, append(append(args, at...), floors...)...).Within(t, what+"a claim at the cursor, past others", rows, 600)
			if c.floors.lanes[0].priority == 100 {
				testkit.Touched(t, tx, s.cursor, append(args, at...)...).Within(t, what+"a claim at the cursor", rows, 600)
			}
		}
	}
}

// Jobs of others, and those that are due much later, are no reason to look again soon.
func TestClaimer_nothingOfItsOwn_nothingIsDue(t *testing.T) {
	t.Parallel()
	c := newClaimer(t)
	behind(t, c.pool, 3, "other", 100)
	exec(t, c.pool, `insert into soniq_jobs (id, job_name, args, queue, scheduled_at) values (gen_random_uuid(), 'x', '{}', 'r', now() + interval '1 day')`)
	if next, err := c.UntilNext(t.Context(), Taken[Job]{}.scope()); err != nil || next.OK || next.Unsure {
		t.Errorf("it found %+v, %v", next, err)
	}
}

// A claim that is full tells where its own jobs begin, and the others are not read again for it.
// It tells nothing of lanes that it did not come to, and nothing later than a second before it.
func TestClaimer_fullClaim_tellsWhereItsJobsBegin(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		others map[string]int // how many of which priority are in front, in the queue q
		want   map[int]string // which lanes have a floor: that of the first job, or of a second before
	}{
		"nothing in front":             {},
		"of the same priority":         {map[string]int{"other": 100}, map[int]string{100: "first"}},
		"more urgent":                  {map[string]int{"other": 1}, map[int]string{1: "before"}},
		"both":                         {map[string]int{"other": 1, "another": 100}, map[int]string{1: "before", 100: "first"}},
		"less urgent":                  {map[string]int{"other": 200}, nil},
		"of a queue it did not get to": {map[string]int{"other": 300}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			claims := newClaimer(t)
			for name, priority := range c.others {
				behind(t, claims.pool, 50, name, priority)
			}
			claims.fill(t, 6, 100, "q")
			a := asked{scope: claims.all, n: 2}
			a.scope.Names = claims.all.Names
			got, err := claims.claim(t.Context(), (*statements).wholeSQL, a)
			if err != nil || len(got.jobs) != 2 {
				t.Fatalf("it took %d jobs, %v", len(got.jobs), err)
			}
			claims.noteSlow(t.Context(), a, got, 40*time.Millisecond)
			floors := map[int]string{}
			if claims.floors != nil {
				for _, l := range claims.floors.lanes {
					switch l.due {
					case got.before:
						floors[int(l.priority)] = "before"
					case got.first[0]:
						floors[int(l.priority)] = "first"
					default:
						floors[int(l.priority)] = l.due.Time.String()
					}
				}
			}
			if !maps.Equal(floors, c.want) {
				t.Fatalf("the floors are %v, want %v", floors, c.want)
			}
			claims.floors.useIfAny(true)
			for _, want := range [][]string{{"3", "4"}, {"5", "6"}, nil} {
				claims.cursor = nil
				claims.takes(t, want...)
			}
			// What is left is not full: where jobs begin is learnt for sure.
			if f := claims.floors; f != nil {
				claims.floors.use(false)
				claims.takes(t)
				if claims.floors.derived {
					t.Error("the floors of a claim that was not full are derived from it")
				}
			}
		})
	}
}

func (f *floors) useIfAny(long bool) {
	if f != nil {
		f.use(long)
	}
}

// Old floors of a full claim are told by the next one. A slow one with floors says that some are
// missing, and then they are learnt.
func TestClaimer_fullClaims_tellAnew(t *testing.T) {
	t.Parallel()
	c := newClaimer(t)
	behind(t, c.pool, 50, "other", 100)
	c.fill(t, 40, 100, "q")
	a := asked{scope: c.all, n: 2}
	take := func() brought[Job] {
		t.Helper()
		taken, err := c.takeWhole(t.Context(), a)
		if err != nil || !taken.Full {
			t.Fatalf("it took %+v, %v", taken, err)
		}
		return brought[Job]{jobs: taken.Jobs}
	}
	got, err := c.claim(t.Context(), (*statements).wholeSQL, a)
	if err != nil {
		t.Fatal(err)
	}
	c.noteSlow(t.Context(), a, got, time.Second)
	if c.floors == nil || !c.floors.derived {
		t.Fatalf("the floors are %+v", c.floors)
	}
	c.floors.use(false)
	take()
	if !c.floors.derived || !c.floors.tried {
		t.Errorf("old floors that were used once more are %+v", c.floors)
	}
	// This one reads the others too. It is not slow here, so that was all.
	take()
	if c.floors != nil && !c.floors.derived {
		t.Errorf("the floors are %+v", c.floors)
	}
	c.floors = &floors{derived: true, lanes: []floor{{queue: "q", priority: 100}}}
	c.noteSlow(t.Context(), a, take(), time.Second)
	if len(c.floors.lanes) > 0 || c.floors.derived || !c.floors.tried {
		t.Errorf("after a slow claim with floors they are %+v, want them to be learnt", c.floors)
	}
}

// Full claims behind 30,000 jobs of others, more urgent or not, read these once: the first one does.
func TestClaimer_fullClaims_behindManyJobs_readThemOnce(t *testing.T) {
	t.Parallel()
	for _, priority := range []int{1, 100} {
		t.Run(fmt.Sprint("priority ", priority), func(t *testing.T) {
			t.Parallel()
			pool := testdb.New(t)
			const others, own, each = 30_000, 2000, 100
			behind(t, pool, others, "other", priority)
			claimer{pool: pool}.fill(t, own, 100, "q")
			// Another pool, whose connections tell what they have read when they end.
			claiming, err := pgxpool.NewWithConfig(t.Context(), pool.Config())
			if err != nil {
				t.Fatal(err)
			}
			defer claiming.Close()
			c := claimer{newUnlimited(claiming), claiming}
			a := asked{scope: c.all, n: each}
			got, err := c.claim(t.Context(), (*statements).wholeSQL, a)
			if err != nil {
				t.Fatal(err)
			}
			c.noteSlow(t.Context(), a, got, time.Hour)
			taken := len(got.jobs)
			for taken < own {
				// No time passes.
				c.floors.use(true)
				c.stay(true)
				more, err := c.Take(t.Context(), 1, c.all, each)
				if err != nil || !more.Full {
					t.Fatalf("after %d jobs it took %d, %v", taken, len(more.Jobs), err)
				}
				if err := c.LookIfDue(t.Context(), c.all); err != nil {
					t.Fatal(err)
				}
				taken += len(more.Jobs)
			}
			claiming.Close()
			var read int
			const readSQL = `select idx_tup_read from pg_stat_user_indexes where indexrelname = 'idx_soniq_jobs_claim'`
			eventually.True(t, "what was read", func() bool {
				if err := pool.QueryRow(t.Context(), readSQL).Scan(&read); err != nil {
					t.Fatal(err)
				}
				return read >= own
			})
			if read > others+10*own {
				t.Errorf("%d entries were read for %d jobs behind %d", read, own, others)
			}
		})
	}
}
