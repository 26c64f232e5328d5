package devdb

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"
)

// holdEnv makes this test binary a holder in a process of its own: of the
// shared server in that folder, or of a private one.
const (
	holdEnv = "SONIQ_DEVDB_HOLD"
	private = "private"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(holdEnv); dir != "" {
		if err := hold(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	code := m.Run()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	for dir := spare.take(); dir != ""; dir = spare.take() {
		_ = os.RemoveAll(dir)
	}
	os.Exit(code)
}

// hold prints the server's folder and URL, and lets go at the end of its
// standard input.
func hold(dir string) error {
	ctx := context.Background()
	if dir == private {
		s, err := Start(ctx, Options{Fast: true})
		if err != nil {
			return err
		}
		fmt.Println(s.Dir(), s.URL())
		_, _ = io.Copy(io.Discard, os.Stdin)
		return s.Stop(ctx)
	}
	lease, err := Acquire(ctx, Options{Dir: dir, Fast: true})
	if err != nil {
		return err
	}
	fmt.Println(lease.Dir(), lease.URL())
	_, _ = io.Copy(io.Discard, os.Stdin)
	return lease.Close()
}

// holder is another process that holds a server.
type holder struct {
	cmd   *exec.Cmd
	stdin io.Closer
	out   *bufio.Reader
	dir   string
	url   string
}

// startHolder returns before the holder holds anything; see await.
func startHolder(t *testing.T, dir string) *holder {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	// The race detector would have each end a second later.
	cmd.Env = append(os.Environ(), holdEnv+"="+dir, "GORACE=atexit_sleep_ms=0")
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	must(t, err)
	stdout, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	h := &holder{cmd: cmd, stdin: stdin, out: bufio.NewReader(stdout)}
	t.Cleanup(h.kill)
	return h
}

func (h *holder) await(t *testing.T) {
	t.Helper()
	line, err := h.out.ReadString('\n')
	must(t, err)
	fields := strings.Fields(line)
	h.dir, h.url = fields[0], fields[1]
}

// finish lets the holder end by itself.
func (h *holder) finish(t *testing.T) {
	t.Helper()
	must(t, h.stdin.Close())
	must(t, h.cmd.Wait())
}

// kill is kill -9. A second one does nothing.
func (h *holder) kill() {
	if h.cmd.ProcessState == nil {
		_ = h.cmd.Process.Kill()
		_ = h.cmd.Wait()
	}
}

// folder is one that a server's user can enter, which t.TempDir is not for
// root. A server that a failed test left is stopped.
func folder(t *testing.T) string {
	t.Helper()
	dir := makeFolder(t)
	t.Cleanup(func() {
		if err := Stop(context.Background(), Options{Dir: dir}); err != nil {
			t.Error(err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func makeFolder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "soniq-devdb-test-")
	must(t, err)
	must(t, os.Chmod(dir, 0o711))
	return dir
}

// initialised is a folder with a database that has been made already, which
// takes a second or more. It goes back for the next test, whatever is in it.
func initialised(t *testing.T) string {
	t.Helper()
	dir := spare.take()
	if dir == "" {
		dir = makeFolder(t)
		lease, err := Acquire(t.Context(), Options{Dir: dir, Fast: true})
		must(t, err)
		must(t, lease.Close())
	}
	t.Cleanup(func() {
		if err := Stop(context.Background(), Options{Dir: dir}); err != nil {
			t.Error(err)
		}
		spare.give(dir)
	})
	return dir
}

// folders that no test uses just now; TestMain removes them.
type folders struct {
	mu   sync.Mutex
	free []string
}

var spare folders

func (f *folders) take() (dir string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := len(f.free); n > 0 {
		dir, f.free = f.free[n-1], f.free[:n-1]
	}
	return dir
}

func (f *folders) give(dir string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.free = append(f.free, dir)
}

func acquireIn(t *testing.T, dir string) *Lease {
	t.Helper()
	lease, err := Acquire(t.Context(), Options{Dir: dir, Fast: true})
	must(t, err)
	t.Cleanup(func() {
		if err := lease.Close(); err != nil {
			t.Error(err)
		}
	})
	return lease
}

func startPrivate(t *testing.T) *Server {
	t.Helper()
	s, err := Start(t.Context(), Options{Fast: true})
	must(t, err)
	t.Cleanup(func() {
		if err := s.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}

// serverPID of the shared server in dir; 0 if none runs.
func serverPID(t *testing.T, dir string) int {
	t.Helper()
	status, err := Inspect(Options{Dir: dir})
	must(t, err)
	return status.PID
}

// alive reports whether a process exists and is no zombie.
func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	return len(commandLine(pid)) > 0
}

// query returns the one value of a statement's one row, as text.
func query(t *testing.T, url, sql string) string {
	t.Helper()
	text, err := tryQuery(t.Context(), url, sql)
	must(t, err)
	return text
}

func tryQuery(ctx context.Context, url, sql string) (string, error) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return "", err
	}
	defer conn.Close(context.Background())
	var text string
	err = conn.QueryRow(ctx, sql).Scan(&text)
	return text, err
}

// remember leaves something in the database, for remembers to find.
func remember(t *testing.T, url string) (oid string) {
	t.Helper()
	return query(t, url, `select lo_create(0)::text`)
}

func remembers(t *testing.T, url, oid string) bool {
	t.Helper()
	return query(t, url, `select (count(*) = 1)::text from pg_largeobject_metadata where oid = `+oid) == "true"
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func exists(path ...string) bool {
	_, err := os.Stat(filepath.Join(path...))
	return err == nil
}
