package soniq_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq"
	"soniq/internal/testdb"
)

// longName is as long as a name can be: no channel has room for it.
var longName = strings.Repeat("n", 63)

// Setup makes the schema, and needs no search_path; everything is in it, and nothing anywhere else.
func TestSetup_schemaOfItsOwn_isMade(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"workqueue", "Jobs of \"ours\"", longName} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := openPool(t, testdb.EmptyURL(t), `""`)
			if got := setup(t, pool, name).Applied; !slices.Equal(got, allMigrations) {
				t.Errorf("applied %q", got)
			}
			cfg := soniq.Config{Schema: name}
			if err := soniq.Check(t.Context(), pool, cfg); err != nil {
				t.Error(err)
			}
			if again := setup(t, pool, name); len(again.Applied)+len(again.Mended) != 0 {
				t.Errorf("a second setup: %+v", again)
			}
			if dropped, err := soniq.Optimize(t.Context(), pool, cfg); err != nil || len(dropped) != 0 {
				t.Errorf("dropped %q, %v", dropped, err)
			}
			if elsewhere := queryColumn[string](t, pool, `
				select c.oid::regclass::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
				where c.relname like '%soniq%' and n.nspname <> $1 and c.relkind <> 't'`, name); len(elsewhere) > 0 {
				t.Errorf("outside of the schema: %q", elsewhere)
			}
			undone, err := soniq.MigrateDown(t.Context(), pool, cfg, "0160")
			if err != nil || len(undone) != len(allMigrations)-migrations010 {
				t.Errorf("undone %q, %v", undone, err)
			}
			setup(t, pool, name)
			if d := difference(catalog(t, openPool(t, testdb.NewURL(t), `""`)), unnamed(t, catalogOf(t, pool, name), name)); len(d) > 0 {
				t.Errorf("it is not what public gets:\n%s", strings.Join(d, "\n"))
			}
		})
	}
}

// unnamed are lines of a catalog as they would be in the schema public.
func unnamed(t *testing.T, lines []string, schema string) []string {
	t.Helper()
	quoted := pgx.Identifier{schema}.Sanitize()
	replace := []string{strings.ReplaceAll(quoted, "'", "''") + ".", "public.", quoted + ".", "public.", schema + ".", "public."}
	for _, c := range []string{"soniq_new_job", "soniq_dead_letter", "soniq_control", "soniq_hook"} {
		replace = append([]string{"'" + strings.ReplaceAll(channel(t, schema, c), "'", "''") + "'", "'" + c + "'"}, replace...)
	}
	var list []string
	for _, line := range lines {
		list = append(list, strings.NewReplacer(replace...).Replace(line))
	}
	return list
}

// What happens in a schema is told on its own channels, which the program computes as the triggers do.
func TestTriggers_schemaOfItsOwn_tellOnItsChannels(t *testing.T) {
	t.Parallel()
	url := testdb.NewURL(t)
	public := openPool(t, url, "public")
	names := []string{"jobs", `Say "it's"`, longName, longName[:62] + "m"}
	pools, heard := map[string]*pgxpool.Pool{"public": public}, map[string]map[string]*listener{}
	for _, name := range append([]string{"public"}, names...) {
		pool := openPool(t, url, pgx.Identifier{name}.Sanitize())
		setup(t, public, name)
		pools[name], heard[name] = pool, map[string]*listener{}
		for _, c := range []string{"soniq_new_job", "soniq_dead_letter", "soniq_control", "soniq_hook"} {
			heard[name][c] = listen(t, public, channel(t, name, c))
		}
		comeWaiting(t, pool)
		exec(t, pool, `insert into soniq_hooks (name, kind) values ('h', 'log')`)
	}
	for name, pool := range pools {
		id := uuid.New()
		exec(t, pool, `insert into soniq_jobs (id, job_name, args, status) values ($1, 'n', '{}', 'processing')`, id)
		exec(t, pool, `update soniq_jobs set cancel_requested_at = now()`)
		exec(t, pool, insertJobSQL)
		newDeadLetter(t, pool, nil)
		exec(t, pool, `insert into soniq_queues (name, paused_at) values ('q', now()); delete from soniq_queues`)
		for other, channels := range heard {
			for c, l := range channels {
				n := len(l.heard(t, public))
				switch {
				case other != name && n != 0:
					t.Errorf("schema %q: %d notifications on %s of schema %q", name, n, c, other)
				case other == name && n == 0:
					t.Errorf("schema %q: nothing on its own %s", name, c)
				}
			}
		}
	}
}

// A role that may make no schema is told what to do, in a line; one that owns the schema needs nothing else.
func TestSetup_roleAndItsSchema(t *testing.T) {
	t.Parallel()
	pool := emptyPool(t)
	app := newRole(t, pool)
	own := app.pool(t, pool)
	for _, setUp := range []func() error{
		func() error { _, err := soniq.Setup(t.Context(), own, soniq.Config{Schema: "app"}); return err },
		func() error {
			_, err := soniq.MigrateUp(t.Context(), own, soniq.Config{Schema: "app"}, "0160")
			return err
		},
	} {
		err := setUp()
		if err == nil || !strings.Contains(err.Error(), `schema "app" does not exist, and role "`+app.name+`" may not create it`) || strings.Contains(err.Error(), "\n") {
			t.Errorf("a role without rights: %v", err)
		}
	}
	exec(t, pool, `create schema app authorization `+app.name)
	if got := setup(t, own, "app").Applied; !slices.Equal(got, allMigrations) {
		t.Errorf("applied %q", got)
	}
	if findings := setup(t, own, "app").Findings; slices.ContainsFunc(findings, func(f soniq.Finding) bool { return strings.Contains(f.Problem, `schema app`) }) {
		t.Errorf("found %+v", findings)
	}
	// In one that somebody else has, it may create nothing.
	exec(t, pool, `create schema theirs; grant usage on schema theirs to `+app.name)
	if _, err := soniq.Setup(t.Context(), own, soniq.Config{Schema: "theirs"}); err == nil || !strings.Contains(err.Error(), "may create nothing in schema \"theirs\"") {
		t.Errorf("in another's schema: %v", err)
	}
}

// A program that names no schema doesn't take public for the right one where 0.1.0 used another, whether the
// search_path has that one still or not: a second set of tables, all empty, would hide it.
func TestConfig_tablesElsewhere_areHintedAt(t *testing.T) {
	t.Parallel()
	url := testdb.EmptyURL(t)
	pool := openPool(t, url, `nowhere, "The App", public`)
	exec(t, pool, `create schema "The App"`)
	makeOld(t, pool)
	for where, pool := range map[string]*pgxpool.Pool{"of the search_path": pool, "of this database": openPool(t, url, "public")} {
		for what, f := range map[string]func(soniq.Config) error{
			"Setup":       func(cfg soniq.Config) error { _, err := soniq.Setup(t.Context(), pool, cfg); return err },
			"Check":       func(cfg soniq.Config) error { return soniq.Check(t.Context(), pool, cfg) },
			"ReadStatus":  func(cfg soniq.Config) error { _, err := soniq.ReadStatus(t.Context(), pool, cfg); return err },
			"MigrateDown": func(cfg soniq.Config) error { _, err := soniq.MigrateDown(t.Context(), pool, cfg, "0002"); return err },
			"Prebuild":    func(cfg soniq.Config) error { _, err := soniq.Prebuild(t.Context(), pool, cfg); return err },
			"Inspect":     func(cfg soniq.Config) error { _, err := soniq.Inspect(t.Context(), pool, cfg); return err },
			"Optimize":    func(cfg soniq.Config) error { _, err := soniq.Optimize(t.Context(), pool, cfg); return err },
		} {
			var other *soniq.OtherSchemaError
			if err := f(soniq.Config{}); !errors.As(err, &other) || other.Schema != "public" || other.Found != "The App" ||
				!strings.Contains(err.Error(), where+" has") || !strings.Contains(err.Error(), "--schema") {
				t.Errorf("%s, %s: %v", what, where, err)
			}
		}
	}
	if n := queryValue[int](t, pool, `select count(*)::int from pg_class where relname like '%soniq%' and relnamespace = 'public'::regnamespace`); n != 0 {
		t.Errorf("%d objects were made in public", n)
	}
	// Who names it gets it.
	if err := soniq.Check(t.Context(), pool, soniq.Config{Schema: "public"}); !soniq.IsMissing(err) {
		t.Errorf("public, by its name: %v", err)
	}
	if got := setup(t, pool, "The App").Applied; !slices.Equal(got, allMigrations[migrations010:]) {
		t.Errorf("applied %q", got)
	}
	if got := setup(t, pool, "public").Applied; !slices.Equal(got, allMigrations) {
		t.Errorf("in public applied %q", got)
	}
}
