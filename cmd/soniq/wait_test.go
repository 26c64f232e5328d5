package main

import (
	"context"
	"encoding/json"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/engine"
	"soniq/internal/cli/app"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

// startWorker runs a worker in this process until the end of the test.
func startWorker(t *testing.T, databaseURL string, args ...string) {
	t.Helper()
	s := newShell(t, databaseURL)
	w := s.start(append([]string{"worker"}, args...)...)
	t.Cleanup(func() {
		s.signals <- syscall.SIGTERM
		if code := w.wait(t); code != app.ExitDone {
			t.Errorf("the worker's exit code is %d: %s", code, w.err.String())
		}
	})
}

// waitOutcome is what --wait --json says of a job.
type waitOutcome struct {
	Status   engine.JobStatus
	Attempts int
	Result   json.RawMessage
}

func TestWait_theOutcomeIsTheExitCode(t *testing.T) {
	t.Parallel()
	url := testdb.New(t).Config().ConnString()
	startWorker(t, url, "--handle", "echo=exec:cat", "--handle", "silent=exec:true", "--handle", "closed=exec:echo account closed >&2; exit 78")
	s := newShell(t, url)

	r := s.ok("enqueue", "echo", "--args", `{"a": [1, "é"]}`, "--wait")
	if !testkit.SameJSON(t, []byte(r.out), `{"a": [1, "é"]}`) {
		t.Errorf("result: %q", r.out)
	}
	wantIn(t, "stderr", r.err, "job ")
	if r := s.ok("enqueue", "silent", "--wait"); r.out != "" || !strings.Contains(r.err, "done, without a result") {
		t.Errorf("without a result: %+v", r)
	}
	r = s.ok("enqueue", "echo", "--wait", "--json")
	if o := decode[waitOutcome](t, r.out); o.Status != engine.StatusDone || o.Attempts != 1 || string(o.Result) != "{}" {
		t.Errorf("as JSON: %+v", o)
	}
	r = s.run("enqueue", "closed", "--wait", "--wait-timeout", "1m")
	wantCode(t, r, app.ExitFailed)
	wantIn(t, "stderr", r.err, "dead letter, permanent_failure: account closed (see 'soniq dead-letter show ")
	if r.out != "" {
		t.Errorf("stdout of a dead letter: %q", r.out)
	}

	s.stdin = `{"name": "echo", "args": {"n": 1}}` + "\n" + `{"name": "closed"}` + "\n" + `{"name": "silent"}`
	r = s.run("enqueue", "--from", "-", "--wait")
	wantCode(t, r, app.ExitPartly)
	wantIn(t, "stdout", r.out, ` done {"n":1}`, " dead letter, permanent_failure: account closed", " done\n")
	wantIn(t, "stderr", r.err, "3 jobs enqueued\n", "1 of 3 jobs not done")
	r = s.run("enqueue", "--from", "-", "--wait", "--json")
	wantCode(t, r, app.ExitPartly)
	if n := strings.Count(r.out, "\n"); n != 3 {
		t.Errorf("%d lines: %s", n, r.out)
	}
}

func TestWait_rowDeletedAtOnce_isDoneWithoutResult(t *testing.T) {
	t.Parallel()
	url := testdb.New(t).Config().ConnString()
	startWorker(t, url, "--handle", "j=exec:cat", "--result-ttl", "0")
	s := newShell(t, url)
	r := s.ok("enqueue", "j", "--wait")
	wantIn(t, "stderr", r.err, "done; its row, and a result if there was one, is gone")
	if o := decode[waitOutcome](t, s.ok("enqueue", "j", "--wait", "--json").out); o.Status != engine.StatusDone || string(o.Result) != "null" {
		t.Errorf("as JSON: %+v", o)
	}
}

// connected waits until a command listens, as the only one on its database.
func connected(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	eventually.True(t, "the wait to listen", func() bool {
		return count(t, pool, `
			select count(*) from pg_stat_activity
			where datname = current_database() and pid <> pg_backend_pid() and query ilike 'listen%'`) == 1
	})
}

func TestWait_withoutAWorker_saysSo_andEndsByCtrlC(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := newShell(t, pool.Config().ConnString())
	waiting := s.start("enqueue", "j", "--queue", "lonely", "--wait")
	eventually.True(t, "the warning", func() bool {
		return strings.Contains(waiting.err.String(), "no live worker serves queue lonely: waiting")
	})
	s.signals <- syscall.SIGINT
	if code := waiting.wait(t); code != app.ExitFailed {
		t.Errorf("exit code %d", code)
	}
	wantIn(t, "stderr", waiting.err.String(), "soniq: stopped waiting: job ", ", which is queued, goes on (see 'soniq job ")
	if n := count(t, pool, `select count(*) from soniq_jobs where status = 'queued'`); n != 1 {
		t.Errorf("%d jobs are queued, want 1", n)
	}
}

func TestWait_timeout_jobGoesOn(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := newShell(t, pool.Config().ConnString())
	r := s.run("enqueue", "j", "--wait", "--wait-timeout", "200ms")
	wantCode(t, r, app.ExitFailed)
	wantIn(t, "stderr", r.err, "soniq: not done after 200ms: job ", ", which is queued, goes on")
	s.stdin = "{}\n{}\n"
	r = s.run("enqueue", "j", "--from", "-", "--wait", "--wait-timeout", "200ms")
	wantCode(t, r, app.ExitFailed)
	wantIn(t, "stderr", r.err, "not done after 200ms: 2 jobs go on")
	if n := countJobs(t, pool); n != 3 {
		t.Errorf("%d jobs, want 3", n)
	}
}

func TestWait_outlivesItsConnections(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := newShell(t, pool.Config().ConnString())
	id := strings.TrimSpace(s.ok("enqueue", "j").out)
	waiting := s.start("job", id, "--wait")
	connected(t, pool)
	for _, sql := range []string{
		`select pg_terminate_backend(pid) from pg_stat_activity
		 where datname = current_database() and pid <> pg_backend_pid() and application_name like 'soniq%'`,
		`update soniq_jobs set status = 'cancelled'`,
	} {
		if _, err := pool.Exec(context.Background(), sql); err != nil {
			t.Fatal(err)
		}
	}
	if code := waiting.wait(t); code != app.ExitFailed {
		t.Errorf("exit code %d", code)
	}
	wantIn(t, "stdout", waiting.out.String(), "Status       cancelled")
	wantIn(t, "stderr", waiting.err.String(), "soniq: cancelled")
}

// The job ends in the very round in which a word about its wait was due.
func TestWait_jobEndsWhenTheWarningIsDue_isItsOutcome(t *testing.T) {
	t.Parallel()
	url := testdb.New(t).Config().ConnString()
	startWorker(t, url, "--handle", "silent=exec:true")
	s := newShell(t, url)
	id := strings.TrimSpace(s.ok("enqueue", "silent").out)
	s.ok("job", id, "--wait")
	var out, notes stream
	w := s.world(&out, &notes)
	now := time.Now()
	w.Now = func() time.Time {
		now = now.Add(6 * time.Second)
		return now
	}
	if code := run(w, []string{"job", id, "--wait"}); code != app.ExitDone {
		t.Errorf("exit code %d: %s", code, notes.String())
	}
}
