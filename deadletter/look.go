package deadletter

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"soniq/internal/byindex"
	"soniq/internal/groupsql"
	"soniq/internal/pg"
)

// A Look is what [Queue.Look] found.
type Look struct {
	// Jobs are the newest of the dead letters that the filter picks among those that were
	// read, at most its Limit. Default 1,000.
	Jobs []Job
	// Count is how many it picks among them, and Read how many were read.
	Count, Read int
	// End is the position of the last one that was read: the next Look begins there.
	End Cursor
	// Whole says that none come after End.
	Whole bool
}

// The conditions are those of an index, in whose order at most a number of rows are read, and
// the rest of the filter. Their places, and that of the limit, follow.
const lookSQL = `
with seen as materialized (
  select d.id, d.moved_to_dead_letter_at as at, (%s) is true as hit
  from public.soniq_dead_letter_jobs d%s` + newestFirst + `%s
)
select count(*) filter (where s.hit), count(*),
  coalesce(least(greatest((array_agg(s.at order by s.at, s.id))[1], ` + earliest + `), ` + latest + `), now()),
  coalesce((array_agg(s.id order by s.at, s.id))[1], '00000000-0000-0000-0000-000000000000'),
  array(select h.id from seen h where h.hit order by h.at desc, h.id desc%s)
from seen s`

// Look is [Queue.ListAfter] that reads a bounded number of rows, whatever the filter: the
// newest of the most selective of its group, job, queue and reason, of which there is one. So
// a page of ten million dead letters takes no longer than one of ten thousand.
//
// Errors: those of List.
func (q *Queue) Look(ctx context.Context, f Filter, after Cursor, rows int) (l Look, err error) {
	if err := f.Validate(); err != nil {
		return l, fmt.Errorf("look at dead letters: %w", err)
	}
	sql, params := lookSQLOf(f, after, rows)
	var ids []uuid.UUID
	if err := byindex.LookupRow(ctx, q.pool, sql, params, &l.Count, &l.Read, &l.End.MovedAt, pg.ScanID(&l.End.ID), &ids); err != nil {
		return l, fmt.Errorf("look at dead letters: %w", err)
	}
	l.Whole, l.End.MovedAt = l.Read < rows, l.End.MovedAt.UTC()
	l.Jobs, err = q.readBounded(ctx, pg.ListedBytes, []any{ids}, func(r reading) string { return r.selectJobs() + "\nwhere d.id = any($1)" + newestFirst })
	if err != nil {
		return l, fmt.Errorf("look at dead letters: %w", err)
	}
	return l, nil
}

func lookSQLOf(f Filter, after Cursor, rows int) (sql string, params []any) {
	w, rest := &where{}, f
	switch names := func(names []string) bool { return len(names) == 1 && !pg.IsShortened(names[0]) }; {
	case len(f.Groups) == 1:
		w.And(groupsql.Key + " = " + w.Param(f.Groups[0]))
		rest.Groups = nil
	case names(f.JobNames):
		w.And("d.job_name = " + w.Param(f.JobNames[0]))
		rest.JobNames = nil
	case names(f.Queues):
		w.And("d.queue = " + w.Param(f.Queues[0]))
		rest.Queues = nil
	case len(f.Reasons) == 1:
		w.And("d.dead_letter_reason = " + w.Param(string(f.Reasons[0])))
		rest.Reasons = nil
	case f.State == StateDead:
		w.And("d.closed is distinct from 'resolved'")
	}
	w.filter(Filter{From: f.From, To: f.To})
	rest.From, rest.To = time.Time{}, time.Time{}
	w.after(after)
	conditions, most := w.SQL(), w.Limit(max(rows, 1))
	hit := &where{pg.NewWhere(w.Params())}
	hit.filter(rest)
	hit.And("true")
	condition, limit := hit.Condition(), hit.Limit(max(f.Limit, 0))
	if f.Limit == 0 {
		limit = hit.Limit(listLimit)
	}
	return fmt.Sprintf(lookSQL, condition, conditions, most, limit), hit.Params()
}

// Recent narrows a filter to about the newest of the rows that a [Queue.Look] would read, so that Groups counts
// a bounded number. whole says that it picks what it picked before.
//
// Errors: those of List.
func (q *Queue) Recent(ctx context.Context, f Filter, rows int) (recent Filter, whole bool, err error) {
	limit := f.Limit
	f.Limit = 1
	l, err := q.Look(ctx, f, Cursor{}, rows)
	f.Limit = limit
	if err != nil || l.Whole {
		return f, true, err
	}
	// Not those of the same moment as the last: a mass that died in one transaction has one.
	if f.From = l.End.MovedAt; len(l.Jobs) > 0 && l.Jobs[0].MovedAt.After(f.From) {
		f.From = f.From.Add(time.Microsecond)
	}
	return f, false, nil
}
