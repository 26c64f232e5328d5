package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"soniq/internal/cli/terminal"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/internal/cli/app"
	"soniq/internal/testdb"
)

// beMain makes the test binary the program itself, for tests that need a
// process.
const beMain = "SONIQ_TEST_BE_MAIN"

// mainOfTests runs the tests of a package: TestMain calls it.
func mainOfTests(m *testing.M) {
	if os.Getenv(beMain) != "" {
		os.Exit(Main())
	}
	testdb.Main(m)
}

// deadline bounds each wait of a test: much longer than anything takes, even
// on a machine that runs other tests too.
const deadline = 30 * time.Second

// stream is a bytes.Buffer that one goroutine writes and another reads.
type stream struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (s *stream) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(p)
}

func (s *stream) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

// shell runs commands in this process.
type shell struct {
	t       *testing.T
	env     map[string]string
	stdin   string
	tty     bool
	width   int
	signals chan os.Signal
}

// newShell has the database in its environment, if there is one. Hooks may
// reach the servers of the tests.
func newShell(t *testing.T, databaseURL string) *shell {
	s := &shell{t: t, env: map[string]string{"SONIQ_HOOK_ALLOW": "127.0.0.0/8"}, signals: make(chan os.Signal, 3)}
	if databaseURL != "" {
		s.env["SONIQ_DATABASE_URL"] = databaseURL
	}
	return s
}

type result struct {
	code     int
	out, err string
}

func (s *shell) world(out, notes io.Writer) app.Process {
	return app.Process{
		Self: "soniq", Actor: "tester@host",
		Stdin: strings.NewReader(s.stdin), Stdout: out, Stderr: notes,
		StdinIsTTY: s.tty, StdoutIsTTY: s.tty, StderrIsTTY: s.tty, Width: s.width,
		Getenv:  func(name string) string { return s.env[name] },
		Now:     func() time.Time { return time.Now().UTC() },
		Signals: s.signals,
		Exit:    func(int) { s.t.Error("the command ended the process") },
	}
}

func (s *shell) run(args ...string) result {
	s.t.Helper()
	var out, notes stream
	code := run(s.world(&out, &notes), args)
	return result{code, out.String(), notes.String()}
}

// ok is run for a command that must succeed.
func (s *shell) ok(args ...string) result {
	s.t.Helper()
	r := s.run(args...)
	if r.code != 0 {
		s.t.Fatalf("soniq %s: exit %d: %s%s", strings.Join(args, " "), r.code, r.out, r.err)
	}
	return r
}

// running is a command under way in this process.
type running struct {
	out, err stream
	code     chan int
}

func (s *shell) start(args ...string) *running {
	r := &running{code: make(chan int, 1)}
	w := s.world(&r.out, &r.err)
	go func() { r.code <- run(w, args) }()
	return r
}

func (r *running) wait(t *testing.T) int {
	t.Helper()
	select {
	case code := <-r.code:
		return code
	case <-time.After(deadline):
		t.Fatalf("the command did not end; standard error: %s", r.err.String())
		return 0
	}
}

// process is the program in a process of its own.
type process struct {
	*exec.Cmd
	out, err stream
}

// program prepares 'soniq args' in dir with the database in its environment.
func program(t *testing.T, dir, databaseURL string, args ...string) *process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{Cmd: exec.Command(self, args...)}
	p.Dir = dir
	p.Env = append(os.Environ(), beMain+"=1", "SONIQ_DATABASE_URL="+databaseURL, "SONIQ_DEV=", "NO_COLOR=", "SONIQ_HOOK_ALLOW=127.0.0.0/8")
	p.Stdout, p.Stderr = &p.out, &p.err
	return p
}

// begin starts the process; it is gone at the end of the test.
func (p *process) begin(t *testing.T) {
	t.Helper()
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if p.ProcessState == nil {
			_ = p.Process.Kill()
			_ = p.Wait()
		}
	})
}

// letter is a dead letter to be seeded; its zero values are filled in.
type letter struct {
	id     uuid.UUID
	job    string
	args   string
	queue  string
	reason string
	error  string
	state  string
	tags   *string
	age    time.Duration
}

const seedSQL = `
insert into soniq_dead_letter_jobs (
  id, job_name, args, queue, priority, max_attempts, attempts, last_error, dead_letter_reason,
  original_created_at, moved_to_dead_letter_at, state, tags
)
values ($1, $2, $3::jsonb, $4, 100, 3, 3, $5, $6, now() - $7::interval, now() - $7::interval, $8, $9::jsonb)`

func seed(t *testing.T, pool *pgxpool.Pool, l letter) uuid.UUID {
	t.Helper()
	or := func(s *string, value string) {
		if *s == "" {
			*s = value
		}
	}
	or(&l.job, "emails.send")
	or(&l.args, `{"user_id": 42}`)
	or(&l.queue, "default")
	or(&l.reason, "max_retries_exceeded")
	or(&l.error, "connection refused")
	or(&l.state, "dead")
	if l.id == uuid.Nil {
		l.id = uuid.Must(uuid.NewV7())
	}
	if l.age == 0 {
		l.age = time.Minute
	}
	_, err := pool.Exec(context.Background(), seedSQL, l.id, l.job, l.args, l.queue, l.error, l.reason, l.age, l.state, l.tags)
	if err != nil {
		t.Fatalf("seed: %v", err)
	}
	return l.id
}

func count(t *testing.T, pool *pgxpool.Pool, sql string, args ...any) (n int) {
	t.Helper()
	if err := pool.QueryRow(context.Background(), sql, args...).Scan(&n); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return n
}

func countLetters(t *testing.T, pool *pgxpool.Pool) int {
	t.Helper()
	return count(t, pool, `select count(*) from soniq_dead_letter_jobs`)
}

func countJobs(t *testing.T, pool *pgxpool.Pool) int {
	t.Helper()
	return count(t, pool, `select count(*) from soniq_jobs`)
}

func decode[T any](t *testing.T, text string) (v T) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("not JSON: %v: %s", err, text)
	}
	return v
}

func wantCode(t *testing.T, r result, code int) {
	t.Helper()
	if r.code != code {
		t.Errorf("exit code %d, want %d; stdout %q, stderr %q", r.code, code, r.out, r.err)
	}
}

func wantIn(t *testing.T, what, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%s lacks %q: %s", what, part, text)
		}
	}
}

// checkComplaint fails unless r is one safe line, without the password of any
// URL in this file.
func checkComplaint(t *testing.T, r result) {
	t.Helper()
	if strings.Count(r.err, "\n") != 1 || !strings.HasSuffix(r.err, "\n") || r.out != "" {
		t.Errorf("not one line on standard error: %q, stdout %q", r.err, r.out)
	}
	if strings.Contains(r.out+r.err, "hunter2") {
		t.Errorf("the password was printed: %q", r.err)
	}
	checkSafe(t, r.err)
}

func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// refusingServer is a PostgreSQL that no password is right for: one that is
// given to the tests may let everybody in.
func refusingServer(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			backend := pgproto3.NewBackend(conn, conn)
			if _, err := backend.ReceiveStartupMessage(); err == nil {
				backend.Send(&pgproto3.AuthenticationCleartextPassword{})
				_ = backend.Flush()
				_ = backend.SetAuthType(pgproto3.AuthTypeCleartextPassword)
				_, _ = backend.Receive()
				backend.Send(&pgproto3.ErrorResponse{Severity: "FATAL", Code: "28P01", Message: `password authentication failed for user "soniq"`})
				_ = backend.Flush()
			}
			_ = conn.Close()
		}
	}()
	return l.Addr().String()
}

// checkSafe fails if text could drive a terminal.
func checkSafe(t *testing.T, text string) {
	t.Helper()
	if !utf8.ValidString(text) {
		t.Errorf("not valid UTF-8: %q", text)
	}
	for _, r := range text {
		if r != '\n' && r != '\t' && terminal.UnsafeRune(r) {
			t.Errorf("%U got through: %q", r, text)
		}
	}
}

// hookServer passes on the bodies that it gets, and answers 'ok'.
func hookServer(t *testing.T) (url string, bodies <-chan string) {
	t.Helper()
	got := make(chan string, 100)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got <- string(b)
		_, _ = io.WriteString(w, "ok")
	}))
	t.Cleanup(s.Close)
	return s.URL, got
}

func receive(t *testing.T, bodies <-chan string) string {
	t.Helper()
	select {
	case b := <-bodies:
		return b
	case <-time.After(deadline):
		t.Fatal("no message came")
		return ""
	}
}

func change(t *testing.T, pool *pgxpool.Pool, sql string) {
	t.Helper()
	if _, err := pool.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// devDir is a folder for private databases that the server's user can enter.
func devDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "soniq-demo-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // the server may run as another user
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}
