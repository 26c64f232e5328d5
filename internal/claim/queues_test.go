package claim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"soniq/internal/byindex"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

// Of many queues the same lanes are found by going through those that have jobs as by
// looking into each, whichever are served, exist, sort oddly or are paused.
func TestClaim_manyQueues_theSameLanesAreFound(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	names := []string{"default", "Default", "a", "A", "a b", "a-b", "ab", "ä", "é", "z", "_", "ß", "ss", "10", "9", "", strings.Repeat("q", 900), "日本"}
	lanes := func(many bool, queues []string) []string {
		t.Helper()
		rows, _ := byindex.Query(t.Context(), pool, form{many: many}.walkLanes("")+`
			select format('%s %s %s', queue, priority, due) from `+form{many: many}.firstLanes()+` first`, queues)
		found, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(found)
		return found
	}
	for seed := range uint64(40) {
		random := rand.New(rand.NewPCG(seed, 0))
		exec(t, pool, `truncate soniq_jobs`)
		exec(t, pool, `delete from soniq_queues`)
		var served []string
		for _, name := range names {
			if random.IntN(3) > 0 {
				exec(t, pool, `
					insert into soniq_jobs (id, job_name, args, queue, priority, status)
					select gen_random_uuid(), 'x', '{}', nullif($1, 'default'), p, case when p < 3 then 'queued' else 'done' end
					from unnest($2::int[]) p`, name, random.Perm(1+random.IntN(5)))
			}
			if random.IntN(3) > 0 {
				served = append(served, name)
			}
			if random.IntN(6) == 0 {
				exec(t, pool, `insert into soniq_queues (name, paused_at) values ($1, now())`, name)
			}
		}
		slices.Sort(served)
		if few, many := lanes(false, served), lanes(true, served); !slices.Equal(few, many) {
			t.Errorf("seed %d: of %q\n%q were found, and not\n%q", seed, served, many, few)
		}
	}
}

// A worker of a thousand queues that looks for one job looks into those that have jobs.
func TestClaim_plan_manyQueues_onlyThoseWithJobsAreRead(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	var queues []string
	for n := range 1000 {
		queues = append(queues, fmt.Sprint("q", n))
	}
	exec(t, pool, `insert into soniq_jobs (id, job_name, args, queue) values (gen_random_uuid(), 'x', '{}', 'q700'), (gen_random_uuid(), 'x', '{}', 'other')`)
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(t.Context()) //nolint:errcheck // explain analyze has claimed a row
	if _, err := tx.Exec(t.Context(), `set local enable_seqscan = off; set local jit = off`, pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatal(err)
	}
	s := newLimited(pool, NewLimits(10, queues, []string{"x"}, nil, nil)).form(false)
	names := []string{"x"}
	for what, c := range map[string]struct {
		sql  string
		args []any
	}{
		"a look":                {s.next, []any{queues, names, horizon}},
		"a claim":               {s.whole, []any{queues, names, 10, "c56a4180-65aa-42ec-a945-5fd21dec0538", int64(1), map[string]int{}, 1000}},
		"a claim at the cursor": {s.cursor, []any{queues, names, 10, "c56a4180-65aa-42ec-a945-5fd21dec0538", int64(1), map[string]int{}, 1000, "q700", 100, time.Now().Add(-time.Hour)}},
	} {
		// 1,000 are the names of the queues.
		testkit.Touched(t, tx, c.sql, c.args...).Within(t, what, 1000, 60)
	}
}
