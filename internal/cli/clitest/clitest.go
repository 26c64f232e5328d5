// Package clitest runs commands in tests: in the test's process, or in one of their
// own.
package clitest

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/internal/cli"
	"soniq/internal/cli/app"
	"soniq/internal/cli/terminal"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

// BeMain makes the test binary the program itself, for tests that need a
// process.
const BeMain = "SONIQ_TEST_BE_MAIN"

// Main runs the tests of a package: TestMain calls it.
func Main(m *testing.M) {
	if os.Getenv(BeMain) != "" {
		os.Exit(cli.Main())
	}
	testdb.Main(m)
}

// Deadline bounds each wait of a test: much longer than anything takes, even
// on a machine that runs other tests too.
const Deadline = 30 * time.Second

// Stream is a buffer that one goroutine writes and another reads.
type Stream = testkit.Log

// Shell runs commands in this process.
type Shell struct {
	T       *testing.T
	Env     map[string]string
	Stdin   string
	TTY     bool
	Width   int
	Signals chan os.Signal
	// ClockAhead is by how much the machine's clock is ahead of the right time.
	ClockAhead time.Duration
}

// NewShell has the database in its environment, if there is one. Hooks may
// reach the servers of the tests.
func NewShell(t *testing.T, databaseURL string) *Shell {
	s := &Shell{T: t, Env: map[string]string{"SONIQ_HOOK_ALLOW": "127.0.0.0/8"}, Signals: make(chan os.Signal, 3)}
	if databaseURL != "" {
		s.Env["SONIQ_DATABASE_URL"] = databaseURL
	}
	return s
}

// Result is how a command ended: its exit code, standard output and standard error.
type Result struct {
	Code     int
	Out, Err string
}

// Process is what a command gets, with these streams.
func (s *Shell) Process(out, notes io.Writer) app.Process {
	return app.Process{
		Self: "soniq", Actor: "tester@host",
		Stdin: strings.NewReader(s.Stdin), Stdout: out, Stderr: notes,
		StdinIsTTY: s.TTY, StdoutIsTTY: s.TTY, StderrIsTTY: s.TTY, Width: s.Width,
		Getenv:  func(name string) string { return s.Env[name] },
		Now:     func() time.Time { return time.Now().UTC().Add(s.ClockAhead) },
		Signals: s.Signals,
		Exit:    func(int) { s.T.Error("the command ended the process") },
	}
}

// Run runs a command line.
func (s *Shell) Run(args ...string) Result {
	s.T.Helper()
	var out, notes Stream
	code := cli.Run(s.Process(&out, &notes), args)
	return Result{code, out.String(), notes.String()}
}

// OK is run for a command that must succeed.
func (s *Shell) OK(args ...string) Result {
	s.T.Helper()
	r := s.Run(args...)
	if r.Code != 0 {
		s.T.Fatalf("soniq %s: exit %d: %s%s", strings.Join(args, " "), r.Code, r.Out, r.Err)
	}
	return r
}

// Running is a command under way in this process.
type Running struct {
	Out, Err Stream
	Code     chan int
}

// Start runs a command line in a goroutine.
func (s *Shell) Start(args ...string) *Running {
	r := &Running{Code: make(chan int, 1)}
	w := s.Process(&r.Out, &r.Err)
	go func() { r.Code <- cli.Run(w, args) }()
	return r
}

// Wait returns the exit code.
func (r *Running) Wait(t *testing.T) int {
	t.Helper()
	select {
	case code := <-r.Code:
		return code
	case <-time.After(Deadline):
		t.Fatalf("the command did not end; standard error: %s", r.Err.String())
		return 0
	}
}

// Program is the program in a process of its own.
type Program struct {
	*exec.Cmd
	Out, Err Stream
}

// NewProgram prepares 'soniq args' in dir with the database in its environment.
func NewProgram(t *testing.T, dir, databaseURL string, args ...string) *Program {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &Program{Cmd: exec.Command(self, args...)}
	p.Dir = dir
	p.Env = append(os.Environ(), BeMain+"=1", "SONIQ_DATABASE_URL="+databaseURL, "SONIQ_DEV=", "NO_COLOR=", "SONIQ_HOOK_ALLOW=127.0.0.0/8")
	p.Stdout, p.Stderr = &p.Out, &p.Err
	return p
}

// Begin starts the process; it is gone at the end of the test.
func (p *Program) Begin(t *testing.T) {
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

// Letter is a dead letter to be seeded; its zero values are filled in.
type Letter struct {
	ID     uuid.UUID
	Job    string
	Args   string
	Queue  string
	Reason string
	Error  string
	State  string
	Tags   *string
	Age    time.Duration
}

const seedSQL = `
insert into public.soniq_dead_letter_jobs (
  id, job_name, args, queue, priority, max_attempts, attempts, last_error, dead_letter_reason,
  original_created_at, moved_to_dead_letter_at, state, tags
)
values ($1, $2, $3::jsonb, $4, 100, 3, 3, $5, $6, now() - $7::interval, now() - $7::interval, $8, $9::jsonb)`

// SeedMany inserts n dead letters, each a minute older than the one before.
func SeedMany(t *testing.T, pool *pgxpool.Pool, n int) {
	t.Helper()
	for i := range n {
		Seed(t, pool, Letter{Age: time.Duration(i+1) * time.Minute})
	}
}

// Seed inserts a dead letter, and returns its id.
func Seed(t *testing.T, pool *pgxpool.Pool, l Letter) uuid.UUID {
	t.Helper()
	or := func(s *string, value string) {
		if *s == "" {
			*s = value
		}
	}
	or(&l.Job, "emails.send")
	or(&l.Args, `{"user_id": 42}`)
	or(&l.Queue, "default")
	or(&l.Reason, "max_retries_exceeded")
	or(&l.Error, "connection refused")
	or(&l.State, "dead")
	if l.ID == uuid.Nil {
		l.ID = uuid.Must(uuid.NewV7())
	}
	if l.Age == 0 {
		l.Age = time.Minute
	}
	_, err := pool.Exec(context.Background(), seedSQL, l.ID, l.Job, l.Args, l.Queue, l.Error, l.Reason, l.Age, l.State, l.Tags)
	if err != nil {
		t.Fatalf("seed: %v", err)
	}
	return l.ID
}

// Count returns the one number that a query yields.
func Count(t testing.TB, pool *pgxpool.Pool, sql string, args ...any) int {
	t.Helper()
	return testkit.Count(t, pool, sql, args...)
}

// CountLetters is the number of dead letters.
func CountLetters(t *testing.T, pool *pgxpool.Pool) int {
	t.Helper()
	return Count(t, pool, `select count(*) from public.soniq_dead_letter_jobs`)
}

// CountJobs is the number of jobs.
func CountJobs(t *testing.T, pool *pgxpool.Pool) int {
	t.Helper()
	return Count(t, pool, `select count(*) from public.soniq_jobs`)
}

// Decode parses text, which must be JSON.
func Decode[T any](t testing.TB, text string) T {
	t.Helper()
	return testkit.Decode[T](t, text)
}

// WantCode checks an exit code.
func WantCode(t *testing.T, r Result, code int) {
	t.Helper()
	if r.Code != code {
		t.Errorf("exit code %d, want %d; stdout %q, stderr %q", r.Code, code, r.Out, r.Err)
	}
}

// WantIn checks that text has all of parts in it.
func WantIn(t *testing.T, what, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%s lacks %q: %s", what, part, text)
		}
	}
}

// CheckComplaint fails unless r is one safe line, without the password of any
// URL in this file.
func CheckComplaint(t *testing.T, r Result) {
	t.Helper()
	if strings.Count(r.Err, "\n") != 1 || !strings.HasSuffix(r.Err, "\n") || r.Out != "" {
		t.Errorf("not one line on standard error: %q, stdout %q", r.Err, r.Out)
	}
	if strings.Contains(r.Out+r.Err, "hunter2") {
		t.Errorf("the password was printed: %q", r.Err)
	}
	CheckSafe(t, r.Err)
}

// ClosedPort is the address of a port that nobody listens on.
var ClosedPort = testkit.ClosedAddress

// RefusingServer is a PostgreSQL that no password is right for: one that is
// given to the tests may let everybody in.
func RefusingServer(t *testing.T) string {
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

// CheckSafe fails if text could drive a terminal.
func CheckSafe(t *testing.T, text string) {
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

// HookServer passes on the bodies that it gets, and answers 'ok'.
func HookServer(t *testing.T) (url string, bodies <-chan string) {
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

// Receive waits for the next body.
func Receive(t *testing.T, bodies <-chan string) string {
	t.Helper()
	select {
	case b := <-bodies:
		return b
	case <-time.After(Deadline):
		t.Fatal("no message came")
		return ""
	}
}

// Exec runs a statement.
func Exec(t *testing.T, pool *pgxpool.Pool, sql string) {
	t.Helper()
	if _, err := pool.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// DevDir is a folder for private databases that the server's user can enter.
func DevDir(t *testing.T) string {
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
