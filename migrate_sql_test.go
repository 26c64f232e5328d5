package soniq_test

import (
	"errors"
	"fmt"
	"os"
	osexec "os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"text/template"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq"
	"soniq/internal/testdb"
)

func migrationsSQL(t *testing.T, o soniq.SQLOptions) string {
	t.Helper()
	var b strings.Builder
	if err := soniq.WriteMigrations(&b, o); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// applyAs applies SQL as the tool does, up and down. They are what the tools' own sources do with a file.
var applyAs = map[soniq.SQLTool]func(t *testing.T, pool *pgxpool.Pool, up, down string) (applyUp, applyDown func()){
	soniq.Psql: func(t *testing.T, pool *pgxpool.Pool, up, down string) (func(), func()) {
		t.Helper()
		run := func(sql string) func() {
			return func() {
				psql, err := lookPsql()
				if err != nil { // as psql sends it, but for what is its own
					exec(t, pool, strings.TrimPrefix(sql, `\set ON_ERROR_STOP on`))
					return
				}
				file := filepath.Join(t.TempDir(), "soniq.sql")
				if err := os.WriteFile(file, []byte(sql), 0o600); err != nil {
					t.Fatal(err)
				}
				if out, err := osexec.CommandContext(t.Context(), psql, "-X", "-q", "-f", file, pool.Config().ConnString()).CombinedOutput(); err != nil {
					t.Fatalf("%v: %s", err, out)
				} else if strings.Contains(string(out), "NOTICE") {
					t.Errorf("psql prints notices: %.300s", out)
				}
			}
		}
		return run(up), run(down)
	},
	// The whole file in one message.
	soniq.GolangMigrate: func(t *testing.T, pool *pgxpool.Pool, up, down string) (func(), func()) {
		t.Helper()
		return func() { exec(t, pool, up) }, func() { exec(t, pool, down) }
	},
	// A transaction, each statement for itself, then its own record, in its own search_path.
	soniq.Atlas: func(t *testing.T, pool *pgxpool.Pool, up, down string) (func(), func()) {
		t.Helper()
		run := func(sql string) func() {
			return func() {
				// Ours splits texts of ours, in which no name has an apostrophe.
				var list []string
				for _, s := range soniq.Statements(strings.NewReplacer(`"Job's`, `"Job~s`).Replace(sql)) {
					list = append(list, strings.ReplaceAll(s, `"Job~s`, `"Job's`))
				}
				inToolsTransaction(t, pool, list)
			}
		}
		return run(up), run(down)
	},
	// A transaction, what is between the marks as one statement, then its own record.
	soniq.Goose: func(t *testing.T, pool *pgxpool.Pool, up, _ string) (func(), func()) {
		t.Helper()
		parts := strings.Split(up, "-- +goose ")
		if len(parts) != 7 || parts[0] != "" || parts[1] != "Up\n" || parts[4] != "Down\n" {
			t.Fatalf("goose finds %d marks", len(parts)-1)
		}
		part := func(text string) string { return strings.TrimPrefix(text, "StatementBegin\n") }
		return func() { inToolsTransaction(t, pool, []string{part(parts[2])}) },
			func() { inToolsTransaction(t, pool, []string{part(parts[5])}) }
	},
	// A template, then a transaction with the file as one, and its own record after RESET ALL.
	soniq.Tern: func(t *testing.T, pool *pgxpool.Pool, up, _ string) (func(), func()) {
		t.Helper()
		tmpl, err := template.New("").Parse(up)
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		if err := tmpl.Execute(&b, nil); err != nil {
			t.Fatal(err)
		}
		first, second, ok := strings.Cut(b.String(), "---- create above / drop below ----")
		if !ok {
			t.Fatal("tern finds no way down")
		}
		return func() { inToolsTransaction(t, pool, []string{first, "reset all"}) },
			func() { inToolsTransaction(t, pool, []string{second, "reset all"}) }
	},
}

// inToolsTransaction runs statements and the tool's own, which finds its table by the search_path.
func inToolsTransaction(t *testing.T, pool *pgxpool.Pool, statements []string) {
	t.Helper()
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(t.Context()) }()
	for _, s := range append([]string{`create temporary table tools_versions (version int) on commit drop`}, statements...) {
		exec(t, tx, s)
	}
	exec(t, tx, `insert into tools_versions values (1)`)
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// What is printed for each tool makes the database that Setup makes, in any schema, and undoes it. What is odd about a
// name is a matter of the text, which is the same for all tools but for what is around it: one of them shows that
// 'public' works too.
func TestWriteMigrations_eachTool_makesWhatSetupMakes(t *testing.T) {
	t.Parallel()
	want := map[string][]string{}
	for _, schema := range []string{"", `Job's "Data"`} {
		pool := emptyPool(t)
		setup(t, pool, schema)
		want[schema] = catalogOf(t, pool, schema)
	}
	for _, tool := range soniq.SQLTools() {
		for schema, catalog := range want {
			if schema == "" && tool != soniq.Psql {
				continue
			}
			t.Run(fmt.Sprintf("%s in schema %q", tool, schema), func(t *testing.T) {
				t.Parallel()
				pool := openPool(t, testdb.EmptyURL(t), "")
				up := migrationsSQL(t, soniq.SQLOptions{Schema: schema, Tool: tool})
				down := ""
				if tool != soniq.Goose && tool != soniq.Tern {
					down = migrationsSQL(t, soniq.SQLOptions{Schema: schema, Tool: tool, Down: true})
				}
				applyUp, applyDown := applyAs[tool](t, pool, up, down)
				applyUp()
				if d := difference(catalog, catalogOf(t, pool, schema)); len(d) > 0 {
					t.Errorf("it is not what Setup makes:\n%s", strings.Join(d, "\n"))
				}
				if got := setup(t, pool, schema); len(got.Applied)+len(got.Mended) != 0 {
					t.Errorf("setup afterwards: %+v", got)
				}
				status, err := soniq.ReadStatus(t.Context(), pool, soniq.Config{Schema: schema})
				if err != nil || !status.UpToDate() || len(status.In(soniq.Applied)) != len(allMigrations) {
					t.Errorf("status: %+v, %v", status, err)
				}
				applyDown()
				status, err = soniq.ReadStatus(t.Context(), pool, soniq.Config{Schema: schema})
				if err != nil || len(status.In(soniq.Applied)) != 2 {
					t.Errorf("status after it was undone: %+v, %v", status, err)
				}
				if tool != soniq.Psql {
					return
				}
				setup(t, pool, schema)
				if d := difference(catalog, catalogOf(t, pool, schema)); len(d) > 0 {
					t.Errorf("up again it is not what Setup makes:\n%s", strings.Join(d, "\n"))
				}
			})
		}
	}
}

// catalogOf is the catalog of a schema, by default public's.
func catalogOf(t *testing.T, pool *pgxpool.Pool, schema string) []string {
	t.Helper()
	if schema == "" {
		return catalog(t, pool)
	}
	quoted := pgx.Identifier{schema}.Sanitize()
	return queryColumn[string](t, pool, strings.ReplaceAll(catalogSQL, "'public'", "'"+strings.ReplaceAll(quoted, "'", "''")+"'"))
}

// Only what is chosen, for a database that has the rest.
func TestWriteMigrations_range_upgrades010(t *testing.T) {
	t.Parallel()
	fresh, old := testdb.New(t), oldPool(t)
	exec(t, old, migrationsSQL(t, soniq.SQLOptions{From: "0161", Tool: soniq.GolangMigrate}))
	expectCatalog(t, "a database of 0.1.0", old, catalog(t, fresh))
	exec(t, old, migrationsSQL(t, soniq.SQLOptions{From: "0162", To: "0163", Tool: soniq.GolangMigrate, Down: true}))
	status, err := soniq.ReadStatus(t.Context(), old, soniq.Config{})
	if err != nil {
		t.Fatal(err)
	}
	var pending []string
	for _, m := range status.In(soniq.Pending) {
		pending = append(pending, m.String())
	}
	if !slices.Equal(pending, []string{"0162_soniq_go_long_names", "0163_soniq_go_audit_secrets"}) {
		t.Errorf("pending: %q", pending)
	}
	for o, want := range map[soniq.SQLOptions]error{
		{From: "0006"}:                         soniq.ErrUnknownMigration,
		{To: "x"}:                              soniq.ErrUnknownMigration,
		{From: "0161", To: "0160"}:             soniq.ErrUnknownMigration,
		{Tool: "flyway"}:                       soniq.ErrUnknownTool,
		{Tool: soniq.Tern, Down: true}:         soniq.ErrUnknownTool,
		{From: "0002", To: "0160", Down: true}: soniq.ErrPythonsMigration,
		{Schema: "pg_x"}:                       soniq.ErrSchemaName,
	} {
		var b strings.Builder
		if err := soniq.WriteMigrations(&b, o); !errors.Is(err, want) || b.Len() > 0 {
			t.Errorf("%+v: %v and %d bytes, want %v", o, err, b.Len(), want)
		}
	}
}
