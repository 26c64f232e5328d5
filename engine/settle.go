package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"soniq/deadletter/classify"
	"soniq/internal/byindex"
	"soniq/internal/deadwrite"
	"soniq/internal/history"
	"soniq/internal/pg"
)

// maxSettleBatch bounds one statement, so that a retry of it stays cheap.
const maxSettleBatch = 500

// claimFence holds for a row j that is still under the claim d of the worker
// $1. The four statements below, and deadwrite.Move, write outcomes; a row
// that doesn't match belongs to someone else by now. Parameters $2 to $4: ids,
// attempts, tokens.
//
// The rows must be read by their ids, whatever the planner believes. It mostly
// has statistics from a time when no job was processing, takes
// idx_soniq_jobs_processing for empty, and would read all of it, with a dead
// entry for each job that ran since the last vacuum: 'is true' hides the
// condition from it. And it would read the whole table rather than 500 rows of
// 50,000: arrays that come from a sub-select count as ten, so that it doesn't.
// Ten jobs or 500 then take the same time each.
const claimFence = `where j.id = d.id
  and (j.status = 'processing' and j.worker_id = $1) is true
  and j.attempts = d.attempts
  and j.claim_token = d.token`

const settleDoneSQL = `
update public.soniq_jobs j
set status = 'done',
  result = d.result::jsonb,
  expires_at = now() + $6::interval,
  updated_at = now()
from unnest((select $2::uuid[]), (select $3::int[]), (select $4::bigint[]), (select $5::text[])) as d (id, attempts, token, result)
` + claimFence + `
returning j.id`

const settleDeleteSQL = `
delete from public.soniq_jobs j
using unnest((select $2::uuid[]), (select $3::int[]), (select $4::bigint[])) as d (id, attempts, token)
` + claimFence + `
returning j.id`

const settleCancelledSQL = `
update public.soniq_jobs j
set status = 'cancelled',
  last_error = d.error,
  expires_at = now() + $6::interval,
  updated_at = now()
from unnest((select $2::uuid[]), (select $3::int[]), (select $4::bigint[]), (select $5::text[])) as d (id, attempts, token, error)
` + claimFence + `
returning j.id`

// A NULL delay keeps the due time: the job goes back to its old place. $7
// gives the attempt back. $8 is false only for a job whose unique twin has
// been queued meanwhile: it goes on without being unique rather than be lost.
// A history that is larger than any of ours is left out: jsonb may not hold it and
// an entry more. Where its cancellation was requested, the trigger soniq_job_cancelled makes
// the row cancelled.
var settleRequeueSQL = `
update public.soniq_jobs j
set status = 'queued',
  attempts = greatest(j.attempts - d.refund, 0),
  scheduled_at = coalesce(now() + d.delay, j.scheduled_at),
  last_error = coalesce(d.error, j.last_error),
  unique_job = j.unique_job and $8,
  dedup_key = case when $8 then j.dedup_key end,
  errors = ` + history.Add("case when pg_column_size(j.errors) <= 262144 then j.errors end", "d.failure::jsonb") + `,
  worker_id = null,
  claim_token = null,
  updated_at = now()
from unnest((select $2::uuid[]), (select $3::int[]), (select $4::bigint[]), (select $5::interval[]), (select $6::text[]), (select $7::int[]), (select $9::text[]))
  as d (id, attempts, token, delay, error, refund, failure)
` + claimFence + `
returning j.id, j.cancel_requested_at is not null`

// settler writes outcomes, in batches that form by themselves: while one
// batch is on its way to the database, the next gathers. A row that someone
// holds locked (a handler whose transaction never ends, say) must not hold up
// the others: its outcome is set aside and tried again later.
type settler struct {
	pool     *pg.Pool
	worker   uuid.UUID
	ttl      time.Duration
	logger   *slog.Logger
	outcomes chan Outcome
	// batch is how many outcomes are written together, at most maxSettleBatch.
	batch int
	// settled is told of each outcome after it was written.
	settled func(context.Context, Outcome)
	// aside are the outcomes whose rows were locked.
	aside []Outcome
}

const (
	// settlePatience is how long the first try of a statement may take before
	// it is asked whether some row is locked; maxSettlePatience, a later one:
	// a connection that hangs is given up then.
	settlePatience    = 3 * time.Second
	maxSettlePatience = 30 * time.Second
	// requeuePatience is how long a job that goes back to its queue waits for a
	// lock: of its row, or of its unique key. Whoever may enqueue can insert that
	// and not commit, for as long as he likes.
	requeuePatience = 250 * time.Millisecond
	// maxBroken is how often the server may say that something is wrong with
	// itself, before that is taken for something about the rows.
	maxBroken = 3
	// asideInterval is the pace of the tries of what was set aside.
	asideInterval = 2 * time.Second
)

// run writes outcomes until the channel is closed and empty, or ctx ends: then
// what could not be written is given up, and recovery will find it.
func (s *settler) run(ctx context.Context) error {
	for open := true; open || len(s.aside) > 0; {
		var batch []Outcome
		batch, open = s.gather(ctx, open)
		if len(batch) > 0 {
			if err := s.write(ctx, batch); err != nil {
				return fmt.Errorf("settle %d jobs: %w", len(batch)+len(s.aside), err)
			}
		}
		if ctx.Err() != nil && len(s.aside) > 0 {
			return fmt.Errorf("settle %d jobs: gave up: someone holds the rows locked", len(s.aside))
		}
	}
	return nil
}

// gather waits for one outcome and takes what else is there. Where some were
// set aside, it returns them when their time has come.
func (s *settler) gather(ctx context.Context, open bool) (batch []Outcome, stillOpen bool) {
	var aside <-chan time.Time
	var given <-chan struct{}
	if len(s.aside) > 0 {
		timer := time.NewTimer(asideInterval)
		defer timer.Stop()
		aside, given = timer.C, ctx.Done()
	}
	outcomes := s.outcomes
	if !open {
		outcomes = nil
	}
	select {
	case o, ok := <-outcomes:
		if !ok {
			return nil, false
		}
		batch = append(batch, o)
	case <-aside:
		batch, s.aside = s.aside, nil
		return s.setAside(ctx, batch), open
	case <-given:
		return nil, open
	}
	for len(batch) < s.batch {
		select {
		case o, ok := <-s.outcomes:
			if !ok {
				return batch, false
			}
			batch = append(batch, o)
		default:
			return batch, true
		}
	}
	return batch, true
}

// write settles the batch, one statement for each way to write.
func (s *settler) write(ctx context.Context, batch []Outcome) error {
	groups := make(map[writer][]Outcome, 4)
	for _, o := range batch {
		w := s.writerOf(o)
		groups[w] = append(groups[w], o)
	}
	for w, group := range groups {
		if err := s.writeGroup(ctx, w, group); err != nil {
			return err
		}
	}
	return nil
}

// writer is a way to write outcomes.
type writer int

const (
	writeDone writer = iota
	writeDelete
	writeRequeue
	// writeRequeuePlain is writeRequeue for a job that can't be unique any
	// more.
	writeRequeuePlain
	writeDead
	writeCancelled
)

func (s *settler) writerOf(o Outcome) writer {
	switch o.Kind {
	case OutcomeDone:
		// A replay's success is read off its row, so that row is kept for the
		// moment and expires at once.
		if s.ttl == 0 && o.Job.ReplayOf == nil {
			return writeDelete
		}
		return writeDone
	case OutcomeDeadLetter:
		return writeDead
	case OutcomeCancelled:
		return writeCancelled
	default:
		return writeRequeue
	}
}

// writeGroup writes a group, again and again while the database is away. A row
// that the database refuses doesn't hold up the others: the group is then
// written row by row.
func (s *settler) writeGroup(ctx context.Context, w writer, group []Outcome) error {
	ambiguous := false
	var trouble error
	broken := 0
	patience := settlePatience
	attempt := func() ([]uuid.UUID, error) {
		ids, err := s.exec(ctx, w, group, patience)
		switch {
		case err == nil:
			return ids, nil
		case isDataError(err):
			return nil, backoff.Permanent(&refusalError{err})
		case pg.IsClass(err, pg.ClassInternal):
			if broken++; broken >= maxBroken {
				return nil, backoff.Permanent(&refusalError{err})
			}
			return nil, err
		case pg.IsCode(err, pg.LockNotAvailable):
			all := len(group)
			switch group = s.setAside(ctx, group); {
			case len(group) == 0:
				return nil, nil
			case len(group) == all && w == writeRequeue:
				// Nobody has any of the rows, so it is the key of one.
				return nil, backoff.Permanent(&refusalError{err})
			}
			return nil, err
		}
		// The statement may have been committed before the connection broke.
		ambiguous, trouble = true, cmp.Or(trouble, err)
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			patience = min(2*patience, maxSettlePatience)
			if group = s.setAside(ctx, group); len(group) == 0 {
				return nil, nil
			}
		}
		return nil, err
	}
	warned := false
	ids, err := backoff.Retry(ctx, attempt,
		backoff.WithBackOff(&backoff.ExponentialBackOff{
			InitialInterval:     50 * time.Millisecond,
			RandomizationFactor: 0.5,
			Multiplier:          2,
			MaxInterval:         5 * time.Second,
		}),
		backoff.WithMaxElapsedTime(0),
		backoff.WithNotify(func(err error, _ time.Duration) {
			if !warned {
				s.logger.Warn("outcomes can't be written; trying until they are", "jobs", len(group), "error", err)
				warned = true
			}
		}),
	)
	var refused *refusalError
	if errors.As(err, &refused) {
		return s.writeRows(ctx, w, group, refused.error)
	}
	if err != nil {
		return fmt.Errorf("gave up: %w", cmp.Or(trouble, err))
	}
	if warned {
		s.logger.Info("outcomes are written again", "jobs", len(group))
	}
	s.announce(ctx, group, ids, ambiguous)
	return nil
}

// refusalError is about the rows: the same again would end the same.
type refusalError struct{ error }

// lockedSQL finds those of the jobs whose rows someone else holds, for as long
// as its own transaction lasts, which is this statement. Parameter $1: ids.
const lockedSQL = `
with free as materialized (
  select j.id
  from public.soniq_jobs j
  where j.id = any ($1)
  for update skip locked
)
select j.id
from public.soniq_jobs j
where j.id = any ($1)
  and j.id not in (select free.id from free)`

// setAside takes from a group, which took too long to write, the outcomes whose
// rows are locked, and returns the others. A database that is only slow has
// none.
func (s *settler) setAside(ctx context.Context, group []Outcome) (rest []Outcome) {
	ids := make([]uuid.UUID, len(group))
	for i, o := range group {
		ids[i] = o.Job.ID
	}
	ctx, cancel := context.WithTimeout(ctx, settlePatience)
	defer cancel()
	rows, _ := s.pool.Query(ctx, lockedSQL, pg.IDs(ids))
	locked, err := pg.CollectIDs(rows)
	if err != nil || len(locked) == 0 {
		return group
	}
	for _, o := range group {
		if !slices.Contains(locked, o.Job.ID) {
			rest = append(rest, o)
			continue
		}
		if !o.wasAside {
			s.logger.Warn("the row of a job is locked by someone; its outcome is written when it is free",
				"job", o.Job.ID, "name", o.Job.Name, "outcome", string(o.Kind))
		}
		o.wasAside = true
		s.aside = append(s.aside, o)
	}
	return rest
}

// writeRows is for a group, or at last a row, that the database refuses. A row
// is not left behind as 'processing' under a live worker: if all else fails
// it goes back to its queue, charged and after a while, because the next
// outcome may be refused too.
func (s *settler) writeRows(ctx context.Context, w writer, group []Outcome, refusal error) error {
	if len(group) > 1 {
		for _, o := range group {
			if err := s.writeGroup(ctx, w, []Outcome{o}); err != nil {
				return err
			}
		}
		return nil
	}
	o := group[0]
	switch {
	case w == writeRequeue:
		// Its unique twin is queued, or about to be.
		return s.writeGroup(ctx, writeRequeuePlain, group)
	case w == writeDone && o.result != nil:
		refused := o.refuse(fmt.Errorf("store result: %w", refusal))
		refused.Job, refused.Duration = o.Job, o.Duration
		return s.write(ctx, []Outcome{refused})
	case w == writeDead && o.Verdict.Message != unstorableError:
		o.Verdict.Message, o.Verdict.Stack = unstorableError, ""
		return s.writeGroup(ctx, w, []Outcome{o})
	}
	s.logger.Error("the database refuses a job's outcome",
		"job", o.Job.ID, "name", o.Job.Name, "outcome", string(o.Kind), "error", refusal)
	if w == writeRequeuePlain {
		o.Kind = OutcomeLost
		s.settled(ctx, o)
		return nil
	}
	o.Kind, o.Delay, o.result = OutcomeRetry, refusedDelay, nil
	o.Verdict = classify.Verdict{Retry: true, Message: pg.Storable(
		"the database refuses the outcome: "+refusal.Error(), classify.MaxErrorBytes)}
	return s.writeGroup(ctx, writeRequeuePlain, []Outcome{o})
}

// refusedDelay keeps a job whose outcome is refused from running in a circle.
const refusedDelay = time.Minute

// unstorableError stands in for an error text that the database refused.
const unstorableError = "the error could not be stored"

// isDataError reports whether err is about a value or a constraint: trying the
// same again would end the same. Class 21 is a cardinality violation, 22 a data
// exception, 23 a constraint, 54 a value too complex, P0 what a trigger raises.
func isDataError(err error) bool {
	return pg.IsClass(err, "21", pg.ClassData, "23", pg.ClassProgramLimit, "P0")
}

func (s *settler) exec(ctx context.Context, w writer, group []Outcome, patience time.Duration) ([]uuid.UUID, error) {
	// Bounded, so that a connection that hangs is given up and tried anew.
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if w == writeDead {
		deaths := make([]deadwrite.Death, len(group))
		for i, o := range group {
			deaths[i] = deadwrite.Death{
				ID: o.Job.ID, Attempts: o.Job.Attempts, Token: o.Job.token, Verdict: o.Verdict,
				Failure: o.failure(s.worker),
			}
		}
		return deadwrite.Move(ctx, s.pool, s.worker, deaths)
	}
	var (
		n        = len(group)
		ids      = make([]uuid.UUID, n)
		attempts = make([]int32, n)
		tokens   = make([]int64, n)
	)
	for i, o := range group {
		ids[i], attempts[i], tokens[i] = o.Job.ID, int32(o.Job.Attempts), o.Job.token
	}
	array := pg.IDs(ids)
	var rows pgx.Rows
	switch w {
	case writeDone:
		results := make([]*string, n)
		for i, o := range group {
			if o.result != nil {
				results[i] = new(string(o.result))
			}
		}
		rows, _ = byindex.Query(ctx, s.pool, settleDoneSQL, s.worker, array, attempts, tokens, results, s.ttl)
	case writeDelete:
		rows, _ = byindex.Query(ctx, s.pool, settleDeleteSQL, s.worker, array, attempts, tokens)
	case writeRequeue, writeRequeuePlain:
		delays, errs, refunds, failures := s.requeueColumns(group)
		rows, _ = byindex.QueryPatient(ctx, s.pool, requeuePatience, settleRequeueSQL, s.worker, array, attempts, tokens,
			delays, errs, refunds, w == writeRequeue, failures)
		return collectRequeued(rows, group)
	case writeCancelled:
		errs := make([]string, n)
		for i, o := range group {
			errs[i] = o.Verdict.Message
		}
		rows, _ = byindex.Query(ctx, s.pool, settleCancelledSQL, s.worker, array, attempts, tokens, errs, cancelledTTL)
	}
	return pg.CollectIDs(rows)
}

// collectRequeued makes cancelled ones of the outcomes whose jobs were
// cancelled in place of being queued.
func collectRequeued(rows pgx.Rows, group []Outcome) ([]uuid.UUID, error) {
	cancelled := map[uuid.UUID]bool{}
	var ids []uuid.UUID
	var id uuid.UUID
	var requested bool
	if _, err := pgx.ForEachRow(rows, []any{pg.ScanID(&id), &requested}, func() error {
		ids = append(ids, id)
		cancelled[id] = requested
		return nil
	}); err != nil {
		return nil, err
	}
	for i, o := range group {
		if cancelled[o.Job.ID] {
			group[i].Kind, group[i].Delay = OutcomeCancelled, 0
		}
	}
	return ids, nil
}

func (s *settler) requeueColumns(group []Outcome) (delays []*time.Duration, errs []*string, refunds []int32, failures []*string) {
	delays = make([]*time.Duration, len(group))
	errs = make([]*string, len(group))
	refunds = make([]int32, len(group))
	failures = make([]*string, len(group))
	for i, o := range group {
		switch o.Kind {
		case OutcomeRetry:
			delays[i], errs[i] = &o.Delay, &o.Verdict.Message
			failures[i] = history.JSON(o.failure(s.worker))
		case OutcomeSnooze:
			delays[i], refunds[i] = &o.Delay, 1
		default:
			refunds[i] = 1
		}
	}
	return delays, errs, refunds, failures
}

// failure is what the job's history says of a failed attempt. Nil for a job
// that died when it was claimed: nothing ran.
func (o *Outcome) failure(worker uuid.UUID) *classify.Failure {
	if o.Verdict.Kind == classify.KindCrash {
		return nil
	}
	// The claim's time is the database's.
	startedAt := o.Job.UpdatedAt
	return history.Entry(o.Job.Attempts, &worker, &startedAt, startedAt.Add(o.Duration), o.Verdict)
}
