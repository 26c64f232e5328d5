package poolers_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/internal/cli/clitest"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

// with changes a URL.
func with(t *testing.T, databaseURL string, change func(*url.URL, url.Values)) string {
	t.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	query := u.Query()
	change(u, query)
	u.RawQuery = query.Encode()
	return u.String()
}

// settings sets defaults of a database.
func settings(t *testing.T, pool *pgxpool.Pool, lines ...string) {
	t.Helper()
	for _, line := range lines {
		testkit.Exec(t, pool, "alter database "+pgx.Identifier{pool.Config().ConnConfig.Database}.Sanitize()+" "+line)
	}
}

// startWorker starts one that has begun to work.
func startWorker(t *testing.T, s *clitest.Shell, queue string) *clitest.Running {
	t.Helper()
	worker := s.Start("worker", "--config", testkit.ConfigFile(t, config(queue)), "--allow-exec-hooks")
	eventually.True(t, "the worker to start", func() bool {
		if len(worker.Code) > 0 {
			t.Fatalf("the worker ended: %s", worker.Err.String())
		}
		return strings.Contains(worker.Err.String(), "worker started")
	})
	return worker
}

func stopWell(t *testing.T, s *clitest.Shell, worker *clitest.Running) {
	t.Helper()
	s.Signals <- syscall.SIGTERM
	if code := worker.Wait(t); code != 0 {
		t.Errorf("the worker ended with %d: %s", code, worker.Err.String())
	}
}

// cut ends the connections of a database, but for the pool's own.
const cutSQL = `
select count(pg_terminate_backend(pid))
from pg_stat_activity
where datname = current_database() and pid <> pg_backend_pid() and application_name = 'soniq'`

// A database of another encoding, or whose sessions begin with another one, works, and
// what it can't hold of a text is replaced.
func TestServers_encodings(t *testing.T) {
	t.Parallel()
	for _, e := range []struct {
		encoding, client, text string
		// all commands, and not only the worker, the watch and what shows a dead letter
		all bool
	}{
		{"LATIN1", "LATIN1", "na?ve ??", true},
		{"EUC_JP", "EUC_JP", "日本", false},
		{"SQL_ASCII", "SQL_ASCII", "naïve 日本", false}, // see the next test
		{"UTF8", "LATIN1", "naïve 日本", false},
		{"UTF8", "SJIS", "naïve 日本", true},
	} {
		t.Run(e.encoding+", client "+e.client, func(t *testing.T) {
			t.Parallel()
			everything(t, encodedURL(t, e.encoding, e.client), "q", e.text, e.all)
		})
	}
}

// encodedURL is that of a new database of an encoding, whose sessions begin with client.
func encodedURL(t *testing.T, encoding, client string) string {
	t.Helper()
	adminURL := testdb.EmptyURL(t)
	admin := testkit.Open(t, adminURL)
	name := "soniq_encoding_" + strings.ReplaceAll(uuid.NewString(), "-", "")[:12]
	testkit.Exec(t, admin, fmt.Sprintf("create database %s template template0 encoding '%s' lc_collate 'C' lc_ctype 'C'", name, encoding))
	t.Cleanup(func() {
		if _, err := admin.Exec(context.WithoutCancel(t.Context()), "drop database "+name+" with (force)"); err != nil {
			t.Error(err)
		}
	})
	testkit.Exec(t, admin, "alter database "+name+" set client_encoding = '"+client+"'")
	return with(t, adminURL, func(u *url.URL, _ url.Values) { u.Path = "/" + name })
}

// A database in SQL_ASCII takes any bytes. Rows with some that are not UTF-8 run, die, and hide no others, in each
// mode but the simple protocol's.
func TestServers_bytesOfNoEncoding_hideNoOther(t *testing.T) {
	t.Parallel()
	databaseURL := encodedURL(t, "SQL_ASCII", "SQL_ASCII")
	s := clitest.NewShell(t, databaseURL)
	s.OK("setup")
	pool := testkit.Open(t, with(t, databaseURL, func(_ *url.URL, q url.Values) { q.Set("client_encoding", "SQL_ASCII") }))
	for _, job := range []string{`'good', E'{"a": "\351", "\351": 1}'`, `'bad', E'{"a": "\351"}'`, `E'caf\351', '{}'`, `'good', '{}'`, `'bad', '{}'`} {
		testkit.Exec(t, pool, `insert into soniq_jobs (id, queue, job_name, args) values (gen_random_uuid(), 'odd', `+job+`)`)
	}
	testkit.Exec(t, pool, `
		insert into soniq_dead_letter_jobs (id, job_name, args, queue, priority, max_attempts, attempts, last_error,
		  dead_letter_reason, tags, original_created_at, moved_to_dead_letter_at)
		values (gen_random_uuid(), E'b\351', E'{"a": "\351"}', 'odd', 1, 1, 1, E'caf\351', 'timeout', E'{"t": "\351"}', now(), now())`)
	everything(t, databaseURL, "q", "naïve 日本", true)
	worker := startWorker(t, s, "odd")
	eventually.True(t, "the jobs to end", func() bool {
		return testkit.Value[string](t, pool, `
			select (select count(*) from soniq_jobs where queue = 'odd' and status = 'done') || ' done, '
			  || (select count(*) from soniq_dead_letter_jobs where queue = 'odd' and job_name = 'bad') || ' dead'`) == "2 done, 2 dead"
	})
	stopWell(t, s, worker)
	for _, line := range []string{"job list --json", "dead-letter list --json"} {
		if !json.Valid([]byte(s.OK(strings.Fields(line)...).Out)) {
			t.Errorf("soniq %s: not JSON", line)
		}
	}
	file := filepath.Join(t.TempDir(), "odd.jsonl")
	s.OK("dead-letter", "export", "--queue", "odd", "-o", file)
	if r := s.Run("dead-letter", "import", file); r.Code != 2 || !strings.Contains(r.Err, "not valid UTF-8") {
		t.Errorf("import: exit %d: %s", r.Code, r.Err)
	}
}

// readOnlyRole is a URL under a role that may do what the first one's may, and whose
// transactions are read-only by default.
func readOnlyRole(t *testing.T, admin *pgxpool.Pool, databaseURL string) (roleURL, role string) {
	t.Helper()
	role = "soniq_reader_" + strings.ReplaceAll(uuid.NewString(), "-", "")[:12]
	testkit.Exec(t, admin, "create role "+role+" login superuser password 'unused'")
	t.Cleanup(func() {
		if _, err := admin.Exec(context.WithoutCancel(t.Context()), "drop role "+role); err != nil {
			t.Error(err)
		}
	})
	return with(t, databaseURL, func(u *url.URL, _ url.Values) { u.User = url.UserPassword(role, "unused") }), role
}

// All commands and a worker go to the first host of a URL that takes writes.
func TestServers_firstHostIsDownOrReadOnly(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"down", "read-only"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			direct := testdb.EmptyURL(t)
			admin := testkit.Open(t, direct)
			first := testkit.ClosedAddress(t)
			if kind == "read-only" {
				readOnly, role := readOnlyRole(t, admin, direct)
				testkit.Exec(t, admin, "alter role "+role+" set default_transaction_read_only = on")
				u, err := url.Parse(testkit.PgBouncer(t, readOnly, "session"))
				if err != nil {
					t.Fatal(err)
				}
				first = u.Host
			}
			everything(t, with(t, direct, func(u *url.URL, query url.Values) {
				u.Host = first + "," + u.Host
				query.Set("sslmode", "disable")
			}), "q", "naïve 日本", kind == "read-only")
		})
	}
}

// A pooler goes on telling that its server takes writes, after it has become read-only. A
// worker finds out, and goes to the next host.
func TestServers_readOnlyBehindAPoolerThatDoesNotKnow_areLeft(t *testing.T) {
	t.Parallel()
	direct := testdb.NewURL(t)
	admin := testkit.Open(t, direct)
	other, role := readOnlyRole(t, admin, direct)
	pooled := testkit.PgBouncer(t, other, "session", "server_lifetime = 0")
	conn, err := pgx.Connect(t.Context(), pooled) // the pooler learns what the server says
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), "select 1"); err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := clitest.NewShell(t, with(t, testkit.PgBouncer(t, direct, "session"), func(u *url.URL, _ url.Values) {
		first, err := url.Parse(pooled)
		if err != nil {
			t.Fatal(err)
		}
		u.Host = first.Host + "," + u.Host
	}))
	worker := startWorker(t, s, "q")
	clitest.NewShell(t, direct).OK("enqueue", "good", "--queue", "q", "--wait")
	testkit.Exec(t, admin, "alter role "+role+" set default_transaction_read_only = on")
	testkit.Exec(t, admin, "select pg_terminate_backend(pid) from pg_stat_activity where usename = '"+role+"'")
	id := strings.TrimSpace(clitest.NewShell(t, direct).OK("enqueue", "good", "--queue", "q").Out)
	if r := clitest.NewShell(t, direct).Run("job", id, "--wait", "--wait-timeout", "30s"); r.Code != 0 {
		t.Fatalf("the job has not run: %s; the worker's log: %s", r.Err, worker.Err.String())
	}
	clitest.WantIn(t, "the worker's log", worker.Err.String(), "leads to a standby or a read-only server")
	stopWell(t, s, worker)
}

// A worker outlives a server that is read-only for a while, and keeps none of its
// connections.
func TestServers_readOnlyForAWhile_workGoesOn(t *testing.T) {
	t.Parallel()
	direct := testdb.NewURL(t)
	writing := with(t, direct, func(_ *url.URL, query url.Values) {
		query.Set("default_transaction_read_only", "off")
		query.Set("application_name", "writing")
	})
	admin := testkit.Open(t, writing)
	s := clitest.NewShell(t, direct)
	worker := startWorker(t, s, "q")
	s.OK("enqueue", "good", "--queue", "q", "--wait")
	settings(t, admin, "set default_transaction_read_only = on")
	testkit.Exec(t, admin, cutSQL)
	id := strings.TrimSpace(clitest.NewShell(t, writing).OK("enqueue", "good", "--queue", "q").Out)
	eventually.True(t, "the worker to say so", func() bool {
		return strings.Contains(worker.Err.String(), "read-only") || strings.Contains(worker.Err.String(), "read only")
	})
	if n := testkit.Count(t, admin, `select count(*) from soniq_jobs where id = $1 and status = 'done'`, id); n != 0 {
		t.Error("the job ran on a read-only server")
	}
	settings(t, admin, "reset default_transaction_read_only")
	clitest.NewShell(t, writing).OK("job", id, "--wait")
	s.OK("enqueue", "bad", "--queue", "q")
	eventually.True(t, "the dead letter", func() bool {
		return testkit.Count(t, admin, `select count(*) from soniq_dead_letter_jobs`) == 1
	})
	stopWell(t, s, worker)
}

// A server that ends idle sessions ends none of a worker's and of a watch's.
func TestServers_idleSessionTimeout_endsNobody(t *testing.T) {
	t.Parallel()
	for _, pooler := range []bool{false, true} {
		t.Run(fmt.Sprintf("pooler %t", pooler), func(t *testing.T) {
			t.Parallel()
			direct := testdb.NewURL(t)
			admin := testkit.Open(t, with(t, direct, func(_ *url.URL, query url.Values) { query.Set("idle_session_timeout", "0") }))
			settings(t, admin, "set idle_session_timeout = '500ms'")
			through := direct
			if pooler {
				through = testkit.PgBouncer(t, direct, "session")
			}
			s := clitest.NewShell(t, through)
			worker := startWorker(t, s, "q")
			watch := s.Start("dead-letter", "watch")
			eventually.True(t, "the watch to start", func() bool { return strings.Contains(watch.Err.String(), "watching") })
			// Nobody does anything for longer than the server allows.
			s.OK("enqueue", "good", "--queue", "q", "--delay", "2s", "--wait")
			s.Run("enqueue", "bad", "--queue", "q", "--wait")
			eventually.True(t, "the watch to tell of it", func() bool { return strings.Contains(watch.Out.String(), "bad") })
			if log := worker.Err.String() + watch.Err.String(); !pooler && strings.Contains(log, "lost its connection") {
				t.Errorf("the logs: %s", log)
			}
			s.Signals <- syscall.SIGTERM
			stopWell(t, s, worker)
			watch.Wait(t)
		})
	}
}
