package soniq

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/internal/incarnation"
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
// processes at once: it holds the migration lock, which Python Soniq's setup takes too. An empty database
// gets the whole schema in one transaction. Else each migration is a transaction: after a failure those
// before it stay. Setup can be run again.
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
	err = pool.AcquireFunc(ctx, func(c *pgxpool.Conn) error { return checkServer(ctx, pg.Plain(c.Conn())) })
	if err != nil {
		return result, err
	}
	r := &runner{pool: pool, cfg: cfg}
	for {
		applied, err := r.applyNext(ctx, to, &result)
		if err != nil {
			return result, afterSome(err, result.Applied)
		}
		if len(applied) == 0 {
			return result, r.lookAtMended(ctx, &result)
		}
		result.Applied = append(result.Applied, applied...)
	}
}

// afterSome lets the error tell that some migrations were applied.
func afterSome(err error, applied []string) error {
	var foreign *ForeignError
	if errors.As(err, &foreign) && len(applied) > 0 {
		foreign.After = applied[len(applied)-1]
	}
	return err
}

func checkServer(ctx context.Context, conn pg.Session) error {
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

// applyNext applies the first migration that is missing, in a transaction, and returns its name. Where nothing of
// ours is there it makes the whole schema, and returns all names. Where no migration up to a version is missing it
// mends what needs it, or tells what there is to tell, and returns none.
func (r *runner) applyNext(ctx context.Context, to string, result *SetupResult) (applied []string, err error) {
	what := func() string {
		if len(applied) == 0 {
			return mendingIsUnderWay
		}
		return strings.Join(applied, ", ")
	}
	err = r.inTx(ctx, what, func(tx pgx.Tx, h *home) error {
		applied = nil
		before, err := h.open(ctx, tx)
		if err != nil {
			return err
		}
		if r.first == nil {
			r.first = before
		}
		if !before.hasMigrations() {
			if err := h.mayCreate(ctx, tx); err != nil {
				return err
			}
		}
		if to == newestMigration() && before.isEmpty() {
			applied = names(migrations())
			return r.createAll(ctx, tx, h)
		}
		recorded, err := h.ensureMigrations(ctx, tx, before)
		if err != nil {
			return err
		}
		missing := slices.DeleteFunc(recorded.missing(), func(m Migration) bool { return m.Version > to })
		if len(missing) == 0 {
			return r.finish(ctx, tx, h, before, recorded, result)
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
		m := missing[0]
		steps, err := r.script(h, before, m.Up)
		if err != nil {
			return fmt.Errorf("apply %s: %w", m, err)
		}
		applied = []string{m.String()}
		if err := r.commit(ctx, tx, h, append(steps, record(h, m))); err != nil {
			return fmt.Errorf("apply %s: %w", m, err)
		}
		return nil
	})
	return applied, err
}

// createAll makes the schema as a whole, which is what the migrations add up to. Nobody uses it yet, so that one
// transaction holds nobody up. What somebody makes meanwhile under a name of ours makes a statement fail: none
// has 'if not exists'.
func (r *runner) createAll(ctx context.Context, tx pgx.Tx, h *home) error {
	var steps []step
	for _, statement := range schemaStatements() {
		steps = append(steps, h.step(statement))
	}
	err := r.commit(ctx, tx, h, append(steps, recordAll(h)))
	switch {
	case madeAtOnce(err):
		return fmt.Errorf("create the schema: %w: %w", errMadeAtOnce, err)
	case err != nil:
		return fmt.Errorf("create the schema: %w", err)
	}
	return nil
}

// recordAll is the last step of making the schema as a whole.
func recordAll(h *home) step {
	var versions, names, checksums []string
	for _, m := range migrations() {
		versions, names, checksums = append(versions, m.Version), append(names, m.Name), append(checksums, m.Checksum())
	}
	return h.step(`
insert into public.soniq_migrations (version, name, applied_at, checksum)
select m.version, m.name, now() at time zone 'utc', m.checksum
from unnest($1::text[], $2::text[], $3::text[]) m (version, name, checksum)`, versions, names, checksums)
}

// record is the last step of a migration.
func record(h *home, m Migration) step {
	return h.step(`
insert into public.soniq_migrations (version, name, applied_at, checksum)
values ($1, $2, now() at time zone 'utc', $3)
on conflict (version) do nothing`, m.Version, m.Name, m.Checksum())
}

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

// mendingIsUnderWay names it for progress.
const mendingIsUnderWay = "mending what is missing or was changed"

// finish mends what is missing or was changed where the database is at the newest migration. A later release knows
// better what its functions are. Where there is nothing to mend it tells what there is to tell.
func (r *runner) finish(ctx context.Context, tx pgx.Tx, h *home, before *audit, recorded versions, result *SetupResult) error {
	result.Newer = recorded.newer()
	before.current = len(result.Newer)+len(recorded.missing()) == 0
	r.mended = nil
	if before.current && before.needsMending() {
		r.mended = before
		return r.commit(ctx, tx, h, r.mending(h, before))
	}
	return r.report(ctx, tx, h, before, before, result)
}

// lookAtMended looks again where something was mended, and tells what.
func (r *runner) lookAtMended(ctx context.Context, result *SetupResult) error {
	if r.mended == nil {
		return nil
	}
	return r.inTx(ctx, func() string { return mendingIsUnderWay }, func(tx pgx.Tx, h *home) error {
		after, err := h.open(ctx, tx)
		if err != nil {
			return err
		}
		after.current = true
		return r.report(ctx, tx, h, r.mended, after, result)
	})
}

// report tells what was mended between two looks and since the first one, and what a person has to end.
func (r *runner) report(ctx context.Context, tx pgx.Tx, h *home, before, after *audit, result *SetupResult) (err error) {
	var counters []string
	if err := catchUp(ctx, tx, h, &counters); err != nil {
		return err
	}
	result.Mended = slices.Concat(
		mended(r.first, after, isPublic, "revoked EXECUTE on %s from PUBLIC"),
		mended(r.first, after, isLoose, "pinned the search_path of %s to pg_catalog"),
		// A migration gives functions other bodies as a matter of course.
		mended(before, after, isOther, "put back the body of %s"),
		madeAnew(before, after), counters)
	result.Findings, err = h.findings(ctx, tx, after)
	return err
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
	r := &runner{pool: pool, cfg: cfg}
	for _, m := range later {
		done, err := r.undo(ctx, m)
		if err != nil {
			return undone, fmt.Errorf("migrate down to %s: %w", to, err)
		}
		if done {
			undone = append(undone, m.String())
		}
	}
	return undone, nil
}

// undo takes one migration back, in a transaction, where it was applied.
func (r *runner) undo(ctx context.Context, m Migration) (done bool, err error) {
	err = r.inTx(ctx, m.String, func(tx pgx.Tx, h *home) error {
		done = false
		before, err := h.open(ctx, tx)
		if err != nil {
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
		steps, err := r.script(h, before, m.Down)
		if err != nil {
			return fmt.Errorf("undo %s: %w", m, err)
		}
		forget := h.step(`
delete from public.soniq_migrations
where version = $1`, m.Version)
		if err := r.commit(ctx, tx, h, append(steps, forget)); err != nil {
			return fmt.Errorf("undo %s: %w", m, err)
		}
		done = true
		return nil
	})
	return done, err
}
