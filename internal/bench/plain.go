package bench

import (
	"context"
	"encoding/json"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"soniq/internal/pg"
)

// Plain is the floor that no queue goes below: a lean table, a claim in
// batches of 500, and one statement that finishes a batch. It has no retries,
// no lanes, no fences and no workers that may die.
type Plain struct {
	// Delete removes done rows instead of keeping them.
	Delete bool
	// Notify sends a notification with each insert, on which the worker waits.
	Notify bool
}

const (
	plainBatch   = 500
	plainFetches = 2
)

const plainSchemaSQL = `
create table plain_jobs (
  id uuid primary key,
  job_name text not null,
  args jsonb not null,
  status text not null default 'queued',
  attempts integer not null default 0,
  max_attempts integer not null default 3,
  queue text not null default 'default',
  priority integer not null default 100,
  scheduled_at timestamptz not null default now(),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  worker_id uuid,
  expires_at timestamptz,
  last_error text,
  result jsonb
);
create index on plain_jobs (queue, priority, scheduled_at) where status = 'queued'`

const plainInsertSQL = `insert into plain_jobs (id, job_name, args) values ($1, 'noop', jsonb_build_object('seq', $2::bigint))`

const plainInsertNotifySQL = `
with inserted as (
  insert into plain_jobs (id, job_name, args)
  values ($1, 'noop', jsonb_build_object('seq', $2::bigint))
)
select pg_notify('plain_jobs', '')`

const plainFillSQL = `
insert into plain_jobs (id, job_name, args)
select j.id, 'noop', jsonb_build_object('seq', j.seq)
from unnest($1::uuid[], $2::bigint[]) as j (id, seq)`

const plainClaimSQL = `
with picked as materialized (
  select id
  from plain_jobs
  where status = 'queued'
    and queue = 'default'
    and scheduled_at <= now()
  order by priority, scheduled_at
  limit $1
  for update skip locked
)
update plain_jobs j
set status = 'processing',
  attempts = j.attempts + 1,
  worker_id = $2,
  updated_at = now()
from picked
where j.id = picked.id
returning j.id, j.args`

const plainDoneSQL = `
update plain_jobs
set status = 'done',
  expires_at = now() + interval '5 minutes',
  updated_at = now()
where id = any ($1)
  and worker_id = $2`

const plainDeleteSQL = `
delete from plain_jobs
where id = any ($1)
  and worker_id = $2`

// Name implements [System].
func (p Plain) Name() string {
	switch {
	case p.Delete:
		return "plain SQL, deleting"
	default:
		return "plain SQL"
	}
}

// Setup implements [System].
func (Plain) Setup(ctx context.Context, pool *pgxpool.Pool) error {
	_, err := pool.Exec(ctx, plainSchemaSQL)
	return err
}

// Fill implements [System].
func (Plain) Fill(ctx context.Context, pool *pgxpool.Pool, n int) error {
	return Batches(n, func(first int64, size int) error {
		ids, seqs := make([]uuid.UUID, size), make([]int64, size)
		for i := range size {
			ids[i], seqs[i] = uuid.Must(uuid.NewV7()), first+int64(i)
		}
		_, err := pool.Exec(ctx, plainFillSQL, pg.IDs(ids), seqs)
		return err
	})
}

// Inserter implements [System].
func (p Plain) Inserter(pool *pgxpool.Pool) (Inserter, error) {
	sql := plainInsertSQL
	if p.Notify {
		sql = plainInsertNotifySQL
	}
	return func(ctx context.Context, tx pgx.Tx, seq int64) error {
		var db DB = pool
		if tx != nil {
			db = tx
		}
		_, err := db.Exec(ctx, sql, uuid.Must(uuid.NewV7()), seq)
		return err
	}, nil
}

// Work implements [System]. Without Notify it ends when nothing is left.
func (p Plain) Work(ctx context.Context, pool *pgxpool.Pool, probe Probe) error {
	probe.Began()
	if p.Notify {
		return p.listen(ctx, pool, probe)
	}
	var fetching errgroup.Group
	for range plainFetches {
		fetching.Go(func() error { return p.burn(ctx, pool, probe) })
	}
	return fetching.Wait()
}

// listen works when it is told to, until ctx ends.
func (p Plain) listen(ctx context.Context, pool *pgxpool.Pool, probe Probe) error {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return err
	}
	// A connection that listens is of no use to others.
	defer func() { _ = conn.Hijack().Close(context.WithoutCancel(ctx)) }()
	if _, err := conn.Exec(ctx, `listen plain_jobs`); err != nil {
		return err
	}
	for {
		if err := p.burn(ctx, pool, probe); err != nil {
			return err
		}
		if _, err := conn.Conn().WaitForNotification(ctx); ctx.Err() != nil {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// burn claims and finishes batches until nothing is left or ctx ends.
func (p Plain) burn(ctx context.Context, pool *pgxpool.Pool, probe Probe) error {
	finish := plainDoneSQL
	if p.Delete {
		finish = plainDeleteSQL
	}
	worker := uuid.New()
	// What was begun is finished.
	uncut := context.WithoutCancel(ctx)
	for ctx.Err() == nil {
		ids, err := claimPlain(uncut, pool, worker, probe)
		if err != nil || len(ids) == 0 {
			return err
		}
		if _, err := pool.Exec(uncut, finish, pg.IDs(ids), worker); err != nil {
			return err
		}
		probe.Settled(len(ids))
	}
	return nil
}

func claimPlain(ctx context.Context, pool *pgxpool.Pool, worker uuid.UUID, probe Probe) (ids []uuid.UUID, err error) {
	rows, _ := pool.Query(ctx, plainClaimSQL, plainBatch, worker)
	var id uuid.UUID
	var raw []byte
	_, err = pgx.ForEachRow(rows, []any{pg.ScanID(&id), &raw}, func() error {
		var args noopArgs
		if err := json.Unmarshal(raw, &args); err != nil {
			return err
		}
		probe.Started(args.Seq)
		ids = append(ids, id)
		return nil
	})
	return ids, err
}

// Left implements [System].
func (Plain) Left() string { return `select count(*) from plain_jobs where status <> 'done'` }

// Expire implements [System].
func (Plain) Expire() string { return `delete from plain_jobs where status = 'done'` }
