package deadletter

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"golang.org/x/time/rate"

	"soniq/internal/audit"
	"soniq/internal/byindex"
	"soniq/internal/history"
	"soniq/internal/pg"
	"soniq/internal/replaysql"
)

const (
	// runBatch is how many jobs a transaction of a bulk replay makes: about 0.2 s
	// of work, so that it stops and reports soon.
	runBatch = 2000
	// paceSteps is how many batches a second a replay with a rate makes.
	paceSteps = 5
	// lookInterval is how often it looks for the outcome of its replays.
	lookInterval = 250 * time.Millisecond
	// breakerLeast is how many replays must have ended before the breaker judges.
	// Of few replays the rate says little.
	breakerLeast = 20
	// breakerWindow bounds how many of the latest replays the breaker reads.
	breakerWindow = 5000
	// breakerShare: the breaker's looks take a twentieth of the time at the most.
	breakerShare = 20
	// canaryTimeout is the default of Pace.CanaryTimeout.
	canaryTimeout = 10 * time.Minute
	// saveTimeout bounds the statement that records how an operation ended, after
	// its context has ended.
	saveTimeout = 5 * time.Second
)

// replayOrder is what a bulk replay needs to continue in another process. Programs
// of 0.1.0 write and read the same JSON. Once the replay is done, package audit takes
// the secrets out.
type replayOrder struct {
	Options ReplayOptions `json:"options"`
	Pace    Pace          `json:"pace"`
}

// A replayRun is one run of a bulk replay.
type replayRun struct {
	q          *Queue
	onProgress func(Operation, []Replayed)
	op         Operation
	pace       Pace
	order      replayOrder
	replayer   replayer
	replayed   []Replayed
	// since is the last record before this run. The breaker judges this run's
	// replays alone.
	since int64
	// looked is when the breaker looked last, and look how long that took.
	looked time.Time
	look   time.Duration
	// limiter is that of the rate. All that the operation's runs take counts: two of them
	// at the same time keep one rate.
	limiter *rate.Limiter
	// others is how many rows other runs have taken that limiter hasn't counted yet.
	others int64
	// after is the last place of the selection that was taken, and last the one that the
	// transaction under way has taken, which are taken rows.
	after, last int64
	taken       int
}

func (q *Queue) newReplayRun(onProgress func(Operation, []Replayed)) *replayRun {
	if onProgress == nil {
		onProgress = func(Operation, []Replayed) {}
	}
	return &replayRun{q: q, onProgress: onProgress, replayed: []Replayed{}}
}

func (r *replayRun) result() ReplayResult { return ReplayResult{Operation: r.op, Replayed: r.replayed} }

// The places are those of the operation and of the query that picks the rows.
const insertSelectionSQL = `
insert into public.soniq_dead_letter_selections (operation_id, place, dead_letter_id)
select %s, row_number() over (order by p.moved_to_dead_letter_at, p.id), p.id
from (select d.id, d.moved_to_dead_letter_at from public.soniq_dead_letter_jobs d%s) p`

const lastRecordSQL = `select coalesce(max(id), 0) from public.soniq_dead_letter_audit`

// errNothingPicked rolls back the operation of a replay that picks nothing.
var errNothingPicked = errors.New("no dead letter is picked")

// start picks the rows and records the operation. If there are none it records
// nothing, and the operation is done.
func (r *replayRun) start(ctx context.Context, f Filter, order replayOrder) error {
	if err := f.validateBulk(); err != nil {
		return err
	}
	if err := order.Pace.validate(); err != nil {
		return err
	}
	r.use(order)
	if err := r.q.checkReplay(ctx, f, r.replayer); err != nil {
		return err
	}
	op := Operation{Action: ActionReplay, State: OperationRunning}
	err := pg.InTxWith(ctx, r.q.pool, readCommitted, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, byindex.UnhurriedSQL); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, lastRecordSQL).Scan(&r.since); err != nil {
			return err
		}
		if err := r.q.beginOperation(ctx, tx, &op, f, order); err != nil {
			return err
		}
		w := r.replayer.replayable(f)
		id := w.Param(op.ID)
		picked := w.SQL() + oldestFirst + w.Limit(f.Limit)
		tag, err := tx.Exec(ctx, fmt.Sprintf(insertSelectionSQL, id, picked), w.Params()...)
		if err != nil {
			return err
		}
		if op.Total = tag.RowsAffected(); op.Total == 0 {
			return errNothingPicked
		}
		return op.save(ctx, tx)
	})
	if errors.Is(err, errNothingPicked) {
		op.ID, op.State, err = uuid.Nil, OperationDone, nil
	}
	r.op = op
	return err
}

// use takes the order over.
func (r *replayRun) use(order replayOrder) {
	r.order, r.pace, r.replayer = order, order.Pace, replayer{order.Options, r.q.by}
}

const loadOrderSQL = `
select coalesce(options::text, ''), coalesce((select max(id) from public.soniq_dead_letter_audit), 0)
from public.soniq_dead_letter_operations
where id = $1`

// load reads an operation that was started before.
func (r *replayRun) load(ctx context.Context, id uuid.UUID) (err error) {
	if r.op, err = r.q.Operation(ctx, id); err != nil {
		return err
	}
	var options string
	if err := r.q.pool.QueryRow(ctx, loadOrderSQL, id).Scan(&options, &r.since); err != nil {
		return err
	}
	if r.op.Action != ActionReplay || r.op.State == OperationDone || options == "" {
		return ErrNotResumable
	}
	var order replayOrder
	if err := json.Unmarshal([]byte(options), &order); err != nil {
		return fmt.Errorf("read its options: %w", err)
	}
	if err := order.Options.validateAll(); err != nil {
		return err
	}
	if err := order.Pace.validate(); err != nil {
		return err
	}
	r.use(order)
	if r.replayer.by == (author{}) {
		// Whoever started it, unless somebody else continues it.
		r.replayer.by = author{r.op.Actor, r.op.Comment}
	}
	return nil
}

// run replays what is left, and records how it ended.
func (r *replayRun) run(ctx context.Context) (ReplayResult, error) {
	r.onProgress(r.op, nil)
	if r.op.State == OperationDone {
		return r.result(), nil
	}
	defer r.q.keepAlive(ctx, r.op.ID)()
	if err := r.batches(ctx); err != nil {
		r.stop(ctx, err)
		return r.result(), fmt.Errorf("replay, operation %s: %w", r.op.ID, err)
	}
	return r.result(), nil
}

func (r *replayRun) batches(ctx context.Context) error {
	if r.needsCanary() {
		if done, err := r.canary(ctx); done || err != nil {
			return err
		}
	}
	batch := r.limit()
	for {
		if err := r.wait(ctx, batch); err != nil {
			return err
		}
		if err := r.breaker(ctx); err != nil {
			return err
		}
		_, done, err := r.batch(ctx, batch)
		if done || err != nil {
			return err
		}
	}
}

// limit makes the limiter, and returns how many rows a batch takes.
func (r *replayRun) limit() (batch int) {
	batch, r.limiter = r.replayer.atOnce(runBatch), rate.NewLimiter(rate.Inf, runBatch)
	if r.pace.Rate > 0 {
		batch = min(max(int(r.pace.Rate/paceSteps), 1), batch)
		r.limiter = rate.NewLimiter(rate.Limit(r.pace.Rate), batch)
	}
	return batch
}

// wait waits until the rate allows a batch, after what other runs have taken.
func (r *replayRun) wait(ctx context.Context, batch int) error {
	for owed := r.others + int64(batch); owed > 0; {
		n := min(owed, int64(batch))
		if err := r.limiter.WaitN(ctx, int(n)); err != nil {
			// The limiter's own error is about a deadline that it foresees.
			return cmp.Or(ctx.Err(), err)
		}
		owed -= n
	}
	r.others = 0
	return nil
}

// needsCanary reports whether the first replays are canaries: also in a run after
// one that its replays stopped.
func (r *replayRun) needsCanary() bool {
	return r.pace.Canary > 0 &&
		(r.op.Done < int64(r.pace.Canary) || r.op.StoppedBy == StoppedByCanary || r.op.StoppedBy == StoppedByBreaker)
}

// canary replays the first ones and waits until each of them succeeds. done means
// that none are left after them.
func (r *replayRun) canary(ctx context.Context) (done bool, err error) {
	var first []Replayed
	for len(first) < r.pace.Canary && !done {
		var made []Replayed
		if made, done, err = r.batch(ctx, r.pace.Canary-len(first)); err != nil {
			return done, err
		}
		first = append(first, made...)
	}
	if len(first) == 0 {
		return done, nil
	}
	return done, r.await(ctx, first)
}

// await waits until all these replays have succeeded, or returns a *StoppedError.
func (r *replayRun) await(ctx context.Context, replays []Replayed) error {
	expired := time.NewTimer(cmp.Or(r.pace.CanaryTimeout, canaryTimeout))
	defer expired.Stop()
	tick := time.NewTicker(lookInterval)
	defer tick.Stop()
	for late := false; ; {
		o, err := r.q.outcomes(ctx, replays)
		if err != nil {
			return err
		}
		if o.succeeded == len(replays) {
			return nil
		}
		if o.failed > 0 || late {
			r.op.StoppedBy = StoppedByCanary
			return &StoppedError{Operation: r.op, Died: o.failed, Ended: o.failed + o.succeeded, Pending: o.pending}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-expired.C:
			late = true
		case <-tick.C:
		}
	}
}

// outcomes counts how replays ended.
type outcomes struct{ pending, succeeded, failed int }

// A row that is gone, or that somebody else replays again, counts as failed: it
// can't show a success. $1 the dead letters, $2 the jobs.
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

// breaker returns a *StoppedError if too many of this run's replays died.
func (r *replayRun) breaker(ctx context.Context) error {
	if r.pace.Breaker == 0 || time.Since(r.looked) < max(lookInterval, breakerShare*r.look) {
		return nil
	}
	var died, succeeded int
	began := time.Now()
	if err := byindex.LookupRow(ctx, r.q.pool, replaysql.Breaker, []any{r.op.ID, r.since, breakerWindow}, &died, &succeeded); err != nil {
		return err
	}
	r.looked, r.look = time.Now(), time.Since(began)
	ended := died + succeeded
	if ended < breakerLeast || float64(died) < r.pace.Breaker*float64(ended) {
		return nil
	}
	r.op.StoppedBy = StoppedByBreaker
	return &StoppedError{Operation: r.op, Died: died, Ended: ended}
}

// batch replays the next rows that were picked, most at the most, and reports it.
// done means that it was the last batch.
func (r *replayRun) batch(ctx context.Context, most int) (made []Replayed, done bool, err error) {
	op := r.op
	err = pg.InTxWith(ctx, r.q.pool, readCommitted, func(tx pgx.Tx) (err error) {
		op, r.last = r.op, r.after
		made, done, err = r.batchTx(ctx, tx, &op, most)
		return err
	})
	if err != nil {
		return nil, false, err
	}
	r.others += op.Done + op.Skipped - r.op.Done - r.op.Skipped - int64(r.taken)
	r.op, r.after = op, r.last
	r.replayed = append(r.replayed, made...)
	r.onProgress(op, made)
	return made, done, nil
}

// The lock makes two runs of one operation take turns.
const lockOperationSQL = `
select done, skipped
from public.soniq_dead_letter_operations
where id = $1
for update`

// batchTx is batch in its transaction.
func (r *replayRun) batchTx(ctx context.Context, tx pgx.Tx, op *Operation, most int) (made []Replayed, done bool, err error) {
	if _, err := tx.Exec(ctx, byindex.LookupSQL); err != nil {
		return nil, false, err
	}
	if err := tx.QueryRow(ctx, lockOperationSQL, op.ID).Scan(&op.Done, &op.Skipped); err != nil {
		return nil, false, err
	}
	next := r.replayNext
	if r.replayer.options.edits() {
		next = r.editNext
	}
	made, taken, err := next(ctx, tx, op.ID, most)
	if err != nil {
		return nil, false, err
	}
	r.taken = taken
	op.Done += int64(len(made))
	op.Skipped += int64(taken - len(made))
	op.State, op.StoppedBy = OperationRunning, ""
	if done = taken < most; done {
		op.State = OperationDone
		if err := r.redactOrder(ctx, tx, op.ID); err != nil {
			return nil, false, err
		}
	}
	return made, done, op.save(ctx, tx)
}

// replayNext replays those of the next rows that can still be replayed, in their order.
// The start made sure that all could be; other programs may have changed rows since.
func (r *replayRun) replayNext(ctx context.Context, tx pgx.Tx, operation uuid.UUID, most int) (made []Replayed, taken int, err error) {
	fresh, err := freshIDs(most)
	if err != nil {
		return nil, 0, err
	}
	sql, params := r.nextBatch(operation, fresh, most)
	rows, err := tx.Query(ctx, sql, params...)
	if err != nil {
		return nil, 0, err
	}
	var (
		from, to     *uuid.UUID
		count, place *int64
	)
	_, err = pgx.ForEachRow(rows, []any{&from, &to, &count, &place}, func() error {
		switch {
		case from != nil:
			made = append(made, Replayed{From: *from, To: *to})
		case place != nil:
			taken, r.last = int(*count), *place
		}
		return nil
	})
	return made, taken, err
}

func (r *replayRun) nextBatch(operation uuid.UUID, fresh []uuid.UUID, most int) (sql string, params []any) {
	batch := replaysql.Batch{Options: r.replayer.params(&operation), Fresh: fresh, After: r.after, Most: most}
	return batch.SQL(func(w *pg.Where) {
		conditions := &where{*w}
		r.replayer.andReplayable(conditions)
		*w = conditions.Where
	})
}

// editNext is replayNext with other arguments, which pass through this process.
func (r *replayRun) editNext(ctx context.Context, tx pgx.Tx, operation uuid.UUID, most int) (made []Replayed, taken int, err error) {
	rows, err := tx.Query(ctx, replaysql.Take(), operation, r.after, most)
	if err != nil {
		return nil, 0, err
	}
	var (
		picked []uuid.UUID
		id     uuid.UUID
	)
	if _, err = pgx.ForEachRow(rows, []any{&id, &r.last}, func() error {
		picked = append(picked, id)
		return nil
	}); err != nil {
		return nil, 0, err
	}
	made, err = r.replayPicked(ctx, tx, operation, picked)
	return made, len(picked), err
}

// redactOrder stores the order without its secrets.
func (r *replayRun) redactOrder(ctx context.Context, tx pgx.Tx, operation uuid.UUID) error {
	order, err := json.Marshal(r.order)
	if err != nil {
		return err
	}
	return audit.SetOptions(ctx, tx, operation, audit.RedactOptions(order))
}

// replayPicked replays those of the picked rows that can still be replayed, in
// their order.
func (r *replayRun) replayPicked(ctx context.Context, tx pgx.Tx, operation uuid.UUID, picked []uuid.UUID) ([]Replayed, error) {
	w := r.replayer.replayable(Filter{})
	w.And("d.id = any(" + w.Param(picked) + ")")
	var spent []uuid.UUID
	ids, err := lockReplayable(ctx, tx, w, 0, func(id uuid.UUID, attempts, maxAttempts int) error {
		if r.order.Options.checkAttempts(id, attempts, maxAttempts) != nil {
			spent = append(spent, id)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	ids = slices.DeleteFunc(ids, func(id uuid.UUID) bool { return slices.Contains(spent, id) })
	for {
		made, err := r.replayer.makeJobs(ctx, tx, ids, &operation)
		var misfit *EditError
		if !errors.As(err, &misfit) {
			return made, err
		}
		ids = slices.DeleteFunc(ids, func(id uuid.UUID) bool { return id == misfit.ID })
	}
}

// Another run may have finished it meanwhile. $1 the operation, $2 why.
const stopOperationSQL = `
update public.soniq_dead_letter_operations
set
  state = 'stopped',
  stopped_by = $2,
  updated_at = clock_timestamp()
where id = $1
  and state = 'running'`

// stop records why the run ended before the operation was done.
func (r *replayRun) stop(ctx context.Context, err error) {
	var stopped *StoppedError
	switch {
	case errors.As(err, &stopped):
	default:
		r.op.StoppedBy = stoppedBy(ctx, err)
	}
	r.op.State = OperationStopped
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), saveTimeout)
	defer cancel()
	// If the database is away, the operation counts as lost after two minutes. It can be
	// resumed all the same.
	_, _ = r.q.pool.Exec(ctx, stopOperationSQL, r.op.ID, pg.Storable(r.op.StoppedBy, history.MaxMessageBytes))
	if stopped != nil {
		stopped.Operation = r.op
	}
}
