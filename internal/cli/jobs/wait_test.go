package jobs_test

import (
	"context"
	"encoding/json"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/engine"
	"soniq/internal/cli"
	"soniq/internal/cli/app"
	"soniq/internal/cli/clitest"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

// startWorker runs a worker in this process until the end of the test.
func startWorker(t *testing.T, databaseURL string, args ...string) {
	t.Helper()
	s := clitest.NewShell(t, databaseURL)
	w := s.Start(append([]string{"worker"}, args...)...)
	t.Cleanup(func() {
		s.Signals <- syscall.SIGTERM
		if code := w.Wait(t); code != app.ExitDone {
			t.Errorf("the worker's exit code is %d: %s", code, w.Err.String())
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
	s := clitest.NewShell(t, url)

	r := s.OK("enqueue", "echo", "--args", `{"a": [1, "é"]}`, "--wait")
	if !testkit.SameJSON(t, []byte(r.Out), `{"a": [1, "é"]}`) {
		t.Errorf("result: %q", r.Out)
	}
	clitest.WantIn(t, "stderr", r.Err, "job ")
	if r := s.OK("enqueue", "silent", "--wait"); r.Out != "" || !strings.Contains(r.Err, "done, without a result") {
		t.Errorf("without a result: %+v", r)
	}
	r = s.OK("enqueue", "echo", "--wait", "--json")
	if o := clitest.Decode[waitOutcome](t, r.Out); o.Status != engine.StatusDone || o.Attempts != 1 || string(o.Result) != "{}" {
		t.Errorf("as JSON: %+v", o)
	}
	r = s.Run("enqueue", "closed", "--wait", "--wait-timeout", "1m")
	clitest.WantCode(t, r, app.ExitFailed)
	clitest.WantIn(t, "stderr", r.Err, "dead letter, permanent_failure: account closed (see 'soniq dead-letter show ")
	if r.Out != "" {
		t.Errorf("stdout of a dead letter: %q", r.Out)
	}

	s.Stdin = `{"name": "echo", "args": {"n": 1}}` + "\n" + `{"name": "closed"}` + "\n" + `{"name": "silent"}`
	r = s.Run("enqueue", "--from", "-", "--wait")
	clitest.WantCode(t, r, app.ExitPartly)
	clitest.WantIn(t, "stdout", r.Out, ` done {"n":1}`, " dead letter, permanent_failure: account closed", " done\n")
	clitest.WantIn(t, "stderr", r.Err, "3 jobs enqueued\n", "1 of 3 jobs not done")
	r = s.Run("enqueue", "--from", "-", "--wait", "--json")
	clitest.WantCode(t, r, app.ExitPartly)
	if n := strings.Count(r.Out, "\n"); n != 3 {
		t.Errorf("%d lines: %s", n, r.Out)
	}
}

func TestWait_rowDeletedAtOnce_isDoneWithoutResult(t *testing.T) {
	t.Parallel()
	url := testdb.New(t).Config().ConnString()
	startWorker(t, url, "--handle", "j=exec:cat", "--result-ttl", "0")
	s := clitest.NewShell(t, url)
	r := s.OK("enqueue", "j", "--wait")
	clitest.WantIn(t, "stderr", r.Err, "its row is gone, with a result if there was one: it is done, unless somebody has deleted it")
	if o := clitest.Decode[waitOutcome](t, s.OK("enqueue", "j", "--wait", "--json").Out); o.Status != engine.StatusDone || string(o.Result) != "null" {
		t.Errorf("as JSON: %+v", o)
	}
}

// connected waits until a command listens, as the only one on its database.
func connected(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	eventually.True(t, "the wait to listen", func() bool {
		return clitest.Count(t, pool, `
			select count(*) from pg_stat_activity
			where datname = current_database() and pid <> pg_backend_pid() and query ilike 'listen%'`) == 1
	})
}

func TestWait_withoutAWorker_saysSo_andEndsByCtrlC(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	waiting := s.Start("enqueue", "j", "--queue", "lonely", "--wait")
	eventually.True(t, "the warning", func() bool {
		return strings.Contains(waiting.Err.String(), "no live worker serves queue lonely: waiting")
	})
	s.Signals <- syscall.SIGINT
	if code := waiting.Wait(t); code != app.ExitFailed {
		t.Errorf("exit code %d", code)
	}
	clitest.WantIn(t, "stderr", waiting.Err.String(), "soniq: stopped waiting: job ", ", which is queued, goes on (see 'soniq job ")
	if n := clitest.Count(t, pool, `select count(*) from soniq_jobs where status = 'queued'`); n != 1 {
		t.Errorf("%d jobs are queued, want 1", n)
	}
}

func TestWait_timeout_jobGoesOn(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	r := s.Run("enqueue", "j", "--wait", "--wait-timeout", "200ms")
	clitest.WantCode(t, r, app.ExitFailed)
	clitest.WantIn(t, "stderr", r.Err, "soniq: not done after 200ms: job ", ", which is queued, goes on")
	s.Stdin = "{}\n{}\n"
	r = s.Run("enqueue", "j", "--from", "-", "--wait", "--wait-timeout", "200ms")
	clitest.WantCode(t, r, app.ExitFailed)
	clitest.WantIn(t, "stderr", r.Err, "not done after 200ms: 2 jobs go on")
	if n := clitest.CountJobs(t, pool); n != 3 {
		t.Errorf("%d jobs, want 3", n)
	}
}

func TestWait_outlivesItsConnections(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	id := strings.TrimSpace(s.OK("enqueue", "j").Out)
	waiting := s.Start("job", id, "--wait")
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
	if code := waiting.Wait(t); code != app.ExitFailed {
		t.Errorf("exit code %d", code)
	}
	clitest.WantIn(t, "stdout", waiting.Out.String(), "Status       cancelled")
	clitest.WantIn(t, "stderr", waiting.Err.String(), "soniq: cancelled")
}

// The job ends in the very round in which a word about its wait was due.
func TestWait_jobEndsWhenTheWarningIsDue_isItsOutcome(t *testing.T) {
	t.Parallel()
	url := testdb.New(t).Config().ConnString()
	startWorker(t, url, "--handle", "silent=exec:true")
	s := clitest.NewShell(t, url)
	id := strings.TrimSpace(s.OK("enqueue", "silent").Out)
	s.OK("job", id, "--wait")
	var out, notes clitest.Stream
	w := s.Process(&out, &notes)
	now := time.Now()
	w.Now = func() time.Time {
		now = now.Add(6 * time.Second)
		return now
	}
	if code := cli.Run(w, []string{"job", id, "--wait"}); code != app.ExitDone {
		t.Errorf("exit code %d: %s", code, notes.String())
	}
}
