package telemetry

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"soniq/internal/liveness"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

// No statement of a reading goes through the whole of a large table: neither through its
// rows, nor by a sort of them.
func TestReading_plans_readNoTableWhole(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	testkit.Exec(t, pool, `set session_replication_role = replica;
		insert into soniq_jobs (id, job_name, args, queue, status) select gen_random_uuid(), 'n', '{}', 'q' || i % 20, case when i % 100 = 0 then 'processing' else 'queued' end from generate_series(1, 20000) i;
		insert into soniq_dead_letter_jobs (id, job_name, args, queue, priority, max_attempts, attempts, dead_letter_reason, original_created_at, moved_to_dead_letter_at)
		select gen_random_uuid(), 'j' || i % 20, '{}', 'q', 100, 3, 3, 'timeout', now(), now() - i * interval '1 s' from generate_series(1, 20000) i;
		insert into soniq_hook_deliveries (hook_id, event, dead_letter_id, facts, group_key) select gen_random_uuid(), 'e', gen_random_uuid(), '{}', 'g' from generate_series(1, 20000);
		reset session_replication_role`)
	testkit.Exec(t, pool, `analyze`)
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(t.Context()) }()
	if _, err := tx.Exec(t.Context(), limitsSQL, "5s"); err != nil {
		t.Fatal(err)
	}
	queues, jobs := []string{"q1", "q2"}, []string{"j1", "j2"}
	for name, statement := range map[string]struct {
		sql    string
		params []any
		uses   string
	}{
		"names":       {namesSQL, []any{maxQueues, maxJobs}, "idx_soniq_jobs_claim"},
		"queues":      {queuesSQL, []any{queues, 100}, "idx_soniq_jobs_claim"},
		"other":       {otherQueuesSQL, []any{"q1", queues, 100}, "idx_soniq_jobs_claim"},
		"processing":  {processingSQL, []any{100}, "idx_soniq_jobs_processing"},
		"dead":        {deadSQL, []any{jobs, 100}, "idx_soniq_dead_letter_jobs_job_name_moved"},
		"other dead":  {otherDeadSQL, []any{"j1", 100}, "idx_soniq_dead_letter_jobs_job_name_moved"},
		"dead total":  {deadTotalSQL, []any{100, 100}, "idx_soniq_dead_letter_jobs_open"},
		"recent":      {recentSQL, []any{RecentWindow, 100}, "idx_soniq_dead_letter_jobs_moved_at"},
		"hooks":       {hooksSQL, []any{maxHooks, 100}, "idx_soniq_hook_deliveries_due"},
		"workers":     {workersSQL, []any{liveness.DeadAfter, liveness.PythonDeadAfter}, ""},
		"sample":      {sampleJobsSQL, []any{1.0}, "Sample Scan"},
		"sample dead": {sampleDeadSQL, []any{1.0}, "Sample Scan"},
	} {
		plan := explain(t, tx, statement.sql, statement.params...)
		for _, whole := range []string{"Seq Scan on soniq_jobs", "Seq Scan on soniq_dead_letter_jobs", "Seq Scan on soniq_hook_deliveries"} {
			if strings.Contains(plan, whole) {
				t.Errorf("%s: %s in\n%s", name, whole, plan)
			}
		}
		if !strings.Contains(plan, statement.uses) {
			t.Errorf("%s doesn't use %s:\n%s", name, statement.uses, plan)
		}
	}
}

func explain(t *testing.T, tx pgx.Tx, sql string, params ...any) string {
	t.Helper()
	rows, _ := tx.Query(t.Context(), "explain (costs off) "+sql, params...)
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(lines, "\n")
}

func TestLabel_anyName_isShortUTF8WithoutSecrets(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"emails.send":                          "emails.send",
		"":                                     "",
		"a\xffb":                               "a\uFFFDb",
		strings.Repeat("é", 300):               strings.Repeat("é", 199) + "…",
		"sync postgres://ann:hunter2@db/app":   "sync postgres://ann:[redacted]@db/app",
		"x token=" + strings.Repeat("k", 5000): "x token=[redacted]",
	} {
		if got := label(name); got != want {
			t.Errorf("%.60q is %q, want %q", name, got, want)
		}
	}
}

// The last of a name's places is not given twice, however many ask at once.
func TestBounded_moreKeysThanPlaces_areOther(t *testing.T) {
	t.Parallel()
	log := &testkit.Log{}
	b := newBounded(3, "rest", log.Logger(0), "names", func(k string) string { return "<" + k + ">" })
	done := make(chan struct{})
	for range 8 {
		go func() {
			defer func() { done <- struct{}{} }()
			for _, k := range []string{"a", "b", "c", "d", "e", "f", "a", "f"} {
				if got := b.get(k); got != "<"+k+">" && got != "<rest>" {
					t.Errorf("%s is %s", k, got)
				}
			}
		}()
	}
	for range 8 {
		<-done
	}
	if len(b.values) != 3 || b.get("z") != "<rest>" {
		t.Errorf("%d values, %s", len(b.values), b.get("z"))
	}
	if n := strings.Count(log.String(), "as many names as they may"); n != 1 {
		t.Errorf("said %d times:\n%s", n, log)
	}
}
