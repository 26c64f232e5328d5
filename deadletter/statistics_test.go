package deadletter_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/deadletter"
	"soniq/deadletter/classify"
	"soniq/internal/deadwrite"
	"soniq/internal/pg"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

// crowdSQL makes dead letters that died within a hundred days, a record of the history for each,
// of an earlier operation, and some records that are of none. $1 how many.
var crowdSQL = []string{
	`
insert into soniq_dead_letter_jobs (
  id, job_name, args, queue, priority, max_attempts, attempts,
  dead_letter_reason, original_created_at, moved_to_dead_letter_at, replay_of
)
select gen_random_uuid(), 'job.' || n % 30, '{}', 'q' || n % 10, 100, 3, 3, 'r' || n % 5, now(), now() - n * interval '100 days' / $1::int,
  case when n % 10 = 0 then gen_random_uuid() end
from generate_series(1, $1::int) n`,
	`
insert into soniq_dead_letter_audit (dead_letter_id, operation_id, action, actor)
select id, '00000000-0000-7000-8000-000000000001', 'replay', 'ann' from soniq_dead_letter_jobs where $1 > 0`,
}

const (
	earlierSQL = `
		insert into soniq_dead_letter_operations (id, action, state) values ('00000000-0000-7000-8000-000000000001', 'replay', 'done') on conflict do nothing`
	chosenSQL = `
		insert into soniq_dead_letter_selections
		select '00000000-0000-7000-8000-000000000001', row_number() over (), id from soniq_dead_letter_jobs`
)

// crowd fills the tables when their statistics are of another time.
func crowd(t *testing.T, pool *pgxpool.Pool, statistics string, rows int) {
	t.Helper()
	for _, table := range []string{"jobs", "dead_letter_jobs", "dead_letter_selections", "dead_letter_audit", "dead_letter_operations"} {
		exec(t, pool, "alter table soniq_"+table+" set (autovacuum_enabled = off)")
	}
	exec(t, pool, earlierSQL)
	fill := func() {
		for _, sql := range crowdSQL {
			exec(t, pool, `select set_config('soniq.silent', 'on', false)`)
			exec(t, pool, sql, rows)
		}
	}
	switch statistics {
	case "none":
	case "empty tables":
		exec(t, pool, "vacuum analyze")
	case "an earlier operation":
		fill()
		exec(t, pool, chosenSQL)
		exec(t, pool, "delete from soniq_dead_letter_jobs where moved_to_dead_letter_at > now() - interval '99 days'")
		exec(t, pool, "analyze")
		exec(t, pool, "delete from soniq_dead_letter_jobs")
		exec(t, pool, "delete from soniq_dead_letter_selections")
		exec(t, pool, "delete from soniq_dead_letter_audit")
	}
	fill()
}

// once are the beginnings of what reads all that a filter is looked up in, once for an operation:
// the rows of a deletion, of an archive and of a bulk replay.
var once = []string{"select d.id from", "select d.id, coalesce(d.whole_job_name", "insert into public.soniq_dead_letter_selections"}

// Whatever the planner knows of the tables, each statement that is sent again and again reads its
// own rows: those of a batch, and not the whole table for each.
func TestQueue_anyStatistics_eachStatementReadsItsRowsAlone(t *testing.T) {
	t.Parallel()
	rows := testkit.Size(20_000, 1_000_000)
	for _, statistics := range []string{"none", "empty tables", "an earlier operation"} {
		t.Run(statistics, func(t *testing.T) {
			t.Parallel()
			pool := testdb.New(t)
			crowd(t, pool, statistics, rows)
			watched, plans, ok := testkit.ExplainEach(t, pool)
			if !ok {
				t.Skip("this server has no auto_explain")
			}
			q := newQueue(t, watched).As("ann", "")
			seen := 0
			for _, step := range statisticsSteps(t, watched, q) {
				if err := step.do(); err != nil {
					t.Fatalf("%s: %v", step.what, err)
				}
				for _, s := range plans.Take() {
					seen++
					name := s.Name()
					whole := false
					for _, prefix := range once {
						whole = whole || strings.HasPrefix(name, prefix)
					}
					if most := 3 * step.batch; !whole && s.Rows > most {
						t.Errorf("%s: it reads %d rows, of at most %d: %s\n%s", step.what, s.Rows, most, s.SQL, s.Plan)
					}
				}
			}
			if seen < 100 {
				t.Errorf("%d statements were explained", seen)
			}
		})
	}
}

type statisticsStep struct {
	what  string
	batch int
	do    func() error
}

func statisticsSteps(t *testing.T, pool *pgxpool.Pool, q *deadletter.Queue) []statisticsStep {
	t.Helper()
	var file bytes.Buffer
	some := deadletter.Filter{Reasons: []classify.Reason{"r1"}, Limit: 3000}
	did := func(n int64, err error) error {
		if err == nil && n == 0 {
			return fmt.Errorf("nothing was done")
		}
		return err
	}
	var one uuid.UUID
	return []statisticsStep{
		// A small table is read whole, and sorted.
		{"list", testkit.Size(20_000, 100), func() error {
			jobs, err := q.List(t.Context(), deadletter.Filter{State: deadletter.StateDead, Limit: 50})
			one = jobs[0].ID
			return err
		}},
		{"check", 1000, func() error {
			b, err := q.Backlog(t.Context(), deadletter.Filter{State: deadletter.StateDead, Limit: 1000})
			return did(b.Count, err)
		}},
		{"tag", 100, func() error { return q.Tag(t.Context(), one, map[string]string{"a": "b"}) }},
		{"replay", 100, func() error { _, err := q.Replay(t.Context(), one, deadletter.ReplayOptions{}); return err }},
		{"history", 100, func() error { _, err := q.History(t.Context(), one); return err }},
		{"records", 1000, func() error { _, err := q.Records(t.Context(), deadletter.HistoryFilter{}); return err }},
		{"records of one", 1000, func() error {
			_, err := q.Records(t.Context(), deadletter.HistoryFilter{Actor: "bob", ID: &one})
			return err
		}},
		{"records of a person", 1000, func() error {
			_, err := q.Records(t.Context(), deadletter.HistoryFilter{Actor: "bob"})
			return err
		}},
		{"lineage", 100, func() error { _, err := q.Lineage(t.Context(), one); return err }},
		{"export", 3000, func() error { return did(q.Export(t.Context(), &file, some, deadletter.FormatJSONL)) }},
		{"delete", 2000, func() error { return did(q.DeleteAll(t.Context(), some)) }},
		{"import", 1000, func() error {
			r, err := q.Import(t.Context(), &file, deadletter.FormatJSONL, deadletter.ImportOptions{})
			return did(r.Imported, err)
		}},
		{"bulk replay", 2000, func() error {
			r, err := q.ReplayAll(t.Context(), deadletter.Filter{Reasons: []classify.Reason{"r2"}, Limit: 3000}, deadletter.ReplayAllOptions{Pace: deadletter.Pace{Breaker: 0.5}})
			return did(r.Operation.Done, err)
		}},
		{"cleanup", 2000, func() error { return did(q.Cleanup(t.Context(), 24*time.Hour, deadletter.Filter{Limit: 3000})) }},
		{"archive", 2000, func() error {
			return did(q.CleanupTo(t.Context(), 24*time.Hour, deadletter.Filter{Limit: 2000}, &memory{}, deadletter.FormatJSONL))
		}},
		{"retention", 2000, func() error {
			return did(q.ApplyRetention(t.Context(), []deadletter.Retention{{Keep: 50 * 24 * time.Hour}}, deadletter.MaintenanceOptions{Lock: 7}))
		}},
		{"the marks", 2000, func() error { _, err := deadwrite.Close(t.Context(), pg.Schema{}.Pool(pool)); return err }},
		{"the history's end", 10_000, func() error { return q.PruneHistory(t.Context(), deadletter.MaintenanceOptions{Lock: 7}) }},
	}
}
