package engine_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"soniq/internal/settle"
	"soniq/internal/testdb"
)

// A batch must cost what its own rows cost: its plan can't depend on
// statistics, which are mostly from a time when nothing was processing.
func TestSettle_plan_readsItsRowsByTheirIDs(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	exec(t, pool, `
		insert into soniq_jobs (id, job_name, args)
		select gen_random_uuid(), 'planned', '{}' from generate_series(1, 20000)`)
	exec(t, pool, `analyze soniq_jobs`)
	const n = 500
	ids, attempts, tokens, texts := make([]uuid.UUID, n), make([]int32, n), make([]int64, n), make([]*string, n)
	fence := []any{uuid.New(), ids, attempts, tokens}
	for name, q := range map[string]struct {
		sql  string
		args []any
	}{
		"done":      {settle.DoneSQL, []any{texts, time.Minute}},
		"deleted":   {settle.DeleteSQL, nil},
		"cancelled": {settle.CancelledSQL, []any{texts, time.Minute}},
		"requeued":  {settle.RequeueSQL(), []any{make([]*time.Duration, n), texts, attempts, true, texts}},
	} {
		rows, _ := pool.Query(t.Context(), "explain "+q.sql, append(fence[:4:4], q.args...)...)
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		if plan := strings.Join(lines, "\n"); !strings.Contains(plan, "Index Scan using soniq_jobs_pkey") ||
			strings.Contains(plan, "Seq Scan") || strings.Count(plan, "Index Scan") != 1 {
			t.Errorf("%s: the plan does more than look up ids:\n%s", name, plan)
		}
	}
}
