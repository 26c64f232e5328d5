package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"soniq/internal/argshash"
	"soniq/internal/pg"
	"soniq/internal/roles"
)

// Enqueued is the answer to an enqueue.
type Enqueued struct {
	ID uuid.UUID
	// Duplicate is true where nothing was inserted: ID is then the job that was
	// queued already (see [Unique] and [DedupKey]).
	Duplicate bool
}

// Insert is one job of [Client.EnqueueMany].
type Insert struct {
	Name    string
	Args    any
	Options []EnqueueOption
}

// insert is a row to be inserted.
type insert struct {
	id          uuid.UUID
	name        string
	args        []byte
	argsHash    *string
	queue       *string
	priority    int
	maxAttempts *int
	at          *time.Time
	delay       *time.Duration
	unique      bool
	dedupKey    *string
	producerID  *string
	trace       TraceContext
}

// Enqueue inserts a job, commits it and wakes a sleeping worker. args is a struct,
// a map, or a [encoding/json.RawMessage], and must encode to a JSON object; nil is
// {}.
//
// Errors: an [*ArgumentError] for a mistake of the caller, whose Field is "job"
// where the database refused a value; else those of the database.
func (c *Client) Enqueue(ctx context.Context, name string, args any, opts ...EnqueueOption) (Enqueued, error) {
	return c.enqueue(ctx, c.pool, name, args, opts)
}

// EnqueueTx is [Client.Enqueue] in the caller's transaction.
//
// Errors: as for [Client.Enqueue]. After an error of the database, among them an
// [*ArgumentError] whose Field is "job", tx can only be rolled back.
func (c *Client) EnqueueTx(ctx context.Context, tx pgx.Tx, name string, args any, opts ...EnqueueOption) (Enqueued, error) {
	return c.enqueue(ctx, c.in(tx), name, args, opts)
}

// in returns the caller's transaction with the client's schema in its statements.
func (c *Client) in(tx pgx.Tx) pgx.Tx { return c.pool.Schema().Tx(tx) }

func (c *Client) enqueue(ctx context.Context, db pg.Querier, name string, args any, opts []EnqueueOption) (Enqueued, error) {
	in, err := c.prepare(name, args, opts)
	if err != nil {
		return Enqueued{}, fmt.Errorf("enqueue %s: %w", describeName(name), err)
	}
	done, err := c.insert(ctx, db, []*insert{in})
	if err, _ := pg.Explain(err); err != nil {
		return Enqueued{}, fmt.Errorf("enqueue %s: %w", describeName(name), err)
	}
	return done[0], nil
}

// EnqueueMany inserts all of the jobs, in order, or none. It is one transaction of
// one statement, and a few more where some are duplicates.
//
// Errors: as for [Client.Enqueue]; the text names the first job with a mistake.
func (c *Client) EnqueueMany(ctx context.Context, jobs []Insert) ([]Enqueued, error) {
	var done []Enqueued
	err := pg.InTx(ctx, c.pool, func(tx pgx.Tx) (err error) {
		done, err = c.enqueueMany(ctx, tx, jobs)
		return err
	})
	if err != nil {
		return nil, err
	}
	return done, nil
}

// EnqueueManyTx is [Client.EnqueueMany] in the caller's transaction.
//
// Errors: as for [Client.EnqueueTx].
func (c *Client) EnqueueManyTx(ctx context.Context, tx pgx.Tx, jobs []Insert) ([]Enqueued, error) {
	return c.enqueueMany(ctx, c.in(tx), jobs)
}

func (c *Client) enqueueMany(ctx context.Context, db pg.Querier, jobs []Insert) ([]Enqueued, error) {
	rows := make([]*insert, len(jobs))
	for i, job := range jobs {
		in, err := c.prepare(job.Name, job.Args, job.Options)
		if err != nil {
			return nil, fmt.Errorf("enqueue job %d of %d, %s: %w", i+1, len(jobs), describeName(job.Name), err)
		}
		rows[i] = in
	}
	done, err := c.insert(ctx, db, rows)
	if err, _ := pg.Explain(err); err != nil {
		return nil, fmt.Errorf("enqueue %d jobs: %w", len(jobs), err)
	}
	return done, nil
}

// describeName quotes a name for an error, and cuts a long one.
func describeName(name string) string {
	if len(name) > 200 {
		name = strings.ToValidUTF8(name[:200], "") + "..."
	}
	return fmt.Sprintf("%q", name)
}

// prepare makes the row and checks all that can be checked without the database.
func (c *Client) prepare(name string, args any, opts []EnqueueOption) (*insert, error) {
	in := &insert{name: name, priority: defaultPriority, producerID: &c.config.ProducerID}
	for _, o := range opts {
		o.applyEnqueue(in)
	}
	if err := checkText("job name", name); err != nil {
		return nil, err
	}
	h := c.registry.handlers[name]
	in.applyDefaults(h)
	if err := in.validate(); err != nil {
		return nil, err
	}
	var err error
	if in.args, err = encodeArgs(args, c.config.MaxArgsBytes); err != nil {
		return nil, err
	}
	if err := h.check(in.args); err != nil {
		return nil, err
	}
	if in.unique {
		hash, err := argshash.Sum(in.args)
		if err != nil {
			return nil, &ArgumentError{"args", "can't be hashed: " + err.Error()}
		}
		in.argsHash = &hash
	}
	// Ids of version 7 are in order of time, which keeps the index of the primary
	// key compact.
	if in.id, err = uuid.NewV7(); err != nil {
		return nil, fmt.Errorf("make id: %w", err)
	}
	return in, nil
}

// check refuses arguments that the handler doesn't take: the job would become a dead letter.
func (h *handler) check(args json.RawMessage) (err error) {
	if h == nil || h.takes == nil {
		return nil
	}
	defer func() {
		if r := recover(); r != nil {
			err = &ArgumentError{"args", fmt.Sprintf("can't be checked: the method Validate panicked: %v", r)}
		}
	}()
	if err := h.takes(args); err != nil {
		return &ArgumentError{"args", "are not what the handler takes: " + err.Error()}
	}
	return nil
}

func (in *insert) applyDefaults(h *handler) {
	if h != nil && in.queue == nil {
		in.queue = h.queue
	}
	if h != nil && in.maxAttempts == nil {
		in.maxAttempts = h.maxAttempts
	}
	if in.queue == nil {
		in.queue = new(defaultQueue)
	}
	if in.maxAttempts == nil {
		in.maxAttempts = new(defaultMaxAttempts)
	}
}

func (in *insert) validate() error {
	if err := checkText("queue", *in.queue); err != nil {
		return err
	}
	if *in.maxAttempts < 1 || int(int32(*in.maxAttempts)) != *in.maxAttempts {
		return &ArgumentError{"max attempts", fmt.Sprintf("must be from 1 to 2147483647, not %d", *in.maxAttempts)}
	}
	if int(int32(in.priority)) != in.priority {
		return &ArgumentError{"priority", fmt.Sprintf("must fit into 32 bits, not %d", in.priority)}
	}
	if in.dedupKey != nil {
		if err := checkText("dedup key", *in.dedupKey); err != nil {
			return err
		}
	}
	if err := checkText("producer id", *in.producerID); err != nil {
		return err
	}
	if in.at != nil {
		if problem := pg.TimeProblem(*in.at); problem != "" {
			return &ArgumentError{"at", problem}
		}
	}
	if in.delay != nil && *in.delay < 0 {
		return &ArgumentError{"delay", fmt.Sprintf("must not be negative, not %s", *in.delay)}
	}
	return nil
}

// insertInto begins an INSERT. A job without a trace context is inserted without that
// column: a role may have the right to insert the others alone.
func insertInto(traced string) string {
	return `
insert into public.soniq_jobs (
  id, job_name, args, args_hash, status, attempts, max_attempts, queue, priority,
  unique_job, dedup_key, scheduled_at, producer_id` + traced + `
)`
}

// ON CONFLICT has no target: a job may be unique by its arguments and by its key
// at once, and a target names one arbiter.
//
// Rows are inserted in the order of what they are unique by, and only then of
// their position. Two statements that insert the same unique jobs wait for each
// other's rows: in opposite orders they would deadlock.
var enqueueSQL, enqueueTracedSQL = enqueueRows("", "", ""), enqueueRows(", trace_context", ", n.trace_context", ", $13::text[]")

func enqueueRows(column, value, param string) string {
	return insertInto(column) + `
select
  n.id, n.job_name, n.args::jsonb, n.args_hash, 'queued', 0, n.max_attempts, n.queue, n.priority,
  n.unique_job, n.dedup_key, coalesce(n.scheduled_at, now() + n.delay), n.producer_id` + value + `
from unnest(
  $1::uuid[], $2::text[], $3::text[], $4::text[], $5::int[], $6::text[], $7::int[],
  $8::bool[], $9::text[], $10::timestamptz[], $11::interval[], $12::text[]` + param + `
) with ordinality as n (
  id, job_name, args, args_hash, max_attempts, queue, priority,
  unique_job, dedup_key, scheduled_at, delay, producer_id` + column + `, position
)
order by n.dedup_key, n.args_hash, case when n.unique_job then n.job_name end, n.position
on conflict do nothing
returning id`
}

// enqueueOneSQL is enqueueSQL for one row. It costs the server less.
var enqueueOneSQL, enqueueOneTracedSQL = enqueueRow("", ""), enqueueRow(", trace_context", ", $13")

func enqueueRow(column, param string) string {
	return insertInto(column) + `
values (
  $1, $2, $3::text::jsonb, $4, 'queued', 0, $5, $6, $7,
  $8, $9, coalesce($10::timestamptz, now() + $11::interval), $12` + param + `
)
on conflict do nothing
returning id`
}

// Two joins, not one with OR: each uses its own unique index.
const duplicatesSQL = `
select n.id, coalesce(u.id, k.id)
from unnest($1::uuid[], $2::text[], $3::text[], $4::text[]) as n (id, job_name, args_hash, dedup_key)
left join public.soniq_jobs u
  on u.job_name = n.job_name and u.args_hash = n.args_hash
  and u.status = 'queued' and u.unique_job = true
left join public.soniq_jobs k
  on k.dedup_key = n.dedup_key
  and k.status = 'queued' and k.dedup_key is not null
where coalesce(u.id, k.id) is not null`

// enqueueAll inserts rows, and finds the queued job that each duplicate is a
// duplicate of.
func enqueueAll(ctx context.Context, db pg.Querier, rows []*insert) ([]Enqueued, error) {
	done := make([]Enqueued, len(rows))
	missing := make(map[uuid.UUID]int, len(rows))
	for i, in := range rows {
		done[i].ID = in.id
		missing[in.id] = i
	}
	// Usually one turn. Between the INSERT and the look-up the other job can be
	// claimed: then the row is no duplicate any more.
	const turns = 10
	for range turns {
		if err := insertRows(ctx, db, rows, missing); err != nil {
			return nil, err
		}
		if err := findDuplicates(ctx, db, rows, missing, done); err != nil {
			return nil, err
		}
		if len(missing) == 0 {
			return done, nil
		}
	}
	return nil, fmt.Errorf("each of %d tries met a duplicate that was claimed a moment later; try again", turns)
}

// insertRows inserts the missing rows, and takes those that were inserted off
// missing.
func insertRows(ctx context.Context, db pg.Querier, rows []*insert, missing map[uuid.UUID]int) error {
	if len(rows) == 1 {
		return insertOne(ctx, db, rows[0], missing)
	}
	var (
		n           = len(missing)
		ids         = make([]uuid.UUID, 0, n)
		names       = make([]string, 0, n)
		args        = make([]string, 0, n)
		hashes      = make([]*string, 0, n)
		maxAttempts = make([]int32, 0, n)
		queues      = make([]string, 0, n)
		priorities  = make([]int32, 0, n)
		uniques     = make([]bool, 0, n)
		dedupKeys   = make([]*string, 0, n)
		times       = make([]*time.Time, 0, n)
		delays      = make([]*time.Duration, 0, n)
		producers   = make([]*string, 0, n)
		traces      []*string
	)
	if slices.ContainsFunc(rows, func(in *insert) bool { return !in.trace.IsZero() }) {
		traces = make([]*string, 0, n)
	}
	for _, in := range rows {
		if _, ok := missing[in.id]; !ok {
			continue
		}
		ids = append(ids, in.id)
		names = append(names, in.name)
		args = append(args, string(in.args))
		hashes = append(hashes, in.argsHash)
		maxAttempts = append(maxAttempts, int32(*in.maxAttempts))
		queues = append(queues, *in.queue)
		priorities = append(priorities, int32(in.priority))
		uniques = append(uniques, in.unique)
		dedupKeys = append(dedupKeys, in.dedupKey)
		times = append(times, in.at)
		delays = append(delays, in.delay)
		producers = append(producers, in.producerID)
		if traces != nil {
			traces = append(traces, in.trace.OrNull())
		}
	}
	params := []any{
		pg.IDs(ids), names, args, hashes, maxAttempts, queues, priorities, uniques, dedupKeys, times, delays, producers,
	}
	sql := enqueueSQL
	if traces != nil {
		sql, params = enqueueTracedSQL, append(params, traces)
	}
	return takeInserted(ctx, db, missing, sql, params...)
}

// insertOne is insertRows for one row.
func insertOne(ctx context.Context, db pg.Querier, in *insert, missing map[uuid.UUID]int) error {
	params := []any{
		pgtype.UUID{Bytes: in.id, Valid: true},
		in.name, string(in.args), in.argsHash,
		*in.maxAttempts, *in.queue, in.priority, in.unique, in.dedupKey, in.at, in.delay, in.producerID,
	}
	sql := enqueueOneSQL
	if !in.trace.IsZero() {
		sql, params = enqueueOneTracedSQL, append(params, in.trace.String())
	}
	return takeInserted(ctx, db, missing, sql, params...)
}

// takeInserted inserts rows, and takes those that were inserted off missing.
func takeInserted(ctx context.Context, db pg.Querier, missing map[uuid.UUID]int, sql string, args ...any) error {
	var inserted []uuid.UUID
	err := pg.Again(ctx, db, func(db pg.Querier) (err error) {
		rows, err := db.Query(ctx, sql, args...)
		if err != nil {
			return err
		}
		inserted, err = pg.CollectIDs(rows)
		return err
	})
	if err != nil {
		return describeStoreError("job", err)
	}
	for _, id := range inserted {
		delete(missing, id)
	}
	return nil
}

// findDuplicates finds the queued jobs that the missing rows are duplicates of,
// writes them to done and takes the rows off missing.
func findDuplicates(ctx context.Context, db pg.Querier, rows []*insert, missing map[uuid.UUID]int, done []Enqueued) error {
	if len(missing) == 0 {
		return nil
	}
	var (
		n         = len(missing)
		ids       = make([]uuid.UUID, 0, n)
		names     = make([]string, 0, n)
		hashes    = make([]*string, 0, n)
		dedupKeys = make([]*string, 0, n)
	)
	for id, i := range missing {
		ids = append(ids, id)
		names = append(names, rows[i].name)
		hashes = append(hashes, rows[i].argsHash)
		dedupKeys = append(dedupKeys, rows[i].dedupKey)
	}
	result, _ := db.Query(ctx, duplicatesSQL, ids, names, hashes, dedupKeys)
	var id, existing uuid.UUID
	if _, err := pgx.ForEachRow(result, []any{&id, &existing}, func() error {
		done[missing[id]] = Enqueued{ID: existing, Duplicate: true}
		delete(missing, id)
		return nil
	}); err != nil {
		return fmt.Errorf("look up duplicates: %w", duplicatesError(err))
	}
	return nil
}

// duplicatesError names the grant that a role lacks which may insert jobs and not find
// the one that is queued already: some columns are enough for that.
func duplicatesError(err error) error {
	var denied *pg.DeniedError
	if !errors.As(err, &denied) {
		return err
	}
	return fmt.Errorf("%w; an equal job is queued already, and to find it the role needs select (id, job_name, args_hash, dedup_key, status, unique_job) on soniq_jobs: %s",
		errors.Unwrap(denied), pg.GrantsHint(denied.Schema, roles.UniqueProducer))
}

// describeStoreError makes an *ArgumentError about a field of the errors that are about
// a value: class 22 is a value out of range, class 54 a value too complex.
func describeStoreError(field string, err error) error {
	var pgErr *pgconn.PgError
	if pg.IsClass(err, pg.ClassData, pg.ClassProgramLimit) && !pg.IsNotifyQueueFull(err) && errors.As(err, &pgErr) {
		return &ArgumentError{field, "can't be stored: " + pgErr.Message}
	}
	return err
}
