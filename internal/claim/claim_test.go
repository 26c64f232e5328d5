package claim

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/internal/eventually"
	"soniq/internal/faultydb"
	"soniq/internal/pg"
	"soniq/internal/testdb"
)

func TestMain(m *testing.M) { testdb.Main(m) }

// claimer takes jobs called x from the queue q.
type claimer struct {
	*Claimer[Job]
	pool *pgxpool.Pool
}

func newUnlimited(pool *pgxpool.Pool) *Claimer[Job] {
	return newLimited(pool, NewLimits(1000, []string{"q", "r"}, []string{"x", "y"}, nil, nil))
}

func newLimited(pool *pgxpool.Pool, limits *Limits) *Claimer[Job] {
	take := func(j *Job, _ int64) Job { return *j }
	return New(pg.Schema{}.Pool(pool), uuid.Must(uuid.NewV7()), limits, map[string]int{}, 1000, take)
}

// from claims up to n jobs.
func (c claimer) from(ctx context.Context, queues, names []string, n int) ([]Job, error) {
	taken, err := c.Take(ctx, 1, Scope{Queues: queues, Names: names}, n)
	return taken.Jobs, err
}

// stay puts off the next whole claim for a long time, or makes it come next, and
// reports whether there is a cursor.
func (c claimer) stay(long bool) bool {
	if c.cursor == nil {
		return false
	}
	if c.cursor.until = time.Now(); long {
		c.cursor.until = time.Now().Add(time.Hour)
	}
	return true
}

// stayKnown is stay while whole claims are expensive.
func (c claimer) stayKnown(long bool) {
	for _, l := range c.known {
		if l.until = time.Now(); long {
			l.until = time.Now().Add(time.Hour)
		}
	}
}

func exec(t *testing.T, pool *pgxpool.Pool, sql string, args ...any) {
	t.Helper()
	if _, err := pool.Exec(t.Context(), sql, args...); err != nil {
		t.Fatal(err)
	}
}

func newClaimer(t *testing.T) claimer {
	t.Helper()
	pool := testdb.New(t)
	return claimer{newUnlimited(pool), pool}
}

// fill adds n jobs, each due a second after the one before it. Their arguments
// are their numbers.
func (c claimer) fill(t *testing.T, n, priority int, queue string) {
	t.Helper()
	exec(t, c.pool, `
		insert into soniq_jobs (id, job_name, args, queue, priority, created_at)
		select gen_random_uuid(), 'x', to_jsonb(n), $2, $3, now() - interval '1 day' + n * interval '1 s' from generate_series(1, $1::int) n`, n, queue, priority)
}

func (c claimer) take(t *testing.T, n int) (args []string) {
	t.Helper()
	jobs, err := c.from(t.Context(), []string{"q", "r"}, []string{"x"}, n)
	if err != nil {
		t.Fatal(err)
	}
	for _, j := range jobs {
		args = append(args, string(j.Args))
	}
	slices.SortFunc(args, func(a, b string) int { return strings.Compare(pad(a), pad(b)) })
	return args
}

func pad(s string) string { return strings.Repeat("0", 8-len(s)) + s }

// takes wants the jobs of the next claim of two.
func (c claimer) takes(t *testing.T, want ...string) {
	t.Helper()
	if got := c.take(t, 2); !slices.Equal(got, want) {
		t.Errorf("it took %v, want %v", got, want)
	}
}

// stays wants a claim to have left a cursor, and keeps it.
func (c claimer) stays(t *testing.T, want bool) {
	t.Helper()
	if got := c.stay(true); got != want {
		t.Errorf("there is a cursor: %t, want %t", got, want)
	}
}

func TestClaimer_cursor_isWhereItContinues(t *testing.T) {
	t.Parallel()
	c := newClaimer(t)
	c.fill(t, 7, 100, "q")
	c.takes(t, "1", "2")
	c.stays(t, true)
	// What has come before the cursor since then is met by a whole claim.
	exec(t, c.pool, `insert into soniq_jobs (id, job_name, args, queue, created_at) values (gen_random_uuid(), 'x', '0', 'q', now() - interval '2 days')`)
	c.takes(t, "3", "4")
	c.takes(t, "5", "6")
	c.stay(false)
	c.takes(t, "0", "7")
	c.takes(t)
	c.stays(t, false)
}

// A lane that ends is no reason to leave a slot free.
func TestClaimer_theLaneEnds_restIsTakenToo(t *testing.T) {
	t.Parallel()
	c := newClaimer(t)
	c.fill(t, 3, 100, "q")
	c.fill(t, 3, 200, "r")
	c.takes(t, "1", "2")
	c.stays(t, true)
	c.takes(t, "1", "3")
	c.takes(t, "2", "3")
	c.takes(t)
}

func TestClaimer_moreUrgentThanTheCursor_goFirst(t *testing.T) {
	t.Parallel()
	for _, queue := range []string{"q", "r"} {
		c := newClaimer(t)
		c.fill(t, 6, 100, "q")
		c.takes(t, "1", "2")
		c.stays(t, true)
		exec(t, c.pool, `insert into soniq_jobs (id, job_name, args, queue, priority) values (gen_random_uuid(), 'x', '99', $1, 1)`, queue)
		c.takes(t, "3", "99")
		c.stays(t, false) // it took from two lanes
		c.takes(t, "4", "5")
	}
}

// More urgent jobs of other names: a claim at the cursor would bring nothing each time. So
// it looks whose they are, for a while.
func TestClaimer_moreUrgentOfOthers_cursorGoesPastThem(t *testing.T) {
	t.Parallel()
	for _, floor := range []bool{false, true} {
		c := newClaimer(t)
		c.slowFloors = 0
		c.fill(t, 12, 100, "q")
		exec(t, c.pool, `insert into soniq_jobs (id, job_name, args, queue, priority, created_at) values (gen_random_uuid(), 'other', '{}', 'r', 1, now() - interval '1 hour')`)
		if floor {
			c.floors = &floors{tried: true}
		}
		past := func(want bool) {
			t.Helper()
			if got := time.Now().Before(c.pastUntil); got != want {
				t.Errorf("the cursor goes past others: %t, want %t", got, want)
			}
			c.stays(t, true)
			if want {
				c.pastUntil = time.Now().Add(time.Hour)
			}
			if floor {
				c.floors.use(true)
			}
		}
		c.takes(t, "1", "2")
		past(false)
		c.takes(t, "3", "4")
		past(true)
		// What comes before the cursor waits.
		exec(t, c.pool, `insert into soniq_jobs (id, job_name, args, queue, created_at) values (gen_random_uuid(), 'x', '0', 'q', now() - interval '2 days')`)
		c.takes(t, "5", "6")
		past(true)
		// More urgent ones of its own don't, whether they are due or not.
		exec(t, c.pool, `insert into soniq_jobs (id, job_name, args, queue, priority, scheduled_at) values (gen_random_uuid(), 'x', '99', 'r', 1, now() + interval '1 hour')`)
		c.takes(t, "7", "8")
		past(true)
		exec(t, c.pool, `insert into soniq_jobs (id, job_name, args, queue, priority) values (gen_random_uuid(), 'x', '88', 'r', 5)`)
		c.takes(t, "0", "88")
		c.stays(t, false) // it took from two lanes
		c.takes(t, "9", "10")
	}
}

func TestClaimer_queueOfTheCursorIsPaused_takesNothing(t *testing.T) {
	t.Parallel()
	c := newClaimer(t)
	c.fill(t, 6, 100, "q")
	c.takes(t, "1", "2")
	c.stays(t, true)
	exec(t, c.pool, `insert into soniq_queues (name, paused_at) values ('q', now())`)
	c.takes(t)
}

func TestClaimer_otherNamesOrQueues_haveNoCursor(t *testing.T) {
	t.Parallel()
	c := newClaimer(t)
	c.fill(t, 6, 100, "q")
	c.takes(t, "1", "2")
	c.stays(t, true)
	if jobs, err := c.from(t.Context(), []string{"r"}, []string{"x"}, 2); len(jobs) != 0 || err != nil {
		t.Error(jobs, err)
	}
	c.stays(t, false)
	c.takes(t, "3", "4")
	c.stays(t, true)
	if jobs, err := c.from(t.Context(), []string{"q", "r"}, []string{"y"}, 2); len(jobs) != 0 || err != nil {
		t.Error(jobs, err)
	}
	c.takes(t, "5", "6")
}

// Times that Go can't hold, and jobs of one moment.
func TestClaimer_cursorAtTheBeginningOfTime_orAmongEqualTimes(t *testing.T) {
	t.Parallel()
	c := newClaimer(t)
	exec(t, c.pool, `
		insert into soniq_jobs (id, job_name, args, queue, created_at)
		select gen_random_uuid(), 'x', to_jsonb(n), 'q', case when n < 4 then timestamptz '-infinity' else timestamptz '2026-01-02' end
		from generate_series(1, 9) n`)
	taken := map[string]bool{}
	for range 5 {
		for _, arg := range c.take(t, 2) {
			taken[arg] = true
		}
		c.stay(true)
	}
	if len(taken) != 9 {
		t.Errorf("it took %v", taken)
	}
}

// What was claimed is returned, whatever becomes of the claim of the rest.
func TestClaimer_connectionBreaks_nothingClaimedIsForgotten(t *testing.T) {
	t.Parallel()
	c := newClaimer(t)
	c.fill(t, 3, 100, "q")
	c.fill(t, 1, 200, "r")
	broken := faultydb.New(t, c.pool.Config().ConnString())
	c.Claimer = newUnlimited(broken.Pool)
	c.takes(t, "1", "2")
	c.stays(t, true)
	broken.Strike(faultydb.BreaksBefore, forms[form{}].cursor, 1)
	if jobs, err := c.from(t.Context(), []string{"q", "r"}, []string{"x"}, 2); len(jobs) != 0 || !errors.Is(err, faultydb.ErrInjected) {
		t.Errorf("%v, %v", jobs, err)
	}
	c.stays(t, true)
	broken.Again(faultydb.BreaksBefore, WholeSQL, 1)
	c.takes(t, "3")
	c.stays(t, false)
	c.takes(t, "1")
}

// What is claimed leaves entries in the index, for as long as somebody holds a
// snapshot: no claim steps over those of the ones before it.
func TestClaimer_underAHeldSnapshot_readNothingTwice(t *testing.T) {
	t.Parallel()
	c := newClaimer(t)
	c.fill(t, 4000, 100, "q")
	exec(t, c.pool, `vacuum analyze soniq_jobs`)
	tx, err := c.pool.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(t.Context()) //nolint:errcheck // it has read only
	if _, err := tx.Exec(t.Context(), `select count(*) from soniq_jobs`); err != nil {
		t.Fatal(err)
	}
	// Another pool, whose connections tell what they have read when they end.
	pool, err := pgxpool.NewWithConfig(t.Context(), c.pool.Config())
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	claims := claimer{newUnlimited(pool), pool}
	for range 40 {
		if got := claims.take(t, 100); len(got) != 100 {
			t.Fatalf("it took %d", len(got))
		}
		claims.stays(t, true)
	}
	pool.Close()
	var read int
	const readSQL = `select idx_tup_read from pg_stat_user_indexes where indexrelname = 'idx_soniq_jobs_claim'`
	eventually.True(t, "what was read", func() bool {
		if err := c.pool.QueryRow(t.Context(), readSQL).Scan(&read); err != nil {
			t.Fatal(err)
		}
		return read >= 4000
	})
	// Stepping over all of them each time is 40 times 2,000, and that thrice.
	if read > 20_000 {
		t.Errorf("%d entries were read for 4,000 jobs", read)
	}
}
