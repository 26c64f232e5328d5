package engine_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	osexec "os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/engine"
)

// The test binary is a worker process where these are set: the database, and
// engine.Timing's three as durations.
const (
	victimURL    = "SONIQ_TEST_VICTIM_URL"
	victimTiming = "SONIQ_TEST_VICTIM_TIMING"
)

// victim runs jobs called 'held', one at a time, until a line comes in, and
// ends with its input. It tells what happens: 'up WORKER', 'started JOB
// ATTEMPT', 'settled JOB OUTCOME'.
func victim(url string) int {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	release := make(chan struct{})
	go func() {
		in := bufio.NewScanner(os.Stdin)
		for in.Scan() {
			release <- struct{}{}
		}
		cancel()
	}()
	reg := engine.NewRegistry()
	engine.HandleRaw(reg, "held", func(ctx context.Context, job *engine.Job) (any, error) {
		fmt.Println("started", job.ID, job.Attempts)
		select {
		case <-release:
			return nil, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	})
	err := func() error {
		pool, err := pgxpool.New(ctx, url)
		if err != nil {
			return err
		}
		defer pool.Close()
		w, err := engine.NewWorker(pool, reg, engine.WorkerConfig{
			Concurrency: 1, ShutdownTimeout: time.Millisecond, SafetyPoll: 8 * time.Minute,
			Observer: teller{}, Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		})
		if err != nil {
			return err
		}
		var timing engine.Timing
		if _, err := fmt.Sscan(os.Getenv(victimTiming), &timing.Beat, &timing.Trust, &timing.Dead); err != nil {
			return err
		}
		w.SetTiming(timing)
		fmt.Println("up", w.ID())
		return w.Run(ctx)
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

type teller struct{}

func (teller) Settled(_ context.Context, o engine.Outcome) { fmt.Println("settled", o.Job.ID, o.Kind) }

// process is a worker in a process of its own.
type process struct {
	cmd   *osexec.Cmd
	stdin io.WriteCloser
	lines chan string
	id    uuid.UUID
}

// startProcess returns once the process has made its worker. It is killed at
// the end of the test.
func startProcess(t *testing.T, url string, timing engine.Timing) *process {
	t.Helper()
	p := &process{cmd: osexec.Command(os.Args[0]), lines: make(chan string, 100)}
	p.cmd.Env = append(os.Environ(), victimURL+"="+url,
		fmt.Sprintf("%s=%d %d %d", victimTiming, timing.Beat, timing.Trust, timing.Dead))
	p.cmd.Stderr = t.Output()
	var err error
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.signal(t, syscall.SIGKILL)
		for range p.lines { // until the reader has ended
		}
		_ = p.cmd.Wait()
	})
	go func() {
		defer close(p.lines)
		for out := bufio.NewScanner(stdout); out.Scan(); {
			p.lines <- out.Text()
		}
	}()
	p.id = uuid.MustParse(p.expect(t, "up")[0])
	return p
}

// expect returns the words that follow on the next line, which begins so.
func (p *process) expect(t *testing.T, first string) []string {
	t.Helper()
	line := receive(t, "a line that begins with "+first, p.lines)
	words := strings.Fields(line)
	if len(words) == 0 || words[0] != first {
		t.Fatalf("the process says %q, want %s", line, first)
	}
	return words[1:]
}

func (p *process) signal(t *testing.T, s os.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Error(err)
	}
}

func (p *process) release(t *testing.T) {
	t.Helper()
	if _, err := io.WriteString(p.stdin, "\n"); err != nil {
		t.Fatal(err)
	}
}
