package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/deadletter"
	"soniq/internal/pg"
)

const (
	defaultQueue    = "default"
	defaultPriority = 100
	// Python Soniq's default of 3 retries; its column's default is 3 attempts.
	defaultMaxAttempts = 4
	// A job's arguments are read by every claim: a megabyte is already far
	// more than a reference to the data.
	defaultMaxArgsBytes = 1 << 20
)

// ClientConfig configures a [Client]. Its zero value works.
type ClientConfig struct {
	// Registry, if set, gives each job the queue and max attempts of its
	// handler, where the call doesn't say. Names it lacks are enqueued all
	// the same. Default none.
	Registry *Registry
	// ProducerID is written to each job: who enqueued it. Default
	// 'host:pid:program'.
	ProducerID string
	// MaxArgsBytes bounds a job's arguments as JSON. Default 1 MiB.
	MaxArgsBytes int
}

// Client enqueues jobs and reads them back. It is safe for concurrent use.
type Client struct {
	pool     *pgxpool.Pool
	config   ClientConfig
	registry *Registry
}

// NewClient returns a client on pool, which stays the caller's to close.
func NewClient(pool *pgxpool.Pool, config ClientConfig) (*Client, error) {
	if pool == nil {
		return nil, errors.New("new client: pool is nil")
	}
	if config.MaxArgsBytes < 0 {
		return nil, errors.New("new client: MaxArgsBytes is negative")
	}
	if config.MaxArgsBytes == 0 {
		config.MaxArgsBytes = defaultMaxArgsBytes
	}
	if config.ProducerID == "" {
		host, _ := os.Hostname()
		config.ProducerID = fmt.Sprintf("%s:%d:%s", host, os.Getpid(), filepath.Base(os.Args[0]))
	}
	registry := config.Registry
	if registry == nil {
		registry = NewRegistry()
	}
	if err := registry.Err(); err != nil {
		return nil, fmt.Errorf("new client: %w", err)
	}
	return &Client{pool: pool, config: config, registry: registry}, nil
}

// Enqueued tells which job came of an enqueue.
type Enqueued struct {
	ID uuid.UUID
	// Duplicate says that nothing was inserted: ID is the job that was
	// queued already (see [Unique] and [DedupKey]).
	Duplicate bool
}

// Insert is one job of [Client.EnqueueMany].
type Insert struct {
	Name    string
	Args    any
	Options []EnqueueOption
}

// insert is a row to be.
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
}

// Enqueue inserts a job and commits it; a worker that sleeps is woken. args
// is a struct, a map or a [encoding/json.RawMessage], and must be a JSON
// object; nil is {}. A caller's mistake is an [*ArgumentError].
func (c *Client) Enqueue(ctx context.Context, name string, args any, opts ...EnqueueOption) (Enqueued, error) {
	return c.enqueue(ctx, c.pool, name, args, opts)
}

// EnqueueTx is [Client.Enqueue] inside the caller's transaction: the job
// exists, and workers are woken, if and when it commits. An [*ArgumentError]
// whose Field is 'job' comes from the database, and tx can only be rolled back
// after it.
func (c *Client) EnqueueTx(ctx context.Context, tx pgx.Tx, name string, args any, opts ...EnqueueOption) (Enqueued, error) {
	return c.enqueue(ctx, tx, name, args, opts)
}

func (c *Client) enqueue(ctx context.Context, db querier, name string, args any, opts []EnqueueOption) (Enqueued, error) {
	in, err := c.prepare(name, args, opts)
	if err != nil {
		return Enqueued{}, fmt.Errorf("enqueue %s: %w", describeName(name), err)
	}
	done, err := enqueueAll(ctx, db, []*insert{in})
	if err != nil {
		return Enqueued{}, fmt.Errorf("enqueue %s: %w", describeName(name), err)
	}
	return done[0], nil
}

// EnqueueMany inserts all jobs, in order, or none, in one transaction of one
// statement (a few more where some are duplicates).
func (c *Client) EnqueueMany(ctx context.Context, jobs []Insert) ([]Enqueued, error) {
	var done []Enqueued
	err := pgx.BeginFunc(ctx, c.pool, func(tx pgx.Tx) (err error) {
		done, err = c.EnqueueManyTx(ctx, tx, jobs)
		return err
	})
	if err != nil {
		return nil, err
	}
	return done, nil
}

// EnqueueManyTx is [Client.EnqueueMany] inside the caller's transaction.
func (c *Client) EnqueueManyTx(ctx context.Context, tx pgx.Tx, jobs []Insert) ([]Enqueued, error) {
	rows := make([]*insert, len(jobs))
	for i, job := range jobs {
		in, err := c.prepare(job.Name, job.Args, job.Options)
		if err != nil {
			return nil, fmt.Errorf("enqueue job %d of %d, %s: %w", i+1, len(jobs), describeName(job.Name), err)
		}
		rows[i] = in
	}
	done, err := enqueueAll(ctx, tx, rows)
	if err != nil {
		return nil, fmt.Errorf("enqueue %d jobs: %w", len(jobs), err)
	}
	return done, nil
}

// describeName keeps a hostile or empty name from garbling an error.
func describeName(name string) string {
	if len(name) > 200 {
		name = strings.ToValidUTF8(name[:200], "") + "..."
	}
	return fmt.Sprintf("%q", name)
}

// prepare checks everything that can be checked without the database.
func (c *Client) prepare(name string, args any, opts []EnqueueOption) (*insert, error) {
	in := &insert{name: name, priority: defaultPriority, producerID: &c.config.ProducerID}
	for _, o := range opts {
		o.applyEnqueue(in)
	}
	if err := checkText("job name", name); err != nil {
		return nil, err
	}
	in.applyDefaults(c.registry.handlers[name])
	if err := in.validate(); err != nil {
		return nil, err
	}
	var err error
	if in.args, err = encodeArgs(args, c.config.MaxArgsBytes); err != nil {
		return nil, err
	}
	if in.unique {
		hash, err := argsHash(in.args)
		if err != nil {
			return nil, &ArgumentError{"args", "can't be hashed: " + err.Error()}
		}
		in.argsHash = &hash
	}
	// Version 7: ids in order of time keep the primary key's index compact.
	if in.id, err = uuid.NewV7(); err != nil {
		return nil, fmt.Errorf("make id: %w", err)
	}
	return in, nil
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
	if in.delay != nil && *in.delay < 0 {
		return &ArgumentError{"delay", fmt.Sprintf("must not be negative, not %s", *in.delay)}
	}
	return nil
}

// querier is what a pool, a connection and a transaction have in common.
type querier interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

const insertInto = `
insert into public.soniq_jobs (
  id, job_name, args, args_hash, status, attempts, max_attempts, queue, priority,
  unique_job, dedup_key, scheduled_at, producer_id
)`

// A conflict is left to 'do nothing', without a target: a job may be unique
// by its arguments and by its key at once, and ON CONFLICT takes one arbiter.
//
// Rows go in by what they are unique by, and only then by position: two
// statements that insert the same unique jobs wait for each other's rows, and
// in opposite orders they would deadlock.
const enqueueSQL = insertInto + `
select
  n.id, n.job_name, n.args::jsonb, n.args_hash, 'queued', 0, n.max_attempts, n.queue, n.priority,
  n.unique_job, n.dedup_key, coalesce(n.scheduled_at, now() + n.delay), n.producer_id
from unnest(
  $1::uuid[], $2::text[], $3::text[], $4::text[], $5::int[], $6::text[], $7::int[],
  $8::bool[], $9::text[], $10::timestamptz[], $11::interval[], $12::text[]
) with ordinality as n (
  id, job_name, args, args_hash, max_attempts, queue, priority,
  unique_job, dedup_key, scheduled_at, delay, producer_id, position
)
order by n.dedup_key, n.args_hash, case when n.unique_job then n.job_name end, n.position
on conflict do nothing
returning id`

// enqueueOneSQL is enqueueSQL of one row, for less work of the server.
const enqueueOneSQL = insertInto + `
values (
  $1, $2, $3::text::jsonb, $4, 'queued', 0, $5, $6, $7,
  $8, $9, coalesce($10::timestamptz, now() + $11::interval), $12
)
on conflict do nothing
returning id`

// Two joins and not one with OR: each is a look-up in its own unique index.
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

// enqueueAll inserts rows and finds the jobs that stood in the way of those
// that were not inserted.
func enqueueAll(ctx context.Context, db querier, rows []*insert) ([]Enqueued, error) {
	done := make([]Enqueued, len(rows))
	missing := make(map[uuid.UUID]int, len(rows))
	for i, in := range rows {
		done[i].ID = in.id
		missing[in.id] = i
	}
	// Usually one turn. The job in the way can be claimed between the INSERT
	// and the look-up: then it no longer stands in the way.
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
	return nil, fmt.Errorf("a duplicate came and went %d times; try again", turns)
}

// insertRows inserts those of rows that are missing and takes them off it.
func insertRows(ctx context.Context, db querier, rows []*insert, missing map[uuid.UUID]int) error {
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
	)
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
	}
	result, err := db.Query(ctx, enqueueSQL, pg.IDs(ids), names, args, hashes, maxAttempts, queues,
		priorities, uniques, dedupKeys, times, delays, producers)
	return takeInserted(result, err, missing)
}

// insertOne is insertRows of one row.
func insertOne(ctx context.Context, db querier, in *insert, missing map[uuid.UUID]int) error {
	result, err := db.Query(ctx, enqueueOneSQL, pgtype.UUID{Bytes: in.id, Valid: true}, in.name, string(in.args), in.argsHash,
		*in.maxAttempts, *in.queue, in.priority, in.unique, in.dedupKey, in.at, in.delay, in.producerID)
	return takeInserted(result, err, missing)
}

// takeInserted takes the rows that were inserted off the missing ones.
func takeInserted(result pgx.Rows, err error, missing map[uuid.UUID]int) error {
	if err != nil {
		return describeInsertError(err)
	}
	var id uuid.UUID
	if _, err := pgx.ForEachRow(result, []any{pg.ScanID(&id)}, func() error {
		delete(missing, id)
		return nil
	}); err != nil {
		return describeInsertError(err)
	}
	return nil
}

// findDuplicates finds the jobs that stand in the way of those of rows that
// are missing, writes them to done and takes those rows off it.
func findDuplicates(ctx context.Context, db querier, rows []*insert, missing map[uuid.UUID]int, done []Enqueued) error {
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
	result, err := db.Query(ctx, duplicatesSQL, ids, names, hashes, dedupKeys)
	if err != nil {
		return fmt.Errorf("look up duplicates: %w", err)
	}
	var id, existing uuid.UUID
	if _, err := pgx.ForEachRow(result, []any{&id, &existing}, func() error {
		done[missing[id]] = Enqueued{ID: existing, Duplicate: true}
		delete(missing, id)
		return nil
	}); err != nil {
		return fmt.Errorf("look up duplicates: %w", err)
	}
	return nil
}

// describeInsertError makes the database's refusal of a value the caller's
// mistake: class 22 is a value out of range, class 54 a value too complex.
func describeInsertError(err error) error {
	var pgErr *pgconn.PgError
	if pg.IsClass(err, pg.ClassData, pg.ClassProgramLimit) && errors.As(err, &pgErr) {
		return &ArgumentError{"job", "can't be stored: " + pgErr.Message}
	}
	return err
}

// jobColumns are those of a job, with values of up to most bytes each. Times at
// infinity are read like NULL.
func jobColumns(most int) string {
	return `
  id, left(job_name, 2000), ` + pg.BoundedJSON("args", "arguments", most) + `, left(coalesce(queue, 'default'), 2000), coalesce(priority, 100), status,
  coalesce(attempts, 0), coalesce(max_attempts, 3),
  ` + pg.FiniteTime("scheduled_at") + `,
  coalesce(` + pg.FiniteTime("created_at") + `, now()),
  coalesce(` + pg.FiniteTime("updated_at") + `, ` + pg.FiniteTime("created_at") + `, now()),
  coalesce(left(last_error, 65536), ''), ` + pg.BoundedJSON("result", "a result", most) + `, ` + pg.FiniteTime("expires_at") + `,
  coalesce(left(producer_id, 1000), ''), coalesce(left(dedup_key, 3000), ''), worker_id, replay_of, '',
  ` + pg.FiniteTime("cancel_requested_at") + `, ` + pg.BoundedHistory("errors")
}

// jobSQL is jobColumns of one job, or of what is left of it. Parameter $1: id.
func jobSQL(most int) string {
	return `
select` + jobColumns(most) + `
from public.soniq_jobs
where id = $1
union all
select
  id, left(job_name, 2000), ` + pg.BoundedJSON("args", "arguments", most) + `, left(queue, 2000), priority, 'dead_letter',
  attempts, max_attempts,
  ` + pg.FiniteTime("scheduled_at") + `,
  coalesce(` + pg.FiniteTime("original_created_at") + `, now()), coalesce(` + pg.FiniteTime("moved_to_dead_letter_at") + `, now()),
  coalesce(left(last_error, 65536), ''), null, null,
  coalesce(left(producer_id, 1000), ''), coalesce(left(dedup_key, 3000), ''), worker_id, replay_of, dead_letter_reason, null, ` + pg.BoundedHistory("errors") + `
from public.soniq_dead_letter_jobs
where id = $1
limit 1`
}

// Job returns the job with this id, dead letters included (their Status is
// [StatusDeadLetter]), or [ErrJobNotFound].
func (c *Client) Job(ctx context.Context, id uuid.UUID) (*Job, error) {
	job, err := scanJob(c.pool.QueryRow(ctx, jobSQL(pg.SingleBytes), id))
	if pg.IsTooLarge(err) {
		job, err = scanJob(c.pool.QueryRow(ctx, jobSQL(pg.PlainBytes), id))
	}
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, ErrJobNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("read job: %w", err)
	}
	return job, nil
}

// scanJob reads a row of jobColumns.
func scanJob(row pgx.Row) (*Job, error) {
	var j Job
	var failures []byte
	err := row.Scan(
		&j.ID, &j.Name, &j.Args, &j.Queue, &j.Priority, &j.Status,
		&j.Attempts, &j.MaxAttempts, &j.ScheduledAt,
		&j.CreatedAt, &j.UpdatedAt,
		&j.LastError, &j.Result, &j.ExpiresAt,
		&j.ProducerID, &j.DedupKey, &j.WorkerID, &j.ReplayOf, &j.DeadLetterReason,
		&j.CancelRequestedAt, &failures,
	)
	j.Errors = deadletter.DecodeFailures(failures)
	j.inUTC()
	return &j, err
}
