package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"soniq/internal/byindex"
	"soniq/internal/pg"
)

// laneSQL lists the lanes (queue, priority) of the served queues that have a
// queued job, by a loose scan of idx_soniq_jobs_claim: one index probe a lane,
// however many jobs wait in it or are scheduled far ahead. due is the due time
// of each lane's first job. Paused queues have no lanes. Parameter $1: queues.
//
// A probe takes 10 to 20 µs, and whoever may insert can make a lane of each job:
// 100,000 of them made a claim take 2 s. So nobody reads all of lane, but
// firstLanes, and what comes after those is the crowd's (see crowdSQL). The
// recursion goes no further than it is read: a level of all queues, then the next.
const laneSQL = `
with recursive lane (queue, priority, due) as (
  select served.queue, head.priority, head.due
  from unnest((select $1::text[])) as served (queue)
  cross join lateral (
    select
      coalesce(j.priority, 100) as priority,
      coalesce(j.scheduled_at, j.created_at, timestamptz '-infinity') as due
    from public.soniq_jobs j
    where j.status = 'queued'
      and coalesce(j.queue, 'default') = served.queue
    order by coalesce(j.priority, 100), coalesce(j.scheduled_at, j.created_at, timestamptz '-infinity')
    limit 1
  ) head
  where not exists (select from public.soniq_queues p where p.name = served.queue and p.paused_at is not null)
  union all
  select lane.queue, head.priority, head.due
  from lane
  cross join lateral (
    select
      coalesce(j.priority, 100) as priority,
      coalesce(j.scheduled_at, j.created_at, timestamptz '-infinity') as due
    from public.soniq_jobs j
    where j.status = 'queued'
      and coalesce(j.queue, 'default') = lane.queue
      and coalesce(j.priority, 100) > lane.priority
    order by coalesce(j.priority, 100), coalesce(j.scheduled_at, j.created_at, timestamptz '-infinity')
    limit 1
  ) head
)`

// mostLanes is how many lanes a statement walks, of all queues together. It is
// written out: a limit that is computed costs each claim 1 % more.
const mostLanes = `500`

const firstLanes = `(select queue, priority, due from lane limit ` + mostLanes + `)`

// dueOfLanes are the due jobs of the first lanes, in order of priority; among
// lanes of one priority, the one whose first job has waited longest goes first,
// so that no queue starves another.
const dueOfLanes = `
  select head.id, due_lane.priority, head.due
  from (
    select queue, priority
    from ` + firstLanes + ` first
    where due <= now()
    order by priority, due
  ) due_lane
  cross join lateral (
    select j.id, coalesce(j.scheduled_at, j.created_at, timestamptz '-infinity') as due
    from public.soniq_jobs j
    where j.status = 'queued'
      and coalesce(j.queue, 'default') = due_lane.queue
      and coalesce(j.priority, 100) = due_lane.priority
      and coalesce(j.scheduled_at, j.created_at, timestamptz '-infinity') <= now()
      and j.job_name = any ((select $2::text[])::text[])
    order by coalesce(j.scheduled_at, j.created_at, timestamptz '-infinity')
    limit (select $3::int)
    for update skip locked
  ) head
  limit (select $3::int)`

// claimSQL takes the due jobs of the first lanes. Parameters: $2 job names,
// $3 how many, $4 worker, $5 token, $6 the attempt limits of this worker by job
// name, $7 the one for all others.
const claimSQL = laneSQL + `
, picked as materialized (` + dueOfLanes + `
)` + takePicked

// crowdSQL is, of each queue that is not paused, the priority of the last lane that
// was walked, or less than any. What comes after it is read entry by entry: 0.1 µs
// for one that is not due, 0.3 for one that is, with a name that is not served here.
const crowdSQL = `
, walked as materialized (
  select queue, max(priority) as priority
  from ` + firstLanes + ` first
  group by queue
), crowd as materialized (
  select served.queue, coalesce(walked.priority, -2147483649) as after
  from unnest((select $1::text[])) as served (queue)
  left join walked on walked.queue = served.queue
  where not exists (select from public.soniq_queues p where p.name = served.queue and p.paused_at is not null)
)`

// claimCrowdSQL is claimSQL for queues with more lanes than are walked. It keeps
// the order of priority over all of them: so it reads on in each queue, and locks
// for its own duration what it does not take. Parameters: those of claimSQL.
const claimCrowdSQL = laneSQL + crowdSQL + `
, front as materialized (` + dueOfLanes + `
), back as materialized (
  select head.id, head.priority, head.due
  from crowd
  cross join lateral (
    select
      j.id,
      coalesce(j.priority, 100) as priority,
      coalesce(j.scheduled_at, j.created_at, timestamptz '-infinity') as due
    from public.soniq_jobs j
    where j.status = 'queued'
      and coalesce(j.queue, 'default') = crowd.queue
      and coalesce(j.priority, 100) > crowd.after
      and coalesce(j.scheduled_at, j.created_at, timestamptz '-infinity') <= now()
      and j.job_name = any ((select $2::text[])::text[])
    order by coalesce(j.priority, 100), coalesce(j.scheduled_at, j.created_at, timestamptz '-infinity')
    limit (select $3::int)
    for update skip locked
  ) head
), picked as materialized (
  select u.id
  from (
    select id, priority, due from front
    union all
    select id, priority, due from back
  ) u
  order by u.priority, u.due
  limit (select $3::int)
)` + takePicked

// claimLanesSQL takes the due jobs of the lanes that it is given, in order of
// priority, from a due time on in each. Parameters: those of claimSQL, and $8 the
// queues, $9 the priorities, $10 the due times.
const claimLanesSQL = `
with picked as materialized (
  select head.id
  from (
    select k.queue, k.priority, k.due
    from unnest((select $8::text[]), (select $9::int[]), (select $10::timestamptz[])) as k (queue, priority, due)
    where k.queue = any ((select $1::text[])::text[])
      and not exists (select from public.soniq_queues p where p.name = k.queue and p.paused_at is not null)
    order by k.priority, k.due
  ) known
  cross join lateral (
    select j.id
    from public.soniq_jobs j
    where j.status = 'queued'
      and coalesce(j.queue, 'default') = known.queue
      and coalesce(j.priority, 100) = known.priority
      and coalesce(j.scheduled_at, j.created_at, timestamptz '-infinity') >= known.due
      and coalesce(j.scheduled_at, j.created_at, timestamptz '-infinity') <= now()
      and j.job_name = any ((select $2::text[])::text[])
    order by coalesce(j.scheduled_at, j.created_at, timestamptz '-infinity')
    limit (select $3::int)
    for update skip locked
  ) head
  limit (select $3::int)
)` + takePicked

// claimOnSQL goes on with the lane that the last claim took from, at its last
// job, unless a more urgent lane has jobs or the queue was paused: what lies
// before it is not looked at. Parameters: those of claimSQL, and $8 the queue,
// $9 the priority, $10 the due time.
const claimOnSQL = `
with picked as materialized (
  select j.id
  from public.soniq_jobs j
  where j.status = 'queued'
    and coalesce(j.queue, 'default') = (select $8::text)
    and coalesce(j.priority, 100) = (select $9::int)
    and coalesce(j.scheduled_at, j.created_at, timestamptz '-infinity') >= (select $10::timestamptz)
    and coalesce(j.scheduled_at, j.created_at, timestamptz '-infinity') <= now()
    and j.job_name = any ((select $2::text[])::text[])
    and not exists (
      select from public.soniq_queues p where p.name = (select $8::text) and p.paused_at is not null
    )
    and not exists (
      select from unnest((select $1::text[])) as served (queue)
      cross join lateral (
        select
        from public.soniq_jobs m
        where m.status = 'queued'
          and coalesce(m.queue, 'default') = served.queue
          and coalesce(m.priority, 100) < (select $9::int)
        limit 1
      ) urgent
    )
  order by coalesce(j.scheduled_at, j.created_at, timestamptz '-infinity')
  limit (select $3::int)
  for update skip locked
)` + takePicked

// One bad row must not fail the claim of the others, and never after it was
// committed: attempts are counted from 0 and can't overflow, and times at
// infinity, which Go can't hold, are read like NULL. Nor may it bring more than
// the worker can hold: arguments come along only where they are small (see
// argsOfClaim), and texts are cut; the name and the queue are ours.
const takePicked = `
update public.soniq_jobs j
set status = 'processing',
  attempts = least(greatest(coalesce(j.attempts, 0), 0), 2147483646) + 1,
  worker_id = $4,
  claim_token = $5,
  cancel_requested_at = null,
  max_attempts = coalesce(($6::jsonb ->> j.job_name)::int, least(coalesce(j.max_attempts, 3), $7::int)),
  updated_at = now()
from picked
where j.id = picked.id
returning
  j.id, j.job_name, ` + argsOfClaim + `, coalesce(j.queue, 'default'), coalesce(j.priority, 100),
  j.attempts, j.max_attempts,
  case when isfinite(j.scheduled_at) then j.scheduled_at end,
  case when isfinite(j.created_at) then j.created_at else now() end,
  j.updated_at,
  left(j.last_error, 8192), left(j.producer_id, 1000), left(j.dedup_key, 3000),
  j.replay_of, coalesce(j.scheduled_at, j.created_at, timestamptz '-infinity')`

// nextDueSQL tells in how many seconds the next job that this worker could run
// is due, by the database's clock, and whether there are more lanes than it has
// walked: then it is only the next one of these. It takes no locks: a row that
// someone else holds counts too, and may show up as overdue. Farther ahead than
// horizon it does not look. Its last column is how long it took the server, in
// seconds. Parameters: $2 job names, $3 horizon.
const nextDueSQL = laneSQL + `
select` + secondsUntil + `, count(*) >= ` + mostLanes + `,
  extract(epoch from clock_timestamp() - statement_timestamp())::float8
from ` + firstLanes + ` first
left join lateral (
  select coalesce(j.scheduled_at, j.created_at, timestamptz '-infinity') as due
  from public.soniq_jobs j
  where j.status = 'queued'
    and coalesce(j.queue, 'default') = first.queue
    and coalesce(j.priority, 100) = first.priority
    and coalesce(j.scheduled_at, j.created_at, timestamptz '-infinity') <= now() + (select $3::interval)
    and j.job_name = any ((select $2::text[])::text[])
  order by coalesce(j.scheduled_at, j.created_at, timestamptz '-infinity')
  limit 1
) head on true`

const secondsUntil = ` extract(epoch from min(greatest(head.due, now() - interval '1 day')) - now())::float8`

// nextDueCrowdSQL is nextDueSQL for what comes after the lanes that are walked.
// Of the jobs within the horizon it looks at no more than crowdLook in each
// queue; whether there are more is its second column.
const nextDueCrowdSQL = laneSQL + crowdSQL + `
select` + secondsUntil + `, coalesce(max(head.seen) >= ` + crowdLook + `, false),
  extract(epoch from clock_timestamp() - statement_timestamp())::float8
from crowd
cross join lateral (
  select min(near.due) filter (where near.job_name = any ((select $2::text[])::text[])) as due, count(*) as seen
  from (
    select j.job_name, coalesce(j.scheduled_at, j.created_at, timestamptz '-infinity') as due
    from public.soniq_jobs j
    where j.status = 'queued'
      and coalesce(j.queue, 'default') = crowd.queue
      and coalesce(j.priority, 100) > crowd.after
      and coalesce(j.scheduled_at, j.created_at, timestamptz '-infinity') <= now() + (select $3::interval)
    order by coalesce(j.priority, 100), coalesce(j.scheduled_at, j.created_at, timestamptz '-infinity')
    limit ` + crowdLook + `
  ) near
) head`

// crowdLook is some 5 ms of looking.
const crowdLook = `10000`

// dueHorizon is beyond all that a worker sleeps: maxSafetyPoll and a fifth.
const dueHorizon = 10 * time.Minute

// claims is the claiming side of one worker. One goroutine at a time uses it.
type claims struct {
	pool   *pg.Pool
	worker uuid.UUID
	// limits are the handlers' attempt limits, by job name; attemptLimit is that
	// of all others.
	limits       map[string]int
	attemptLimit int
	// at is where the last claim ended, until a whole one is due.
	at *place
	// crowded says that whole claims are dear: some queue has more lanes than are
	// walked, or a look took the server slowAfter. lookedAt is when that was last
	// asked, and spots are where such claims have found jobs.
	// manyLanes says that it is the former.
	crowded, manyLanes bool
	lookedAt           time.Time
	spots              map[string]*spots
	// most bounds a claim after one that has timed out; 0 is no bound.
	most int
}

// A place is where a claim has ended that had more to take, in the one lane that
// it took from.
//
// Each claimed job leaves an entry in the index, which the next claim steps over
// until they are vacuumed: under a snapshot that somebody holds, 300,000 of them
// make a claim of 500 take 84 ms in place of 14. A claim that goes on at its
// place does not meet them. It overlooks what became due in its lane with an
// earlier time (a job that a dead worker gave back), and other queues with the
// same priority: for as long as wholeEvery says.
type place struct {
	scope claimScope
	spot
	// until is when the next claim is a whole one.
	until time.Time
}

// A spot is a point in a lane: the due time of the last job that was taken there.
type spot struct {
	queue    string
	priority int
	due      pgtype.Timestamptz
}

// spots are where the claims of one ask have found jobs while whole claims are
// dear: with a million jobs that lie far ahead in lanes of their own, a whole
// claim takes 0.15 s. Between two of them only these lanes are looked at, from
// their spots on. A job elsewhere waits until the next whole one, which is at
// most maxDear away, whatever its priority is.
type spots struct {
	// lanes are the latest ones, the last used at the end.
	lanes []spot
	until time.Time
}

const (
	// wholeEvery is how many times its own time a whole claim is left out after
	// it: a fifth of the time, at the most, is spent on them.
	wholeEvery = 4
	// minWhole is the least time between two of them, where there is a place.
	minWhole = 50 * time.Millisecond
	// maxDear is the most, where they are dear.
	maxDear = time.Second
	// slowAfter is when a look was slow. It takes 1 ms; 0.25 s is a lane with
	// 700,000 due jobs of other names before the first of ours.
	slowAfter = 250 * time.Millisecond
	// askEvery is how often a worker whose claims are all full asks whether there
	// are more lanes than it sees.
	askEvery = time.Second
	// maxSpots and maxAsks bound the memory of lanes.
	maxSpots = 32
	maxAsks  = 256
)

// taken is what a claim brought.
type taken struct {
	jobs []*Job
	// full says that there may be more of it.
	full bool
	// again is when everything is looked at: zero if it was.
	again time.Time
}

// take claims up to n due jobs that a asks for, the most urgent ones, under a
// fresh token.
func (c *claims) take(ctx context.Context, token int64, a claimScope, n int) (taken, error) {
	if c.most > 0 {
		n = min(n, c.most)
	}
	if c.crowded {
		return c.takeDear(ctx, token, a, n)
	}
	var jobs []*Job
	if at := c.at; at != nil && time.Now().Before(at.until) && at.scope.equal(a) {
		var err error
		if jobs, err = c.goOn(ctx, token, at, n); err != nil || len(jobs) == n {
			return taken{jobs: jobs, full: true}, err
		}
	}
	began := time.Now()
	rest := n - len(jobs)
	more, lanes, err := c.claim(ctx, claimSQL, token, a, rest)
	if err != nil {
		c.at = nil
		if len(jobs) > 0 {
			// These are ours already. The next claim meets the trouble again.
			return taken{jobs: jobs, full: true}, nil
		}
		return taken{}, err
	}
	if c.at = nil; len(lanes) == 1 && len(more) == rest {
		c.at = &place{scope: a, spot: lanes[0], until: time.Now().Add(max(wholeEvery*time.Since(began), minWhole))}
	}
	return taken{jobs: append(jobs, more...), full: len(more) == rest}, nil
}

// takeDear is take while whole claims are dear.
func (c *claims) takeDear(ctx context.Context, token int64, a claimScope, n int) (taken, error) {
	known := c.spotsOf(a)
	if time.Now().Before(known.until) {
		jobs, err := c.takeAt(ctx, token, a, n, known)
		return taken{jobs: jobs, full: len(jobs) == n, again: known.until}, err
	}
	began := time.Now()
	jobs, lanes, err := c.claim(ctx, claimCrowdSQL, token, a, n)
	known.until = time.Now().Add(min(max(wholeEvery*time.Since(began), minWhole), maxDear))
	known.remember(lanes)
	return taken{jobs: jobs, full: len(jobs) == n}, err
}

// takeAt claims in the lanes that are known.
func (c *claims) takeAt(ctx context.Context, token int64, a claimScope, n int, known *spots) ([]*Job, error) {
	if len(known.lanes) == 0 {
		return nil, nil
	}
	var (
		queues     = make([]string, len(known.lanes))
		priorities = make([]int32, len(known.lanes))
		dues       = make([]pgtype.Timestamptz, len(known.lanes))
	)
	for i, l := range known.lanes {
		queues[i], priorities[i], dues[i] = l.queue, int32(l.priority), l.due
	}
	jobs, lanes, err := c.claim(ctx, claimLanesSQL, token, a, n, queues, priorities, dues)
	known.remember(lanes)
	return jobs, err
}

func (c *claims) spotsOf(a claimScope) *spots {
	key := strings.Join(a.queues, "\x00") + "\x00\x00" + strings.Join(a.names, "\x00")
	known := c.spots[key]
	if known == nil {
		if known = new(spots); c.manyLanes {
			known.expect(a.queues)
		}
		if c.spots == nil || len(c.spots) >= maxAsks {
			c.spots = map[string]*spots{}
		}
		c.spots[key] = known
	}
	return known
}

// expect adds the lanes of the default priority: what comes to them is found even
// before something was.
func (s *spots) expect(queues []string) {
	for _, queue := range queues[:min(len(queues), maxSpots)] {
		s.lanes = append(s.lanes, spot{queue, defaultPriority, pgtype.Timestamptz{InfinityModifier: pgtype.NegativeInfinity, Valid: true}})
	}
}

// remember notes where a claim has found jobs. Of a lane that is known already it
// takes the later due time, which is where the next claim goes on.
func (s *spots) remember(lanes []spot) {
	for _, l := range lanes {
		if i := slices.IndexFunc(s.lanes, l.sameLane); i >= 0 {
			if isLater(s.lanes[i].due, l.due) {
				l.due = s.lanes[i].due
			}
			s.lanes = slices.Delete(s.lanes, i, i+1)
		}
		s.lanes = append(s.lanes, l)
	}
	s.lanes = s.lanes[max(len(s.lanes)-maxSpots, 0):]
}

func (s spot) sameLane(o spot) bool { return s.queue == o.queue && s.priority == o.priority }

// goOn claims at a place, and moves it.
func (c *claims) goOn(ctx context.Context, token int64, at *place, n int) ([]*Job, error) {
	jobs, lanes, err := c.claim(ctx, claimOnSQL, token, at.scope, n, at.queue, at.priority, at.due)
	if len(lanes) > 0 {
		at.due = lanes[0].due
	}
	return jobs, err
}

// claim runs one of the statements, with its further parameters. lanes are those
// that it took from, each with its latest due time.
func (c *claims) claim(ctx context.Context, sql string, token int64, a claimScope, n int, further ...any) (jobs []*Job, lanes []spot, err error) {
	args := append([]any{a.queues, a.names, n, c.worker, token, c.limits, c.attemptLimit}, further...)
	rows, _ := byindex.Query(ctx, c.pool, sql, args...)
	jobs, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (*Job, error) {
		j := &Job{Status: StatusProcessing, WorkerID: &c.worker, token: token}
		s, err := scanClaimed(row, j)
		// Jobs of one lane come one after the other.
		i := len(lanes) - 1
		if i < 0 || !lanes[i].sameLane(s) {
			i = slices.IndexFunc(lanes, s.sameLane)
		}
		switch {
		case i < 0:
			lanes = append(lanes, s)
		case isLater(s.due, lanes[i].due):
			lanes[i].due = s.due
		}
		return j, err
	})
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			// Whatever makes it slow may be less of it next time.
			c.most = max(n/4, 1)
		}
		return nil, nil, fmt.Errorf("claim jobs: %w", err)
	}
	if c.most *= 2; c.most >= maxConcurrency {
		c.most = 0
	}
	return jobs, lanes, nil
}

// scanClaimed reads a row of takePicked.
func scanClaimed(row pgx.CollectableRow, j *Job) (s spot, err error) {
	var lastError, producer, key *string
	err = row.Scan(
		pg.ScanID(&j.ID), &j.Name, (*[]byte)(&j.Args), &j.Queue, &j.Priority,
		&j.Attempts, &j.MaxAttempts, &j.ScheduledAt,
		&j.CreatedAt, &j.UpdatedAt, &lastError,
		&producer, &key, &j.ReplayOf, &s.due,
	)
	j.LastError, j.ProducerID, j.DedupKey = orEmpty(lastError), orEmpty(producer), orEmpty(key)
	if !isSmall(j.Args) {
		j.Args = nil
	}
	j.inUTC()
	s.queue, s.priority = j.Queue, j.Priority
	return s, err
}

func orEmpty(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// isLater says whether a is after b; both are due, so that neither is at +infinity.
func isLater(a, b pgtype.Timestamptz) bool {
	if a.InfinityModifier != pgtype.Finite || b.InfinityModifier != pgtype.Finite {
		return a.InfinityModifier > b.InfinityModifier
	}
	return a.Time.After(b.Time)
}

// nextDue is what a look ahead has found.
type nextDue struct {
	// wait is the time until the next job is due, negative if one is overdue; ok
	// is false if none is within the horizon.
	wait time.Duration
	ok   bool
	// unsure says that the claims before it may not have seen everything.
	unsure bool
}

// untilNext looks for the next job that a asks for, and whether whole claims are
// dear.
func (c *claims) untilNext(ctx context.Context, a claimScope) (next nextDue, err error) {
	was := c.crowded
	next, more, err := c.look(ctx, a)
	if err != nil || !more {
		return next, err
	}
	if !was {
		// The claims that led here have looked at the first lanes alone.
		return nextDue{unsure: true}, nil
	}
	far, full, _, err := c.lookAhead(ctx, nextDueCrowdSQL, a)
	if err != nil {
		return nextDue{}, err
	}
	if far.ok && (!next.ok || far.wait < next.wait) {
		next = far
	}
	if full && (!next.ok || next.wait > maxDear) {
		// Something of ours may be behind what it has looked at.
		next.wait, next.ok = maxDear, true
	}
	return next, nil
}

// look looks ahead in the first lanes, and notes whether whole claims are dear.
// more says that there are more lanes.
func (c *claims) look(ctx context.Context, a claimScope) (next nextDue, more bool, err error) {
	next, more, took, err := c.lookAhead(ctx, nextDueSQL, a)
	if err != nil {
		return nextDue{}, false, err
	}
	c.lookedAt, c.manyLanes = time.Now(), more
	if dear := more || took > slowAfter; dear != c.crowded {
		c.crowded, c.at, c.spots = dear, nil, nil
	}
	return next, more, nil
}

// lookIsDue says that it is time to look, for a worker whose claims are all full.
func (c *claims) lookIsDue() bool { return time.Since(c.lookedAt) > askEvery }

// lookAhead runs nextDueSQL or nextDueCrowdSQL.
func (c *claims) lookAhead(ctx context.Context, sql string, a claimScope) (next nextDue, more bool, took time.Duration, err error) {
	var until *float64
	var seconds float64
	rows, _ := byindex.Query(ctx, c.pool, sql, a.queues, a.names, dueHorizon)
	_, err = pgx.CollectExactlyOneRow(rows, func(row pgx.CollectableRow) (struct{}, error) {
		return struct{}{}, row.Scan(&until, &more, &seconds)
	})
	if err != nil {
		return nextDue{}, false, 0, fmt.Errorf("read next due time: %w", err)
	}
	if until != nil {
		next.wait, next.ok = inSeconds(*until), true
	}
	return next, more, inSeconds(seconds), nil
}

func inSeconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
