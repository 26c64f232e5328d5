// Package soniq holds the database schema that Soniq's packages and Python
// Soniq share, and its migrations. The job worker is in soniq/engine, the
// dead-letter queue in soniq/deadletter.
package soniq

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/internal/pg"
)

// Version is this release, in the form of semver.org. Workers write it to
// soniq_workers.version with the prefix of [WorkerVersion].
const Version = "0.2.0-dev"

// WorkerVersion is what a worker of this release writes to
// soniq_workers.version. Python Soniq leaves that column NULL: a version that
// begins with 'go/' is how one language knows its own workers.
const WorkerVersion = "go/" + Version

//go:embed schema.sql
var schemaSQL string

// SchemaSQL returns the whole schema as SQL: what the migrations add up to. It is for
// a database without Soniq's tables, and puts them in the schema 'public'. [Setup]
// does the same where nothing of Soniq is there, and else runs the migrations.
func SchemaSQL() string { return schemaSQL }

// Config says where Soniq's tables are. The zero value is ready to use.
type Config struct {
	// Schema is the database schema of the tables, under its plain name, without quotes. [Setup] creates
	// it where it doesn't exist. Default "public".
	//
	// The session's search_path doesn't matter. But where Schema is empty, 'public' has no tables of Soniq and
	// another schema of the database has, the error is an [*OtherSchemaError]: 0.1.0 found them by the
	// search_path, which may have changed since.
	Schema string
	// OnProgress is called with a line for a person where it takes longer: how far an index is, who holds
	// a lock that is waited for. Nothing secret is in it, and no text of anybody's
	// query. Default: no calls.
	OnProgress func(line string)
}

// progress tells one line.
func (c Config) progress(format string, args ...any) {
	if c.OnProgress != nil {
		c.OnProgress(fmt.Sprintf(format, args...))
	}
}

// minServerVersion is PostgreSQL 14: CREATE OR REPLACE TRIGGER.
const minServerVersion = 140000

// ErrServerTooOld is returned by [Setup] for a server before PostgreSQL 14.
var ErrServerTooOld = errors.New("soniq needs PostgreSQL 14 or later")

// SQLSTATEs.
const (
	lockNotAvailable      = "55P03" // lock_timeout has passed
	idleInTransaction     = "25P03" // idle_in_transaction_session_timeout has passed
	deadlockDetected      = "40P01"
	insufficientPrivilege = "42501"
	notAnInteger          = "22P02" // invalid_text_representation
)

// isCode reports whether err is PostgreSQL's with this SQLSTATE.
func isCode(err error, code string) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && pgErr.Code == code
}

// errMadeAtOnce is wrapped where another session made an object between the look
// for it and its making.
var errMadeAtOnce = errors.New("made by another program at the same time")

// madeAtOnce knows the errors of that race: the table, its row type, the schema or
// its name in the catalog exists already.
func madeAtOnce(err error) bool {
	return slices.ContainsFunc([]string{"42P07", "42710", "42P06", "23505"}, func(code string) bool { return isCode(err, code) })
}

// IsMissing reports whether err says that the schema has not been set up:
// PostgreSQL's undefined_table or undefined_column.
func IsMissing(err error) bool {
	return isCode(err, "42P01") || isCode(err, "42703")
}

// OutdatedError says that the database was set up by an older release.
type OutdatedError struct {
	// Missing are the migrations it lacks, such as '0152_soniq_go_errors'.
	Missing []string
	// Open: any role may still execute the functions of 0.1.0, and run code as their owner.
	Open bool
}

func (e *OutdatedError) Error() string {
	text := "the database's schema is older than this program: it lacks " + strings.Join(e.Missing, ", ") +
		"; run 'soniq setup', which leaves workers of older releases working"
	if e.Open {
		text += ". UNTIL THEN ANY ROLE THAT MAY LOG IN TO THIS DATABASE CAN RUN CODE AS THE OWNER OF SONIQ'S FUNCTIONS"
	}
	return text
}

const migrationsAppliedSQL = `select version from public.soniq_migrations`

// Check looks whether the database has all migrations of this release. A newer
// database is fine: each release leaves a schema that the one before works on.
//
// Errors: an [*OutdatedError] where migrations are missing; one that [IsMissing]
// knows where there are no tables; an [*OtherSchemaError] where they are in another
// schema; [ErrSchemaName]; else those of the database.
func Check(ctx context.Context, pool *pgxpool.Pool, cfg Config) error {
	err := check(ctx, pool, cfg)
	var outdated *OutdatedError
	var other *OtherSchemaError
	if err == nil || errors.As(err, &outdated) || errors.As(err, &other) {
		return err
	}
	return fmt.Errorf("check schema: %w", err)
}

func check(ctx context.Context, pool *pgxpool.Pool, cfg Config) error {
	tx, err := pool.BeginTx(ctx, readOnly)
	if err != nil {
		return err
	}
	// It has written nothing.
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	tx = pg.PlainTx(tx)
	h, err := findHome(ctx, tx, cfg)
	if err != nil {
		return err
	}
	recorded, err := h.recorded(ctx, tx)
	if err != nil {
		return err
	}
	outdated := &OutdatedError{Missing: names(recorded.missing())}
	if len(outdated.Missing) == 0 {
		return nil
	}
	if recorded.lacks(trustMigration) && !recorded.lacks(firstOwn) {
		a, err := h.audit(ctx, tx, h.owner)
		if err != nil {
			return err
		}
		outdated.Open = a.count(isPublic) > 0
	}
	return outdated
}

// versions are those in soniq_migrations.
type versions []string

func (h *home) recorded(ctx context.Context, tx pgx.Tx) (versions, error) {
	rows, _ := tx.Query(ctx, h.sql(migrationsAppliedSQL))
	recorded, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("read soniq_migrations: %w", err)
	}
	return recorded, nil
}

func (v versions) lacks(version string) bool { return !slices.Contains(v, version) }

// missing are the migrations that aren't recorded.
func (v versions) missing() (list []Migration) {
	for _, m := range migrations() {
		if v.lacks(m.Version) {
			list = append(list, m)
		}
	}
	return list
}

// newer are the versions of our range that a later release has recorded.
func (v versions) newer() (list []string) {
	for _, version := range v {
		if isOwn(version) && version > newestMigration() {
			list = append(list, version)
		}
	}
	return list
}

// names are those of migrations.
func names(list []Migration) []string {
	var names []string
	for _, m := range list {
		names = append(names, m.String())
	}
	return names
}
