package deadwrite

import (
	"strings"
	"testing"

	"github.com/google/uuid"

	"soniq/internal/pg"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

func TestMain(m *testing.M) { testdb.Main(m) }

// explain returns the plan of a statement, as it is for these parameters.
func explain(t *testing.T, db pg.Querier, sql string, params ...any) string {
	t.Helper()
	return testkit.Explain(t, db, sql, params...)
}

// A batch must cost what its own rows cost, and statistics mostly are from a
// time when nothing was processing.
func TestMove_plan_readsItsRowsByTheirIDs(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	const fill = `insert into soniq_jobs (id, job_name, args) select gen_random_uuid(), 'x', '{}' from generate_series(1, 20000)`
	for _, sql := range []string{fill, "analyze soniq_jobs"} {
		if _, err := pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	const n = 500
	texts := make([]*string, n)
	plan := explain(t, pool, moveSQL, uuid.New(), make([]uuid.UUID, n), make([]int32, n), make([]int64, n),
		texts, texts, texts, texts, texts, texts, texts, texts)
	// The second is of the dead letter under the id, the third of the one that a
	// replay's job came from.
	if !strings.Contains(plan, "Index Scan using soniq_jobs_pkey") || strings.Contains(plan, "Seq Scan") ||
		strings.Count(plan, "Index Scan")+strings.Count(plan, "Index Only Scan") != 3 || !strings.Contains(plan, "Index Cond: (id = g.id)") ||
		!strings.Contains(plan, "Index Cond: (id = g_1.replay_of)") {
		t.Errorf("the plan does more than look up ids:\n%s", plan)
	}
	params := []any{[]uuid.UUID{uuid.New()}, "", "", "", "", "", "", ""}
	if plan := explain(t, pool, moveQueuedSQL, params...); strings.Contains(plan, "Seq Scan on soniq_jobs") {
		t.Errorf("the move of queued jobs reads the whole table:\n%s", plan)
	}
}
