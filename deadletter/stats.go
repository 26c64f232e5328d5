package deadletter

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Stats are counts of the dead letters that died within a window. The names
// in JSON are those that Python Soniq has for the same.
type Stats struct {
	// Total counts the dead letters.
	Total    int64            `json:"total_count"`
	ByJob    map[string]int64 `json:"by_job_name"`
	ByQueue  map[string]int64 `json:"by_queue"`
	ByReason map[Reason]int64 `json:"by_reason"`
	ByState  map[string]int64 `json:"by_state"`
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

// The answer has a row for each group, of the grouping sets in their order,
// and is of one moment. $1 the window in seconds, 0 for all.
//
// A replay that died has a dead letter of its own under replay_job_id.
const statsSQL = `
with d as (
  select
    d.*,
    to_char(d.moved_to_dead_letter_at at time zone 'utc', 'YYYY-MM-DD') as day,
    exists (select from soniq_dead_letter_jobs r where r.id = d.replay_job_id) as replay_died
  from soniq_dead_letter_jobs d
  where $1 = 0::double precision
    or d.moved_to_dead_letter_at >= now() - make_interval(secs => $1)
)
select
  grouping(job_name, queue, dead_letter_reason, state, day),
  coalesce(job_name, queue, dead_letter_reason, state, day, ''),
  count(*),
  count(*) filter (where replay_job_id is not null and state <> 'replaying'),
  count(*) filter (where replay_job_id is not null and state = 'resolved' and not replay_died),
  extract(epoch from coalesce(clock_timestamp() - (
    select min(o.moved_to_dead_letter_at)
    from soniq_dead_letter_jobs o
    where o.state = 'dead'
  ), interval '0'))::double precision
from d
group by grouping sets ((), (job_name), (queue), (dead_letter_reason), (state), (day))`

// What grouping() says of each set: a bit for each column that isn't in it.
const (
	groupTotal  = 0b11111
	groupJob    = 0b01111
	groupQueue  = 0b10111
	groupReason = 0b11011
	groupState  = 0b11101
	groupDate   = 0b11110
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
		ByJob: map[string]int64{}, ByQueue: map[string]int64{}, ByReason: map[Reason]int64{},
		ByState: map[string]int64{}, ByDate: map[string]int64{},
	}
	rows, err := q.pool.Query(ctx, statsSQL, window.Seconds())
	if err != nil {
		return Stats{}, err
	}
	defer rows.Close()
	for rows.Next() {
		var (
			group                      int
			key                        string
			count, finished, succeeded int64
			oldest                     float64
		)
		if err := rows.Scan(&group, &key, &count, &finished, &succeeded, &oldest); err != nil {
			return Stats{}, err
		}
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
			s.ByReason[Reason(key)] = count
		case groupState:
			s.ByState[key] = count
		case groupDate:
			s.ByDate[key] = count
		}
	}
	return s, rows.Err()
}
