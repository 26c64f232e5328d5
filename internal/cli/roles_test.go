package cli_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/internal/cli/clitest"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
)

var sqlBlock = regexp.MustCompile("(?ms)^```sql\n(.*?)^```$")

// grants are the SQL blocks of docs/security.md, by role.
func grants(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("../../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := map[string]string{}
	for _, section := range strings.Split(string(text), "\n### ") {
		heading, rest, _ := strings.Cut(section, "\n")
		for i, b := range sqlBlock.FindAllStringSubmatch(rest, -1) {
			// What a role needs for more comes in further blocks.
			kind := strings.ToLower(heading)
			if i > 0 {
				b[1] = blocks[kind] + b[1]
				kind += " with more"
			}
			blocks[kind] = b[1]
		}
	}
	return blocks
}

// login makes a role that may log in, and has the rights that docs/security.md
// gives to a role of that kind; none for an empty kind. It returns its URL.
func login(t *testing.T, pool *pgxpool.Pool, kind string) string {
	t.Helper()
	sql := ""
	name := "soniq_role_" + strings.ReplaceAll(uuid.NewString(), "-", "")
	if kind != "" {
		block, ok := grants(t)[kind]
		if !ok {
			t.Fatalf("docs/security.md has no grants for a %s", kind)
		}
		role, _, _ := strings.Cut(kind, " ")
		if sql = regexp.MustCompile(`\bsoniq_`+role+`\b`).ReplaceAllString(block, name); sql == block {
			t.Fatalf("the grants for a %s name no role soniq_%s:\n%s", kind, kind, block)
		}
	}
	password := uuid.NewString()
	if _, err := pool.Exec(t.Context(), fmt.Sprintf("create role %s login password '%s'; %s", name, password, sql)); err != nil {
		t.Fatalf("make a %s: %v", kind, err)
	}
	t.Cleanup(func() {
		if _, err := pool.Exec(context.Background(), "drop owned by "+name+"; drop role "+name); err != nil {
			t.Errorf("drop role: %v", err)
		}
	})
	u, err := url.Parse(pool.Config().ConnString())
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(name, password)
	return u.String()
}

// refused has each statement fail for lack of a right.
func refused(t *testing.T, dsn string, statements ...string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	for _, sql := range statements {
		_, err := conn.Exec(t.Context(), sql)
		var pgErr *pgconn.PgError
		if !errors.As(err, &pgErr) || pgErr.Code != "42501" {
			t.Errorf("%s: got %v, want insufficient_privilege", sql, err)
		}
	}
}

// A watch by a role that may not read the dead letters ends with the grant that it lacks, at its start and later.
func TestWatch_mayNotRead_endsAndNamesTheGrant(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	dsn := login(t, pool, "")
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	role := u.User.Username()
	s := clitest.NewShell(t, dsn)
	ends := func(r clitest.Result) {
		t.Helper()
		if r.Code != 1 || !strings.Contains(r.Err, "permission denied") || !strings.Contains(r.Err, " select on public.soniq_dead_letter_feed: 'soniq grants --viewer "+role+"'") ||
			strings.Count(r.Err, "permission denied") != 1 {
			t.Errorf("exit %d: %s", r.Code, r.Err)
		}
	}
	for _, args := range [][]string{{}, {"--from", "0"}} {
		running := s.Start(append([]string{"dead-letter", "watch"}, args...)...)
		code := running.Wait(t)
		ends(clitest.Result{Code: code, Err: strings.TrimPrefix(running.Err.String(), "watching for dead letters; Ctrl-C stops\n")})
	}
	clitest.Exec(t, pool, "grant select on soniq_dead_letter_feed, soniq_dead_letter_jobs to "+role)
	running := s.Start("dead-letter", "watch", "--json")
	eventually.True(t, "it watches", func() bool { return strings.Contains(running.Err.String(), "watching") })
	clitest.Seed(t, pool, clitest.Letter{})
	eventually.True(t, "a dead letter", func() bool { return running.Out.String() != "" })
	clitest.Exec(t, pool, "revoke select on soniq_dead_letter_feed from "+role)
	clitest.Seed(t, pool, clitest.Letter{})
	ends(clitest.Result{Code: running.Wait(t), Err: running.Err.String()})
}

// Everything that no role but the owner may do.
var ownersAlone = []string{
	"create or replace function public.soniq_jobs_inserted() returns trigger language plpgsql as $$ begin return null; end $$",
	"alter table soniq_jobs disable trigger all",
	"create trigger mine after insert on soniq_jobs for each statement execute function soniq_jobs_inserted()",
	"drop table soniq_waiters",
	"insert into soniq_migrations (version, name) values ('9999', 'mine')",
	"delete from soniq_migrations",
}

func TestRoles_producer_enqueuesAndNothingElse(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	dsn := login(t, pool, "producer")
	s := clitest.NewShell(t, dsn)
	s.OK("enqueue", "j")
	s.OK("enqueue", "j", "--unique", "--priority", "5", "--delay", "1h")
	s.Stdin = `{"name": "j"}` + "\n" + `{"name": "j", "args": {"a": 1}}`
	s.OK("enqueue", "--from", "-")
	refused(t, dsn, append(ownersAlone,
		"select args from soniq_jobs", "update soniq_jobs set priority = 1", "delete from soniq_jobs",
		"select from soniq_dead_letter_jobs", "select from soniq_hooks", "select from soniq_workers",
		"insert into soniq_dead_letter_jobs default values", "insert into soniq_hooks (name, kind) values ('h', 'log')",
	)...)
}

// A producer of unique jobs finds the one that is queued already with the second grant.
// Without it the error says what is missing.
func TestRoles_producerOfUniqueJobs_needsAndHasTheSecondGrant(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	with := clitest.NewShell(t, login(t, pool, "producer with more"))
	without := clitest.NewShell(t, login(t, pool, "producer"))
	for _, line := range [][]string{
		{"enqueue", "j", "--unique"},
		{"enqueue", "j", "--dedup-key", "k"},
		{"enqueue", "j", "--unique", "--dedup-key", "both", "--args", `{"a": 1}`},
	} {
		first := with.OK(line...)
		if second := with.OK(line...); second.Out != first.Out {
			t.Errorf("%q: %s, and then %s", line, first.Out, second.Out)
		}
		if r := without.Run(line...); r.Code != 1 || !strings.Contains(r.Err, "the role needs select (id, job_name, args_hash, dedup_key, status, unique_job) on soniq_jobs: 'soniq grants --unique-producer ROLE'") {
			t.Errorf("%q without it: exit %d, %s", line, r.Code, r.Err)
		}
	}
	refused(t, with.Env["SONIQ_DATABASE_URL"], append(ownersAlone,
		"select args from soniq_jobs", "select last_error from soniq_jobs", "update soniq_jobs set priority = 1", "delete from soniq_jobs")...)
}

func TestRoles_scaler_countsAndNothingElse(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	clitest.NewShell(t, pool.Config().ConnString()).OK("enqueue", "j")
	dsn := login(t, pool, "scaler")
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	var due int
	err = conn.QueryRow(t.Context(), `select count(*) from soniq_jobs j where j.status = 'queued' and coalesce(j.scheduled_at, now()) <= now()
		and j.queue not in (select name from soniq_queues where paused_at is not null)`).Scan(&due)
	if err != nil || due != 1 {
		t.Errorf("%d due: %v", due, err)
	}
	refused(t, dsn, append(ownersAlone,
		"select id from soniq_jobs", "select job_name from soniq_jobs", "select args from soniq_jobs", "select last_error from soniq_jobs", "select result from soniq_jobs",
		"insert into soniq_jobs (id, job_name, args) values (gen_random_uuid(), 'j', '{}')", "update soniq_jobs set priority = 1",
		"select from soniq_dead_letter_jobs", "select from soniq_hooks", "select from soniq_workers", "update soniq_queues set paused_at = null",
	)...)
}

// A monitor counts everything, hooks too, and sees nothing of a job.
func TestRoles_metrics_countsAndNothingElse(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	clitest.Seed(t, pool, clitest.Letter{})
	owner := clitest.NewShell(t, pool.Config().ConnString())
	owner.OK("enqueue", "j")
	owner.OK("hooks", "add", "log", "--name", "l")
	dsn := login(t, pool, "metrics")
	s := clitest.NewShell(t, dsn)
	clitest.WantIn(t, "metrics", s.OK("metrics", "--once").Out, `soniq_queue_jobs{queue="default",state="due"} 1`, "soniq_dead_letters_dead 1", `soniq_hook_enabled{hook="l"} 1`)
	var refusals []string
	for table, columns := range map[string]string{
		"soniq_jobs":             "id job_name args result last_error worker_id dedup_key args_hash",
		"soniq_dead_letter_jobs": "args last_error tags queue",
		"soniq_workers":          "hostname pid",
		"soniq_hook_status":      "target secret_from",
		"soniq_hook_deliveries":  "facts dead_letter_id group_key",
	} {
		for column := range strings.FieldsSeq(columns) {
			refusals = append(refusals, "select "+column+" from "+table)
		}
	}
	refused(t, dsn, append(append(ownersAlone, refusals...),
		"insert into soniq_jobs (id, job_name, args) values (gen_random_uuid(), 'j', '{}')", "update soniq_jobs set priority = 1", "delete from soniq_jobs",
		"select from soniq_hooks", "select from soniq_dead_letter_feed", "select from soniq_dead_letter_audit", "update soniq_queues set paused_at = null",
		"insert into soniq_leader_tasks (name, begun_at) values ('expire', now())", "select from soniq_leader_tasks",
	)...)
}

func TestRoles_viewer_seesAndChangesNothing(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	id := clitest.Seed(t, pool, clitest.Letter{}).String()
	job := strings.TrimSpace(clitest.NewShell(t, pool.Config().ConnString()).OK("enqueue", "j").Out)
	dsn := login(t, pool, "viewer")
	s := clitest.NewShell(t, dsn)
	for _, line := range [][]string{
		{"status"},
		{"job", job},
		{"job", "list"},
		{"queue", "list"},
		{"worker", "list"},
		{"dead-letter", "list"},
		{"dead-letter", "show", id},
		{"dead-letter", "groups"},
		{"dead-letter", "stats"},
		{"dead-letter", "history"},
		{"dead-letter", "check", "--max", "100"},
		{"dead-letter", "export", "--format", "jsonl", "-o", "-"},
		{"dead-letter", "delete", "--all", "--dry-run"},
		{"dead-letter", "replay", "--all", "--dry-run"},
		{"hooks", "list"},
		{"hooks", "deliveries"},
	} {
		if r := s.Run(line...); r.Code != 0 {
			t.Errorf("soniq %s: exit %d: %s", strings.Join(line, " "), r.Code, r.Err)
		}
	}
	// Who sees secrets is recorded, and that a viewer can't.
	for _, line := range [][]string{{"dead-letter", "show", id, "--reveal"}, {"job", job, "--reveal"}, {"dead-letter", "list", "--reveal"}} {
		if r := s.Run(line...); r.Code != 1 || r.Out != "" || !strings.Contains(r.Err, "nothing is shown") {
			t.Errorf("soniq %s: exit %d: %s%s", strings.Join(line, " "), r.Code, r.Out, r.Err)
		}
	}
	refused(t, dsn, append(ownersAlone,
		"insert into soniq_jobs (id, job_name, args) values (gen_random_uuid(), 'j', '{}')", "update soniq_jobs set priority = 1",
		"update soniq_dead_letter_jobs set tags = null", "delete from soniq_dead_letter_jobs",
		"select secrets from soniq_hooks", "select url from soniq_hooks", "select settings from soniq_hooks",
		"update soniq_queues set paused_at = now()",
	)...)
}

// Where row-level security hides all rows, tables look empty, and a change changes nothing: every program says so
// instead, and what to do. Policies that let rows through are the administrator's.
func TestRoles_rowLevelSecurity_hidesAll_isSaid(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	clitest.Seed(t, pool, clitest.Letter{})
	clitest.NewShell(t, pool.Config().ConnString()).OK("enqueue", "j")
	execute := func(sql string) {
		t.Helper()
		if _, err := pool.Exec(t.Context(), sql, pgx.QueryExecModeSimpleProtocol); err != nil {
			t.Fatal(err)
		}
	}
	viewer, operator := clitest.NewShell(t, login(t, pool, "viewer")), clitest.NewShell(t, login(t, pool, "operator"))
	lines := []struct {
		shell *clitest.Shell
		code  int
		table string
		args  []string
	}{
		{viewer, 1, "soniq_jobs", []string{"job", "list"}},
		{viewer, 1, "soniq_jobs", []string{"status"}},
		{viewer, 1, "soniq_dead_letter_jobs", []string{"dead-letter", "list"}},
		{viewer, 1, "soniq_dead_letter_jobs", []string{"dead-letter", "groups"}},
		{viewer, 1, "soniq_dead_letter_jobs", []string{"dead-letter", "export", "--format", "jsonl", "-o", "-"}},
		{viewer, 3, "soniq_dead_letter_jobs", []string{"dead-letter", "check", "--max", "5"}},
		{operator, 1, "soniq_dead_letter_jobs", []string{"dead-letter", "replay", "--all", "--dry-run"}},
		{clitest.NewShell(t, login(t, pool, "worker")), 1, "soniq_jobs", []string{"worker", "--no-hooks", "--handle", "j=exec:true"}},
		{clitest.NewShell(t, login(t, pool, "dispatcher")), 1, "soniq_hook_deliveries", []string{"hooks", "run"}},
	}
	const each = `do $$ declare t text; begin
		foreach t in array array['soniq_jobs', 'soniq_dead_letter_jobs', 'soniq_hook_deliveries'] loop execute format('%s', t); end loop;
	end $$`
	execute(fmt.Sprintf(each, "alter table %I enable row level security"))
	for _, l := range lines {
		r := l.shell.Run(l.args...)
		if said := r.Out + r.Err; r.Code != l.code || !strings.Contains(said, "row-level security hides all rows") ||
			!strings.Contains(said, "alter table public."+l.table+" disable row level security") {
			t.Errorf("soniq %s: exit %d: %s", strings.Join(l.args, " "), r.Code, said)
		}
	}
	execute(fmt.Sprintf(each, "create policy soniq on %I using (true) with check (true)"))
	for _, l := range lines[:7] {
		if r := l.shell.Run(l.args...); r.Code != 0 {
			t.Errorf("with a policy, soniq %s: exit %d: %s", strings.Join(l.args, " "), r.Code, r.Err)
		}
	}
}

func TestRoles_operator_worksTheDeadLetters(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	dsn := login(t, pool, "operator")
	clitest.Seed(t, pool, clitest.Letter{})
	clitest.Seed(t, pool, clitest.Letter{Job: "other"})
	clitest.Seed(t, pool, clitest.Letter{Reason: "timeout"})
	s := clitest.NewShell(t, dsn)
	job := strings.TrimSpace(s.OK("enqueue", "j", "--delay", "1h").Out)
	file := filepath.Join(t.TempDir(), "dead.jsonl")
	for _, line := range [][]string{
		{"dead-letter", "export", "-o", file},
		{"dead-letter", "import", file},
		{"dead-letter", "import", file, "--dry-run"},
		{"job", "retry", job},
		{"job", "cancel", job},
		{"job", "delete", job},
		{"queue", "pause", "default"},
		{"queue", "resume", "default"},
		{"status"},
		{"worker", "list"},
		{"dead-letter", "replay", clitest.Seed(t, pool, clitest.Letter{}).String(), "--set", "user_id=7"},
		{"dead-letter", "replay", "--all", "--yes", "--set", "a=1", "--rate", "100/s", "--reason", "timeout"},
		{"dead-letter", "delete", "--job", "other", "--yes"},
		{"dead-letter", "tag", clitest.Seed(t, pool, clitest.Letter{}).String(), "team=a"},
		{"dead-letter", "delete", clitest.Seed(t, pool, clitest.Letter{}).String()},
		{"dead-letter", "show", clitest.Seed(t, pool, clitest.Letter{}).String(), "--reveal"},
		{"dead-letter", "replay", "--all", "--yes"},
		{"dead-letter", "cleanup", "--days", "30"},
		{"dead-letter", "history"},
		{"dead-letter", "export", "--format", "jsonl", "-o", "-"},
		{"hooks", "list"},
		{"hooks", "deliveries"},
	} {
		if r := s.Run(line...); r.Code != 0 {
			t.Errorf("soniq %s: exit %d: %s", strings.Join(line, " "), r.Code, r.Err)
		}
	}
	refused(t, dsn, append(ownersAlone,
		"select secrets from soniq_hooks", "insert into soniq_hooks (name, kind) values ('h', 'log')",
		"update soniq_dead_letter_audit set actor = 'nobody'", "delete from soniq_dead_letter_audit",
		"delete from soniq_dead_letter_operations", "delete from soniq_queues",
		"delete from soniq_workers", "update soniq_workers set status = 'stopped'", "delete from soniq_waiters",
	)...)
}

// oldHouse is what a worker has to recover and to delete.
const oldHouse = `
insert into soniq_dead_letter_audit (dead_letter_id, action, at) values (gen_random_uuid(), 'tag', now() - interval '400 days');
insert into soniq_dead_letter_audit (dead_letter_id, action, detail) values (gen_random_uuid(), 'replay', '{"args": {"password": "hunter2"}}');
insert into soniq_dead_letter_operations (id, action, state, options, created_at, updated_at) values
  (gen_random_uuid(), 'replay', 'running', '{}', now() - interval '31 days', now() - interval '31 days'),
  (gen_random_uuid(), 'replay', 'done', null, now() - interval '400 days', now() - interval '400 days');
insert into soniq_dead_letter_selections select id, 1, gen_random_uuid() from soniq_dead_letter_operations;
insert into soniq_queues (name) values ('forgotten');
insert into soniq_workers (id, hostname, pid, last_heartbeat, version) values (gen_random_uuid(), 'h', 1, now() - interval '40 days', 'go/x');
insert into soniq_task_registry values ('forgotten', 'w', now() - interval '40 days');
insert into soniq_jobs (id, job_name, args, status, attempts, max_attempts, updated_at) values
  (gen_random_uuid(), 'good', '{}', 'processing', 1, 3, now() - interval '1 day'),
  (gen_random_uuid(), 'lost', '{}', 'processing', 3, 3, now() - interval '1 day');`

// houseLeft counts what is left of oldHouse, and what is running.
const houseLeft = `
select concat_ws(' ',
  (select count(*) from soniq_dead_letter_audit where at < now() - interval '1 day' or detail::text like '%hunter2%'),
  (select count(*) from soniq_dead_letter_operations where options is not null or created_at < now() - interval '40 days'),
  (select count(*) from soniq_dead_letter_selections),
  (select count(*) from soniq_queues), (select count(*) from soniq_workers where pid = 1),
  (select count(*) from soniq_task_registry where task_name = 'forgotten'),
  (select count(*) from soniq_dead_letter_jobs where job_name = 'old'),
  (select count(*) from soniq_jobs where status = 'processing'))`

func TestRoles_worker_runsJobsBuriesRecoversAndKeepsHouse(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	owner := clitest.NewShell(t, pool.Config().ConnString())
	dsn := login(t, pool, "worker")
	if _, err := pool.Exec(t.Context(), oldHouse); err != nil {
		t.Fatal(err)
	}
	clitest.Seed(t, pool, clitest.Letter{Job: "old", Age: 40 * 24 * time.Hour})
	dir := t.TempDir()
	config := "retention:\n- {keep: 30d}\njobs:\n  good: {exec: \"true\"}\n  bad: {exec: \"exit 78\"}\n"
	if err := os.WriteFile(filepath.Join(dir, "soniq.yaml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	p := clitest.NewProgram(t, dir, dsn, "worker", "--no-hooks", "--log-format", "json")
	p.Begin(t)
	eventually.True(t, "the house to be kept", func() bool {
		var left string
		err := pool.QueryRow(t.Context(), houseLeft).Scan(&left)
		return err == nil && left == "0 0 0 0 0 0 0 0"
	})
	for range 3 {
		owner.OK("enqueue", "good", "--wait")
		if r := owner.Run("enqueue", "bad", "--wait"); r.Code != 1 {
			t.Errorf("enqueue bad --wait: exit %d: %s", r.Code, r.Err)
		}
	}
	clitest.Seed(t, pool, clitest.Letter{Job: "good"})
	owner.OK("dead-letter", "replay", "--filter", "good", "--yes")
	eventually.True(t, "the replay to resolve its dead letter", func() bool {
		var n int
		err := pool.QueryRow(t.Context(), "select count(*) from soniq_dead_letter_jobs where state = 'resolved'").Scan(&n)
		return err == nil && n == 1
	})
	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(); err != nil {
		t.Errorf("worker: %v", err)
	}
	if log := p.Err.String(); strings.Contains(log, "42501") || strings.Contains(log, "permission denied") {
		t.Errorf("the worker lacks a right:\n%s", log)
	}
	refused(t, dsn, append(ownersAlone, "select secrets from soniq_hooks", "insert into soniq_hooks (name, kind) values ('h', 'log')")...)
}

func TestRoles_dispatcher_sends(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	heard := make(chan struct{}, 10)
	endpoint := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { heard <- struct{}{} }))
	t.Cleanup(endpoint.Close)
	owner := clitest.NewShell(t, pool.Config().ConnString())
	owner.OK("hooks", "add", "webhook", endpoint.URL, "--name", "w", "--allow", "127.0.0.0/8")
	dsn := login(t, pool, "dispatcher")
	p := clitest.NewProgram(t, t.TempDir(), dsn, "hooks", "run", "--log-format", "json")
	p.Begin(t)
	clitest.Seed(t, pool, clitest.Letter{})
	select {
	case <-heard:
	case <-t.Context().Done():
	}
	eventually.True(t, "the delivery to be marked", func() bool {
		var n int
		err := pool.QueryRow(t.Context(), "select count(*) from soniq_hook_deliveries where state = 'delivered'").Scan(&n)
		return err == nil && n == 1
	})
	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(); err != nil {
		t.Errorf("hooks run: %v", err)
	}
	if log := p.Err.String(); strings.Contains(log, "42501") || strings.Contains(log, "permission denied") {
		t.Errorf("the dispatcher lacks a right:\n%s", log)
	}
	refused(t, dsn, append(ownersAlone,
		"insert into soniq_jobs (id, job_name, args) values (gen_random_uuid(), 'j', '{}')",
		"delete from soniq_dead_letter_jobs", "update soniq_jobs set priority = 1", "delete from soniq_leader_tasks",
		"insert into soniq_hook_deliveries (hook_id, event, dead_letter_id, facts, group_key) values (gen_random_uuid(), 'e', gen_random_uuid(), '{}', 'g')",
	)...)
}

func TestRoles_loginAlone_getsNothing(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	dsn := login(t, pool, "")
	refused(t, dsn, append(ownersAlone,
		"select from soniq_jobs", "insert into soniq_jobs (id, job_name, args) values (gen_random_uuid(), 'j', '{}')",
		"select from soniq_dead_letter_jobs", "select from soniq_hooks", "select from soniq_workers",
	)...)
}
