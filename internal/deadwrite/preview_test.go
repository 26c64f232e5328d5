package deadwrite

import (
	"testing"

	"github.com/google/uuid"

	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

// A preview of an import looks each id up, also where the tables have filled since their
// statistics were made.
func TestPreview_anyStatistics_readsItsIDsAlone(t *testing.T) {
	t.Parallel()
	const fill = `
		insert into soniq_dead_letter_jobs (
		  id, job_name, args, queue, priority, max_attempts, attempts,
		  dead_letter_reason, original_created_at, moved_to_dead_letter_at
		)
		select gen_random_uuid(), 'job', '{}', 'q', 100, 3, 3, 'timeout', now(), now() from generate_series(1, 50000)`
	for name, first := range map[string]string{"of none": "select 1", "of an empty table": "analyze", "of a full table": fill + "; analyze"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := testdb.New(t)
			for _, sql := range []string{
				"alter table soniq_dead_letter_jobs set (autovacuum_enabled = off)",
				"select set_config('soniq.silent', 'on', false); " + first + "; " + fill,
			} {
				if _, err := pool.Exec(t.Context(), sql); err != nil {
					t.Fatal(err)
				}
			}
			const many = 1000
			ids, replays := make([]uuid.UUID, many), make([]*uuid.UUID, many)
			for n := range ids {
				ids[n] = uuid.New()
				if n%2 == 0 {
					replays[n] = &ids[n]
				}
			}
			testkit.Touched(t, pool, previewSQL(briefSQL), mostThere, ids, replays).Within(t, "a preview", 2*many, 8*many)
		})
	}
}
