package engine_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/engine"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
)

// claimer takes jobs called x from the queue q.
type claimer struct {
	*engine.Claims
	pool *pgxpool.Pool
}

func newClaimer(t *testing.T) claimer {
	t.Helper()
	pool := testdb.New(t)
	return claimer{engine.NewClaims(pool), pool}
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
	jobs, err := c.Take(t.Context(), []string{"q", "r"}, []string{"x"}, n)
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

// stays wants a claim to have left a place, and keeps it.
func (c claimer) stays(t *testing.T, want bool) {
	t.Helper()
	if got := c.Stay(true); got != want {
		t.Errorf("there is a place: %t, want %t", got, want)
	}
}

func TestClaims_aPlace_isWhereTheyGoOn(t *testing.T) {
	t.Parallel()
	c := newClaimer(t)
	c.fill(t, 7, 100, "q")
	c.takes(t, "1", "2")
	c.stays(t, true)
	// What has come before the place since then is met by a whole claim.
	exec(t, c.pool, `insert into soniq_jobs (id, job_name, args, queue, created_at) values (gen_random_uuid(), 'x', '0', 'q', now() - interval '2 days')`)
	c.takes(t, "3", "4")
	c.takes(t, "5", "6")
	c.Stay(false)
	c.takes(t, "0", "7")
	c.takes(t)
	c.stays(t, false)
}

// A lane that ends is no reason to leave a slot free.
func TestClaims_theLaneEnds_restIsTakenToo(t *testing.T) {
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

func TestClaims_moreUrgentThanThePlace_goFirst(t *testing.T) {
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

func TestClaims_queueOfThePlaceIsPaused_takesNothing(t *testing.T) {
	t.Parallel()
	c := newClaimer(t)
	c.fill(t, 6, 100, "q")
	c.takes(t, "1", "2")
	c.stays(t, true)
	exec(t, c.pool, `insert into soniq_queues (name, paused_at) values ('q', now())`)
	c.takes(t)
}

func TestClaims_otherNamesOrQueues_haveNoPlace(t *testing.T) {
	t.Parallel()
	c := newClaimer(t)
	c.fill(t, 6, 100, "q")
	c.takes(t, "1", "2")
	c.stays(t, true)
	if jobs, err := c.Take(t.Context(), []string{"r"}, []string{"x"}, 2); len(jobs) != 0 || err != nil {
		t.Error(jobs, err)
	}
	c.stays(t, false)
	c.takes(t, "3", "4")
	c.stays(t, true)
	if jobs, err := c.Take(t.Context(), []string{"q", "r"}, []string{"y"}, 2); len(jobs) != 0 || err != nil {
		t.Error(jobs, err)
	}
	c.takes(t, "5", "6")
}

// Times that Go can't hold, and jobs of one moment.
func TestClaims_placeAtTheBeginningOfTime_orAmongEqualTimes(t *testing.T) {
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
		c.Stay(true)
	}
	if len(taken) != 9 {
		t.Errorf("it took %v", taken)
	}
}

// What was claimed is returned, whatever becomes of the claim of the rest.
func TestClaims_connectionBreaks_nothingClaimedIsForgotten(t *testing.T) {
	t.Parallel()
	c := newClaimer(t)
	c.fill(t, 3, 100, "q")
	c.fill(t, 1, 200, "r")
	broken := newFaultyDB(t, c.pool.Config().ConnString())
	c.Claims = engine.NewClaims(broken.Pool)
	c.takes(t, "1", "2")
	c.stays(t, true)
	broken.strike(breaksBefore, engine.ClaimOnSQL, 1)
	if jobs, err := c.Take(t.Context(), []string{"q", "r"}, []string{"x"}, 2); len(jobs) != 0 || !errors.Is(err, errInjected) {
		t.Errorf("%v, %v", jobs, err)
	}
	c.stays(t, true)
	broken.again(breaksBefore, engine.ClaimSQL, 1)
	c.takes(t, "3")
	c.stays(t, false)
	c.takes(t, "1")
}

// What is claimed leaves entries in the index, for as long as somebody holds a
// snapshot: no claim steps over those of the ones before it.
func TestClaims_underAHeldSnapshot_readNothingTwice(t *testing.T) {
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
	claims := claimer{engine.NewClaims(pool), pool}
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
		read = queryValue[int](t, c.pool, readSQL)
		return read >= 4000
	})
	// Stepping over all of them each time is 40 times 2,000, and that thrice.
	if read > 20_000 {
		t.Errorf("%d entries were read for 4,000 jobs", read)
	}
}
