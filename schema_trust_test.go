package soniq_test

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq"
	"soniq/internal/pg"
	"soniq/internal/testdb"
)

// schema010 is the schema of 0.1.0, as that release ran it.
//
//go:embed testdata/schema_0_1_0.sql
var schema010 string

// oldPool is on a database that 0.1.0 set up.
func oldPool(t *testing.T) *pgxpool.Pool {
	t.Helper()
	pool := emptyPool(t)
	makeOld(t, pool)
	return pool
}

func makeOld(t *testing.T, db db) {
	t.Helper()
	exec(t, db, `
		create table soniq_migrations (
		  id serial primary key, version varchar(255) not null unique, name text not null,
		  applied_at timestamp default now(), checksum text
		);
		create index idx_soniq_migrations_version on soniq_migrations (version)`)
	exec(t, db, schema010)
	for _, m := range allMigrations[:migrations010] {
		version, name, _ := strings.Cut(m, "_")
		exec(t, db, `insert into soniq_migrations (version, name) values ($1, $2)`, version, name)
	}
}

// A role of the server, with a login of its own.
type role struct{ name string }

// newRole makes a role that may log in and nothing else. It goes at the end of
// the test, with all that it owns in the database.
func newRole(t *testing.T, pool *pgxpool.Pool, rights ...string) role {
	t.Helper()
	name := "soniq_r_" + strings.ReplaceAll(uuid.NewString(), "-", "")
	exec(t, pool, fmt.Sprintf(`create role %s login password '%[1]s'`, name))
	t.Cleanup(func() {
		ctx := context.Background()
		if _, err := pool.Exec(ctx, fmt.Sprintf(inTurn+`drop owned by %[1]s cascade; drop role %[1]s`, name), pgx.QueryExecModeSimpleProtocol); err != nil {
			t.Errorf("drop role: %v", err)
		}
	})
	for _, right := range rights {
		exec(t, pool, fmt.Sprintf(inTurn+right, name))
	}
	return role{name}
}

// inTurn begins statements that change the rights on one table. Those of two sessions at once
// end in 'tuple concurrently updated': GRANT does not lock the table.
const inTurn = `select pg_advisory_xact_lock(hashtext('rights')); `

// connect logs in.
func (r role) connect(t *testing.T, pool *pgxpool.Pool) *pgx.Conn {
	t.Helper()
	config := pool.Config().ConnConfig.Copy()
	config.User, config.Password = r.name, r.name
	conn, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(context.Background()); err != nil {
			t.Errorf("close connection: %v", err)
		}
	})
	return conn
}

func (r role) pool(t *testing.T, pool *pgxpool.Pool) *pgxpool.Pool {
	t.Helper()
	config := pool.Config()
	config.ConnConfig.User, config.ConnConfig.Password = r.name, r.name
	own, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(own.Close)
	return own
}

// refused runs SQL that the server must not allow.
func refused(t *testing.T, db db, sql string) {
	t.Helper()
	rows, err := db.Query(t.Context(), sql, pgx.QueryExecModeSimpleProtocol)
	if err == nil {
		rows.Close()
		err = rows.Err()
	}
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) || pgErr.Code != "42501" {
		t.Errorf("%.200s: %v, want that it is not permitted", sql, err)
	}
}

// definers are the functions that run as their owner, and why they have to.
var definers = map[string]string{
	"soniq_jobs_inserted()":          "reads soniq_waiters and soniq_workers",
	"soniq_jobs_requeued()":          "reads soniq_waiters and soniq_workers",
	"soniq_job_cancelled()":          "writes columns of soniq_jobs that who requeues may not write",
	"soniq_replay_ended()":           "writes soniq_dead_letter_jobs",
	"soniq_dead_letter_closes()":     "writes soniq_dead_letter_jobs",
	"soniq_dead_letter_reopens()":    "writes soniq_dead_letter_jobs",
	"soniq_worker_changed()":         "writes soniq_waiters",
	"soniq_hook_changes()":           "reads soniq_hooks and writes soniq_hook_deliveries",
	"soniq_dead_letters_inserted()":  "executes soniq_dead_letter_payload, reads soniq_hooks and writes soniq_hook_deliveries",
	"soniq_dead_letter_died_again()": "executes soniq_dead_letter_payload",
	"soniq_audit_written()":          "reads and sets the sequence of soniq_dead_letter_audit",
	"soniq_dead_letter_epoch()":      "reads and sets the sequence soniq_epochs",
}

// Whatever is added to the schema keeps the rules, or fails here.
func TestTrust_everyObject_keepsTheRules(t *testing.T) {
	t.Parallel()
	for _, schema := range []string{"public", "Job's Data"} {
		t.Run(schema, func(t *testing.T) {
			t.Parallel()
			url := testdb.EmptyURL(t)
			name := pgx.Identifier{schema}.Sanitize()
			exec(t, openPool(t, url, ""), `create schema if not exists `+name)
			pool := openPool(t, url, name)
			// What an administrator may have set for all that is made.
			exec(t, pool, `alter default privileges grant execute on functions to public`)
			exec(t, pool, `do $$ begin execute format('alter default privileges in schema %I grant execute on functions to public', current_schema()); end $$`)
			setup(t, pool, schema)

			type function struct {
				Key, Name, Kind string
				Definer         bool
				Config          []string
				Public, Others  bool
				Body            string
			}
			rows, err := pool.Query(t.Context(), `
				select p.proname || '(' || array_to_string(array(select y.typname from unnest(p.proargtypes::oid[]) with ordinality a (t, n) join pg_type y on y.oid = a.t order by n), ',') || ')',
				  p.proname, p.prorettype::regtype::text, p.prosecdef, coalesce(p.proconfig, '{}'),
				  exists (select from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a where a.grantee = 0),
				  exists (select from aclexplode(p.proacl) a where a.grantee not in (0, p.proowner)) or p.proowner <> current_user::regrole,
				  p.prosrc
				from pg_proc p where p.pronamespace = quote_ident(current_schema())::regnamespace`)
			if err != nil {
				t.Fatal(err)
			}
			functions, err := pgx.CollectRows(rows, pgx.RowToStructByPos[function])
			if err != nil {
				t.Fatal(err)
			}
			known := soniq.FunctionKeys()
			for _, f := range functions {
				if definer, ok := known[f.Key]; !ok {
					t.Errorf("%s: Setup does not know it: it must be 'create or replace function public.NAME(…) returns …', followed by 'revoke all on function … from public'", f.Key)
				} else if definer != f.Definer {
					t.Errorf("%s: security definer is %t in the database", f.Key, f.Definer)
				}
				if f.Public || f.Others {
					t.Errorf("%s: somebody but its owner may execute it", f.Key)
				}
				if !slices.Equal(f.Config, []string{"search_path=pg_catalog, pg_temp"}) {
					t.Errorf("%s: set to %q", f.Key, f.Config)
				}
				if _, ok := definers[f.Key]; ok != f.Definer {
					t.Errorf("%s: security definer is %t, and 'definers' says why: %t", f.Key, f.Definer, ok)
				}
				if f.Definer && (f.Kind != "trigger" || !guard.MatchString(f.Body)) {
					t.Errorf("%s runs as its owner, and its body does not begin by looking at tg_relid", f.Key)
				}
			}
			if len(functions) != len(known) || len(functions) < 20 {
				t.Errorf("%d functions, and %d in the schema's text", len(functions), len(known))
			}

			// To pass a whole row, the server makes one value of all that it holds, and a
			// producer's may be too large for that.
			for _, name := range queryColumn[string](t, pool, `
				select p.oid::regprocedure::text
				from pg_proc p
				join pg_type y on y.oid = any (p.proargtypes::oid[])
				where p.pronamespace = quote_ident(current_schema())::regnamespace and y.typrelid <> 0`) {
				t.Errorf("%s takes a whole row", name)
			}
			// Each trigger of a table of ours uses a function of ours.
			for _, line := range queryColumn[string](t, pool, `
				select t.tgname || ' on ' || t.tgrelid::regclass
				from pg_trigger t
				join pg_proc p on p.oid = t.tgfoid
				join pg_class c on c.oid = t.tgrelid
				where not t.tgisinternal
				  and (p.pronamespace <> quote_ident(current_schema())::regnamespace or c.relnamespace <> quote_ident(current_schema())::regnamespace or t.tgenabled <> 'O')`) {
				t.Errorf("trigger %s", line)
			}
			// All belongs to who ran Setup, and nobody else has a right to it.
			for _, line := range queryColumn[string](t, pool, `
				select c.relname || ' of kind ' || c.relkind::text
				from pg_class c
				where c.relnamespace = quote_ident(current_schema())::regnamespace
				  and (c.relowner <> current_user::regrole or c.relacl is not null or c.relrowsecurity
				    or case c.relkind when 'v' then c.reloptions <> '{security_barrier=true}' else c.relhasrules or c.relkind not in ('r', 'i', 'S') end
				    or exists (select from pg_attribute a where a.attrelid = c.oid and a.attacl is not null))
				union all
				select 'statistics ' || x.stxname from pg_statistic_ext x
				where x.stxnamespace = quote_ident(current_schema())::regnamespace and x.stxowner <> current_user::regrole
				union all
				select 'type ' || y.typname from pg_type y
				where y.typnamespace = quote_ident(current_schema())::regnamespace and y.typowner <> current_user::regrole`) {
				t.Errorf("%s", line)
			}
			// Setup asks who owns each of them. What a constraint or a column makes
			// goes with its table.
			made := queryColumn[string](t, pool, `
				select c.relname::text
				from pg_class c
				where c.relnamespace = quote_ident(current_schema())::regnamespace
				  and c.relkind <> 'c'
				  and not exists (
				    select from pg_depend d
				    where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype in ('i', 'a')
				      and (c.relkind = 'S' or d.refclassid = 'pg_constraint'::regclass)
				  )
				union all
				select x.stxname::text from pg_statistic_ext x where x.stxnamespace = quote_ident(current_schema())::regnamespace`)
			// A database that had dead letters before migrations 0174 and 0222 keeps these.
			made = append(made, "idx_soniq_dead_letter_jobs_cursor", "idx_soniq_dead_letter_jobs_dead")
			if d := difference(soniq.ObjectNames(), made); len(d) > 0 {
				t.Errorf("the names in the schema's text (-) and in the database (+) differ:\n%s", strings.Join(d, "\n"))
			}
			// Nothing of ours refers to what is neither built in nor ours.
			if foreign := queryColumn[string](t, pool, foreignCodeSQL); len(foreign) > 0 {
				t.Errorf("what is used and not ours: %q", foreign)
			}
		})
	}
}

// guard is how the body of a function begins that runs as its owner.
var guard = regexp.MustCompile(`^\n(declare\n( +\w+ \w+;\n)+)?begin\n  if tg_relid (<>|=) '[^']*("")?[^']*(''[^']*)*'::regclass`)

// What is built in has a number below 16384.
const foreignCodeSQL = `
select distinct p.oid::regprocedure::text
from pg_depend d
join pg_proc p on d.refclassid = 'pg_proc'::regclass and p.oid = d.refobjid
where p.oid >= 16384
  and (p.pronamespace <> quote_ident(current_schema())::regnamespace or p.proname not like 'soniq%')
union all
select distinct o.oid::regoperator::text
from pg_depend d
join pg_operator o on d.refclassid = 'pg_operator'::regclass and o.oid = d.refobjid
where o.oid >= 16384`

// What Setup replaces it must find, and nothing else: in schema.sql and in each migration.
func TestSchema_everyName_isWrittenWithItsSchema(t *testing.T) {
	t.Parallel()
	texts := map[string]string{"schema.sql": soniq.SchemaSQL()}
	for _, m := range soniq.Migrations() {
		texts[m.String()+".up.sql"], texts[m.String()+".down.sql"] = m.Up, m.Down
	}
	for name, text := range texts {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			expectNamesWithSchema(t, text)
		})
	}
	if n, m := strings.Count(soniq.SchemaSQL(), "create or replace function"), len(soniq.FunctionKeys()); n != m {
		t.Errorf("%d functions, of which %d are followed by their REVOKE", n, m)
	}
}

func expectNamesWithSchema(t *testing.T, text string) {
	t.Helper()
	comment := regexp.MustCompile(`--[^\n]*`)
	if found := regexp.MustCompile(`--.*public\.`).FindString(text); found != "" {
		t.Errorf("a comment names the schema, and Setup leaves comments alone: %s", found)
	}
	code := comment.ReplaceAllString(text, "")
	literals := regexp.MustCompile(`'(?:[^']|'')*'`)
	for _, literal := range literals.FindAllString(code, -1) {
		if strings.Contains(literal[1:], "public.") && !regexp.MustCompile(`^'public\.\w+(\([a-z, ]*\))?'$`).MatchString(literal) {
			t.Errorf("literal %s", literal)
		}
	}
	if rest := literals.ReplaceAllString(code, ""); strings.Contains(rest, "/*") || strings.Contains(rest, `"`) {
		t.Error("Setup reads no other comments and no quoted names")
	}
	made := regexp.MustCompile(`(?s)create or replace function public\.(\w+)\(.*?\$\$;\n(revoke all on function public\.(\w+)\([^)]*\) from public;)?`)
	for _, f := range made.FindAllStringSubmatch(text, -1) {
		if f[1] != f[3] {
			t.Errorf("function %s is not followed by its REVOKE", f[1])
		}
	}
	if n, m := strings.Count(code, "create or replace function"), len(made.FindAllString(text, -1)); n != m {
		t.Errorf("%d functions, of which %d are written as the others are", n, m)
	}
	for _, found := range regexp.MustCompile(`(?i)\b(?:from|join|into|update|table|references|on|function|if exists|if not exists|perform|truncate) soniq_\w+`).FindAllString(code, -1) {
		if !strings.HasSuffix(found, " soniq_new_rows") && !strings.HasSuffix(found, " soniq_old_rows") && !strings.HasPrefix(found, "if exists soniq_") {
			t.Errorf("%s: without its schema", found)
		}
	}
	for _, found := range regexp.MustCompile(`(?:drop trigger|trigger) if exists soniq_\w+ on (\w+)`).FindAllString(code, -1) {
		if !strings.HasSuffix(found, " public") {
			t.Errorf("%s: without its schema", found)
		}
	}
	if regexp.MustCompile(`drop (?:table|index|view|function|statistics) if exists soniq_`).MatchString(code) {
		t.Error("something is dropped without its schema")
	}
	schema, err := pg.NewSchema(`it's "x"`)
	if err != nil {
		t.Fatal(err)
	}
	moved := comment.ReplaceAllString(schema.SQL(text), "")
	if rest := strings.ReplaceAll(moved, "from public;", ""); strings.Contains(rest, "public") {
		t.Errorf("public is left in it: %.300s", rest[strings.Index(rest, "public"):])
	}
	back := strings.ReplaceAll(strings.ReplaceAll(moved, `'"it''s ""x""".`, "'public."), `"it's ""x""".`, "public.")
	back = strings.ReplaceAll(back, `'it''s "x".soniq_`, "'soniq_")
	if back != code {
		t.Error("more than the schema's name was changed")
	}
}
