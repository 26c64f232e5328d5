package doctor_test

import (
	"context"
	"errors"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/internal/doctor"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

// patient is a database to be broken.
type patient struct {
	*testing.T
	pool *pgxpool.Pool
	// config is how it is examined.
	config doctor.Config
	// name is the database's, and a role of that name may do everything in it.
	name string
}

func (p *patient) exec(sql string) {
	p.Helper()
	testkit.Exec(p, p.pool, strings.ReplaceAll(sql, "DATABASE", p.name))
}

// session is a connection of its own, which ends with the test.
func (p *patient) session() *pgx.Conn {
	p.Helper()
	conn, err := pgx.Connect(p.Context(), p.pool.Config().ConnString())
	if err != nil {
		p.Fatal(err)
	}
	p.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// on runs a statement there.
func (p *patient) on(conn *pgx.Conn, sql string) {
	p.Helper()
	if _, err := conn.Exec(p.Context(), sql, pgx.QueryExecModeSimpleProtocol); err != nil {
		p.Fatal(err)
	}
}

// role makes a role that may log in. It is gone after the test.
func (p *patient) role() string {
	p.Helper()
	name := p.name + "_role"
	p.exec("create role " + name + " login password '" + name + "'")
	p.Cleanup(func() {
		ctx := context.Background()
		for _, sql := range []string{"drop owned by " + name, "drop role " + name} {
			if _, err := p.pool.Exec(ctx, sql); err != nil {
				p.Error(err)
			}
		}
	})
	return name
}

// as is the database as another role has it.
func (p *patient) as(role string) *pgxpool.Pool {
	p.Helper()
	u, err := url.Parse(p.pool.Config().ConnString())
	if err != nil {
		p.Fatal(err)
	}
	u.User = url.UserPassword(role, role)
	return testkit.Open(p, u.String())
}

func newPatient(t *testing.T) *patient {
	t.Helper()
	return patientOf(t, testdb.New(t))
}

// patientOf is a database that several tests share, one after the other.
func patientOf(t *testing.T, pool *pgxpool.Pool) *patient {
	return &patient{T: t, pool: pool, config: doctor.Config{Pool: pool}, name: pool.Config().ConnConfig.Database}
}

// limits are those that an ill database passes at once.
func limits() *doctor.Limits {
	l := doctor.Limits{
		DeadRows: 100, Bloat: 1 << 20, NotifyQueue: 0, Skew: time.Second, Waiting: time.Minute, Dead: 5, Deaths: 3, Connections: 0.8, RetainedWAL: 1,
	}
	return &l
}

func (p *patient) examine(only ...string) doctor.Report {
	p.Helper()
	config := p.config
	config.Only = only
	r, err := doctor.Run(p.Context(), config)
	if err != nil {
		p.Fatal(err)
	}
	return r
}

// alterSystem changes a setting of the server, until the test ends.
func (p *patient) alterSystem(name, value string) {
	p.Helper()
	p.exec("alter system set " + name + " = " + value)
	p.Cleanup(func() {
		for _, s := range []string{"alter system reset " + name, "select pg_reload_conf()"} {
			if _, err := p.pool.Exec(context.Background(), s); err != nil {
				p.Error(err)
			}
		}
	})
	p.exec("select pg_reload_conf()")
	eventually.True(p, "the server to read it", func() bool {
		return testkit.Value[string](p, p.pool, "select current_setting('"+name+"')") == value
	})
}

// encoded has a database with an encoding examined in place of the patient's.
func (p *patient) encoded(encoding string) {
	p.Helper()
	name := strings.ToLower("soniq_" + encoding)
	p.exec("create database " + name + " encoding '" + encoding + "' locale 'C' template template0")
	u, err := url.Parse(p.pool.Config().ConnString())
	if err != nil {
		p.Fatal(err)
	}
	u.Path = "/" + name
	p.Cleanup(func() {
		if _, err := p.pool.Exec(context.Background(), "drop database "+name+" with (force)"); err != nil {
			p.Error(err)
		}
	})
	p.config.Pool = testkit.Open(p, u.String())
}

// named is the finding with these words, nil if there is none.
func named(r doctor.Report, severity doctor.Severity, words string) *doctor.Finding {
	i := slices.IndexFunc(r.Findings, func(f doctor.Finding) bool {
		return f.Severity == severity && strings.Contains(f.Problem, words)
	})
	if i < 0 {
		return nil
	}
	return &r.Findings[i]
}

// setUpByTests is what a server for tests lacks on purpose.
const setUpByTests = "fsync is off"

// A database as setup leaves it has nothing to find, and is not changed by looking. Each check
// has looked.
func healthy(t *testing.T, shared *pgxpool.Pool) {
	p := patientOf(t, shared)
	const contents = `
select string_agg(c.relname || ' ' || s.n_tup_ins || ' ' || s.n_tup_upd || ' ' || s.n_tup_del, ', ' order by c.relname)
from pg_class c
join pg_stat_user_tables s on s.relid = c.oid`
	const catalog = `select md5(string_agg(c.xmin::text || c.relname, ',' order by c.oid)) from pg_class c where c.relnamespace = 'public'::regnamespace`
	rows, classes := testkit.Value[string](t, p.pool, contents), testkit.Value[string](t, p.pool, catalog)
	// A session in which nothing can be written.
	locked := p.config
	locked.Pool = testkit.Open(t, p.pool.Config().ConnString()+"&default_transaction_read_only=on")
	r, err := doctor.Run(t.Context(), locked)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range r.Findings {
		if f.Severity == doctor.Unknown {
			t.Errorf("it wants to write: %+v", f)
		}
	}
	r = p.examine()
	for _, f := range r.Findings {
		if f.Severity != doctor.OK && !strings.HasPrefix(f.Problem, setUpByTests) {
			t.Errorf("%+v", f)
		}
	}
	seen := map[string]bool{}
	for _, f := range r.Findings {
		seen[f.Check] = true
	}
	for _, c := range doctor.Checks() {
		if !seen[c.Name] {
			t.Errorf("the check %s says nothing", c.Name)
		}
	}
	if got := testkit.Value[string](t, p.pool, contents); got != rows {
		t.Errorf("rows were changed: %s, and before %s", got, rows)
	}
	if got := testkit.Value[string](t, p.pool, catalog); got != classes {
		t.Error("the catalog was changed")
	}
}

// illness is a way to break a database, and what names it.
type illness struct {
	name     string
	check    string
	severity doctor.Severity
	says     string
	inflict  func(p *patient)
	// heal undoes it where no SQL of the finding does.
	heal func(p *patient)
	// noSQL: the finding has no statement.
	noSQL bool
	// own: it takes a database of its own, which nothing heals.
	own bool
	// from is the first server_version_num that can have it. Default all.
	from int
}

// wipe takes away what an illness leaves in the tables, and what it stood on.
const wipe = `
delete from soniq_jobs;
delete from soniq_workers;
delete from soniq_task_registry;
delete from soniq_queues;
delete from soniq_kept_outcomes;
delete from soniq_dead_letter_jobs;
delete from soniq_dead_letter_audit;
delete from soniq_hooks;
delete from soniq_hook_deliveries;
drop table if exists mine;
drop function if exists mine() cascade`

// sql is an illness that statements make.
func sql(statements ...string) func(*patient) {
	return func(p *patient) {
		for _, s := range statements {
			p.exec(s)
		}
	}
}

// On a server of its own, because some are the whole server's: a healthy database gives no
// finding and is not changed; each illness is named by its check, and the SQL that is printed
// heals it.
func TestDoctor_illnesses_areNamedAndHealed(t *testing.T) {
	t.Parallel()
	shared := testkit.Open(t, testdb.StartServer(t).URL())
	// PostgreSQL 14 gives that right to all, which is no healthy state.
	testkit.Exec(t, shared, "revoke create on schema public from public")
	t.Run("healthy", func(t *testing.T) { healthy(t, shared) })
	all := slices.Concat(settingIllnesses, sessionIllnesses, schemaIllnesses, driftIllnesses, fleetIllnesses)
	if len(all) < 50 {
		t.Errorf("only %d illnesses", len(all))
	}
	for _, ill := range all {
		t.Run(ill.name, func(t *testing.T) {
			p := patientOf(t, shared)
			if ill.own {
				p = newPatient(t)
			} else {
				t.Cleanup(func() {
					if _, err := shared.Exec(context.Background(), wipe, pgx.QueryExecModeSimpleProtocol); err != nil {
						t.Error(err)
					}
				})
			}
			if testkit.Value[int](t, p.pool, "select current_setting('server_version_num')::int") < ill.from {
				t.Logf("LEFT OUT: PostgreSQL before %d can't have it", ill.from/10000)
				return
			}
			p.config.Limits = limits()
			ill.inflict(p)
			r := p.examine(ill.check)
			f := named(r, ill.severity, ill.says)
			if f == nil {
				t.Fatalf("not named; the findings are %+v", r.Findings)
			}
			if f.Check != ill.check || f.Remedy == "" || strings.Contains(f.Problem+f.Remedy, "\n") {
				t.Errorf("%+v", f)
			}
			if (len(f.SQL) == 0) != ill.noSQL {
				t.Errorf("the SQL is %q", f.SQL)
			}
			switch {
			case len(f.SQL) > 0:
				conn := p.session()
				for _, other := range r.Findings {
					// What was dropped with it comes back too.
					if other.Check == "drift" || other.Problem == f.Problem {
						for _, s := range other.SQL {
							p.on(conn, s)
						}
					}
				}
				_ = conn.Close(t.Context())
			case ill.heal != nil:
				ill.heal(p)
			default:
				return
			}
			eventually.True(t, "the finding to go", func() bool {
				r = p.examine(ill.check)
				return named(r, ill.severity, ill.says) == nil
			})
			if ill.check == "drift" && strings.HasPrefix(f.Remedy, "soniq setup") {
				ill.inflict(p)
				setup(p)
				if f := named(p.examine(ill.check), ill.severity, ill.says); f != nil {
					t.Errorf("setup does not mend it: %+v", f)
				}
			}
		})
	}
	// Healed of all of them, it is as it was.
	p := patientOf(t, shared)
	for _, f := range p.examine().Findings {
		if f.Severity != doctor.OK && !strings.HasPrefix(f.Problem, setUpByTests) {
			t.Errorf("at the end: %+v", f)
		}
	}
}

// field has what was seen to do harm in real use, each with the illness that makes it and has
// doctor name it.
var field = map[string]string{
	"default_transaction_read_only":                 "read-only database",
	"a read-only session by the URL":                "a setting of the URL",
	"session_replication_role":                      "triggers of a role off",
	"soniq.notify":                                  "notifications of a role off",
	"soniq.silent":                                  "dead letters of a role silent",
	"autovacuum":                                    "autovacuum off",
	"track_counts":                                  "no statistics of tables",
	"autovacuum of one table":                       "autovacuum of a table off",
	"standard_conforming_strings":                   "backslashes",
	"default_transaction_isolation":                 "serializable",
	"client_encoding":                               "encoding of the client",
	"a database of another encoding":                "an encoding that lacks characters",
	"SQL_ASCII":                                     "no encoding at all",
	"statement_timeout":                             "statement_timeout",
	"transaction_timeout":                           "transactions end early",
	"lock_timeout":                                  "lock_timeout",
	"idle_in_transaction_session_timeout":           "idle_in_transaction_session_timeout",
	"idle_session_timeout":                          "idle_session_timeout",
	"enable_indexscan":                              "no index scans",
	"synchronous_commit":                            "commits that are not waited for",
	"full_page_writes":                              "pages that are not written whole",
	"UNLOGGED":                                      "unlogged table",
	"connection limit":                              "few connections",
	"a pooler in transaction mode":                  "a pooler in transaction mode",
	"a listen URL that leads elsewhere":             "a listen URL to another database",
	"search_path or schema: a second set of tables": "two sets of tables",
	"CREATE for everybody":                          "create for everybody",
	"EXECUTE for PUBLIC":                            "function for everybody",
	"functions with a search_path of their own":     "function with another path",
	"an open transaction":                           "idle in a transaction",
	"a prepared transaction":                        "prepared transaction",
	"a replication slot that nobody uses":           "unused slot",
	"a listener that stays in a transaction":        "a listener that does not read",
	"a trigger that is disabled, or gone":           "trigger disabled",
	"pg_dump -t: no functions, no triggers":         "function dropped",
	"somebody's trigger on the dead letters":        "somebody's trigger",
	"somebody's foreign key":                        "somebody's foreign key",
	"row-level security":                            "row-level security",
	"sequences after logical replication":           "a sequence that is behind",
	"a copy that would send hooks":                  "a copy of a database",
	"rights that lack":                              "a worker that lacks a right",
	"a clock that is off":                           "clock ahead",
	"a queue that nobody serves":                    "a queue that nobody serves",
	"a name that is misspelt":                       "a name that nobody handles",
	"hooks without a dispatcher":                    "a hook that nobody sends",
}

// Each setting that is looked at, and all else that did harm in real use, is inflicted.
func TestDoctor_field_isAmongTheIllnesses(t *testing.T) {
	t.Parallel()
	names := map[string]bool{}
	for _, ill := range slices.Concat(settingIllnesses, sessionIllnesses, schemaIllnesses, driftIllnesses, fleetIllnesses) {
		if names[ill.name] {
			t.Errorf("two illnesses are called %q", ill.name)
		}
		names[ill.name] = true
	}
	for fault, name := range field {
		if !names[name] {
			t.Errorf("%s: no illness is called %q", fault, name)
		}
	}
	for _, setting := range doctor.Settings() {
		if field[setting] == "" {
			t.Errorf("nothing inflicts %s", setting)
		}
	}
}

// A role without any right, in a database that was never set up, through a pooler: each check
// says something or why it can't, and none fails the others.
func TestDoctor_withLittle_eachCheckAnswers(t *testing.T) {
	t.Parallel()
	for name, at := range map[string]func(p *patient){
		"no rights":      func(p *patient) { p.config.Pool = p.as(p.role()) },
		"never set up":   func(p *patient) { p.pool = testkit.Open(p, testdb.EmptyURL(p)); p.config.Pool = p.pool },
		"one connection": func(p *patient) { p.config.Pool = testkit.Open(p, p.pool.Config().ConnString()+"&pool_max_conns=1") },
		"a pooler in transaction mode": func(p *patient) {
			p.config.Pool = testkit.Open(p, testkit.PgBouncer(p, p.pool.Config().ConnString(), "transaction"))
		},
		"a pooler without prepared statements": func(p *patient) {
			p.config.Pool = testkit.Open(p, testkit.PgBouncer(p, p.pool.Config().ConnString(), "transaction", "server_reset_query_always = 1"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPatient(t)
			at(p)
			r := p.examine()
			for _, c := range doctor.Checks() {
				i := slices.IndexFunc(r.Findings, func(f doctor.Finding) bool { return f.Check == c.Name })
				if i < 0 && !slices.Contains(r.Skipped, c.Name) {
					t.Errorf("%s says nothing", c.Name)
				}
				if i >= 0 && name != "no rights" && r.Findings[i].Severity == doctor.Unknown {
					t.Errorf("%+v", r.Findings[i])
				}
			}
			if (len(r.Skipped) > 0) != (name == "never set up") {
				t.Errorf("skipped %q", r.Skipped)
			}
			if name == "no rights" && (named(r, doctor.Unknown, "permission denied") == nil || r.Status == doctor.OK) {
				t.Errorf("a role without rights: %+v", r)
			}
		})
	}
}

// A check that hangs is given up, and the others are made.
func TestDoctor_tableIsLocked_goesOn(t *testing.T) {
	t.Parallel()
	p := newPatient(t)
	p.on(p.session(), "begin; lock table soniq_hooks, soniq_dead_letter_jobs, soniq_workers, soniq_jobs in access exclusive mode")
	p.config.Timeout = 200 * time.Millisecond
	r := p.examine("dead-letters", "workers", "server")
	for _, check := range []string{"dead-letters", "workers"} {
		if f := named(r, doctor.Unknown, "could not be checked"); f == nil {
			t.Errorf("%s: %+v", check, r.Findings)
		}
	}
	if r.Status != doctor.Unknown || len(r.Findings) != 3 {
		t.Errorf("%+v", r)
	}
}

func TestDoctor_unknownCheck_isRefused(t *testing.T) {
	t.Parallel()
	p := newPatient(t)
	p.config.Only = []string{"server", "servr"}
	if _, err := doctor.Run(t.Context(), p.config); !errors.Is(err, doctor.ErrUnknownCheck) || !strings.Contains(err.Error(), `"servr"`) {
		t.Error(err)
	}
}

// Each check and each setting has its place in the documentation.
func TestChecks_areDocumented(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/doctor.md")
	if err != nil {
		t.Fatal(err)
	}
	group, at := "", 0
	for _, c := range doctor.Checks() {
		if c.Group != group {
			group = c.Group
			heading := "\n## " + strings.ToUpper(group[:1]) + group[1:] + "\n"
			if at = strings.Index(string(page), heading); at < 0 {
				t.Errorf("docs/doctor.md has no %q", heading)
			}
		}
		next := strings.Index(string(page), "\n### "+c.Name+"\n")
		if next < at {
			t.Errorf("docs/doctor.md does not describe %s in its place", c.Name)
		}
		at = next
		if c.About == "" {
			t.Errorf("%s doesn't say what it looks for", c.Name)
		}
	}
	for _, name := range doctor.Settings() {
		if !strings.Contains(string(page), "`"+name) {
			t.Errorf("docs/doctor.md does not describe the setting %s", name)
		}
	}
}
