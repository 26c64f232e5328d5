package cli_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"soniq/deadletter"
	"soniq/internal/cli"
	"soniq/internal/cli/app"
	"soniq/internal/cli/clitest"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

// closingPipe is a pipe whose reader goes after some writes.
type closingPipe struct {
	strings.Builder
	writes int
}

func (p *closingPipe) Write(b []byte) (int, error) {
	if p.writes == 0 {
		return 0, syscall.EPIPE
	}
	p.writes--
	return p.Builder.Write(b)
}

// 'soniq ... | head -1' ends without a word, with what a shell reports of SIGPIPE.
func TestOutput_closedByItsReader_endsQuietly(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	id := clitest.Seed(t, pool, clitest.Letter{}).String()
	s := clitest.NewShell(t, pool.Config().ConnString())
	for _, args := range []string{
		"dead-letter list", "dead-letter list --json", "dead-letter show " + id, "dead-letter groups", "dead-letter stats",
		"dead-letter export", "dead-letter export --format csv", "dead-letter export --format jsonl", "dead-letter history --json",
		"dead-letter delete --all --dry-run", "status --json", "job list --json", "worker list --json",
		"hooks list --json", "--help", "version", "completion bash",
	} {
		var notes clitest.Stream
		code := cli.Run(s.Process(&closingPipe{}, &notes), strings.Fields(args))
		if code != app.ExitClosed || notes.String() != "" {
			t.Errorf("soniq %s: exit %d, %q", args, code, notes.String())
		}
	}
}

// What can't be written is an error, in one line. /dev/full is a disk without room.
func TestOutput_cantBeWritten_fails(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	id := clitest.Seed(t, pool, clitest.Letter{}).String()
	for _, args := range []string{
		"dead-letter list", "dead-letter list --json", "dead-letter show " + id, "dead-letter show --json " + id, "dead-letter groups", "dead-letter stats",
		"dead-letter export", "dead-letter export --format csv", "dead-letter export --format jsonl -o -", "dead-letter export --format jsonl -o /dev/stdout",
		"dead-letter history --json", "dead-letter delete --all --dry-run", "dead-letter replay --all --dry-run", "dead-letter cleanup --days 1 --dry-run",
		"status", "status --json", "job list --json", "queue list --json", "worker list --json", "hooks list --json", "migrate list", "version", "completion bash", "--help",
	} {
		full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
		if err != nil {
			return // there is none
		}
		p := clitest.NewProgram(t, t.TempDir(), pool.Config().ConnString(), strings.Fields(args)...)
		p.Stdout = full
		_ = p.Run() // its exit code is looked at
		_ = full.Close()
		if said := p.Err.String(); p.ProcessState.ExitCode() != 1 || strings.Count(said, "soniq: ") != 1 || !strings.HasSuffix(said, "no space left on device\n") {
			t.Errorf("soniq %s: exit %d, %q", args, p.ProcessState.ExitCode(), said)
		}
	}
	for _, args := range []string{"dead-letter export", "dead-letter export --format csv -o -"} {
		p := clitest.NewProgram(t, t.TempDir(), pool.Config().ConnString(), strings.Fields(args)...)
		p.Path, p.Args = "/bin/sh", append([]string{"sh", "-c", `exec "$0" "$@" >&-`}, p.Args...)
		_ = p.Run()
		if said := p.Err.String(); p.ProcessState.ExitCode() != 1 || !strings.HasPrefix(said, "soniq: standard output is closed") || strings.Count(said, "\n") != 1 {
			t.Errorf("soniq %s >&-: exit %d, %q", args, p.ProcessState.ExitCode(), said)
		}
	}
}

// A bulk replay whose lines nobody reads any more stops after its batch, is recorded as
// stopped, and says how to go on.
func TestReplay_bulk_outputClosed_isResumed(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	clitest.SeedMany(t, pool, 30)
	s := clitest.NewShell(t, pool.Config().ConnString())
	out, notes := &closingPipe{writes: 1}, &clitest.Stream{}
	code := cli.Run(s.Process(out, notes), strings.Fields("dead-letter replay --all --yes --rate 20/s"))
	jobs := clitest.CountJobs(t, pool)
	if code != app.ExitPartly || jobs == 0 || jobs == 30 || strings.Count(out.String(), "\n") != 1 {
		t.Errorf("exit %d, %d jobs, %q", code, jobs, out.String())
	}
	clitest.WantIn(t, "stderr", notes.String(), "nobody reads the output any more; replayed ", "goes on")
	r := s.OK("dead-letter", "history")
	clitest.WantIn(t, "history", r.Out, "stopped: nobody reads the output any more")
	op := clitest.Decode[[]deadletter.Operation](t, s.OK("dead-letter", "history", "--json").Out)[0]
	clitest.WantIn(t, "history's note", r.Err, "'soniq dead-letter replay --resume "+op.ID.String()+"' goes on")
	s.OK("dead-letter", "replay", "--resume", op.ID.String())
	if n := clitest.CountJobs(t, pool); n != 30 {
		t.Errorf("%d jobs after the rest", n)
	}
}

// The second Ctrl-C in a bulk replay that waits for a lock ends it at once, and says how to go on.
func TestReplay_bulk_secondInterrupt_saysHowToGoOn(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	clitest.SeedMany(t, pool, 30)
	s := clitest.NewShell(t, pool.Config().ConnString())
	ended := make(chan int, 1)
	var out, notes clitest.Stream
	process := s.Process(&out, &notes)
	process.Exit = func(code int) {
		ended <- code
		runtime.Goexit()
	}
	blocked := make(chan struct{})
	process.Stdout = writerFunc(func(p []byte) (int, error) {
		<-blocked // a terminal that is stopped: the first Ctrl-C ends nothing
		return len(p), nil
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		cli.Run(process, strings.Fields("dead-letter replay --all --yes --rate 20/s"))
	}()
	eventually.True(t, "replays", func() bool { return clitest.CountJobs(t, pool) > 0 })
	s.Signals <- syscall.SIGINT
	s.Signals <- syscall.SIGINT
	if code := <-ended; code != app.ExitFailed {
		t.Errorf("exit %d", code)
	}
	said := notes.String()
	close(blocked)
	op := clitest.Decode[[]deadletter.Operation](t, s.OK("dead-letter", "history", "--json").Out)[0]
	if want := "soniq: ended at once, by another signal; 'soniq dead-letter replay --resume " + op.ID.String() + "' goes on\n"; said != want {
		t.Errorf("it says %q, want %q", said, want)
	}
	<-done
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// Ctrl-C at a question says that nothing was changed.
func TestConfirm_interrupted_saysThatNothingWasChanged(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	clitest.Seed(t, pool, clitest.Letter{})
	s := clitest.NewShell(t, pool.Config().ConnString())
	s.TTY = true
	for _, args := range []string{"dead-letter delete --all", "dead-letter replay --all"} {
		running := &clitest.Running{Code: make(chan int, 1)}
		process := s.Process(&running.Out, &running.Err)
		in, typing, err := os.Pipe() // nobody types
		if err != nil {
			t.Fatal(err)
		}
		process.Stdin = in
		go func() { running.Code <- cli.Run(process, strings.Fields(args)) }()
		eventually.True(t, "the question", func() bool { return strings.HasSuffix(running.Err.String(), "[y/N] ") })
		s.Signals <- syscall.SIGINT
		if code := running.Wait(t); code != app.ExitFailed || !strings.HasSuffix(running.Err.String(), "\nsoniq: interrupted; nothing was changed\n") {
			t.Errorf("%s: exit %d, %q", args, code, running.Err.String())
		}
		_, _ = typing.Close(), in.Close()
	}
	if n := clitest.CountLetters(t, pool); n != 1 {
		t.Errorf("%d letters", n)
	}
}

// Worker, hooks run and watch outlive the reader of their log.
func TestLongRunning_logClosedByItsReader_workOn(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	called := make(chan struct{}, 10)
	endpoint := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { called <- struct{}{} }))
	t.Cleanup(endpoint.Close)
	url := pool.Config().ConnString()
	clitest.NewShell(t, url).OK("hooks", "add", "webhook", endpoint.URL, "--allow", "127.0.0.0/8")
	start := func(args ...string) *clitest.Program {
		read, write, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		p := clitest.NewProgram(t, t.TempDir(), url, args...)
		p.Stderr = write
		p.Begin(t)
		_ = write.Close()
		first := make([]byte, 1)
		if _, err := read.Read(first); err != nil {
			t.Fatalf("%q: %v", args, err)
		}
		_ = read.Close() // the log's reader goes once there is something in the log
		return p
	}
	worker := start("worker", "--handle", "fails=exec:exit 78", "--no-hooks", "--log-level", "debug")
	sender := start("hooks", "run", "--hook-allow", "127.0.0.0/8", "--log-level", "debug")
	watch := start("dead-letter", "watch", "--json")
	clitest.NewShell(t, url).OK("enqueue", "fails")
	<-called
	eventually.True(t, "the watched dead letter", func() bool { return json.Valid([]byte(watch.Out.String())) })
	for _, p := range []*clitest.Program{worker, sender, watch} {
		if err := p.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := p.Wait(); err != nil && p != watch {
			t.Errorf("%q: %v", p.Args[1:], err)
		}
	}
	if got := testkit.Value[string](t, pool, `select state from soniq_hook_deliveries`); got != "delivered" {
		t.Errorf("the delivery is %s", got)
	}
}
