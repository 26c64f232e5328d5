package deadletter

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"soniq/internal/argshash"
	"soniq/internal/pg"
)

// replayBatch is how many jobs one statement of ReplayAll makes. All of them
// are one transaction; the batch only bounds a statement's parameters.
const replayBatch = 10_000

// editedBatch is how many of them one statement makes that get other arguments:
// those pass through this process, and each may be as large as the client takes.
const editedBatch = 50

// duplicateTries is how often a replay tries again when the equal job that
// stood in its way has left the queue before it could be named.
const duplicateTries = 10

// replayTx: a replay waits for a row and must then see what the one before made
// of it, whatever level the database has by default.
var replayTx = pgx.TxOptions{IsoLevel: pgx.ReadCommitted}

// ReplayOptions change what a replay makes. The zero value makes an equal job
// that starts afresh.
type ReplayOptions struct {
	// KeepAttempts leaves the attempts used up that the dead letter has used.
	// It needs a higher maximum, or the job would die without having run.
	// Default false: the job starts with none.
	KeepAttempts bool `json:"keep_attempts,omitempty"`
	// MaxAttempts is the new job's. Default the dead letter's.
	MaxAttempts int `json:"max_attempts,omitempty"`
	// Priority is the new job's; 0 is one. Default the dead letter's.
	Priority *int `json:"priority,omitempty"`
	// Queue is the new job's. Default the dead letter's.
	Queue string `json:"queue,omitempty"`
	// Delay is how long the new job waits before it is due. Default none.
	Delay time.Duration `json:"delay,omitempty"`
	// MaxReplays leaves out what was replayed that often already, itself or the
	// dead letters that it is a replay of: what dies again each time is no
	// longer helped by another time. Default 0, which is no limit.
	MaxReplays int `json:"max_replays,omitempty"`
	// Args are the new job's arguments, a JSON object; the dead letter keeps
	// its own. For Replay alone. Default the dead letter's.
	Args json.RawMessage `json:"args,omitempty"`
	// Edits change the new job's arguments, one after the other; the dead letter
	// keeps its own. A dead letter whose arguments have no place for one of them
	// is refused with an *EditError. Default none.
	Edits []ArgsEdit `json:"edits,omitempty"`
	// Force replays what is being replayed or was resolved. Then the end of the
	// new job counts, and that of an earlier one no longer does. The work may then
	// be done twice; so it is for Replay alone, and ReplayAll refuses it.
	// Default false.
	Force bool `json:"force,omitempty"`
}

func (o ReplayOptions) validate() error {
	if o.MaxAttempts < 0 || o.MaxAttempts > math.MaxInt32 {
		return fmt.Errorf("replay options: MaxAttempts: %d is not between 0 and %d", o.MaxAttempts, math.MaxInt32)
	}
	if o.Priority != nil && (*o.Priority < math.MinInt32 || *o.Priority > math.MaxInt32) {
		return fmt.Errorf("replay options: Priority: %d is not between %d and %d", *o.Priority, math.MinInt32, math.MaxInt32)
	}
	if !acceptable(o.Queue) {
		return errors.New("replay options: Queue: not valid UTF-8, or with a NUL byte in it")
	}
	if o.Delay < 0 || o.Delay > maxDelay {
		return fmt.Errorf("replay options: Delay: %s is not between 0 and %s", o.Delay, maxDelay)
	}
	if o.MaxReplays < 0 {
		return fmt.Errorf("replay options: MaxReplays: %d is negative", o.MaxReplays)
	}
	if o.Args != nil {
		if err := checkArgs(o.Args); err != nil {
			return fmt.Errorf("replay options: Args: %w", err)
		}
	}
	for _, e := range o.Edits {
		if err := e.Validate(); err != nil {
			return fmt.Errorf("replay options: Edits: %w", err)
		}
	}
	return nil
}

// maxDelay is a century: what is longer overflows a Duration sooner or later.
const maxDelay = 36500 * 24 * time.Hour

var errNoObject = errors.New("not a JSON object")

// checkArgs finds what a handler or the database would refuse as arguments.
func checkArgs(args json.RawMessage) error {
	if trimmed := bytes.TrimLeft(args, " \t\r\n"); len(trimmed) == 0 || trimmed[0] != '{' || !json.Valid(args) {
		return errNoObject
	}
	return pg.CheckJSON(args)
}

// check returns an AttemptsError for a dead letter that keeps its attempts and
// has none left.
func (o ReplayOptions) check(id uuid.UUID, attempts, maxAttempts int) error {
	if o.MaxAttempts > 0 {
		maxAttempts = o.MaxAttempts
	}
	if o.KeepAttempts && attempts >= maxAttempts {
		return &AttemptsError{ID: id, Attempts: attempts, MaxAttempts: maxAttempts}
	}
	return nil
}

// Replayed is a dead letter and the job that its replay made.
type Replayed struct {
	From uuid.UUID `json:"from"`
	To   uuid.UUID `json:"to"`
}

// ReplayResult is what ReplayAll did.
type ReplayResult struct {
	// Replayed are the dead letters that were replayed, oldest first.
	Replayed []Replayed `json:"replayed"`
	// Skipped counts the dead letters that were picked and stay dead, because
	// an equal unique job, or one with the same dedup key, is queued.
	Skipped int `json:"skipped"`
}

// makeJobs inserts a queued job for each dead letter and links the two. It
// returns both ids of those that it made.
//
// A job that is equal to a queued one (by either of the two unique indexes)
// isn't made, and its dead letter isn't touched. The trigger on the insert
// wakes the workers. created_at is the clock's time and not the transaction's,
// so that jobs of one transaction run in their order.
//
// $1 dead letters, $2 the new ids, $3 keep attempts, $4 max attempts or 0,
// $5 priority or null, $6 queue or ”, $7 delay, $8 and $9 the other arguments of
// each and their hash, or null; for the record $10 the operation, $11 who, $12
// why and $13 what it tells of the other arguments.
//
// A name and a queue that were shortened are whole again. What the unique indexes
// of the queue could not hold is not unique.
const makeJobs = `
with made as (
  insert into public.soniq_jobs (
    id, job_name, args, args_hash, status, attempts, max_attempts,
    queue, priority, unique_job, dedup_key, producer_id, replay_of, created_at, scheduled_at
  )
  select
    u.job_id, coalesce(d.whole_job_name, d.job_name), coalesce(u.args::jsonb, d.args),
    case when u.args is not null and d.args_hash is not null then u.args_hash else d.args_hash end, 'queued',
    case when $3 then d.attempts else 0 end,
    case when $4 > 0 then $4 else greatest(d.max_attempts, 1) end,
    coalesce(nullif($6, ''), d.whole_queue, d.queue),
    coalesce($5, d.priority),
    coalesce(d.unique_job, false) and d.whole_job_name is null
      and octet_length(d.job_name) + octet_length(coalesce(d.args_hash, '')) <= 2500,
    case when octet_length(d.dedup_key) <= 2500 then d.dedup_key end, d.producer_id, d.id, clock_timestamp(),
    case when $7::interval > interval '0' then clock_timestamp() + $7::interval end
  from unnest($1::uuid[], $2::uuid[], $8::text[], $9::text[]) with ordinality as u (id, job_id, args, args_hash, place)
  join public.soniq_dead_letter_jobs d on d.id = u.id
  order by u.place
  on conflict do nothing
  returning id, replay_of
), linked as (
  update public.soniq_dead_letter_jobs d
  set
    state = 'replaying',
    replay_job_id = made.id,
    resurrection_count = coalesce(d.resurrection_count, 0) + 1,
    last_resurrection_at = clock_timestamp()
  from made
  where d.id = made.replay_of
  returning d.id, made.id as job_id
), recorded as (
  insert into public.soniq_dead_letter_audit (dead_letter_id, operation_id, action, actor, because, job_id, detail)
  select l.id, $10::uuid, 'replay', nullif($11, ''), nullif($12, ''), l.job_id, u.detail::jsonb
  from linked l
  join unnest($1::uuid[], $13::text[]) as u (id, detail) on u.id = l.id
)
select id, job_id
from linked`

// makeJobs makes the jobs and records who did it, within which operation or nil.
func (o ReplayOptions) makeJobs(ctx context.Context, tx pgx.Tx, ids []uuid.UUID, by author, operation *uuid.UUID) ([]Replayed, error) {
	fresh := make([]uuid.UUID, len(ids))
	for i := range fresh {
		id, err := uuid.NewV7()
		if err != nil {
			return nil, err
		}
		fresh[i] = id
	}
	args, hashes, details, err := o.otherArgs(ctx, tx, ids)
	if err != nil {
		return nil, err
	}
	rows, err := tx.Query(ctx, makeJobs, ids, fresh, o.KeepAttempts, o.MaxAttempts, o.Priority, o.Queue, o.Delay, args, hashes,
		operation, by.actor, by.because, details)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[Replayed])
}

// edits reports whether the new jobs get other arguments.
func (o ReplayOptions) edits() bool { return o.Args != nil || len(o.Edits) > 0 }

// atOnce is how many of n replays one statement makes.
func (o ReplayOptions) atOnce(n int) int {
	if o.edits() {
		return min(n, editedBatch)
	}
	return n
}

// newArgs returns the arguments that the replay of a dead letter with these
// gets, and their hash; both nil where they are the same.
func (o ReplayOptions) newArgs(id uuid.UUID, args json.RawMessage) (edited, hash *string, err error) {
	if !o.edits() {
		return nil, nil, nil
	}
	from := args
	if o.Args != nil {
		from = o.Args
	}
	to, err := EditArgs(from, o.Edits)
	var misfit *EditError
	if errors.As(err, &misfit) {
		misfit.ID = id
	}
	if err != nil || compacted(to) == compacted(args) {
		return nil, nil, err
	}
	sum, err := argshash.Sum(to)
	if err != nil {
		return nil, nil, err
	}
	return new(string(to)), &sum, nil
}

const argsSQL = `
select d.id, d.args
from public.soniq_dead_letter_jobs d
where d.id = any($1)`

// otherArgs are the other arguments of each, their hashes, and what the record
// tells of them; all nil where they keep their own.
func (o ReplayOptions) otherArgs(ctx context.Context, db pg.Querier, ids []uuid.UUID) (args, hashes, details []*string, err error) {
	args, hashes, details = make([]*string, len(ids)), make([]*string, len(ids)), make([]*string, len(ids))
	if !o.edits() {
		return args, hashes, details, nil
	}
	places := make(map[uuid.UUID]int, len(ids))
	for i, id := range ids {
		places[id] = i
	}
	rows, err := db.Query(ctx, argsSQL, ids)
	if err != nil {
		return nil, nil, nil, err
	}
	var (
		id     uuid.UUID
		stored json.RawMessage
	)
	_, err = pgx.ForEachRow(rows, []any{&id, &stored}, func() (err error) {
		i := places[id]
		if args[i], hashes[i], err = o.newArgs(id, stored); err != nil || args[i] == nil {
			return err
		}
		details[i], err = argsDetail(stored, json.RawMessage(*args[i]))
		return err
	})
	return args, hashes, details, err
}

// replaysOf is the SQL of how often the work of a dead letter has been replayed:
// itself, and those that it is a replay of, of which rows that were made by hand
// may have a circle. It is soniq_dead_letter_replays in schema.sql, which
// programs of 0.1.0 call, for whoever may read dead letters and may execute
// nothing.
func replaysOf(id string) string {
	return `(
  with recursive line (parent, replays, place) as (
    select f.replay_of, f.resurrection_count, 1
    from public.soniq_dead_letter_jobs f
    where f.id = ` + id + `
    union all
    select f.replay_of, f.resurrection_count, l.place + 1
    from line l
    join public.soniq_dead_letter_jobs f on f.id = l.parent
    where l.place < 100
  )
  select least(coalesce(sum(l.replays), 0), 1000000)::integer
  from line l
)`
}

var stateSQL = `
select d.state, d.replay_job_id, d.attempts, d.max_attempts, ` + replaysOf("d.id") + `
from public.soniq_dead_letter_jobs d
where d.id = $1`

var lockSQL = stateSQL + `
for update`

// The queued job that has $1's place under one of the unique indexes. $2 is the
// hash of other arguments, or null.
const duplicateSQL = `
select j.id
from public.soniq_dead_letter_jobs d
join public.soniq_jobs j on j.status = 'queued' and (
  d.unique_job and j.unique_job and j.job_name = d.job_name
    and j.args_hash = case when d.args_hash is not null then coalesce($2, d.args_hash) end
  or j.dedup_key = d.dedup_key
)
where d.id = $1
limit 1`

// Replay enqueues a dead letter's job again, under a new id, which it returns.
// The dead letter stays as the record: its state becomes replaying, and
// resolved or dead when the new job ends. No handler needs to be known here.
//
// It returns ErrNotFound, a *StateError where an earlier replay runs or has
// succeeded, an *AttemptsError for KeepAttempts without any left, an *EditError
// where the arguments have no place for one of the Edits, or a *DuplicateError
// where an equal job is queued; nothing has changed then. Two who replay one
// dead letter at the same time make one job.
func (q *Queue) Replay(ctx context.Context, id uuid.UUID, o ReplayOptions) (uuid.UUID, error) {
	if err := o.validate(); err != nil {
		return uuid.Nil, fmt.Errorf("replay dead letter %s: %w", id, err)
	}
	var job uuid.UUID
	err := pgx.BeginTxFunc(ctx, q.pool, replayTx, func(tx pgx.Tx) (err error) {
		job, err = o.replay(ctx, tx, id, q.by)
		return err
	})
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && pgErr.Code == pg.ProgramLimitExceeded && pgErr.Routine != "enlargeStringInfo" {
		err = fmt.Errorf("its queue's name is too long for the index of the jobs, give another queue: %w", err)
	}
	if err != nil {
		return uuid.Nil, fmt.Errorf("replay dead letter %s: %w", id, err)
	}
	return job, nil
}

// CheckReplay returns the error that Replay would return now, or nil. It changes
// nothing and locks nothing.
func (q *Queue) CheckReplay(ctx context.Context, id uuid.UUID, o ReplayOptions) error {
	err := o.validate()
	if err == nil {
		err = o.refusal(ctx, q.pool, stateSQL, id)
	}
	if err == nil {
		err = o.duplicate(ctx, q.pool, id)
	}
	if err != nil {
		return fmt.Errorf("check replay of dead letter %s: %w", id, err)
	}
	return nil
}

// refusal reads the dead letter by sql and returns why it can't be replayed,
// apart from duplicates.
func (o ReplayOptions) refusal(ctx context.Context, db pg.Querier, sql string, id uuid.UUID) error {
	var (
		state                 string
		replayJobID           *uuid.UUID
		attempts, maxAttempts int
		replays               int
	)
	err := db.QueryRow(ctx, sql, id).Scan(&state, &replayJobID, &attempts, &maxAttempts, &replays)
	if errors.Is(err, pgx.ErrNoRows) {
		return ErrNotFound
	}
	if err != nil {
		return err
	}
	if state != StateDead && !o.Force {
		return &StateError{ID: id, State: state, ReplayJobID: replayJobID}
	}
	if o.MaxReplays > 0 && replays >= o.MaxReplays && !o.Force {
		return &ReplaysError{ID: id, Replays: replays, MaxReplays: o.MaxReplays}
	}
	return o.check(id, attempts, maxAttempts)
}

// duplicate returns a *DuplicateError if a job that is equal to the dead letter
// is queued.
func (o ReplayOptions) duplicate(ctx context.Context, db pg.Querier, id uuid.UUID) error {
	_, hashes, _, err := o.otherArgs(ctx, db, []uuid.UUID{id})
	if err != nil {
		return err
	}
	var queued uuid.UUID
	err = db.QueryRow(ctx, duplicateSQL, id, hashes[0]).Scan(&queued)
	if err == nil {
		return &DuplicateError{ID: queued}
	}
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	return err
}

func (o ReplayOptions) replay(ctx context.Context, tx pgx.Tx, id uuid.UUID, by author) (uuid.UUID, error) {
	if err := o.refusal(ctx, tx, lockSQL, id); err != nil {
		return uuid.Nil, err
	}
	for range duplicateTries {
		made, err := o.makeJobs(ctx, tx, []uuid.UUID{id}, by, nil)
		if err != nil {
			return uuid.Nil, err
		}
		if len(made) == 1 {
			return made[0].To, nil
		}
		if err := o.duplicate(ctx, tx, id); err != nil {
			return uuid.Nil, err
		}
	}
	return uuid.Nil, fmt.Errorf("an equal job came and left the queue %d times meanwhile", duplicateTries)
}

// replayable adds to the filter's conditions those of ReplayAll and
// ReplayCount.
//
// A dead letter whose replay died has a younger dead letter, which holds the
// newer error: that is the one to replay.
func (f Filter) replayable(o ReplayOptions) *where {
	w := f.where()
	w.and("d.state = 'dead'")
	w.and(outcomeUnknown + " is not true")
	w.and("not " + superseded)
	if o.Queue == "" {
		// The index of the queue may not hold it.
		w.and("d.whole_queue is null")
	}
	if o.MaxReplays > 0 {
		w.and("not " + w.exhausted(o.MaxReplays))
	}
	return w
}

// superseded: a replay of the row died, and has a dead letter of its own.
const superseded = "exists (select from public.soniq_dead_letter_jobs s where s.id = d.replay_job_id)"

// exhausted: the row was replayed most times or more. Hardly any row is itself
// a replay: those alone pay for the walk.
func (w *where) exhausted(most int) string {
	n := w.param(most)
	return `(case
    when d.replay_of is null then coalesce(d.resurrection_count, 0)
    else ` + replaysOf("d.id") + `
  end >= ` + n + `)`
}

// ReplayList returns the first dead letters, the oldest first, that ReplayAll
// would pick: at most n of them, and no more than the filter's Limit.
func (q *Queue) ReplayList(ctx context.Context, f Filter, o ReplayOptions, n int) ([]Job, error) {
	if err := f.Validate(); err != nil {
		return nil, fmt.Errorf("list dead letters to replay: %w", err)
	}
	if f.Limit > 0 {
		n = min(n, f.Limit)
	}
	w := f.replayable(o)
	end := w.sql() + oldestFirst + w.limit(n)
	jobs, err := q.readBounded(ctx, pg.ListedBytes, w.params, func(r reading) string { return r.selectJobs() + end })
	if err != nil {
		return nil, fmt.Errorf("list dead letters to replay: %w", err)
	}
	return jobs, nil
}

// ReplayCount returns how many dead letters ReplayAll would pick: those that it
// would replay, and those that it would skip because an equal job is queued.
// Options that ReplayAll would refuse are an error here too, and so is a dead
// letter without attempts left under KeepAttempts, or without a place for one of
// the Edits.
func (q *Queue) ReplayCount(ctx context.Context, f Filter, o ReplayOptions) (int64, error) {
	n, err := q.replayCount(ctx, f, o)
	if err != nil {
		return 0, fmt.Errorf("count dead letters to replay: %w", err)
	}
	return n, nil
}

func (q *Queue) replayCount(ctx context.Context, f Filter, o ReplayOptions) (int64, error) {
	if err := f.Validate(); err != nil {
		return 0, err
	}
	if err := o.validateAll(); err != nil {
		return 0, err
	}
	n, err := q.count(ctx, f.replayable(o), f.Limit)
	if err == nil && o.edits() {
		err = q.checkEdits(ctx, f, o)
	}
	if err != nil || !o.KeepAttempts {
		return n, err
	}
	w := f.replayable(o)
	sql := "select p.id, p.attempts, p.max_attempts\nfrom (" + selectReplayable + w.sql() + oldestFirst + w.limit(f.Limit) + ") p" +
		"\nwhere p.attempts >= coalesce(nullif(" + w.param(o.MaxAttempts) + "::bigint, 0), p.max_attempts)\nlimit 1"
	var (
		id                    uuid.UUID
		attempts, maxAttempts int
	)
	err = q.pool.QueryRow(ctx, sql, w.params...).Scan(&id, &attempts, &maxAttempts)
	if errors.Is(err, pgx.ErrNoRows) {
		return n, nil
	}
	if err != nil {
		return 0, err
	}
	return 0, o.check(id, attempts, maxAttempts)
}

// checkEdits returns the *EditError of the first picked dead letter whose
// arguments have no place for an edit.
func (q *Queue) checkEdits(ctx context.Context, f Filter, o ReplayOptions) error {
	w := f.replayable(o)
	picked := &where{conditions: w.conditions, params: slices.Clone(w.params)}
	rows, err := q.pool.Query(ctx, "select d.id, d.args\nfrom public.soniq_dead_letter_jobs d"+picked.sql()+oldestFirst+picked.limit(f.Limit), picked.params...)
	if err != nil {
		return err
	}
	defer rows.Close()
	var (
		id   uuid.UUID
		args json.RawMessage
	)
	n := 0
	_, err = pgx.ForEachRow(rows, []any{&id, &args}, func() error {
		n++
		_, _, err := o.newArgs(id, args)
		return err
	})
	return q.named(ctx, w, n, err)
}

var (
	errForceAll = errors.New("replay options: Force: only for a single dead letter")
	errArgsAll  = errors.New("replay options: Args: only for a single dead letter")
)

// validateAll is validate for ReplayAll.
func (o ReplayOptions) validateAll() error {
	if o.Force {
		return errForceAll
	}
	if o.Args != nil {
		return errArgsAll
	}
	return o.validate()
}

// ReplayAll replays what the filter picks, oldest first, in one transaction:
// all of it or, on an error, nothing. A filter without a condition is refused
// with ErrFilterEmpty unless All is set.
//
// It takes dead letters in the state dead alone, so that running it again
// doubles nothing, and leaves out two kinds of those: the ones whose replay
// died too, for which the younger dead letter stands, and the ones whose
// OutcomeUnknown is true. Two at the same time make each job once: the second
// waits for the first.
//
// With KeepAttempts, one dead letter without attempts left fails it all with an
// *AttemptsError; so does one without a place for one of the Edits, with an
// *EditError.
func (q *Queue) ReplayAll(ctx context.Context, f Filter, o ReplayOptions) (ReplayResult, error) {
	if err := f.validateBulk(); err != nil {
		return ReplayResult{}, fmt.Errorf("replay dead letters: %w", err)
	}
	if err := o.validateAll(); err != nil {
		return ReplayResult{}, fmt.Errorf("replay dead letters: %w", err)
	}
	var result ReplayResult
	err := pgx.BeginTxFunc(ctx, q.pool, replayTx, func(tx pgx.Tx) (err error) {
		result, err = q.replayAll(ctx, tx, f, o)
		return err
	})
	if err != nil {
		return ReplayResult{}, fmt.Errorf("replay dead letters: %w", err)
	}
	return result, nil
}

func (q *Queue) replayAll(ctx context.Context, tx pgx.Tx, f Filter, o ReplayOptions) (ReplayResult, error) {
	result := ReplayResult{Replayed: []Replayed{}}
	ids, err := lockReplayable(ctx, tx, f.replayable(o), f.Limit, o.check)
	if err != nil || len(ids) == 0 {
		return result, err
	}
	op := Operation{Action: ActionReplay, State: OperationDone, Total: int64(len(ids))}
	if err := q.beginOperation(ctx, tx, &op, f, replayOrder{Options: o}.redacted()); err != nil {
		return result, err
	}
	for batch := range slices.Chunk(ids, o.atOnce(replayBatch)) {
		made, err := o.replayInOrder(ctx, tx, batch, q.by, &op.ID)
		if err != nil {
			return result, err
		}
		result.Replayed = append(result.Replayed, made...)
	}
	result.Skipped = len(ids) - len(result.Replayed)
	op.Done, op.Skipped = int64(len(result.Replayed)), int64(result.Skipped)
	return result, op.save(ctx, tx)
}

// replayInOrder is makeJobs whose answer has the order of the ids.
func (o ReplayOptions) replayInOrder(ctx context.Context, tx pgx.Tx, ids []uuid.UUID, by author, operation *uuid.UUID) ([]Replayed, error) {
	made, err := o.makeJobs(ctx, tx, ids, by, operation)
	if err != nil {
		return nil, err
	}
	jobs := make(map[uuid.UUID]uuid.UUID, len(made))
	for _, m := range made {
		jobs[m.From] = m.To
	}
	ordered := make([]Replayed, 0, len(made))
	for _, id := range ids {
		if job, ok := jobs[id]; ok {
			ordered = append(ordered, Replayed{From: id, To: job})
		}
	}
	return ordered, nil
}

const selectReplayable = "select d.id, d.attempts, d.max_attempts\nfrom public.soniq_dead_letter_jobs d"

// lockReplayable locks the rows to replay and returns their ids, oldest first.
// One lock order for all means that two at the same time can't deadlock. An
// error of check ends it.
func lockReplayable(
	ctx context.Context, tx pgx.Tx, w *where, limit int, check func(id uuid.UUID, attempts, maxAttempts int) error,
) ([]uuid.UUID, error) {
	rows, err := tx.Query(ctx, selectReplayable+w.sql()+oldestFirst+w.limit(limit)+"\nfor update of d", w.params...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var (
		ids                   []uuid.UUID
		id                    uuid.UUID
		attempts, maxAttempts int
	)
	_, err = pgx.ForEachRow(rows, []any{&id, &attempts, &maxAttempts}, func() error {
		ids = append(ids, id)
		return check(id, attempts, maxAttempts)
	})
	return ids, err
}
