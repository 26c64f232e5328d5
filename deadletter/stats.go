package deadletter

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"soniq/deadletter/classify"
)

// Stats are counts of the dead letters that died within a window. The names
// in JSON are those that Python Soniq has for the same.
type Stats struct {
	// Total counts the dead letters.
	Total    int64                     `json:"total_count"`
	ByJob    map[string]int64          `json:"by_job_name"`
	ByQueue  map[string]int64          `json:"by_queue"`
	ByReason map[classify.Reason]int64 `json:"by_reason"`
	ByState  map[string]int64          `json:"by_state"`
	// ByDate is keyed by the day in UTC, as in 2006-01-02. Days without a dead
	// letter are left out.
	ByDate map[string]int64 `json:"by_date"`
	// OldestAge is how long ago the oldest dead letter died that is in the
	// state dead, whether or not that was within the window. 0 if there is
	// none.
	OldestAge time.Duration `json:"-"`
	// OldestAgeHours is the same in hours.
	OldestAgeHours float64 `json:"oldest_job_age_hours"`
	// ReplaysFinished counts the dead letters whose latest replay has ended.
	ReplaysFinished int64 `json:"replays_finished"`
	// ReplaySuccessRate is the part of these, from 0 to 1, whose latest replay
	// succeeded. 0 if there is none. A replay that died counts as failed even
	// where another one resolved it later.
	ReplaySuccessRate float64 `json:"replay_success_rate"`
}

// The answer has a row for each group, of the grouping sets in their order and
// then of the days, and is of one moment. The rows of the table are counted
// first, by few keys: the database can do that in parts, side by side, and the
// days by an index alone. The place of %[1]s is the window's.
//
// A replay that died has a dead letter of its own. Only by that one's success
// can the latest replay of a resolved row have died: then it says whose it was.
const statsSQL = `
with counts as materialized (
  select
    d.job_name, d.queue, d.dead_letter_reason, d.state,
    count(*) as n,
    count(*) filter (where d.replay_job_id is not null and d.state <> 'replaying') as finished,
    count(*) filter (where d.replay_job_id is not null and d.state = 'resolved') as succeeded
  from public.soniq_dead_letter_jobs d%[1]s
  group by 1, 2, 3, 4
), days as materialized (
  select (d.moved_to_dead_letter_at at time zone 'utc')::date as day, count(*) as n
  from public.soniq_dead_letter_jobs d%[1]s
  group by 1
)
select
  grouping(c.job_name, c.queue, c.dead_letter_reason, c.state),
  coalesce(c.job_name, c.queue, c.dead_letter_reason, c.state, ''),
  coalesce(sum(c.n), 0)::bigint,
  coalesce(sum(c.finished), 0)::bigint,
  coalesce(sum(c.succeeded), 0)::bigint - (
    select count(*)
    from public.soniq_dead_letter_jobs r
    join public.soniq_dead_letter_jobs d on d.id = r.replay_of and d.replay_job_id = r.id and d.state = 'resolved'
    where r.replay_of is not null%[2]s
  ),
  extract(epoch from coalesce(clock_timestamp() - (
    select min(o.moved_to_dead_letter_at)
    from public.soniq_dead_letter_jobs o
    where o.state = 'dead'
  ), interval '0'))::double precision
from counts c
group by grouping sets ((), (c.job_name), (c.queue), (c.dead_letter_reason), (c.state))
union all
select 16, coalesce(to_char(d.day, 'YYYY-MM-DD'), ''), d.n, 0, 0, 0
from days d`

// What grouping() says of each set: a bit for each column that isn't in it. The
// days have a number of their own.
const (
	groupTotal  = 0b1111
	groupJob    = 0b0111
	groupQueue  = 0b1011
	groupReason = 0b1101
	groupState  = 0b1110
	groupDate   = 0b10000
)

var errNegativeWindow = errors.New("the window is negative")

// Stats counts the dead letters that died within the window before now, or all
// of them where it is 0.
func (q *Queue) Stats(ctx context.Context, window time.Duration) (Stats, error) {
	s, err := q.stats(ctx, window)
	if err != nil {
		return Stats{}, fmt.Errorf("dead-letter stats: %w", err)
	}
	return s, nil
}

func (q *Queue) stats(ctx context.Context, window time.Duration) (Stats, error) {
	if window < 0 {
		return Stats{}, fmt.Errorf("%s: %w", window, errNegativeWindow)
	}
	s := Stats{
		ByJob: map[string]int64{}, ByQueue: map[string]int64{}, ByReason: map[classify.Reason]int64{},
		ByState: map[string]int64{}, ByDate: map[string]int64{},
	}
	sql, params := statsOf(window)
	err := q.survey(ctx, sql, params, s.scan)
	return s, err
}

// scan reads the answer to statsSQL.
func (s *Stats) scan(rows pgx.Rows) error {
	var (
		group                      int
		key                        string
		count, finished, succeeded int64
		oldest                     float64
	)
	_, err := pgx.ForEachRow(rows, []any{&group, &key, &count, &finished, &succeeded, &oldest}, func() error {
		switch group {
		case groupTotal:
			s.Total, s.ReplaysFinished = count, finished
			if finished > 0 {
				s.ReplaySuccessRate = float64(succeeded) / float64(finished)
			}
			// The database's clock can be set back.
			s.OldestAge = max(0, time.Duration(oldest*float64(time.Second)))
			s.OldestAgeHours = s.OldestAge.Hours()
		case groupJob:
			s.ByJob[key] = count
		case groupQueue:
			s.ByQueue[key] = count
		case groupReason:
			s.ByReason[classify.Reason(key)] = count
		case groupState:
			s.ByState[key] = count
		case groupDate:
			s.ByDate[key] = count
		}
		return nil
	})
	return err
}

func statsOf(window time.Duration) (sql string, params []any) {
	if window == 0 {
		return fmt.Sprintf(statsSQL, "", ""), nil
	}
	w := &where{}
	w.and("d.moved_to_dead_letter_at >= now() - make_interval(secs => " + w.param(window.Seconds()) + ")")
	return fmt.Sprintf(statsSQL, w.sql(), "\n      and "+w.conditions[0]), w.params
}
