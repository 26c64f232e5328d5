package soniq

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"soniq/internal/pg"
)

// SQLTool is a program that applies SQL files.
type SQLTool string

// The tools that [WriteMigrations] writes for.
const (
	// Psql: each migration is a transaction; psql stops at the first error.
	Psql SQLTool = "psql"
	// Goose: one file with both directions; goose makes the transaction.
	Goose SQLTool = "goose"
	// GolangMigrate: one direction; the tool sends the file as one, which the server runs in one transaction.
	GolangMigrate SQLTool = "golang-migrate"
	// Tern: one file with both directions; tern makes the transaction.
	Tern SQLTool = "tern"
	// Atlas: one direction; atlas makes the transaction.
	Atlas SQLTool = "atlas"
)

// SQLTools returns all tools.
func SQLTools() []SQLTool { return []SQLTool{Psql, Goose, GolangMigrate, Tern, Atlas} }

// ErrUnknownTool is wrapped by the error for a tool that [WriteMigrations] doesn't know.
var ErrUnknownTool = errors.New("unknown tool")

// SQLOptions choose what [WriteMigrations] writes. The zero value is all migrations, upwards, for psql.
type SQLOptions struct {
	// Schema is where the tables belong, as in [Config]. Default "public".
	Schema string
	// From and To are the first and the last version. Default: the first and the last of this release.
	From, To string
	// Tool is the program that applies the SQL. Default [Psql].
	Tool SQLTool
	// Down writes what undoes them, the newest first. [Goose] and [Tern] have both in one file, and don't
	// take it. Default false.
	Down bool
}

// WriteMigrations writes migrations as SQL for another tool. Each records itself in soniq_migrations, so
// that Soniq's programs start and [Setup] doesn't apply it again, and holds the migration lock as long as
// its transaction. Migrations that are recorded already must not be applied again: choose by From.
//
// Errors: [ErrUnknownMigration]; [ErrUnknownTool]; [ErrPythonsMigration] where Down would undo 0001 or
// 0002; [ErrSchemaName]; else those of w.
func WriteMigrations(w io.Writer, o SQLOptions) error {
	text, err := o.text()
	if err != nil {
		return fmt.Errorf("write migrations: %w", err)
	}
	if _, err := io.WriteString(w, text); err != nil {
		return fmt.Errorf("write migrations: %w", err)
	}
	return nil
}

func (o SQLOptions) text() (string, error) {
	schema, err := pg.NewSchema(o.Schema)
	if err != nil {
		return "", err
	}
	list, err := o.chosen()
	if err != nil {
		return "", err
	}
	s := sqlWriter{schema: schema}
	var up, down strings.Builder
	for _, m := range list {
		up.WriteString(s.up(m, o.Tool == Psql || o.Tool == ""))
	}
	slices.Reverse(list)
	for _, m := range list {
		if m.Version > lastShared {
			down.WriteString(s.down(m, o.Tool == Psql || o.Tool == ""))
		}
	}
	switch o.Tool {
	case Psql, "":
		return "\\set ON_ERROR_STOP on\n\n" + o.direction(up.String(), down.String()), nil
	case GolangMigrate, Atlas:
		return o.direction(up.String(), down.String()), nil
	case Goose:
		const statement = "-- +goose StatementBegin\n%s-- +goose StatementEnd\n"
		return fmt.Sprintf("-- +goose Up\n"+statement+"\n-- +goose Down\n"+statement, up.String(), down.String()), nil
	case Tern:
		return up.String() + "\n---- create above / drop below ----\n\n" + down.String(), nil
	default:
		return "", fmt.Errorf("%q: %w", o.Tool, ErrUnknownTool)
	}
}

func (o SQLOptions) direction(up, down string) string {
	if o.Down {
		return down
	}
	return up
}

// chosen are the migrations from the first to the last.
func (o SQLOptions) chosen() ([]Migration, error) {
	all := Migrations()
	first, last := 0, len(all)-1
	var err error
	if o.From != "" {
		if first, err = migrationNumber(o.From); err != nil {
			return nil, err
		}
	}
	if o.To != "" {
		if last, err = migrationNumber(o.To); err != nil {
			return nil, err
		}
	}
	switch {
	case first > last:
		return nil, fmt.Errorf("%s comes after %s: %w between them", o.From, o.To, ErrUnknownMigration)
	case o.Down && (o.Tool == Goose || o.Tool == Tern):
		return nil, fmt.Errorf("files of %s have both directions: %w for one", o.Tool, ErrUnknownTool)
	case o.Down && all[first].Version <= lastShared:
		if o.From != "" {
			return nil, fmt.Errorf("undo %s: %w", o.From, ErrPythonsMigration)
		}
		first, err = migrationNumber(firstOwn)
	}
	return all[first : last+1], err
}

// sqlWriter writes migrations for a schema.
type sqlWriter struct{ schema pg.Schema }

// Nothing is picked up that somebody made in a schema of the tool's search_path; the tool's own statements
// find theirs again afterwards. A wait for a lock is short, since all who come to the table wait behind it:
// run it again if it was too short.
const (
	sqlBegin = `select pg_catalog.set_config('soniq.search_path', pg_catalog.current_setting('search_path'), true);
select pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
select pg_catalog.set_config('lock_timeout', '1s', true);
select pg_catalog.pg_advisory_xact_lock(%d);

`
	sqlEnd = `select pg_catalog.set_config('search_path', pg_catalog.current_setting('soniq.search_path'), true);
`
)

// sqlGuard begins a migration of ours: applied twice it would change tables that later ones have changed
// since. Python's own may be applied again.
const sqlGuard = `
do $$
begin
  if exists (select from public.soniq_migrations m where m.version = '%s') then
    raise exception 'migration %s is applied already: print what the database lacks, with --from';
  end if;
end
$$;
`

// wrap is the transaction of one migration. before is for this schema already, body for any.
func (s sqlWriter) wrap(m Migration, what, before, body string, transaction bool) string {
	text := fmt.Sprintf("-- Soniq: %s%s\n\n", what, m)
	if transaction {
		// Without it the server prints a notice for each object that 'if not exists' finds.
		text += "begin;\nset local client_min_messages = warning;\n"
	}
	text += fmt.Sprintf(sqlBegin, migrationsLock) + before + strings.TrimLeft(s.schema.SQL(body), "\n") + sqlEnd
	if transaction {
		text += "commit;\n"
	}
	return text + "\n"
}

func (s sqlWriter) up(m Migration, transaction bool) string {
	before, body := "", m.Up
	if m.Version == migrations()[0].Version {
		before, body = s.createSchema(), migrationsTableSQL+";\n\n"+body
	}
	if m.Version > lastShared {
		body = fmt.Sprintf(sqlGuard, m.Version, m) + body
	}
	body += fmt.Sprintf(`
insert into public.soniq_migrations (version, name, applied_at, checksum)
values ('%s', '%s', now() at time zone 'utc', '%s')
on conflict (version) do nothing;
`, m.Version, m.Name, m.Checksum())
	return s.wrap(m, "", before, body, transaction)
}

// createSchema makes a schema of one's own: 'if not exists' would ask for the right to make one even where
// it is there.
func (s sqlWriter) createSchema() string {
	if s.schema.Name() == pg.DefaultSchema {
		return ""
	}
	literal := func(text string) string { return "'" + strings.ReplaceAll(text, "'", "''") + "'" }
	return fmt.Sprintf(`do $$
begin
  if not exists (select from pg_catalog.pg_namespace n where n.nspname = %s) then
    execute %s;
  end if;
end
$$;
`, literal(s.schema.Name()), literal("create schema "+s.schema.Quoted()))
}

func (s sqlWriter) down(m Migration, transaction bool) string {
	return s.wrap(m, "undo ", "", m.Down+fmt.Sprintf(`
delete from public.soniq_migrations
where version = '%s';
`, m.Version), transaction)
}
