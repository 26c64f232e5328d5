// Package soniq holds the database schema that Soniq's packages and Python
// Soniq share. The job worker is in soniq/engine, the dead-letter queue in
// soniq/deadletter.
package soniq

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Version is this release, in the form of semver.org. Workers write it to
// soniq_workers.version with the prefix of [WorkerVersion].
const Version = "0.1.0"

// WorkerVersion is what a worker of this release writes to
// soniq_workers.version. Python Soniq leaves that column NULL: a version that
// begins with 'go/' is how one language knows its own workers.
const WorkerVersion = "go/" + Version

// Schema is the whole schema as SQL: idempotent, and run by [Setup].
//
//go:embed schema.sql
var Schema string

// migrationsLock is the session advisory lock that Python Soniq takes for its
// migrations: blake2b-64 of 'soniq.leadership.v1/soniq.migrations' as a signed
// big-endian integer.
const migrationsLock int64 = -3170183739012905038

// minServerVersion is PostgreSQL 14: CREATE OR REPLACE TRIGGER.
const minServerVersion = 140000

// ErrServerTooOld is returned by [Setup] for a server before PostgreSQL 14.
var ErrServerTooOld = errors.New("soniq needs PostgreSQL 14 or later")

// migration is a row of soniq_migrations. The first two are Python Soniq's;
// ours begin at 0150, within the range it leaves to plugins, and never reach
// 0006 and up, which it will use itself.
type migration struct{ version, name string }

var migrations = []migration{
	{"0001", "core"},
	{"0002", "dead_letter"},
	{"0150", "soniq_go"},
	{"0151", "soniq_go_control"},
	{"0152", "soniq_go_errors"},
	{"0153", "soniq_go_operations"},
	{"0154", "soniq_go_hooks"},
	{"0155", "soniq_go_hooks_wake"},
	{"0156", "soniq_go_dead_letter_operation"},
	{"0157", "soniq_go_hunger"},
	{"0160", "soniq_go_dead_letter_counts"},
	{"0161", "soniq_go_trust"},
}

// SetupResult tells what [Setup] did.
type SetupResult struct {
	// Applied lists the migrations that were recorded by this call, such as
	// '0150_soniq_go'; empty when the schema was already up to date.
	Applied []string
}

// The table as Python Soniq makes it; applied_at is without a time zone there.
const migrationsTableSQL = `
create table if not exists soniq_migrations (
  id serial primary key,
  version varchar(255) not null unique,
  name text not null,
  applied_at timestamp default now(),
  checksum text
);
create index if not exists idx_soniq_migrations_version on soniq_migrations (version)`

const migrationsAppliedSQL = `select version from soniq_migrations`

const migrationsRecordSQL = `
insert into soniq_migrations (version, name, applied_at)
values ($1, $2, now() at time zone 'utc')
on conflict (version) do nothing`

// setupTries bounds how often Setup begins anew because another program made
// soniq_migrations, or its index, in the same moment: 'if not exists' looks, and
// then fails. Python Soniq makes both before it takes the lock, in a transaction
// each, so that two of it at once cost two tries each. Its index and our records
// can wait for each other too: then the server ends one of the two.
const setupTries = 10

// Setup creates or completes the schema: on an empty database, on one that
// Python Soniq made, and on one that is up to date already, where it changes
// nothing. It may run in several processes at once: it holds the migration
// lock, which Python Soniq's setup takes too. The whole of it is one
// transaction.
//
// It waits for the lock as long as ctx allows.
func Setup(ctx context.Context, pool *pgxpool.Pool) (SetupResult, error) {
	var result SetupResult
	err := withMigrationLock(ctx, pool, func(conn *pgx.Conn) error {
		for try := 1; ; try++ {
			err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) (err error) {
				result.Applied, err = applyMigrations(ctx, tx)
				return err
			})
			if !errors.Is(err, errMadeAtOnce) && !isDeadlock(err) || try == setupTries {
				return err
			}
		}
	})
	if err != nil {
		return SetupResult{}, fmt.Errorf("set up schema: %w", err)
	}
	return result, nil
}

// applyMigrations applies the schema where something of it is missing, and
// returns what was.
func applyMigrations(ctx context.Context, tx pgx.Tx) (applied []string, err error) {
	pending, err := pendingMigrations(ctx, tx)
	if err != nil || len(pending) == 0 {
		return nil, err
	}
	if _, err := tx.Exec(ctx, Schema); err != nil {
		return nil, fmt.Errorf("apply schema: %w", err)
	}
	for _, m := range pending {
		if _, err := tx.Exec(ctx, migrationsRecordSQL, m.version, m.name); err != nil {
			return nil, fmt.Errorf("record migration %s: %w", m.version, err)
		}
		applied = append(applied, m.version+"_"+m.name)
	}
	return applied, nil
}

// errMadeAtOnce is wrapped where a table was made by someone else between the
// look for it and its making.
var errMadeAtOnce = errors.New("made by another program at the same time")

// madeAtOnce knows the errors of that race: the table, its row type or its name
// in the catalog exists already.
func madeAtOnce(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && (pgErr.Code == "42P07" || pgErr.Code == "42710" || pgErr.Code == "23505")
}

func isDeadlock(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && pgErr.Code == "40P01"
}

func pendingMigrations(ctx context.Context, tx pgx.Tx) ([]migration, error) {
	var serverVersion int
	err := tx.QueryRow(ctx, `select current_setting('server_version_num')::int`).Scan(&serverVersion)
	if err != nil {
		return nil, fmt.Errorf("read server version: %w", err)
	}
	if serverVersion < minServerVersion {
		return nil, fmt.Errorf("%w; this server is version %d", ErrServerTooOld, serverVersion/10000)
	}
	if _, err := tx.Exec(ctx, migrationsTableSQL); madeAtOnce(err) {
		return nil, fmt.Errorf("create soniq_migrations: %w: %w", errMadeAtOnce, err)
	} else if err != nil {
		return nil, fmt.Errorf("create soniq_migrations: %w", err)
	}
	recorded, _ := tx.Query(ctx, migrationsAppliedSQL)
	return missingMigrations(recorded)
}

// missingMigrations are those that are not among the recorded versions.
func missingMigrations(recorded pgx.Rows) ([]migration, error) {
	applied, err := pgx.CollectRows(recorded, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("read soniq_migrations: %w", err)
	}
	var missing []migration
	for _, m := range migrations {
		if !slices.Contains(applied, m.version) {
			missing = append(missing, m)
		}
	}
	return missing, nil
}

// OutdatedError says that the database was set up by an older release.
type OutdatedError struct {
	// Missing are the migrations it lacks, such as '0152_soniq_go_errors'.
	Missing []string
}

func (e *OutdatedError) Error() string {
	return "the database's schema is older than this program: it lacks " + strings.Join(e.Missing, ", ") +
		"; run 'soniq setup', which leaves workers of older releases working"
}

// Check returns an [*OutdatedError] for a database whose schema lacks what this
// release needs. One that was never set up is an error that [IsMissing] knows.
func Check(ctx context.Context, pool *pgxpool.Pool) error {
	recorded, _ := pool.Query(ctx, migrationsAppliedSQL)
	missing, err := missingMigrations(recorded)
	if err != nil {
		return fmt.Errorf("check schema: %w", err)
	}
	if len(missing) == 0 {
		return nil
	}
	outdated := &OutdatedError{}
	for _, m := range missing {
		outdated.Missing = append(outdated.Missing, m.version+"_"+m.name)
	}
	return outdated
}

// redundantIndexes are those of Python Soniq's indexes on soniq_jobs that
// neither program gains from once idx_soniq_jobs_claim and
// idx_soniq_jobs_processing exist, and those on soniq_dead_letter_jobs that are
// the beginning of another one. The two unique arbiters and expires_at are not
// among them. That of worker_id serves the foreign key, which goes first.
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
}

const indexExistsSQL = `
select exists (
  select from pg_index i
  join pg_class c on c.oid = i.indexrelid
  where i.indrelid in ('soniq_jobs'::regclass, 'soniq_dead_letter_jobs'::regclass)
    and c.relname = $1
)`

// workerKey is the foreign key of Python Soniq from a job to its worker. It
// makes each claim lock the worker's row once more for each job.
const workerKey = "soniq_jobs_worker_id_fkey"

const workerKeyExistsSQL = `
select exists (
  select from pg_constraint
  where conrelid = 'soniq_jobs'::regclass
    and conname = $1
)`

// Whoever waits for a lock on the table holds up all who come after it: so it
// waits no longer than a busy table takes between two statements.
const dropWorkerKeySQL = `
set local lock_timeout = '50ms';
alter table soniq_jobs drop constraint if exists soniq_jobs_worker_id_fkey`

// lockPause is between two tries to have the table alone.
const lockPause = 500 * time.Millisecond

// Optimize drops, by name, the indexes on soniq_jobs and soniq_dead_letter_jobs,
// and the foreign key from a job to its worker, that Python Soniq made and that
// only slow both programs down: with all of its nine indexes on soniq_jobs a claim
// costs four times as much. It returns the names of what it dropped, none on a
// database that [Setup] made. Workers go on meanwhile: the indexes are dropped CONCURRENTLY, and the
// key in a moment in which nobody else is at the table, which is waited for as
// long as ctx allows.
func Optimize(ctx context.Context, pool *pgxpool.Pool) ([]string, error) {
	var dropped []string
	err := withMigrationLock(ctx, pool, func(conn *pgx.Conn) error {
		if had, err := dropWorkerKey(ctx, conn); err != nil {
			return fmt.Errorf("drop foreign key %s: %w", workerKey, err)
		} else if had {
			dropped = append(dropped, workerKey)
		}
		for _, name := range redundantIndexes {
			var exists bool
			if err := conn.QueryRow(ctx, indexExistsSQL, name).Scan(&exists); err != nil {
				return fmt.Errorf("look up index %s: %w", name, err)
			}
			if !exists {
				continue
			}
			if _, err := conn.Exec(ctx, "drop index concurrently if exists "+pgx.Identifier{name}.Sanitize()); err != nil {
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

// dropWorkerKey reports whether the key was there.
func dropWorkerKey(ctx context.Context, conn *pgx.Conn) (had bool, err error) {
	if err := conn.QueryRow(ctx, workerKeyExistsSQL, workerKey).Scan(&had); err != nil || !had {
		return false, err
	}
	for {
		err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, dropWorkerKeySQL)
			return err
		})
		var pgErr *pgconn.PgError
		if !errors.As(err, &pgErr) || pgErr.Code != lockNotAvailable {
			return err == nil, err
		}
		select {
		case <-ctx.Done():
			return false, context.Cause(ctx)
		case <-time.After(lockPause):
		}
	}
}

// lockNotAvailable is how PostgreSQL says that lock_timeout has passed.
const lockNotAvailable = "55P03"

// withMigrationLock runs do on one connection under the migration lock.
func withMigrationLock(ctx context.Context, pool *pgxpool.Pool, do func(*pgx.Conn) error) error {
	return pool.AcquireFunc(ctx, func(c *pgxpool.Conn) (err error) {
		conn := c.Conn()
		if err := lockMigrations(ctx, conn); err != nil {
			return fmt.Errorf("take migration lock: %w", err)
		}
		defer func() {
			// ctx may be over; a session that still holds the lock must not
			// go back to the pool.
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			if _, unlockErr := conn.Exec(ctx, `select pg_advisory_unlock($1)`, migrationsLock); unlockErr != nil {
				err = errors.Join(err, fmt.Errorf("release migration lock: %w", unlockErr), conn.Close(ctx))
			}
		}()
		return do(conn)
	})
}

// lockMigrations takes the lock by trying. A wait inside pg_advisory_lock would
// end by the role's lock_timeout or statement_timeout, which are meant for
// quick statements, and not by ctx; and it would hold back vacuum meanwhile.
func lockMigrations(ctx context.Context, conn *pgx.Conn) error {
	const interval = 20 * time.Millisecond
	for {
		var locked bool
		if err := conn.QueryRow(ctx, `select pg_try_advisory_lock($1)`, migrationsLock).Scan(&locked); err != nil {
			return err
		}
		if locked {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(interval):
		}
	}
}

// IsMissing reports whether err says that the schema has not been set up:
// PostgreSQL's undefined_table or undefined_column.
func IsMissing(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && (pgErr.Code == "42P01" || pgErr.Code == "42703")
}
