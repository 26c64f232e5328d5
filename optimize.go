package soniq

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/internal/pause"
	"soniq/internal/pg"
)

// redundantIndexes are, but for the last one, indexes of Python Soniq's that neither program needs once
// those of Soniq for Go exist. On soniq_jobs, idx_soniq_jobs_claim and
// idx_soniq_jobs_processing replace them; on soniq_dead_letter_jobs each is the
// beginning of another index. The two unique arbiters and expires_at stay. The index
// of worker_id serves the foreign key, which is dropped first. The last one serves programs that
// read dead letters in the order of moved_xid alone, as docs/channel.md said before 0.2.0.
var redundantIndexes = []string{
	"idx_soniq_jobs_worker_id",
	"idx_soniq_jobs_status_priority",
	"idx_soniq_jobs_queue_status",
	"idx_soniq_jobs_queue_status_priority",
	"idx_soniq_jobs_scheduled_at",
	"idx_soniq_jobs_args_hash",
	"idx_soniq_dead_letter_jobs_job_name",
	"idx_soniq_dead_letter_jobs_queue",
	"idx_soniq_dead_letter_jobs_reason",
	"idx_soniq_dead_letter_jobs_cursor",
	"idx_soniq_dead_letter_jobs_dead",
}

const indexExistsSQL = `
select exists (
  select from pg_catalog.pg_index i
  join pg_catalog.pg_class c on c.oid = i.indexrelid
  where i.indrelid in ('public.soniq_jobs'::pg_catalog.regclass::pg_catalog.oid, 'public.soniq_dead_letter_jobs'::pg_catalog.regclass::pg_catalog.oid)
    and c.relname = $1
)`

// workerKey is the foreign key of Python Soniq from a job to its worker. It
// makes each claim lock the worker's row once more for each job.
const workerKey = "soniq_jobs_worker_id_fkey"

const workerKeyExistsSQL = `
select exists (
  select from pg_catalog.pg_constraint
  where conrelid = 'public.soniq_jobs'::pg_catalog.regclass::pg_catalog.oid
    and conname = $1
)`

// A session that waits for a lock on the table blocks all that come after it. So it
// waits no longer than a busy table needs between two statements.
const dropWorkerKeySQL = `
set local lock_timeout = '50ms';
alter table public.soniq_jobs drop constraint if exists soniq_jobs_worker_id_fkey`

// Optimize drops indexes that Python Soniq made on soniq_jobs and
// soniq_dead_letter_jobs and that only slow both programs down, and its foreign key
// from a job to its worker; and an index for the cursors of 0.1.0, which only a database that was
// upgraded has. With all of Python's nine indexes on soniq_jobs a claim
// costs four times as much. It returns the names of what it dropped: none on a database
// that [Setup] made.
//
// Workers go on meanwhile. The indexes are dropped CONCURRENTLY. The key is dropped in
// a moment in which nobody else uses the table; Optimize waits for it as long as ctx
// allows.
//
// Errors: one that [IsMissing] knows where there are no tables; an [*OutdatedError] where
// migrations are missing, which make the indexes that replace Python's; an
// [*OtherSchemaError]; [ErrSchemaName]; else those of the database. What was dropped
// before it is returned too.
func Optimize(ctx context.Context, pool *pgxpool.Pool, cfg Config) ([]string, error) {
	var dropped []string
	err := withMigrationLock(ctx, pool, cfg, func(conn *pgx.Conn) error {
		home, err := locateCurrent(ctx, conn, cfg)
		if err != nil {
			return err
		}
		if had, err := dropWorkerKey(ctx, conn, home); err != nil {
			return fmt.Errorf("drop foreign key %s: %w", workerKey, err)
		} else if had {
			dropped = append(dropped, workerKey)
		}
		for _, name := range redundantIndexes {
			var exists bool
			if err := pg.Plain(conn).QueryRow(ctx, home.sql(indexExistsSQL), name).Scan(&exists); err != nil {
				return fmt.Errorf("look up index %s: %w", name, err)
			}
			if !exists {
				continue
			}
			if _, err := conn.Exec(ctx, home.sql("drop index concurrently if exists public."+name)); err != nil {
				return fmt.Errorf("drop index %s: %w", name, err)
			}
			dropped = append(dropped, name)
		}
		return nil
	})
	if err != nil {
		return dropped, fmt.Errorf("optimize schema: %w", err)
	}
	return dropped, nil
}

// locateCurrent is [findHome] for statements that need no transaction, on a database that has all migrations
// of this release.
func locateCurrent(ctx context.Context, conn *pgx.Conn, cfg Config) (h *home, err error) {
	err = pgx.BeginTxFunc(ctx, conn, readOnly, func(raw pgx.Tx) error {
		tx := pg.PlainTx(raw)
		if h, err = findHome(ctx, tx, cfg); err != nil {
			return err
		}
		recorded, err := h.recorded(ctx, tx)
		if err != nil {
			return err
		}
		if missing := recorded.missing(); len(missing) > 0 {
			return &OutdatedError{Missing: names(missing)}
		}
		return nil
	})
	return h, err
}

// dropWorkerKey reports whether the key was there.
func dropWorkerKey(ctx context.Context, conn *pgx.Conn, home *home) (had bool, err error) {
	if err := pg.Plain(conn).QueryRow(ctx, home.sql(workerKeyExistsSQL), workerKey).Scan(&had); err != nil || !had {
		return false, err
	}
	for {
		err := pgx.BeginTxFunc(ctx, conn, readCommitted, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, home.sql(dropWorkerKeySQL))
			return err
		})
		if !isCode(err, lockNotAvailable) {
			return err == nil, err
		}
		if err := pause.For(ctx, lockPause); err != nil {
			return false, err
		}
	}
}
