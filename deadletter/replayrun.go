package deadletter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"golang.org/x/time/rate"

	"soniq/internal/history"
	"soniq/internal/pg"
)

const (
	// runBatch is how many jobs a transaction of a replay without a rate makes:
	// a fifth of a second of work, so that it stops and reports soon.
	runBatch = 2000
	// paceSteps is how many batches a second a replay with a rate makes.
	paceSteps = 5
	// lookInterval is how often the outcome of replays is looked at.
	lookInterval = 250 * time.Millisecond
	// breakerLeast is how many replays must have ended before the breaker
	// judges: one of two that dies says little.
	breakerLeast = 20
	// breakerWindow bounds how many of the latest replays the breaker reads.
	breakerWindow = 5000
	// canaryTimeout is the default of Pace.CanaryTimeout.
	canaryTimeout = 10 * time.Minute
	// saveTimeout is how long an interrupted replay may take to say so.
	saveTimeout = 5 * time.Second
)

// Pace says how fast a replay goes, and what stops it. The zero value goes as
// fast as the database does, and is stopped by nothing.
type Pace struct {
	// Rate is the number of jobs a second, below one too. Default 0, which is
	// no limit.
	Rate float64
	// Canary is how many are replayed first; the others follow only if each of
	// these has succeeded. Default none.
	Canary int
	// CanaryTimeout is how long to wait for these. Default 10 min.
	CanaryTimeout time.Duration
	// Breaker stops the replay when this part of the replays that have ended,
	// above 0 and up to 1, has died again; it judges from 20 ended ones on.
	// Default 0, which never stops it.
	Breaker float64
}

func (p Pace) validate() error {
	if math.IsNaN(p.Rate) || p.Rate < 0 || p.Rate > 1e6 {
		return fmt.Errorf("pace: Rate: %g is not between 0 and a million", p.Rate)
	}
	if p.Canary < 0 || p.Canary > runBatch {
		return fmt.Errorf("pace: Canary: %d is not between 0 and %d", p.Canary, runBatch)
	}
	if p.CanaryTimeout < 0 {
		return fmt.Errorf("pace: CanaryTimeout: %s is negative", p.CanaryTimeout)
	}
	if math.IsNaN(p.Breaker) || p.Breaker < 0 || p.Breaker > 1 {
		return fmt.Errorf("pace: Breaker: %g is not between 0 and 1", p.Breaker)
	}
	return nil
}

// replayOrder is what a replay needs to go on in another process.
type replayOrder struct {
	Options ReplayOptions `json:"options"`
	Pace    Pace          `json:"pace"`
	// Redacted: the replay is done, and the secrets among its options are gone.
	Redacted bool `json:"redacted,omitempty"`
}

// A StoppedError ends a replay that its canary or its breaker has stopped. The
// operation can go on once the cause is mended.
type StoppedError struct {
	// Operation is how far it has come.
	Operation Operation
	// Died and Ended are the replays that were judged.
	Died  int
	Ended int
	// Pending, of a canary, did not end in time.
	Pending int
}

func (e *StoppedError) Error() string {
	switch {
	case e.Operation.StoppedBy == StoppedByBreaker:
		return fmt.Sprintf("stopped: %d of %d replays that have ended died again", e.Died, e.Ended)
	case e.Pending > 0:
		return fmt.Sprintf("stopped: %d of the first replays did not end in time; does a worker run?", e.Pending)
	default:
		return fmt.Sprintf("stopped: %d of the first replays did not succeed", e.Died)
	}
}

// A ReplayPlan is what a replay would do now, as long as nobody else changes
// anything.
type ReplayPlan struct {
	// Picked is how many dead letters it would take: Replay of them it would
	// replay, and Duplicates it would leave dead, because an equal job is
	// queued already or an older one of them is equal.
	Picked     int64 `json:"picked"`
	Replay     int64 `json:"replay"`
	Duplicates int64 `json:"duplicates"`
	// The others that the filter means, whatever its Limit, are not taken:
	// those with a replay under way, those that are resolved, those whose
	// replay died and has a dead letter of its own, those that another program
	// has replayed with an unknown outcome, and those that reached MaxReplays.
	Replaying      int64 `json:"replaying"`
	Resolved       int64 `json:"resolved"`
	Superseded     int64 `json:"superseded"`
	OutcomeUnknown int64 `json:"outcome_unknown"`
	Exhausted      int64 `json:"exhausted"`
}

// PlanReplay returns what ReplayAll and StartReplay would do with the same
// filter and options, or the error that they would return. It changes nothing.
func (q *Queue) PlanReplay(ctx context.Context, f Filter, o ReplayOptions) (ReplayPlan, error) {
	p, err := q.planReplay(ctx, f, o)
	if err != nil {
		return ReplayPlan{}, fmt.Errorf("plan replay: %w", err)
	}
	return p, nil
}

func (q *Queue) planReplay(ctx context.Context, f Filter, o ReplayOptions) (p ReplayPlan, err error) {
	if p.Picked, err = q.replayCount(ctx, f, o); err != nil {
		return p, err
	}
	if p.Duplicates, err = q.duplicates(ctx, f, o); err != nil {
		return p, err
	}
	p.Replay = p.Picked - p.Duplicates
	w := f.where()
	exhausted := "false"
	if o.MaxReplays > 0 {
		exhausted = w.exhausted(o.MaxReplays)
	}
	const dead = "d.state = 'dead' and "
	sql := "select\n  count(*) filter (where d.state = 'replaying'),\n  count(*) filter (where d.state = 'resolved'),\n" +
		"  count(*) filter (where " + dead + superseded + "),\n" +
		"  count(*) filter (where " + dead + outcomeUnknown + "),\n" +
		"  count(*) filter (where " + dead + "not " + superseded + " and " + outcomeUnknown + " is not true and " + exhausted + ")\n" +
		"from public.soniq_dead_letter_jobs d" + w.sql()
	err = q.pool.QueryRow(ctx, sql, w.params...).Scan(&p.Replaying, &p.Resolved, &p.Superseded, &p.OutcomeUnknown, &p.Exhausted)
	return p, err
}

// The rows that one of the two unique indexes can refuse, in the order in which
// they would be inserted, and whether a queued job stands in the way of each:
// one with equal arguments, one with the same key. The place of %s is the query
// that picks the rows.
const uniqueRowsSQL = `
select
  p.id,
  case when p.unique_job and p.args_hash is not null then p.job_name end,
  case when p.unique_job then p.args_hash end,
  p.dedup_key,
  p.args,
  exists (
    select from public.soniq_jobs j
    where j.status = 'queued' and j.unique_job and p.unique_job and j.job_name = p.job_name and j.args_hash = p.args_hash
  ),
  exists (
    select from public.soniq_jobs j
    where j.status = 'queued' and j.dedup_key = p.dedup_key
  )
from (%s) p
where p.dedup_key is not null
   or p.unique_job and p.args_hash is not null
order by p.moved_to_dead_letter_at, p.id`

// uniqueRow is what a row of uniqueRowsSQL would take.
type uniqueRow struct {
	keys   [][2]string
	queued bool
}

// duplicates counts the picked rows that would not be inserted. A row that is
// refused for one of its keys takes no place under the other, so they are gone
// through one by one.
func (q *Queue) duplicates(ctx context.Context, f Filter, o ReplayOptions) (n int64, err error) {
	all, err := q.uniqueRows(ctx, f, o)
	taken := map[[2]string]bool{}
	for _, row := range all {
		if row.queued || slices.ContainsFunc(row.keys, func(k [2]string) bool { return taken[k] }) {
			n++
			continue
		}
		for _, k := range row.keys {
			taken[k] = true
		}
	}
	return n, err
}

func (q *Queue) uniqueRows(ctx context.Context, f Filter, o ReplayOptions) (all []uniqueRow, err error) {
	w := f.replayable(o)
	// The arguments are long, and needed for their edits alone.
	args := "null::jsonb as args"
	if o.edits() {
		args = "d.args"
	}
	picked := "select d.id, d.moved_to_dead_letter_at, d.job_name, d.args_hash, d.unique_job, d.dedup_key, " + args +
		"\nfrom public.soniq_dead_letter_jobs d" + w.sql() + oldestFirst + w.limit(f.Limit)
	rows, err := q.pool.Query(ctx, fmt.Sprintf(uniqueRowsSQL, picked), w.params...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var (
		id                uuid.UUID
		name, hash, dedup *string
		stored            json.RawMessage
		equal, same       bool
		// The rows with other arguments, and what these are.
		edited        []int
		names, hashes []string
	)
	_, err = pgx.ForEachRow(rows, []any{&id, &name, &hash, &dedup, &stored, &equal, &same}, func() error {
		row := uniqueRow{queued: same}
		if name != nil && hash != nil {
			_, newHash, err := o.newArgs(id, stored)
			if err != nil {
				return err
			}
			if newHash == nil {
				row.queued = row.queued || equal
			} else {
				hash, edited = newHash, append(edited, len(all))
				names, hashes = append(names, *name), append(hashes, *hash)
			}
			row.keys = append(row.keys, [2]string{*name, *hash})
		}
		if dedup != nil {
			// No hash is empty.
			row.keys = append(row.keys, [2]string{*dedup, ""})
		}
		all = append(all, row)
		return nil
	})
	if err != nil || len(edited) == 0 {
		return all, err
	}
	queued, err := q.queuedEqual(ctx, names, hashes)
	for _, place := range queued {
		all[edited[place-1]].queued = true
	}
	return all, err
}

// The places, from 1, of the names and hashes that a queued job has.
const queuedEqualSQL = `
select u.place
from unnest($1::text[], $2::text[]) with ordinality as u (name, hash, place)
where exists (
  select from public.soniq_jobs j
  where j.status = 'queued' and j.unique_job and j.job_name = u.name and j.args_hash = u.hash
)`

func (q *Queue) queuedEqual(ctx context.Context, names, hashes []string) ([]int64, error) {
	rows, err := q.pool.Query(ctx, queuedEqualSQL, names, hashes)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[int64])
}

// StartReplay picks what ReplayAll would replay, and records it as an operation
// that ReplayRun does. Nothing is replayed yet; what dies from now on, or stops
// being dead, is no longer part of it. No row to replay makes an operation too.
func (q *Queue) StartReplay(ctx context.Context, f Filter, o ReplayOptions, p Pace) (Operation, error) {
	op, err := q.startReplay(ctx, f, o, p)
	if err != nil {
		return Operation{}, fmt.Errorf("start replay: %w", err)
	}
	return op, nil
}

func (q *Queue) startReplay(ctx context.Context, f Filter, o ReplayOptions, p Pace) (Operation, error) {
	if err := f.validateBulk(); err != nil {
		return Operation{}, err
	}
	if err := p.validate(); err != nil {
		return Operation{}, err
	}
	// It finds a row without attempts left, too.
	if _, err := q.replayCount(ctx, f, o); err != nil {
		return Operation{}, err
	}
	op := Operation{Action: ActionReplay, State: OperationRunning}
	err := pgx.BeginTxFunc(ctx, q.pool, replayTx, func(tx pgx.Tx) error {
		if err := q.beginOperation(ctx, tx, &op, f, replayOrder{Options: o, Pace: p}); err != nil {
			return err
		}
		w := f.replayable(o)
		sql := "insert into public.soniq_dead_letter_selections (operation_id, place, dead_letter_id)\n" +
			"select " + w.param(op.ID) + ", row_number() over (order by p.moved_to_dead_letter_at, p.id), p.id\n" +
			"from (select d.id, d.moved_to_dead_letter_at from public.soniq_dead_letter_jobs d" + w.sql() + oldestFirst + w.limit(f.Limit) + ") p"
		tag, err := tx.Exec(ctx, sql, w.params...)
		if err != nil {
			return err
		}
		op.Total = tag.RowsAffected()
		return op.save(ctx, tx)
	})
	return op, err
}

// ReplayRun does what is left of a replay, and returns how far it has come. It
// goes on where the last run stopped, whoever that was and whatever stopped it;
// two at the same time share the work.
//
// Each batch is a transaction of its own: after an error or when ctx ends, what
// was replayed stays replayed, and the rest can go on later. told, which may be
// nil, hears of each batch once it is committed.
//
// It returns a *StoppedError when the canary or the breaker has stopped it, and
// ErrNoOperation or ErrNotResumable for what it can't do.
func (q *Queue) ReplayRun(ctx context.Context, id uuid.UUID, told func(Operation, []Replayed)) (Operation, error) {
	r := replayRun{q: q, told: told}
	err := r.load(ctx, id)
	if err == nil {
		err = r.run(ctx)
		if err != nil {
			r.stopped(ctx, err)
		}
	}
	if err != nil {
		return r.op, fmt.Errorf("replay, operation %s: %w", id, err)
	}
	return r.op, nil
}

// A replayRun is one run of a replay.
type replayRun struct {
	q     *Queue
	op    Operation
	order replayOrder
	told  func(Operation, []Replayed)
	// since is the last record before this run: the breaker looks at its own.
	since  int64
	looked time.Time
}

const loadReplaySQL = `
select coalesce(options::text, ''), coalesce((select max(id) from public.soniq_dead_letter_audit), 0)
from public.soniq_dead_letter_operations
where id = $1`

func (r *replayRun) load(ctx context.Context, id uuid.UUID) (err error) {
	if r.op, err = r.q.Operation(ctx, id); err != nil {
		return err
	}
	var options string
	if err := r.q.pool.QueryRow(ctx, loadReplaySQL, id).Scan(&options, &r.since); err != nil {
		return err
	}
	if r.op.Action != ActionReplay || r.op.State == OperationDone || options == "" {
		return ErrNotResumable
	}
	if err := json.Unmarshal([]byte(options), &r.order); err != nil {
		return fmt.Errorf("read its options: %w", err)
	}
	if err := r.order.Options.validateAll(); err != nil {
		return err
	}
	return r.order.Pace.validate()
}

func (r *replayRun) run(ctx context.Context) error {
	p := r.order.Pace
	// What was stopped by its replays must prove itself again.
	if p.Canary > 0 && (r.op.Done < int64(p.Canary) || r.op.StoppedBy == StoppedByCanary || r.op.StoppedBy == StoppedByBreaker) {
		if done, err := r.canary(ctx, p); done || err != nil {
			return err
		}
	}
	batch, limiter := r.order.Options.atOnce(runBatch), rate.NewLimiter(rate.Inf, runBatch)
	if p.Rate > 0 {
		batch = min(max(int(p.Rate/paceSteps), 1), batch)
		limiter = rate.NewLimiter(rate.Limit(p.Rate), batch)
	}
	for {
		if err := limiter.WaitN(ctx, batch); err != nil {
			return cmpCause(ctx, err)
		}
		if err := r.breaker(ctx, p); err != nil {
			return err
		}
		_, done, err := r.batch(ctx, batch)
		if done || err != nil {
			return err
		}
	}
}

// cmpCause is the context's own error where it has ended: a limiter's error
// about a deadline that it foresees has another one.
func cmpCause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// canary replays the first ones and waits for each of them to succeed. done
// means that none are left for afterwards.
func (r *replayRun) canary(ctx context.Context, p Pace) (done bool, err error) {
	var first []Replayed
	for len(first) < p.Canary && !done {
		var made []Replayed
		if made, done, err = r.batch(ctx, p.Canary-len(first)); err != nil {
			return done, err
		}
		first = append(first, made...)
	}
	if len(first) == 0 {
		return done, nil
	}
	timeout := p.CanaryTimeout
	if timeout == 0 {
		timeout = canaryTimeout
	}
	expired := time.NewTimer(timeout)
	defer expired.Stop()
	tick := time.NewTicker(lookInterval)
	defer tick.Stop()
	for late := false; ; {
		o, err := r.q.outcomes(ctx, first)
		if err != nil {
			return done, err
		}
		if o.succeeded == len(first) {
			return done, nil
		}
		if o.failed > 0 || late {
			r.op.StoppedBy = StoppedByCanary
			return false, &StoppedError{Operation: r.op, Died: o.failed, Ended: o.failed + o.succeeded, Pending: o.pending}
		}
		select {
		case <-ctx.Done():
			return done, ctx.Err()
		case <-expired.C:
			late = true
		case <-tick.C:
		}
	}
}

// outcomes counts what became of replays.
type outcomes struct{ pending, succeeded, failed int }

// A row that is gone, or that somebody replays again, can't tell of a success.
const outcomesSQL = `
select
  count(*) filter (where d.state = 'replaying' and d.replay_job_id = u.job_id),
  count(*) filter (where d.state = 'resolved'),
  count(*) filter (where (d.state = 'resolved' or d.state = 'replaying' and d.replay_job_id = u.job_id) is not true)
from unnest($1::uuid[], $2::uuid[]) as u (id, job_id)
left join public.soniq_dead_letter_jobs d on d.id = u.id`

func (q *Queue) outcomes(ctx context.Context, replays []Replayed) (o outcomes, err error) {
	from, to := make([]uuid.UUID, len(replays)), make([]uuid.UUID, len(replays))
	for i, r := range replays {
		from[i], to[i] = r.From, r.To
	}
	err = q.pool.QueryRow(ctx, outcomesSQL, from, to).Scan(&o.pending, &o.succeeded, &o.failed)
	return o, err
}

// A replay that died has a dead letter of its own. One that was cancelled says
// nothing about the cause. $1 the operation, $2 the record before this run, $3
// the window.
const breakerSQL = `
select
  count(*) filter (where exists (select from public.soniq_dead_letter_jobs x where x.id = a.job_id)),
  count(*) filter (where d.state = 'resolved')
from (
  select dead_letter_id, job_id
  from public.soniq_dead_letter_audit
  where operation_id = $1
    and id > $2
  order by id desc
  limit $3
) a
left join public.soniq_dead_letter_jobs d on d.id = a.dead_letter_id`

// breaker returns a *StoppedError if too many of this run's replays died.
func (r *replayRun) breaker(ctx context.Context, p Pace) error {
	if p.Breaker == 0 || time.Since(r.looked) < lookInterval {
		return nil
	}
	var died, succeeded int
	if err := r.q.pool.QueryRow(ctx, breakerSQL, r.op.ID, r.since, breakerWindow).Scan(&died, &succeeded); err != nil {
		return err
	}
	r.looked = time.Now()
	ended := died + succeeded
	if ended < breakerLeast || float64(died) < p.Breaker*float64(ended) {
		return nil
	}
	r.op.StoppedBy = StoppedByBreaker
	return &StoppedError{Operation: r.op, Died: died, Ended: ended}
}

// The lock makes two runs of one operation take turns.
const lockOperationSQL = `
select done, skipped
from public.soniq_dead_letter_operations
where id = $1
for update`

const takeSelectionSQL = `
with picked as materialized (
  select s.place
  from public.soniq_dead_letter_selections s
  where s.operation_id = $1
  order by s.place
  limit $2
), taken as (
  delete from public.soniq_dead_letter_selections s
  using picked
  where s.operation_id = $1
    and s.place = picked.place
  returning s.place, s.dead_letter_id
)
select dead_letter_id
from taken
order by place`

// batch replays the next ones that were picked. done means that it was the
// last batch.
func (r *replayRun) batch(ctx context.Context, most int) (made []Replayed, done bool, err error) {
	op, o := r.op, r.order.Options
	err = pgx.BeginTxFunc(ctx, r.q.pool, replayTx, func(tx pgx.Tx) error {
		if err := tx.QueryRow(ctx, lockOperationSQL, op.ID).Scan(&op.Done, &op.Skipped); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, takeSelectionSQL, op.ID, most)
		if err != nil {
			return err
		}
		picked, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
		if err != nil {
			return err
		}
		// Those that are still to be replayed, in their order.
		w := Filter{}.replayable(o)
		w.and("d.id = any(" + w.param(picked) + ")")
		var spent []uuid.UUID
		ids, err := lockReplayable(ctx, tx, w, 0, func(id uuid.UUID, attempts, maxAttempts int) error {
			if o.check(id, attempts, maxAttempts) != nil {
				spent = append(spent, id)
			}
			return nil
		})
		if err != nil {
			return err
		}
		ids = slices.DeleteFunc(ids, func(id uuid.UUID) bool { return slices.Contains(spent, id) })
		if made, err = r.replayFitting(ctx, tx, ids, &op.ID); err != nil {
			return err
		}
		op.Done += int64(len(made))
		op.Skipped += int64(len(picked) - len(made))
		op.State, op.StoppedBy = OperationRunning, ""
		if done = len(picked) < most; done {
			op.State = OperationDone
			if err := r.order.blank(ctx, tx, op.ID); err != nil {
				return err
			}
		}
		return op.save(ctx, tx)
	})
	if err != nil {
		return nil, false, err
	}
	r.op = op
	if r.told != nil {
		r.told(op, made)
	}
	return made, done, nil
}

// replayFitting leaves out what has no place for an edit: the start has seen to
// it that there is none, and other programs can change rows since.
func (r *replayRun) replayFitting(ctx context.Context, tx pgx.Tx, ids []uuid.UUID, operation *uuid.UUID) ([]Replayed, error) {
	for {
		made, err := r.order.Options.replayInOrder(ctx, tx, ids, r.author(), operation)
		var misfit *EditError
		if !errors.As(err, &misfit) {
			return made, err
		}
		ids = slices.DeleteFunc(ids, func(id uuid.UUID) bool { return id == misfit.ID })
	}
}

// author is who runs it, or else who started it.
func (r *replayRun) author() author {
	by := r.q.by
	if by == (author{}) {
		by = author{r.op.Actor, r.op.Because}
	}
	return by
}

// Another run may have ended it meanwhile.
const stopOperationSQL = `
update public.soniq_dead_letter_operations
set
  state = 'stopped',
  stopped_by = $2,
  updated_at = clock_timestamp()
where id = $1
  and state = 'running'`

// stopped records why the run ended before the operation was done.
func (r *replayRun) stopped(ctx context.Context, err error) {
	var stopped *StoppedError
	switch {
	case errors.As(err, &stopped):
	case ctx.Err() != nil:
		r.op.StoppedBy = StoppedByCaller
	default:
		r.op.StoppedBy = RedactText(err.Error())
	}
	r.op.State = OperationStopped
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), saveTimeout)
	defer cancel()
	// Where the database is away it stays 'running', and can go on all the same.
	_, _ = r.q.pool.Exec(ctx, stopOperationSQL, r.op.ID, pg.Storable(r.op.StoppedBy, history.MaxMessageBytes))
	if stopped != nil {
		stopped.Operation = r.op
	}
}
