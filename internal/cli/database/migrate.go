package database

import (
	"errors"
	"fmt"
	"strings"

	"github.com/alecthomas/kong"

	"soniq"
	"soniq/internal/cli/app"
	"soniq/internal/cli/terminal"
	"soniq/internal/unit"
)

// MigrateCommand groups the commands that apply and undo migrations one by one.
type MigrateCommand struct {
	List     migrateListCmd     `cmd:"" help:"List the migrations and how they stand in the database."`
	Up       migrateUpCmd       `cmd:"" help:"Apply what is pending."`
	Down     migrateDownCmd     `cmd:"" help:"Undo migrations, for an older release."`
	Check    migrateCheckCmd    `cmd:"" help:"Tell a pipeline whether the database is up to date, by the exit code."`
	Prebuild migratePrebuildCmd `cmd:"" help:"Build the indexes of pending migrations, and those that are missing, beforehand, while programs go on."`
	SQL      migrateSQLCmd      `cmd:"" name:"sql" help:"Print migrations as SQL for psql, goose, golang-migrate, tern or atlas."`
}

// Help implements [kong.HelpProvider].
func (MigrateCommand) Help() string {
	return `'soniq setup' applies all that is pending. These commands go step by step; docs/upgrading.md has the rules.`
}

// config is where the tables are. Each line of progress is a note.
func config(a *app.App) soniq.Config {
	return soniq.Config{Schema: a.SchemaName(), OnProgress: func(line string) { a.Note("%s", line) }}
}

// migrationError gives an error of the command line its exit code.
func migrationError(err error) error {
	for _, usage := range []error{soniq.ErrUnknownMigration, soniq.ErrPythonsMigration, soniq.ErrSchemaName, soniq.ErrUnknownTool} {
		if errors.Is(err, usage) {
			return &app.ExitError{Code: app.ExitUsage, Err: err}
		}
	}
	return err
}

// version is a migration's number as a person writes it: '160' is '0160'.
func version(text string) string {
	const digits = 4
	if len(text) < digits && text != "" && strings.Trim(text, "0123456789") == "" {
		return strings.Repeat("0", digits-len(text)) + text
	}
	number, _, _ := strings.Cut(text, "_")
	return number
}

type migrateListCmd struct{}

func (migrateListCmd) Help() string {
	return `applied, pending, edited (another text than this release's was applied), newer (of a later release) or other (of Python Soniq or a plugin).

    soniq migrate list --json`
}

func (c *migrateListCmd) Run(a *app.App) error {
	status, err := migrationStatus(a)
	if err != nil {
		return err
	}
	if a.JSON {
		return a.Out.Document(map[string]any{"migrations": status.Migrations, "edited_functions": append([]string{}, status.Functions...)})
	}
	for _, m := range status.Migrations {
		applied := ""
		if m.AppliedAt != nil {
			applied = unit.FormatTime(*m.AppliedAt)
		}
		a.Out.Printf("%s", strings.TrimRight(fmt.Sprintf("%-8s  %-40s  %s", m.State, terminal.OneLine(m.String()), applied), " "))
	}
	for _, f := range status.Functions {
		a.Note("Warning: function %s was edited; 'soniq setup' puts it back", f)
	}
	for _, m := range status.Missing {
		a.Note("Warning: %s is missing; 'soniq setup' makes it anew", m)
	}
	return nil
}

func migrationStatus(a *app.App) (soniq.Status, error) {
	pool, err := a.Open()
	if err != nil {
		return soniq.Status{}, err
	}
	if missing, err := missingSchema(a, pool); err == nil && missing != "" {
		a.Note("Schema %q does not exist; 'soniq setup' makes it", missing)
	}
	status, err := soniq.ReadStatus(a.Ctx, pool, config(a))
	return status, migrationError(err)
}

type migrateUpCmd struct {
	To     string `placeholder:"VERSION" help:"Up to and with VERSION, such as 0160. Default the newest."`
	DryRun bool   `help:"Say what would be applied, and change nothing."`
}

func (migrateUpCmd) Help() string {
	return `Without --to it is 'soniq setup'. Each migration is a transaction; after a failure, run it again.

    soniq migrate up --dry-run
    soniq migrate up --to 0163`
}

func (c *migrateUpCmd) Run(a *app.App) error {
	newest := soniq.Migrations()
	to := newest[len(newest)-1].Version
	if c.To != "" {
		if to = version(c.To); !known(to) {
			return unknown(c.To)
		}
	}
	if c.DryRun {
		return c.preview(a, to)
	}
	pool, err := a.Open()
	if err != nil {
		return err
	}
	created, err := missingSchema(a, pool)
	if err != nil {
		return err
	}
	result, err := soniq.MigrateUp(a.Ctx, pool, config(a), to)
	if err == nil && len(result.Applied) == 0 && c.To != "" && !a.JSON {
		a.Out.Printf("Nothing is pending up to %s.", to)
		return nil
	}
	return setupReport(a, setupDone{SetupResult: result, created: created}, migrationError(err))
}

func (c *migrateUpCmd) preview(a *app.App, to string) error {
	if !known(to) {
		return unknown(c.To)
	}
	status, err := migrationStatus(a)
	if err != nil {
		return err
	}
	pending := []string{}
	for _, m := range status.In(soniq.Pending) {
		if m.Version <= to {
			pending = append(pending, m.String())
		}
	}
	if a.JSON {
		return a.Out.Document(map[string]any{"pending": pending})
	}
	if len(pending) == 0 {
		a.Out.Printf("Nothing is pending.")
	}
	for _, m := range pending {
		a.Out.Printf("Would apply %s", m)
	}
	return nil
}

func known(version string) bool {
	for _, m := range soniq.Migrations() {
		if m.Version == version {
			return true
		}
	}
	return false
}

// unknown is the error for a version that this release doesn't have.
func unknown(version string) error {
	all := soniq.Migrations()
	return app.Usagef("%q: %w; the newest is %s", version, soniq.ErrUnknownMigration, all[len(all)-1].Version)
}

type migrateDownCmd struct {
	To     string `required:"" placeholder:"VERSION" help:"Undo all migrations after VERSION. 0002 leaves what Python Soniq has."`
	DryRun bool   `help:"Say what would be undone and lost, and change nothing."`
	Yes    bool   `short:"y" help:"Don't ask."`
}

func (migrateDownCmd) Help() string {
	return `Stop the workers of this release first: they don't run on an older schema. What the tables and columns hold that go is lost; --dry-run says what that is.

    soniq migrate down --to 0160 --dry-run`
}

func (c *migrateDownCmd) Run(a *app.App) error {
	to := version(c.To)
	switch {
	case !known(to):
		return unknown(c.To)
	case to < "0002":
		return app.Usagef("migrate down to %s: %w", to, soniq.ErrPythonsMigration)
	}
	pool, err := a.Open()
	if err != nil {
		return err
	}
	if err := requireSchema(a, pool); err != nil {
		return err
	}
	status, err := soniq.ReadStatus(a.Ctx, pool, config(a))
	if err != nil {
		return migrationError(err)
	}
	if newer := status.In(soniq.Newer); len(newer) > 0 {
		e := &soniq.NewerError{}
		for _, m := range newer {
			e.Versions = append(e.Versions, m.String())
		}
		return e
	}
	plan := c.plan(status, to)
	if c.DryRun || len(plan) == 0 {
		return c.show(a, plan, "Would undo")
	}
	for _, m := range plan {
		if m.Loses != "" {
			a.Note("%s loses: %s", m.Migration, m.Loses)
		}
	}
	if err := warnOfWorkers(a, pool); err != nil {
		return err
	}
	if err := a.Confirm(c.Yes, fmt.Sprintf("This undoes %d migrations, and what they hold is lost.", len(plan))); err != nil {
		return err
	}
	undone, err := soniq.MigrateDown(a.Ctx, pool, config(a), to)
	for i := range plan {
		if i >= len(undone) {
			plan = plan[:i]
			break
		}
	}
	return errors.Join(c.show(a, plan, "Undone"), migrationError(err))
}

// undoing is a migration that goes.
type undoing struct {
	Migration string `json:"migration"`
	Loses     string `json:"loses"`
}

// plan is what goes, the newest first.
func (c *migrateDownCmd) plan(status soniq.Status, to string) []undoing {
	recorded := map[string]bool{}
	for _, m := range status.Migrations {
		recorded[m.Version] = m.AppliedAt != nil
	}
	plan := []undoing{}
	for _, m := range soniq.Migrations() {
		if m.Version > to && recorded[m.Version] {
			plan = append([]undoing{{m.String(), m.Loses}}, plan...)
		}
	}
	return plan
}

func (c *migrateDownCmd) show(a *app.App, plan []undoing, what string) error {
	if a.JSON {
		return a.Out.Document(map[string]any{"undone": plan, "dry_run": c.DryRun})
	}
	if len(plan) == 0 {
		a.Out.Printf("There is nothing to undo.")
	}
	for _, m := range plan {
		line := what + " " + m.Migration
		if m.Loses != "" && c.DryRun {
			line += ", which loses: " + m.Loses
		}
		a.Out.Printf("%s", line)
	}
	return nil
}

type migrateCheckCmd struct{}

func (migrateCheckCmd) Help() string {
	return `    0     up to date; a database of a later release is too
    1     a migration is pending, something was edited, or a table, column, index, function or trigger is missing
    3     can't tell: no answer from the database, or a mistake in the command line

    soniq migrate check || soniq setup`
}

// Exit codes of 'migrate check', which a pipeline reads.
const (
	upToDate    = app.ExitDone
	notUpToDate = 1
	cantTell    = app.ExitUnknown
)

func (c *migrateCheckCmd) Run(a *app.App) error {
	status, err := migrationStatus(a)
	if err != nil {
		return &app.ExitError{Code: cantTell, Err: err}
	}
	names := func(state soniq.MigrationState) []string {
		list := []string{}
		for _, m := range status.In(state) {
			list = append(list, m.String())
		}
		return list
	}
	pending, edited, newer := names(soniq.Pending), names(soniq.Edited), names(soniq.Newer)
	if a.JSON {
		err = a.Out.Document(map[string]any{
			"up_to_date": status.UpToDate(), "pending": pending, "edited": edited, "newer": newer,
			"edited_functions": append([]string{}, status.Functions...), "missing": append([]string{}, status.Missing...),
		})
		if err != nil {
			return err
		}
	} else {
		for _, part := range []struct {
			what string
			list []string
		}{
			{"pending", pending}, {"edited migration", edited}, {"edited function", status.Functions}, {"missing", status.Missing}, {"of a later release", newer},
		} {
			for _, name := range part.list {
				a.Out.Printf("%s: %s", part.what, terminal.OneLine(name))
			}
		}
		switch {
		case status.UpToDate():
			a.Out.Printf("up to date")
		case len(status.Missing) > 0:
			a.Note("'soniq setup' makes what is missing. Of large tables, 'soniq migrate prebuild' builds the indexes before, while programs go on.")
		}
	}
	if !status.UpToDate() {
		return &app.ExitError{Code: notUpToDate, Err: app.ErrReported}
	}
	return nil
}

// Unknown reports an error with the exit code for 'no answer'.
func (c *migrateCheckCmd) Unknown(a *app.App, cmd *kong.Context, err error) int {
	a.Report(cmd, err)
	return cantTell
}

type migratePrebuildCmd struct{}

func (migratePrebuildCmd) Help() string {
	return `For tables with millions of rows: it builds the indexes with CREATE INDEX CONCURRENTLY, and 'soniq setup' then finds them and holds nobody up. It may be run again, also after it was killed.

    soniq migrate prebuild && soniq migrate up`
}

func (c *migratePrebuildCmd) Run(a *app.App) error {
	pool, err := a.Open()
	if err != nil {
		return err
	}
	if err := requireSchema(a, pool); err != nil {
		return err
	}
	result, err := soniq.Prebuild(a.Ctx, pool, config(a))
	if a.JSON && err == nil {
		return a.Out.Document(map[string]any{
			"built": append([]string{}, result.Built...), "waiting": append([]soniq.WaitingIndex{}, result.Waiting...),
		})
	}
	for _, name := range result.Built {
		a.Out.Printf("Built %s", name)
	}
	for _, w := range result.Waiting {
		a.Out.Printf("%s has to wait for %s: %s", w.Index, w.Migration, w.Why)
	}
	if err == nil && len(result.Built)+len(result.Waiting) == 0 {
		a.Out.Printf("There is nothing to build.")
	}
	return migrationError(err)
}

type migrateSQLCmd struct {
	From string `placeholder:"VERSION" help:"The first migration, such as 0161. Default the first of all."`
	To   string `placeholder:"VERSION" help:"The last migration. Default the newest."`
	For  string `enum:"psql,goose,golang-migrate,tern,atlas" default:"psql" placeholder:"TOOL" help:"psql, goose, golang-migrate, tern or atlas. Default psql."`
	Down bool   `help:"Print what undoes them, the newest first. Files of goose and tern have both."`
}

func (migrateSQLCmd) Help() string {
	return `It needs no database. Each migration records itself in soniq_migrations, so workers start and 'soniq setup' finds nothing to do. Print only what the database lacks: 'soniq migrate list' shows it.

    soniq migrate sql | psql "$DATABASE_URL"
    soniq migrate sql --from 0161 --for goose > migrations/20261201120000_soniq.sql`
}

func (c *migrateSQLCmd) Run(a *app.App) error {
	if _, err := a.TableSchema(); err != nil {
		return err
	}
	return migrationError(soniq.WriteMigrations(a.Out, soniq.SQLOptions{
		Schema: a.SchemaName(), From: version(c.From), To: version(c.To), Tool: soniq.SQLTool(c.For), Down: c.Down,
	}))
}
