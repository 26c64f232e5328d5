package soniq

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/internal/incarnation"
	"soniq/internal/pause"
	"soniq/internal/pg"
)

// ErrUnknownMigration is wrapped by the error for a version that this release doesn't have.
var ErrUnknownMigration = errors.New("no such migration")

// ErrPythonsMigration is wrapped by the error of [MigrateDown] for a version before '0002'.
var ErrPythonsMigration = errors.New("0001 and 0002 are Python Soniq's too, whose tables hold the jobs")

// NewerError says that a later release has migrated the database further than this one can follow.
type NewerError struct {
	// Versions are the migrations that this release doesn't know.
	Versions []string
}

func (e *NewerError) Error() string {
	return "the database is newer than this program, which does not know its migration " + strings.Join(e.Versions, ", ") +
		": use the program of that release"
}

// SetupResult tells what [Setup] did.
type SetupResult struct {
	// Applied lists the migrations that this call applied, such as '0150_soniq_go'; empty when the
	// schema was already up to date. It is set beside an error too.
	Applied []string
	// Mended lists what was set right of functions that were there before, such as 'revoked EXECUTE on
	// 20 functions from PUBLIC'; empty where nothing was wrong.
	Mended []string
	// Newer lists the migrations of a later release that the database has.
	Newer []string
	// Findings are what is left that lets other roles in, as [Inspect] returns them: somebody else has
	// to end it.
	Findings []Finding
}

// Setup migrates the database to the newest schema: an empty one, one that Python Soniq made, and one
// that an older release made. One that is up to date it leaves unchanged. It may run in several
// processes at once: it holds the migration lock, which Python Soniq's setup takes too. Each migration
// is a transaction: after a failure those before it stay, and Setup can be run again.
//
// Where all that is there belongs to one role, Setup works as that role: what it adds is that role's
// too. Functions of ours that are not as they should be (PUBLIC may execute them, say) are mended.
//
// It waits as long as ctx allows: for the migration lock and, where something is to be changed about a
// table, for the transactions that use it. It waits in short tries, so that sessions which come
// meanwhile are held up for a second at the most.
//
// Errors: a [*ForeignError] where something under a name of ours belongs to a role that has no business
// there, or runs such a role's code; a [*NewerError]; an [*OtherSchemaError]; [ErrSchemaName];
// [ErrServerTooOld]; else those of the database.
func Setup(ctx context.Context, pool *pgxpool.Pool, cfg Config) (SetupResult, error) {
	result, err := migrateUp(ctx, pool, cfg, newestMigration())
	if err != nil {
		return result, fmt.Errorf("set up schema: %w", err)
	}
	return result, nil
}

// MigrateUp is [Setup] up to a version, such as '0160', and with it. Functions are mended only where the
// database is at the newest one.
//
// Errors: [ErrUnknownMigration], and those of [Setup].
func MigrateUp(ctx context.Context, pool *pgxpool.Pool, cfg Config, to string) (SetupResult, error) {
	if _, err := migrationNumber(to); err != nil {
		return SetupResult{}, err
	}
	result, err := migrateUp(ctx, pool, cfg, to)
	if err != nil {
		return result, fmt.Errorf("migrate up to %s: %w", to, err)
	}
	return result, nil
}

// migrationNumber is the index of a version.
func migrationNumber(version string) (int, error) {
	i := slices.IndexFunc(migrations(), func(m Migration) bool { return m.Version == version })
	if i < 0 {
		return 0, fmt.Errorf("%q: %w; the newest is %s", version, ErrUnknownMigration, newestMigration())
	}
	return i, nil
}

// migrateUp applies what is missing up to a version.
func migrateUp(ctx context.Context, pool *pgxpool.Pool, cfg Config, to string) (result SetupResult, err error) {
	if _, err := pg.NewSchema(cfg.Schema); err != nil {
		return result, err
	}
	if result, done, err := standing(ctx, pool, cfg, to); err != nil || done {
		return result, err
	}
	err = pool.AcquireFunc(ctx, func(c *pgxpool.Conn) error {
		if err := checkServer(ctx, c.Conn()); err != nil {
			return err
		}
		r := &runner{conn: c.Conn(), cfg: cfg}
		var first *audit
		for {
			applied, before, err := r.applyNext(ctx, to)
			if first == nil {
				first = before
			}
			if err != nil {
				return afterSome(err, result.Applied)
			}
			if applied == "" {
				break
			}
			result.Applied = append(result.Applied, applied)
		}
		return r.finish(ctx, first, &result)
	})
	return result, err
}

// afterSome lets the error tell that some migrations were applied.
func afterSome(err error, applied []string) error {
	var foreign *ForeignError
	if errors.As(err, &foreign) && len(applied) > 0 {
		foreign.After = applied[len(applied)-1]
	}
	return err
}

func checkServer(ctx context.Context, conn *pgx.Conn) error {
	var version int
	err := conn.QueryRow(ctx, `select pg_catalog.current_setting('server_version_num')::pg_catalog.int4`).Scan(&version)
	if err != nil {
		return fmt.Errorf("read server version: %w", err)
	}
	if version < minServerVersion {
		return fmt.Errorf("%w; this server is version %d", ErrServerTooOld, version/10000)
	}
	return nil
}

// runner runs migrations on one connection. Each of its transactions holds the migration
// lock.
type runner struct {
	conn *pgx.Conn
	cfg  Config
	// lock is a wait for the migration lock that is under way.
	lock lockWait
	// statement is what the transaction under way has begun last.
	statement string
}

// Whoever waits for a lock on a table holds up all who come after it, and whoever may read one can keep
// the lock away, by a transaction that stays open. So a migration waits for firstPatience, and where
// that was not enough it begins anew, for twice as long each time up to mostPatience: it is never long
// that others wait, and at least pauses times as long until they do so again.
const (
	firstPatience = 50 * time.Millisecond
	mostPatience  = time.Second
	pauses        = 5
)

// mostIdle is how long a transaction may be open between two statements. A program that is stopped, or
// whose network is gone, would keep its locks, for which every INSERT of a job may wait.
const mostIdle = 2 * time.Second

// lockPause is the least time between two tries.
const lockPause = 500 * time.Millisecond

// setupTries bounds how often a migration begins anew because another program made an object in the same
// moment: 'if not exists' looks, and then fails. Python Soniq makes soniq_migrations and its index before
// it takes the lock, in a transaction each, so that two of it at once cost two tries each. Its index and
// our records can wait for each other too: then the server ends one of the two.
const setupTries = 10

// inTx runs do in a transaction, under the patience for locks, and again as often as it takes. What
// names it for progress.
func (r *runner) inTx(ctx context.Context, what func() string, do func(pgx.Tx, *home) error) error {
	patience, begun := firstPatience, time.Now()
	for try := 1; ; {
		var found *home
		r.statement = ""
		err := pgx.BeginTxFunc(ctx, r.conn, readCommitted, func(raw pgx.Tx) (err error) {
			tx := pg.PlainTx(raw)
			if err := takeMigrationLock(ctx, tx); err != nil {
				return err
			}
			r.lock = lockWait{}
			if found, err = findHome(ctx, tx, r.cfg); err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, fmt.Sprintf("set local lock_timeout = %d; set local idle_in_transaction_session_timeout = %d",
				patience.Milliseconds(), mostIdle.Milliseconds())); err != nil {
				return fmt.Errorf("bound the waits for locks: %w", err)
			}
			return do(tx, found)
		})
		switch {
		case errors.Is(err, errLockHeld):
			if err := r.lock.wait(ctx, r.conn, r.cfg); err != nil {
				return err
			}
		case isCode(err, idleInTransaction):
			return fmt.Errorf("this program stood still for over %s in a transaction, which the server ended so that others need not wait; "+
				"nothing of it was done: run it again: %w", mostIdle, err)
		case isCode(err, lockNotAvailable):
			if err := r.tellBlockers(ctx, found, what(), time.Since(begun)); err != nil {
				return err
			}
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
}

// applyNext applies the first migration that is missing, in a transaction, and returns its name; none
// where all up to a version are there. Before is what the catalog said at its beginning.
func (r *runner) applyNext(ctx context.Context, to string) (applied string, before *audit, err error) {
	err = r.inTx(ctx, func() string { return applied }, func(tx pgx.Tx, h *home) error {
		applied = ""
		if before, err = h.open(ctx, tx); err != nil {
			return err
		}
		if !before.hasMigrations() {
			if err := h.mayCreate(ctx, tx); err != nil {
				return err
			}
		}
		recorded, err := h.ensureMigrations(ctx, tx, before)
		if err != nil {
			return err
		}
		missing := slices.DeleteFunc(recorded.missing(), func(m Migration) bool { return m.Version > to })
		if len(missing) == 0 {
			return nil
		}
		if newer := recorded.newer(); len(newer) > 0 {
			return &NewerError{Versions: newer}
		}
		if err := h.mayCreate(ctx, tx); err != nil {
			return err
		}
		if err := catchUp(ctx, tx, h, nil); err != nil {
			return err
		}
		applied = missing[0].String()
		if err := r.run(ctx, tx, h, missing[0].Up); err != nil {
			return fmt.Errorf("apply %s: %w", applied, err)
		}
		if _, err := tx.Exec(ctx, h.sql(recordSQL), missing[0].Version, missing[0].Name, missing[0].Checksum()); err != nil {
			return fmt.Errorf("record migration %s: %w", applied, err)
		}
		return h.lookAgain(ctx, tx)
	})
	return applied, before, err
}

const recordSQL = `
insert into public.soniq_migrations (version, name, applied_at, checksum)
values ($1, $2, now() at time zone 'utc', $3)
on conflict (version) do nothing`

// open begins a transaction that changes the schema: it refuses what belongs to others, and becomes the
// owner of what is there.
func (h *home) open(ctx context.Context, tx pgx.Tx) (*audit, error) {
	if err := h.create(ctx, tx); err != nil {
		return nil, err
	}
	before, err := h.audit(ctx, tx, h.user)
	if err != nil {
		return nil, err
	}
	if err := before.refusal(h); err != nil {
		return nil, err
	}
	return before, h.becomeOwner(ctx, tx, before)
}

// lookAgain refuses what somebody made while the transaction ran: 'if not exists' has taken it.
func (h *home) lookAgain(ctx context.Context, tx pgx.Tx) error {
	after, err := h.audit(ctx, tx, h.user)
	if err != nil {
		return err
	}
	return after.refusal(h)
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

// ensureMigrations makes the table of migrations where it isn't there, and reads it.
func (h *home) ensureMigrations(ctx context.Context, tx pgx.Tx, before *audit) (versions, error) {
	if !before.hasMigrations() {
		if _, err := tx.Exec(ctx, h.sql(migrationsTableSQL)); madeAtOnce(err) {
			return nil, fmt.Errorf("create soniq_migrations: %w: %w", errMadeAtOnce, err)
		} else if err != nil {
			return nil, fmt.Errorf("create soniq_migrations: %w", err)
		}
		// What is read and written next must not be a table that somebody made since.
		if err := h.lookAgain(ctx, tx); err != nil {
			return nil, err
		}
	}
	return h.recorded(ctx, tx)
}

// finish mends functions where the database is at the newest migration, and tells what was mended since
// the first look.
func (r *runner) finish(ctx context.Context, first *audit, result *SetupResult) error {
	return r.inTx(ctx, func() string { return "mending functions" }, func(tx pgx.Tx, h *home) error {
		before, err := h.open(ctx, tx)
		if err != nil {
			return err
		}
		recorded, err := h.recorded(ctx, tx)
		if err != nil {
			return err
		}
		result.Newer = recorded.newer()
		after := before
		// A later release knows better what its functions are.
		if len(result.Newer) == 0 && len(recorded.missing()) == 0 && before.needsMending() {
			if err := mendFunctions(ctx, tx, h); err != nil {
				return err
			}
			if err := mendTriggers(ctx, tx, h, before.missing); err != nil {
				return err
			}
			if after, err = h.audit(ctx, tx, h.user); err != nil {
				return err
			}
			if err := after.refusal(h); err != nil {
				return err
			}
		}
		var counters []string
		if err := catchUp(ctx, tx, h, &counters); err != nil {
			return err
		}
		result.Mended = slices.Concat(
			mended(first, after, isPublic, "revoked EXECUTE on %s from PUBLIC"),
			mended(first, after, isLoose, "pinned the search_path of %s to pg_catalog"),
			// A migration gives functions other bodies as a matter of course.
			mended(before, after, isOther, "put back the body of %s"),
			madeAnew(before, after), counters)
		result.Findings, err = h.findings(ctx, tx, after)
		return err
	})
}

// catchUp sets the sequences of identity columns that are behind, and tells of each: after logical
// replication the next record of a migration would be refused.
func catchUp(ctx context.Context, tx pgx.Tx, h *home, told *[]string) error {
	db := h.schema.Querier(tx)
	behind, err := incarnation.Behind(ctx, db, h.schema)
	if err != nil {
		return err
	}
	if told != nil {
		for _, c := range behind {
			*told = append(*told, fmt.Sprintf("set the sequence of %s.%s to %d; it was at %d", c.Table, c.Column, c.Greatest, c.Sequence))
		}
	}
	return incarnation.CatchUp(ctx, db, h.schema, behind)
}

// run runs the statements of a migration but for those whose work is done: even where it changes
// nothing, ALTER TABLE waits for all who use the table, and CREATE INDEX for all who write it.
func (r *runner) run(ctx context.Context, tx pgx.Tx, h *home, sql string) error {
	for _, statement := range statements(sql) {
		r.statement = statement
		done, err := r.isDone(ctx, tx, h, statement)
		if err != nil {
			return err
		}
		if done {
			continue
		}
		if _, err := tx.Exec(ctx, h.sql(statement)); err != nil {
			return fmt.Errorf("%s: %w", firstLine(statement), err)
		}
	}
	return nil
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return strings.TrimRight(line, " (")
}

// $1 the table, $2 the columns.
const hasColumnsSQL = `
select count(*) = cardinality($2::text[])
from pg_attribute a
where a.attrelid = to_regclass($1)
  and a.attname = any ($2)
  and not a.attisdropped`

// isDone reports whether a statement only adds what is there. An index that was begun and not finished
// is dropped, which the migration builds anew.
func (r *runner) isDone(ctx context.Context, tx pgx.Tx, h *home, statement string) (done bool, err error) {
	if table := addColumnsSQL.FindStringSubmatch(statement); table != nil {
		var columns []string
		for _, c := range columnNameSQL.FindAllStringSubmatch(statement, -1) {
			columns = append(columns, c[1])
		}
		if err := tx.QueryRow(ctx, hasColumnsSQL, h.sql("public."+table[1]), columns).Scan(&done); err != nil {
			return false, fmt.Errorf("look up columns of %s: %w", table[1], err)
		}
		return done, nil
	}
	if name := renameSQL.FindStringSubmatch(statement); name != nil {
		err := tx.QueryRow(ctx, `select to_regclass($1) is not null`, h.sql("public."+name[1])).Scan(&done)
		if err != nil {
			return false, fmt.Errorf("look up %s: %w", name[1], err)
		}
		return done, nil
	}
	if index := createIndexSQL.FindStringSubmatch(statement); index != nil {
		valid, exists, err := h.index(ctx, tx, index[1])
		if err != nil || !exists || valid {
			return exists && valid, err
		}
		if _, err := tx.Exec(ctx, h.sql("drop index public."+index[1])); err != nil {
			return false, fmt.Errorf("drop index %s, which is not valid: %w", index[1], err)
		}
	}
	return false, nil
}

// $1 the index.
const indexStateSQL = `
select i.indisvalid
from pg_index i
where i.indexrelid = to_regclass($1)`

// queryRower is a connection or a transaction.
type queryRower interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// index tells whether an index of ours exists and can be used.
func (h *home) index(ctx context.Context, db queryRower, name string) (valid, exists bool, err error) {
	err = db.QueryRow(ctx, indexStateSQL, h.sql("public."+name)).Scan(&valid)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return false, false, nil
	case err != nil:
		return false, false, fmt.Errorf("look up index %s: %w", name, err)
	}
	return valid, true, nil
}

// MigrateDown undoes the migrations after a version, such as '0160', the newest first, and returns their
// names. With '0002' nothing of Soniq for Go is left. What the tables hold beside that is lost, which
// [Migration.Loses] names; programs of this release no longer start, and those that run fail.
//
// Rights that an older release gave to everybody don't come back: the newest functions of Soniq stay as
// safe as they are.
//
// Errors: [ErrUnknownMigration]; [ErrPythonsMigration]; a [*NewerError]; a [*ForeignError]; an
// [*OtherSchemaError]; [ErrSchemaName]; one that [IsMissing] knows where there are no tables; else those
// of the database. The migrations that were undone before it are returned too.
func MigrateDown(ctx context.Context, pool *pgxpool.Pool, cfg Config, to string) (undone []string, err error) {
	number, err := migrationNumber(to)
	switch {
	case err != nil:
		return nil, err
	case to < lastShared:
		return nil, fmt.Errorf("migrate down to %s: %w", to, ErrPythonsMigration)
	}
	later := slices.Clone(migrations()[number+1:])
	slices.Reverse(later)
	err = pool.AcquireFunc(ctx, func(c *pgxpool.Conn) error {
		r := &runner{conn: c.Conn(), cfg: cfg}
		for _, m := range later {
			done, err := r.undo(ctx, m)
			if err != nil {
				return err
			}
			if done {
				undone = append(undone, m.String())
			}
		}
		return nil
	})
	if err != nil {
		return undone, fmt.Errorf("migrate down to %s: %w", to, err)
	}
	return undone, nil
}

// undo takes one migration back, in a transaction, where it was applied.
func (r *runner) undo(ctx context.Context, m Migration) (done bool, err error) {
	err = r.inTx(ctx, m.String, func(tx pgx.Tx, h *home) error {
		done = false
		if _, err := h.open(ctx, tx); err != nil {
			return err
		}
		recorded, err := h.recorded(ctx, tx)
		if err != nil {
			return err
		}
		if newer := recorded.newer(); len(newer) > 0 {
			return &NewerError{Versions: newer}
		}
		if recorded.lacks(m.Version) {
			return nil
		}
		if err := h.mayCreate(ctx, tx); err != nil {
			return err
		}
		if err := r.run(ctx, tx, h, m.Down); err != nil {
			return fmt.Errorf("undo %s: %w", m, err)
		}
		if _, err := tx.Exec(ctx, h.sql(forgetSQL), m.Version); err != nil {
			return fmt.Errorf("forget migration %s: %w", m, err)
		}
		done = true
		return h.lookAgain(ctx, tx)
	})
	return done, err
}

const forgetSQL = `
delete from public.soniq_migrations
where version = $1`
