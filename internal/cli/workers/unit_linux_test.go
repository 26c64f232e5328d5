package workers_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"soniq/internal/cli/clitest"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

// systemd sends SIGTERM to all processes of a unit, in any order. What it stops with the
// worker has not failed: neither a job nor a delivery is charged, and both are there for
// the next worker. A shell's 143 says the same as the signal.
func TestWorker_unitSignalled_chargesNothing(t *testing.T) {
	t.Parallel()
	for name, command := range map[string]string{
		"by the signal": "echo $$ > %[1]s.new; mv %[1]s.new %[1]s; exec sleep 300",
		"by exit code":  "trap 'kill $!; exit 143' TERM; echo $$ > %[1]s.new; mv %[1]s.new %[1]s; sleep 300 & wait",
	} {
		for _, workerFirst := range []bool{true, false} {
			t.Run(fmt.Sprint(name, ", worker first: ", workerFirst), func(t *testing.T) {
				t.Parallel()
				dir, pool := t.TempDir(), testdb.New(t)
				text := fmt.Sprintf("jobs:\n  j: {exec: %q}\nhooks:\n  h: {exec: %q}\n", fmt.Sprintf(command, "job"), fmt.Sprintf(command, "hook"))
				if err := os.WriteFile(filepath.Join(dir, "soniq.yaml"), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
				url := pool.Config().ConnString()
				w := clitest.NewProgram(t, dir, url, "worker", "--log-format", "json")
				w.Begin(t)
				clitest.NewShell(t, url).OK("enqueue", "j")
				eventually.True(t, "the declared hook", func() bool { return testkit.Value[int](t, pool, `select count(*) from soniq_hooks`) == 1 })
				clitest.Seed(t, pool, clitest.Letter{})
				unit := []int{groupIn(t, filepath.Join(dir, "job")), groupIn(t, filepath.Join(dir, "hook"))}
				if unit = append(unit, w.Process.Pid); workerFirst {
					unit[0], unit[2] = unit[2], unit[0]
				}
				for _, id := range unit {
					if err := syscall.Kill(id, syscall.SIGTERM); err != nil {
						t.Fatal(err)
					}
				}
				if err := w.Wait(); err != nil {
					t.Errorf("%v: %s", err, w.Err.String())
				}
				const state = `
					select j.status || ' ' || j.attempts || ', ' || d.state || ' ' || d.attempts || coalesce(d.last_error, '') || h.failures
					from soniq_jobs j, soniq_hook_deliveries d, soniq_hooks h`
				if got := testkit.Value[string](t, pool, state); got != "queued 0, pending 00" {
					t.Errorf("left: %s; %s", got, w.Err.String())
				}
				for line := range strings.Lines(w.Err.String()) {
					if !strings.HasPrefix(line, "{") {
						t.Errorf("a line of the log is no JSON: %q", line)
					}
				}
				clitest.WantIn(t, "log", w.Err.String(), `"msg":"stopping once running jobs have ended"`)
			})
		}
	}
}

// A unit of Type=notify hears that the worker, or the dispatcher, is ready, that it lives, and
// that it stops. Commands of jobs and hooks can't speak for it.
func TestPrograms_underSystemd_tellIt(t *testing.T) {
	t.Parallel()
	const quiet = `test -z "$NOTIFY_SOCKET$WATCHDOG_USEC" && echo heard >> quiet`
	for name, line := range map[string][]string{
		"worker":     {"worker", "--allow-exec-hooks", "--handle", "j=exec:" + quiet, "--log-format", "json"},
		"dispatcher": {"hooks", "run", "--allow-exec-hooks", "--log-format", "json"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := testdb.New(t)
			s := clitest.NewShell(t, pool.Config().ConnString())
			s.OK("hooks", "add", "exec", quiet, "--name", "h")
			w := clitest.NewProgram(t, t.TempDir(), pool.Config().ConnString(), line...)
			hear := underSystemd(t, w)
			hear("READY=1")
			if n := testkit.Value[int](t, pool, `select count(*) from soniq_workers where status = 'active'`); n != 1 && name == "worker" {
				t.Errorf("%d workers when it is said to be ready", n)
			}
			hear("WATCHDOG=1")
			hear("WATCHDOG=1")
			lines := 1
			if name == "worker" {
				lines++
				s.OK("enqueue", "j", "--wait")
			}
			clitest.Seed(t, pool, clitest.Letter{})
			eventually.True(t, "the commands to find no variable", func() bool {
				text, _ := os.ReadFile(filepath.Join(w.Dir, "quiet"))
				return strings.Count(string(text), "heard") == lines
			})
			if err := w.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			hear("STOPPING=1")
			if err := w.Wait(); err != nil {
				t.Errorf("%v: %s", err, w.Err.String())
			}
		})
	}
}

// underSystemd starts a program as systemd does. hear waits until it has said something.
func underSystemd(t *testing.T, w *clitest.Program) (hear func(want string)) {
	t.Helper()
	dir, err := os.MkdirTemp("", "soniq") // the name of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	address := &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"}
	socket, err := net.ListenUnixgram("unixgram", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = socket.Close() })
	w.Env = append(w.Env, "NOTIFY_SOCKET="+address.Name, "WATCHDOG_USEC=300000")
	w.Begin(t)
	return func(want string) {
		t.Helper()
		text := make([]byte, 1000)
		for {
			if err := socket.SetReadDeadline(time.Now().Add(clitest.Deadline)); err != nil {
				t.Fatal(err)
			}
			n, err := socket.Read(text)
			if err != nil {
				t.Fatalf("it does not say %s: %v: %s", want, err, w.Err.String())
			}
			if string(text[:n]) == want {
				return
			}
		}
	}
}

// groupIn waits for a file with the id of a process that leads its group, and returns the
// group as kill takes it.
func groupIn(t *testing.T, path string) int {
	t.Helper()
	var text []byte
	eventually.True(t, path, func() (ok bool) {
		var err error
		text, err = os.ReadFile(path)
		return err == nil
	})
	id, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	return -id
}

// A worker that can't start says so in the form of its log.
func TestWorker_jsonLog_errorsAreRecords(t *testing.T) {
	t.Parallel()
	s := clitest.NewShell(t, "postgres://nobody@127.0.0.1:1/none")
	for _, test := range []struct {
		args []string
		json bool
	}{
		{[]string{"worker", "--handle", "j=exec:true", "--log-format", "json"}, true},
		{[]string{"worker", "--handle", "j=exec:true"}, true},
		{[]string{"hooks", "run"}, true},
		{[]string{"worker", "--log-format", "json"}, true},
		{[]string{"worker", "--config", testkit.ConfigFile(t, "jobs: {a: {b: c}, d: {}}"), "--log-format", "json"}, true},
		{[]string{"worker"}, false},
		{[]string{"worker", "--handle", "j=exec:true", "--log-format", "text"}, false},
	} {
		r := s.Run(test.args...)
		for line := range strings.Lines(r.Err) {
			if strings.HasPrefix(line, "{") != test.json {
				t.Errorf("soniq %q: exit %d, %q", test.args, r.Code, r.Err)
			}
		}
		if r.Code == 0 || r.Err == "" {
			t.Errorf("soniq %q: exit %d, %q", test.args, r.Code, r.Err)
		}
	}
}
