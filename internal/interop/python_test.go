package interop

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// python is a release of Python Soniq in its virtual environment.
type python struct{ folder, version string }

// command returns one of its programs, in the folder of jobs.py.
func (py *python) command(url, program string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(py.folder, "bin", program), args...)
	cmd.Dir = "testdata"
	cmd.Env = append(os.Environ(),
		"SONIQ_DATABASE_URL="+url,
		"PYTHONDONTWRITEBYTECODE=1",
		"PYTHONUNBUFFERED=1",
		// A pool of five connections is opened at once by default.
		"SONIQ_POOL_MIN_SIZE=1",
		"SONIQ_POOL_MAX_SIZE=8",
		"SONIQ_ENQUEUE_VALIDATION=none",
		// Python loses a notification that comes between its fetch and its wait:
		// then only the poll finds the job.
		"SONIQ_POLL_INTERVAL=1",
		"SONIQ_SHUTDOWN_TIMEOUT=0.1",
	)
	return cmd
}

// soniq runs its command line to the end.
func (py *python) soniq(t *testing.T, url string, args ...string) (out string, err error) {
	t.Helper()
	cmd := py.command(url, "soniq", args...)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	bounded := exec.CommandContext(ctx, cmd.Path, args...)
	bounded.Dir, bounded.Env = cmd.Dir, cmd.Env
	both, err := bounded.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("soniq %s: %w: %s", strings.Join(args, " "), err, both)
	}
	return string(both), err
}

// process is a program that lives as long as its test, or is killed before.
type process struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	lines  chan string
	exited chan struct{}
	state  error
}

// begin starts a program, whose complaints go to the test's log.
func begin(t *testing.T, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{cmd: cmd, lines: make(chan string, 20000), exited: make(chan struct{})}
	var err error
	if p.in, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.exited)
		scanner := bufio.NewScanner(out)
		scanner.Buffer(nil, 64<<20)
		for scanner.Scan() {
			select {
			case p.lines <- scanner.Text():
			default: // nobody reads them
			}
		}
		close(p.lines)
		p.state = cmd.Wait()
	}()
	t.Cleanup(func() { p.kill(t) })
	return p
}

func (p *process) signal(t *testing.T, s os.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Error(err)
	}
}

// kill is kill -9; it returns when the process is gone.
func (p *process) kill(t *testing.T) {
	t.Helper()
	p.signal(t, syscall.SIGKILL)
	p.wait(t)
}

func (p *process) wait(t *testing.T) {
	t.Helper()
	select {
	case <-p.exited:
	case <-time.After(patience):
		t.Fatalf("%s is still there", p.cmd.Path)
	}
}

// line returns the next one that the program prints.
func (p *process) line(t *testing.T) string {
	t.Helper()
	select {
	case line, ok := <-p.lines:
		if !ok {
			t.Fatalf("%s has ended", strings.Join(p.cmd.Args, " "))
		}
		return line
	case <-time.After(patience):
		t.Fatalf("%s says nothing", strings.Join(p.cmd.Args, " "))
		return ""
	}
}

// console evaluates Python, in a process of its own.
type console struct{ *process }

func (py *python) console(t *testing.T, pool *pgxpool.Pool) *console {
	t.Helper()
	return &console{begin(t, py.command(pool.Config().ConnString(), "python", "console.py"))}
}

// with names the values that an expression may use.
type with map[string]any

// try evaluates an expression, which may await.
func try[T any](t *testing.T, c *console, expression string, values with) (T, error) {
	t.Helper()
	if values == nil {
		values = with{}
	}
	request, err := json.Marshal(map[string]any{"expression": expression, "with": values})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.in.Write(append(request, '\n')); err != nil {
		t.Fatal(err)
	}
	var reply struct {
		Value T
		Error string
	}
	if err := json.Unmarshal([]byte(c.line(t)), &reply); err != nil {
		t.Fatalf("%s: %v", expression, err)
	}
	if reply.Error != "" {
		return reply.Value, errors.New(reply.Error)
	}
	return reply.Value, nil
}

// eval is try for an expression that must not raise.
func eval[T any](t *testing.T, c *console, expression string, values with) T {
	t.Helper()
	value, err := try[T](t, c, expression, values)
	if err != nil {
		t.Fatalf("%s: %v", expression, err)
	}
	return value
}

// worker starts 'soniq worker', and returns when it listens and is registered.
func (py *python) worker(t *testing.T, pool *pgxpool.Pool, queues string, args ...string) *process {
	t.Helper()
	args = append([]string{"worker", "--jobs-modules", "jobs", "--queues", queues}, args...)
	p := begin(t, py.command(pool.Config().ConnString(), "soniq", args...))
	await(t, pool, "the Python worker's row", `
		select exists (
		  select from soniq_workers
		  where pid = $1
		    and version is null
		    and status = 'active'
		)`, p.cmd.Process.Pid)
	return p
}
