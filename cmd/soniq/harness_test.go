package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/internal/cli/app"
	"soniq/internal/testdb"
)

// beMain makes the test binary the program itself, for tests that need a
// process.
const beMain = "SONIQ_TEST_BE_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(beMain) != "" {
		main()
		return
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
