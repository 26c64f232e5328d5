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

	"soniq/internal/pause"
)

// Version is this release, in the form of semver.org. Workers write it to
// soniq_workers.version with the prefix of [WorkerVersion].
const Version = "0.1.0"

// WorkerVersion is what a worker of this release writes to
// soniq_workers.version. Python Soniq leaves that column NULL: a version that
// begins with 'go/' is how one language knows its own workers.
const WorkerVersion = "go/" + Version

// Schema is the whole schema as SQL: idempotent, and run by [Setup]. Its tables
// are in 'public': where they belong elsewhere, Setup writes that schema's name
// in the place of this one.
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
	{trustMigration, "soniq_go_trust"},
}

// trustMigration takes the right to execute our functions from PUBLIC.
const trustMigration = "0161"

// SetupResult tells what [Setup] did.
type SetupResult struct {
	// Applied lists the migrations that were recorded by this call, such as
	// '0150_soniq_go'; empty when the schema was already up to date.
	Applied []string
	// Mended lists what was set right of functions that were there before, such
	// as 'revoked EXECUTE on 20 functions from PUBLIC'; empty where nothing was
	// wrong.
	Mended []string
	// Findings are what is left that lets other roles in, as [Inspect] returns
	// them: somebody else has to end it.
	Findings []Finding
}

// The table as Python Soniq makes it; applied_at is without a time zone there.
const migrationsTableSQL = `
create table if not exists public.soniq_migrations (
  id serial primary key,
  version varchar(255) not null unique,
  name text not null,
  applied_at timestamp default now(),
  checksum text
);
create index if not exists idx_soniq_migrations_version on public.soniq_migrations (version)`

// The session's search_path finds the table for Check; Setup knows its schema.
const (
	migrationsAppliedSQL = `select version from public.soniq_migrations`
	migrationsInSQL      = `select version from public.soniq_migrations`
)

const migrationsRecordSQL = `
insert into public.soniq_migrations (version, name, applied_at)
values ($1, $2, now() at time zone 'utc')
on conflict (version) do nothing`

// setupTries bounds how often Setup begins anew because another program made
// soniq_migrations, or its index, in the same moment: 'if not exists' looks, and
// then fails. Python Soniq makes both before it takes the lock, in a transaction
// each, so that two of it at once cost two tries each. Its index and our records
// can wait for each other too: then the server ends one of the two.
const setupTries = 10

// Whoever waits for a lock on a table holds up all who come after it, and whoever may
// read one can keep the lock away, by a transaction that stays open. So Setup waits
// for firstPatience, and where that was not enough it begins anew, for twice as long
// each time up to mostPatience: it is never long that others wait, and at least
// pauses times as long until they do so again.
const (
	firstPatience = 50 * time.Millisecond
	mostPatience  = time.Second
	pauses        = 5
)

// Setup creates or completes the schema: on an empty database, on one that
// Python Soniq made, and on one that is up to date already, where it changes
// nothing. It may run in several processes at once: it holds the migration
// lock, which Python Soniq's setup takes too. The whole of it is one
// transaction.
//
// The tables are made in the first schema of the search_path that has soniq_jobs
// or, where none has, in the first one that exists. Where all that is there
// belongs to one role, Setup works as that role: what it adds is that role's too.
//
// Where something under a name of ours belongs to a role that has no business
// there, or runs such a role's code, the error is a [*ForeignError]. Functions of
// ours that are not as they should be (PUBLIC may execute them, say) are mended.
//
// It waits as long as ctx allows: for that lock and, where something is to be changed
// about a table, for the transactions that use it. Those that come meanwhile are held
// up for a second at the most.
func Setup(ctx context.Context, pool *pgxpool.Pool) (SetupResult, error) {
	var result SetupResult
	err := withMigrationLock(ctx, pool, func(conn *pgx.Conn) error {
		patience := firstPatience
		for try := 1; ; {
			err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) (err error) {
				result, err = setUp(ctx, tx, patience)
				return err
			})
			switch {
			case isCode(err, lockNotAvailable):
				if err := pause.For(ctx, max(pauses*patience, lockPause)); err != nil {
					return err
				}
				patience = min(2*patience, mostPatience)
			case try < setupTries && (errors.Is(err, errMadeAtOnce) || isCode(err, deadlockDetected)):
				try++
			default:
				return err
			}
		}
	})
	if err != nil {
		return SetupResult{}, fmt.Errorf("set up schema: %w", err)
	}
	return result, nil
}

// setUp is Setup in its transaction, with its patience for a lock.
func setUp(ctx context.Context, tx pgx.Tx, patience time.Duration) (result SetupResult, err error) {
	var serverVersion int
	err = tx.QueryRow(ctx, `select pg_catalog.current_setting('server_version_num')::pg_catalog.int4`).Scan(&serverVersion)
	if err != nil {
		return result, fmt.Errorf("read server version: %w", err)
	}
	if serverVersion < minServerVersion {
		return result, fmt.Errorf("%w; this server is version %d", ErrServerTooOld, serverVersion/10000)
	}
	home, err := findHome(ctx, tx)
	if err != nil {
		return result, err
	}
	if _, err := tx.Exec(ctx, fmt.Sprintf("set local lock_timeout = %d", patience.Milliseconds())); err != nil {
		return result, fmt.Errorf("bound the waits for locks: %w", err)
	}
	before, err := home.audit(ctx, tx, home.user)
	if err != nil {
		return result, err
	}
	if err := before.refusal(home); err != nil {
		return result, err
	}
	if err := home.becomeOwner(ctx, tx, before); err != nil {
		return result, err
	}
	missing, newer, err := pendingMigrations(ctx, tx, home, before)
	if err != nil {
		return result, err
	}
	switch {
	case len(missing) > 0:
		if result.Applied, err = applyMigrations(ctx, tx, home, missing); err != nil {
			return result, err
		}
	case newer || !before.needsMending():
		// A newer release knows better what its functions are.
		result.Findings, err = home.findings(ctx, tx, before)
		return result, err
	default:
		if err := mendFunctions(ctx, tx, home); err != nil {
			return result, err
		}
	}
	// Again: 'if not exists' takes what somebody made meanwhile.
	after, err := home.audit(ctx, tx, home.user)
	if err != nil {
		return result, err
	}
	if err := after.refusal(home); err != nil {
		return result, err
	}
	result.Mended = mended(before, after, len(missing) == 0)
	result.Findings, err = home.findings(ctx, tx, after)
	return result, err
}

// applyMigrations applies the schema and returns what was missing of it.
func applyMigrations(ctx context.Context, tx pgx.Tx, home *home, missing []migration) (applied []string, err error) {
	if _, err := tx.Exec(ctx, home.sql(Schema)); err != nil {
		return nil, fmt.Errorf("apply schema: %w", err)
	}
	if err := grantHelpers(ctx, tx, home); err != nil {
		return nil, err
	}
	for _, m := range missing {
		if _, err := tx.Exec(ctx, home.sql(migrationsRecordSQL), m.version, m.name); err != nil {
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

// isCode reports whether err is PostgreSQL's with this code.
func isCode(err error, code string) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && pgErr.Code == code
}

const deadlockDetected = "40P01"

// pendingMigrations returns the migrations that are missing, and whether a newer
// release has recorded some of its own. It makes their table.
func pendingMigrations(ctx context.Context, tx pgx.Tx, home *home, before *audit) (missing []migration, newer bool, err error) {
	if _, err := tx.Exec(ctx, home.sql(migrationsTableSQL)); madeAtOnce(err) {
		return nil, false, fmt.Errorf("create soniq_migrations: %w: %w", errMadeAtOnce, err)
	} else if err != nil {
		return nil, false, fmt.Errorf("create soniq_migrations: %w", err)
	}
	// What is read and written next must not be a table that somebody made since.
	if !before.hasMigrations() {
		made, err := home.audit(ctx, tx, home.user)
		if err == nil {
			err = made.refusal(home)
		}
		if err != nil {
			return nil, false, err
		}
	}
	recorded, _ := tx.Query(ctx, home.sql(migrationsInSQL))
	return missingMigrations(recorded)
}

// missingMigrations are those that are not among the recorded versions. Newer
// tells whether one of those is of our range and unknown to this release.
func missingMigrations(recorded pgx.Rows) (missing []migration, newer bool, err error) {
	applied, err := pgx.CollectRows(recorded, pgx.RowTo[string])
	if err != nil {
		return nil, false, fmt.Errorf("read soniq_migrations: %w", err)
	}
	last := migrations[len(migrations)-1].version
	for _, m := range migrations {
		if !slices.Contains(applied, m.version) {
			missing = append(missing, m)
		}
	}
	newer = slices.ContainsFunc(applied, func(v string) bool { return len(v) == len(last) && v > last && v < rangeEnd })
	return missing, newer, nil
}

// rangeEnd is the first version past those that are ours.
const rangeEnd = "0200"

// OutdatedError says that the database was set up by an older release.
type OutdatedError struct {
	// Missing are the migrations it lacks, such as '0152_soniq_go_errors'.
	Missing []string
}

func (e *OutdatedError) Error() string {
	text := "the database's schema is older than this program: it lacks " + strings.Join(e.Missing, ", ") +
		"; run 'soniq setup', which leaves workers of older releases working"
	if e.open() {
		text += ". UNTIL THEN ANY ROLE THAT MAY LOG IN TO THIS DATABASE CAN RUN CODE AS THE OWNER OF SONIQ'S FUNCTIONS"
	}
	return text
}

// open reports whether the database has functions of ours, and PUBLIC may still
// execute them.
func (e *OutdatedError) open() bool {
	lacks := func(version string) bool {
		return slices.ContainsFunc(e.Missing, func(m string) bool { return strings.HasPrefix(m, version+"_") })
	}
	return lacks(trustMigration) && !lacks("0150")
}

// Check returns an [*OutdatedError] for a database whose schema lacks what this
// release needs. One that was never set up is an error that [IsMissing] knows.
func Check(ctx context.Context, pool *pgxpool.Pool) error {
	recorded, _ := pool.Query(ctx, migrationsAppliedSQL)
	missing, _, err := missingMigrations(recorded)
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

// Whoever waits for a lock on the table holds up all who come after it: so it
// waits no longer than a busy table takes between two statements.
const dropWorkerKeySQL = `
set local lock_timeout = '50ms';
alter table public.soniq_jobs drop constraint if exists soniq_jobs_worker_id_fkey`

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
		home, err := locate(ctx, conn)
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
			if err := conn.QueryRow(ctx, home.sql(indexExistsSQL), name).Scan(&exists); err != nil {
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

// dropWorkerKey reports whether the key was there.
func dropWorkerKey(ctx context.Context, conn *pgx.Conn, home *home) (had bool, err error) {
	if err := conn.QueryRow(ctx, home.sql(workerKeyExistsSQL), workerKey).Scan(&had); err != nil || !had {
		return false, err
	}
	for {
		err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
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
			if _, unlockErr := conn.Exec(ctx, `select pg_catalog.pg_advisory_unlock($1::pg_catalog.int8)`, migrationsLock); unlockErr != nil {
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
		if err := conn.QueryRow(ctx, `select pg_catalog.pg_try_advisory_lock($1::pg_catalog.int8)`, migrationsLock).Scan(&locked); err != nil {
			return err
		}
		if locked {
			return nil
		}
		if err := pause.For(ctx, interval); err != nil {
			return err
		}
	}
}

// IsMissing reports whether err says that the schema has not been set up:
// PostgreSQL's undefined_table or undefined_column.
func IsMissing(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && (pgErr.Code == "42P01" || pgErr.Code == "42703")
}
