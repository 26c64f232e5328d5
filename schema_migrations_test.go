package soniq_test

import (
	"os"
	osexec "os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"soniq"
	"soniq/internal/testdb"
)

// catalogSQL describes all that the schema 'public' holds, one line each: what two databases must have
// alike to be the same to whoever uses them. The order of columns is no part of it.
const catalogSQL = `
select line from (
  select format('relation %s kind %s options %s rights %s owner %s rls %s persistence %s', c.relname, c.relkind, c.reloptions, c.relacl, c.relowner::regrole, c.relrowsecurity, c.relpersistence) as line
  from pg_class c
  where c.relnamespace = 'public'::regnamespace
  union all
  select format('column %s.%s %s not null %s default %s identity %s generated %s collation %s rights %s options %s statistics %s',
    c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, pg_get_expr(d.adbin, d.adrelid),
    a.attidentity, a.attgenerated, a.attcollation::regcollation, a.attacl, a.attoptions, a.attstattarget)
  from pg_class c
  join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
  left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
  where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'v', 'p', 'm')
  union all
  select format('constraint %s of %s %s validated %s', conname, conrelid::regclass, pg_get_constraintdef(oid), convalidated)
  from pg_constraint
  where connamespace = 'public'::regnamespace
    and contype <> 'n' -- since PostgreSQL 18 NOT NULL has a name, which a rename of its table leaves
  union all
  select format('index %s valid %s ready %s', pg_get_indexdef(i.indexrelid), i.indisvalid, i.indisready)
  from pg_index i
  join pg_class c on c.oid = i.indexrelid
  where c.relnamespace = 'public'::regnamespace
  union all
  select format('trigger of %s enabled %s %s', t.tgrelid::regclass, t.tgenabled, pg_get_triggerdef(t.oid))
  from pg_trigger t
  join pg_class c on c.oid = t.tgrelid
  where c.relnamespace = 'public'::regnamespace and not t.tgisinternal
  union all
  select format('function rights %s owner %s definer %s settings %s %s', p.proacl, p.proowner::regrole, p.prosecdef, p.proconfig, pg_get_functiondef(p.oid))
  from pg_proc p
  where p.pronamespace = 'public'::regnamespace
  union all
  select format('view %s %s', c.relname, pg_get_viewdef(c.oid))
  from pg_class c
  where c.relnamespace = 'public'::regnamespace and c.relkind = 'v'
  union all
  select format('rule %s', pg_get_ruledef(w.oid))
  from pg_rewrite w
  join pg_class c on c.oid = w.ev_class
  where c.relnamespace = 'public'::regnamespace
  union all
  select format('statistics %s', pg_get_statisticsobjdef(x.oid))
  from pg_statistic_ext x
  where x.stxnamespace = 'public'::regnamespace
  union all
  select format('type %s kind %s', y.typname, y.typtype)
  from pg_type y
  where y.typnamespace = 'public'::regnamespace
  union all
  select format('policy %s', l.polname)
  from pg_policy l
  union all
  select format('comment on %s %s: %s', d.classoid::regclass, d.objoid, d.description)
  from pg_description d
  join pg_class c on d.classoid = 'pg_class'::regclass and c.oid = d.objoid
  where c.relnamespace = 'public'::regnamespace
) l
order by line`

func catalog(t *testing.T, pool *pgxpool.Pool) []string {
	t.Helper()
	lines := queryColumn[string](t, pool, catalogSQL)
	for i, line := range lines {
		lines[i] = rightsOfAll.ReplaceAllString(line, "")
	}
	return lines
}

// rightsOfAll are rights that an upgrade gives to a predefined role while it has members
// anywhere on the server: another test may just have made one.
var rightsOfAll = regexp.MustCompile(`,pg_(?:read|write)_all_data=X/[^,}]+`)

// expectCatalog compares a catalog with what it should be.
func expectCatalog(t *testing.T, what string, pool *pgxpool.Pool, want []string) {
	t.Helper()
	if d := difference(want, catalog(t, pool)); len(d) > 0 {
		t.Errorf("%s: it lacks (-) or has too much (+):\n%s", what, strings.Join(d, "\n"))
	}
}

// schema.sql is what the migrations add up to: on an empty database, and on one that 0.1.0 made, in one
// go or one migration at a time.
func TestMigrations_addUpToSchemaSQL(t *testing.T) {
	t.Parallel()
	pool := emptyPool(t)
	exec(t, pool, soniq.SchemaSQL())
	want := catalog(t, pool)
	if len(want) < 300 {
		t.Fatalf("only %d lines describe the schema", len(want))
	}
	if rows := migrationRows(t, pool); !slices.Equal(rows, underlined(allMigrations)) {
		t.Errorf("schema.sql records %q", rows)
	}
	if got := setup(t, pool); len(got.Applied)+len(got.Mended) != 0 {
		t.Errorf("after schema.sql setup did %+v", got)
	}
	expectCatalog(t, "after a setup", pool, want)

	empty := emptyPool(t)
	setup(t, empty)
	expectCatalog(t, "an empty database", empty, want)
	old := oldPool(t)
	setup(t, old)
	expectCatalog(t, "a database of 0.1.0", old, want)
	single := emptyPool(t)
	for _, m := range soniq.Migrations() {
		result, err := soniq.MigrateUp(t.Context(), single, soniq.Config{}, m.Version)
		if err != nil || !slices.Equal(result.Applied, []string{m.String()}) {
			t.Errorf("%s alone: %+v, %v", m, result, err)
		}
	}
	expectCatalog(t, "one migration at a time", single, want)
}

func underlined(names []string) (rows []string) {
	for _, m := range names {
		rows = append(rows, strings.Replace(m, "_", " ", 1))
	}
	return rows
}

// Whoever applies schema.sql with psql gets all of it or nothing, and a database that is up to date.
func TestSchemaSQL_byPsql_isUpToDate(t *testing.T) {
	t.Parallel()
	psql, err := lookPsql()
	if err != nil {
		t.Logf("not run: %v", err)
		return
	}
	url := testdb.EmptyURL(t)
	run := func() (string, error) {
		out, err := osexec.CommandContext(t.Context(), psql, "-X", "-v", "ON_ERROR_STOP=1", "-f", "schema.sql", url).CombinedOutput()
		return string(out), err
	}
	if out, err := run(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	pool := openPool(t, url, "")
	if err := soniq.Check(t.Context(), pool, soniq.Config{}); err != nil {
		t.Error(err)
	}
	want := catalog(t, pool)
	if out, err := run(); err == nil || !strings.Contains(out, `relation "soniq_migrations" already exists`) {
		t.Errorf("again: %v: %s", err, out)
	}
	expectCatalog(t, "again", pool, want)
}

// lookPsql finds psql beside the server of the tests, or on the PATH.
func lookPsql() (string, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/psql")
	if err != nil || len(found) == 0 {
		return osexec.LookPath("psql")
	}
	return found[len(found)-1], nil
}

// Each file is as the program expects it, and has its other half.
func TestMigrations_files_areWellFormed(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("migrations/*")
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, m := range soniq.Migrations() {
		want = append(want, "migrations/"+m.String()+".up.sql")
		if m.Version < "0150" {
			if m.Down != "" {
				t.Errorf("%s is Python's too, and has a way down", m)
			}
			continue
		}
		want = append(want, "migrations/"+m.String()+".down.sql")
		if m.Version >= "0300" {
			t.Errorf("%s is not in the range 0150 to 0299", m)
		}
		// A table or column that goes is data that is lost.
		if regexp.MustCompile(`drop (table|column)`).MatchString(m.Down) != (m.Loses != "") {
			t.Errorf("%s: down says that it loses %q", m, m.Loses)
		}
	}
	slices.Sort(want)
	if !slices.Equal(files, want) {
		t.Errorf("the files are %q, want %q", files, want)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range soniq.Statements(string(text)) {
			first, _, _ := strings.Cut(s, "\n")
			if !regexp.MustCompile(`^(create|alter (table|index)|drop|do|revoke|update|insert)\b`).MatchString(first) {
				t.Errorf("%s: a statement begins with %q", file, first)
			}
			if regexp.MustCompile(`(?i)\b(begin|commit|concurrently);?$`).MatchString(first) {
				t.Errorf("%s: %q does not belong in a transaction", file, first)
			}
		}
	}
}

// Down takes back what up did, exactly.
func TestMigrateDown_eachMigration_restoresWhatWasBefore(t *testing.T) {
	t.Parallel()
	pool := emptyPool(t)
	var before [][]string
	all := soniq.Migrations()
	for _, m := range all {
		before = append(before, catalog(t, pool))
		if _, err := soniq.MigrateUp(t.Context(), pool, soniq.Config{}, m.Version); err != nil {
			t.Fatal(err)
		}
	}
	newest := catalog(t, pool)
	for i := len(all) - 1; i >= 2; i-- {
		undone, err := soniq.MigrateDown(t.Context(), pool, soniq.Config{}, all[i-1].Version)
		if err != nil || !slices.Equal(undone, []string{all[i].String()}) {
			t.Fatalf("down to %s: %q, %v", all[i-1], undone, err)
		}
		expectCatalog(t, "after "+all[i].String()+" was undone", pool, before[i])
	}
	setup(t, pool)
	expectCatalog(t, "up again", pool, newest)
	undone, err := soniq.MigrateDown(t.Context(), pool, soniq.Config{}, "0002")
	if err != nil || len(undone) != len(all)-2 || undone[0] != all[len(all)-1].String() {
		t.Errorf("down in one go: %q, %v", undone, err)
	}
	expectCatalog(t, "after all was undone", pool, before[2])
	if n := queryValue[int](t, pool, `select count(*)::int from pg_proc where proname like 'soniq%'`); n != 0 {
		t.Errorf("%d functions are left", n)
	}
}
