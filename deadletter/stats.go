package deadletter

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"soniq/deadletter/classify"
	"soniq/internal/deadwrite"
)

// Stats are numbers of dead letters that died within a window. The JSON names are
// those of Python Soniq.
type Stats struct {
	// Total is how many there are.
	Total int64 `json:"total_count"`
	// ByJob, ByQueue, ByReason and ByState are how many there are of each. Those in
	// the state dead whose work died again in a replay, or was replayed again since,
	// are under [StateSuperseded] in ByState: what is under [StateDead] is work that
	// needs attention, each piece once.
	ByJob    map[string]int64          `json:"by_job_name"`
	ByQueue  map[string]int64          `json:"by_queue"`
	ByReason map[classify.Reason]int64 `json:"by_reason"`
	ByState  map[State]int64           `json:"by_state"`
	// ByDate has a day in UTC as the key, as in 2006-01-02. Days without a dead
	// letter are missing.
	ByDate map[string]int64 `json:"by_date"`
	// OldestAge is how long ago the oldest dead letter in the state dead died,
	// within the window or not. 0 if there is none.
	OldestAge time.Duration `json:"-"`
	// OldestAgeHours is OldestAge in hours.
	OldestAgeHours float64 `json:"oldest_job_age_hours"`
	// ReplaysFinished is how many have a latest replay that has ended.
	ReplaysFinished int64 `json:"replays_finished"`
	// ReplaySuccessRate is the part of these, from 0 to 1, whose latest replay
	// succeeded. 0 if there is none. A replay that died counts as failed, even if
	// its own replay resolved the dead letter later.
	ReplaySuccessRate float64 `json:"replay_success_rate"`
}

// The answer has a row for each group of the grouping sets and then for each day,
// all of one snapshot. Rows are counted by few keys first: PostgreSQL can do that
// in parallel, and count the days by an index alone. The places are those of the
// window's condition, for d and for a condition that follows.
//
// A replay that died has a dead letter of its own, and the success of that one
// resolves both. So a resolved row whose latest replay died has a dead letter that
// names it in replay_of.
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
    select greatest(o.moved_to_dead_letter_at, ` + earliest + `)
    from public.soniq_dead_letter_jobs o
    where o.state = 'dead'
      and o.closed is distinct from 'resolved'
      and o.closed is null
      and (o.replay_job_id is null or (select s.id from public.soniq_dead_letter_jobs s where s.id = o.replay_job_id) is null)
    order by o.moved_to_dead_letter_at
    limit 1
  ), interval '0'))::double precision
from counts c
group by grouping sets ((), (c.job_name), (c.queue), (c.dead_letter_reason), (c.state))
union all
select 32, '', count(*), 0, 0, 0
from public.soniq_dead_letter_jobs d
where d.id in (` + deadwrite.Recounted + `)%[2]s
union all
select 16, coalesce(to_char(d.day, 'YYYY-MM-DD'), ''), d.n, 0, 0, 0
from days d`

// The values of grouping(): a bit for each column that is not in the set. Days have
// a number of their own.
const (
	groupTotal  = 0b1111
	groupJob    = 0b0111
	groupQueue  = 0b1011
	groupReason = 0b1101
	groupState  = 0b1110
	groupDate   = 0b10000
	// And so have those in the state dead that count elsewhere.
	groupSuperseded = 0b100000
)

var errNegativeWindow = errors.New("the window is negative")

// Stats counts the dead letters that died within the window before now, by the
// database's clock. A window of 0 counts all.
//
// Errors: a negative window; those of the database.
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
		ByState: map[State]int64{}, ByDate: map[string]int64{},
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
		superseded                 int64
	)
	_, err := pgx.ForEachRow(rows, []any{&group, &key, &count, &finished, &succeeded, &oldest}, func() error {
		switch group {
		case groupTotal:
			s.Total, s.ReplaysFinished = count, finished
			if finished > 0 {
				s.ReplaySuccessRate = float64(succeeded) / float64(finished)
			}
			// The clock may have been set back.
			s.OldestAge = max(0, time.Duration(oldest*float64(time.Second)))
			s.OldestAgeHours = s.OldestAge.Hours()
		case groupJob:
			s.ByJob[key] = count
		case groupQueue:
			s.ByQueue[key] = count
		case groupReason:
			s.ByReason[classify.Reason(key)] = count
		case groupState:
			s.ByState[State(key)] = count
		case groupSuperseded:
			superseded = count
		case groupDate:
			s.ByDate[key] = count
		}
		return nil
	})
	s.ByState[StateSuperseded] = superseded
	s.ByState[StateDead] -= superseded
	for _, state := range []State{StateDead, StateSuperseded} {
		if s.ByState[state] <= 0 {
			delete(s.ByState, state)
		}
	}
	return err
}

func statsOf(window time.Duration) (sql string, params []any) {
	if window == 0 {
		return fmt.Sprintf(statsSQL, "", ""), nil
	}
	w := &where{}
	w.And("d.moved_to_dead_letter_at >= now() - make_interval(secs => " + w.Param(window.Seconds()) + ")")
	return fmt.Sprintf(statsSQL, w.SQL(), "\n      and "+w.Condition()), w.Params()
}
