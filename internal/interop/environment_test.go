package interop

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"soniq/internal/testkit"
)

const (
	// modeEnv is 'must' where a missing environment is a failure, and 'off'
	// where none is to be made.
	modeEnv = "SONIQ_TEST_INTEROP"
	// folderEnv is where the environments are kept.
	folderEnv = "SONIQ_TEST_INTEROP_DIR"
)

// installing bounds the making of one environment, and the wait for another
// process that makes it.
const installing = 3 * time.Minute

// environment is something to be installed once for all test processes.
type environment struct {
	// what it is, for people.
	what string
	// folder returns the name of its folder, which tells it from those for
	// other interpreters and versions.
	folder func(ctx context.Context) (string, error)
	// install fills the empty folder.
	install func(ctx context.Context, folder string) error
	// patience bounds it; 0 is the usual time.
	patience time.Duration

	once sync.Once
	path string
	err  error
}

// Python Soniq's releases that are tested: the newest, and the last one of the
// line before.
var releases = []*environment{pythonSoniq("0.0.5"), pythonSoniq("0.1.0")}

var nodePG = nodePackage("pg", "8")

func pythonSoniq(version string) *environment {
	return &environment{
		what: "Python Soniq " + version,
		folder: func(ctx context.Context) (string, error) {
			// pip is of the interpreter; venv lacks it where Debian's
			// python3-venv isn't installed.
			tag, err := output(ctx, "", "python3", "-c",
				"import sys, venv, ensurepip; print(sys.implementation.cache_tag)")
			return "python-soniq-" + version + "-" + tag, err
		},
		install: func(ctx context.Context, folder string) error {
			if _, err := output(ctx, "", "python3", "-m", "venv", folder); err != nil {
				return err
			}
			_, err := output(ctx, "", filepath.Join(folder, "bin", "python"), "-m", "pip", "install", "--quiet",
				"--no-input", "--disable-pip-version-check", "--only-binary", ":all:", "--retries", "1", "--timeout", "20",
				"soniq=="+version)
			return err
		},
	}
}

func nodePackage(name, version string) *environment {
	return &environment{
		what: "Node's " + name,
		folder: func(ctx context.Context) (string, error) {
			_, err := output(ctx, "", "node", "--version")
			return "node-" + name + "-" + version, err
		},
		install: func(ctx context.Context, folder string) error {
			_, err := output(ctx, folder, "npm", "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts",
				"--fetch-retries", "1", "--fetch-timeout", "20000", name+"@"+version)
			return err
		},
	}
}

// get returns the environment's folder, which it makes if it isn't there yet.
func (e *environment) get() (string, error) {
	e.once.Do(func() {
		if os.Getenv(modeEnv) == "off" {
			e.err = errors.New(modeEnv + "=off")
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), cmp.Or(e.patience, installing))
		defer cancel()
		e.path, e.err = e.make(ctx)
	})
	return e.path, e.err
}

// make installs under a lock: the tests of another checkout may be doing it
// too. What was left half-done has no mark, and is made again.
func (e *environment) make(ctx context.Context) (string, error) {
	root := os.Getenv(folderEnv)
	if root == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return "", err
		}
		root = filepath.Join(cache, "soniq", "interop")
	}
	name, err := e.folder(ctx)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(root, 0o700); err != nil {
		return "", err
	}
	unlock, err := lock(ctx, filepath.Join(root, name+".lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	path := filepath.Join(root, name)
	mark := filepath.Join(path, "installed")
	if _, err := os.Stat(mark); err == nil {
		return path, nil
	}
	if err := os.RemoveAll(path); err != nil {
		return "", err
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		return "", err
	}
	if err := e.install(ctx, path); err != nil {
		return "", errors.Join(err, os.RemoveAll(path))
	}
	return path, os.WriteFile(mark, nil, 0o600)
}

// lock takes a file's lock by trying: a wait in flock doesn't end with ctx.
func lock(ctx context.Context, name string) (unlock func(), err error) {
	file, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { file.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			file.Close()
			return nil, fmt.Errorf("lock %s: %w", name, err)
		}
		select {
		case <-ctx.Done():
			file.Close()
			return nil, fmt.Errorf("wait for %s: %w", name, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// output runs a command and returns what it prints, without the white space
// around it. The error is the last line of its complaints.
func output(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var out, complaints bytes.Buffer
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &out, &complaints
	// An installer's children may outlive it, and hold its pipes.
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Run(); err != nil {
		lines := strings.Split(strings.TrimSpace(complaints.String()), "\n")
		if last := lines[len(lines)-1]; last != "" {
			err = fmt.Errorf("%s: %s (%w)", filepath.Base(name), last, err)
		}
		return "", errors.Join(err, ctx.Err())
	}
	return strings.TrimSpace(out.String()), nil
}

// need returns the environment's folder. Without it there is nothing to test:
// ok is false, and the test's log tells why.
func need(t *testing.T, e *environment) (folder string, ok bool) {
	t.Helper()
	folder, err := e.get()
	if err == nil {
		return folder, true
	}
	reason := strings.Join(strings.Fields(err.Error()), " ")
	if os.Getenv(modeEnv) == "must" {
		t.Errorf("%s can't be had, and %s=must: %s", e.what, modeEnv, reason)
	} else {
		t.Logf("not run with %s: %s", e.what, reason)
	}
	return "", false
}

// What the other tests of this package have been run with; CI prints its lines.
func TestEnvironments_areReadyOrSayWhy(t *testing.T) {
	t.Parallel()
	switch mode := os.Getenv(modeEnv); mode {
	case "", "must", "off":
	default:
		t.Errorf("%s=%s: want must or off", modeEnv, mode)
	}
	for _, e := range append([]*environment{nodePG}, releases...) {
		t.Run(e.what, func(t *testing.T) {
			t.Parallel()
			if folder, ok := need(t, e); ok {
				t.Logf("run with %s in %s", e.what, folder)
			}
		})
	}
}

// byTurns runs a test with one release of Python Soniq, and the next test perhaps with the
// other one. Where tests are long, it is [eachRelease].
func byTurns(t *testing.T, test func(t *testing.T, py *python)) {
	t.Helper()
	sum := fnv.New32a()
	_, _ = sum.Write([]byte(t.Name()))
	e := releases[int(sum.Sum32())%len(releases)]
	switch folder, ok := need(t, e); {
	case testkit.Long():
		eachRelease(t, test)
	case ok:
		t.Log("run with ", e.what)
		test(t, &python{folder: folder, version: e.what[len("Python Soniq "):]})
	}
}

// eachRelease runs a test with each release of Python Soniq.
func eachRelease(t *testing.T, test func(t *testing.T, py *python)) {
	t.Helper()
	for _, e := range releases {
		t.Run(strings.ReplaceAll(e.what, " ", ""), func(t *testing.T) {
			t.Parallel()
			if folder, ok := need(t, e); ok {
				test(t, &python{folder: folder, version: e.what[len("Python Soniq "):]})
			}
		})
	}
}
