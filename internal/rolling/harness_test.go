package rolling

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

// before is the commit of the release before: 0.1.0.
const before = "10463c1"

func TestMain(m *testing.M) { testdb.Main(m) }

// built are both programs, which the tests that run at the same time share.
var built struct {
	mu    sync.Mutex
	users int
	dir   string
}

// builds builds both programs. ok is false where the history doesn't have the release before, as in a
// shallow clone; the test says so.
func builds(t *testing.T) (old, fresh program, ok bool) {
	t.Helper()
	const root = "../.."
	if out, err := exec.CommandContext(t.Context(), "git", "-C", root, "cat-file", "-e", before+"^{commit}").CombinedOutput(); err != nil {
		t.Logf("%s is not run: commit %s, the release before, is not in this clone: %s", t.Name(), before, bytes.TrimSpace(out))
		return old, fresh, false
	}
	built.mu.Lock()
	defer built.mu.Unlock()
	if built.users == 0 {
		dir, err := os.MkdirTemp("", "soniq-rolling-")
		if err != nil {
			t.Fatal(err)
		}
		built.dir = dir
		buildBoth(t, root, dir)
	}
	built.users++
	t.Cleanup(func() {
		built.mu.Lock()
		defer built.mu.Unlock()
		if built.users--; built.users == 0 {
			if err := os.RemoveAll(built.dir); err != nil {
				t.Error(err)
			}
		}
	})
	return program{path: filepath.Join(built.dir, "soniq-before")}, program{path: filepath.Join(built.dir, "soniq")}, true
}

func buildBoth(t *testing.T, root, dir string) {
	t.Helper()
	archive, err := exec.CommandContext(t.Context(), "git", "-C", root, "archive", before).Output()
	if err != nil {
		t.Fatal(err)
	}
	source := filepath.Join(dir, "source")
	unpack(t, archive, source)
	build(t, source, filepath.Join(dir, "soniq-before"))
	build(t, root, filepath.Join(dir, "soniq"))
}

func build(t *testing.T, source, path string) {
	t.Helper()
	// Without the path of the source in it, 0.1.0 is compiled once and then taken from
	// the cache.
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-buildvcs=false", "-o", path, "./cmd/soniq")
	cmd.Dir = source
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v: %s", path, err, out)
	}
}

// unpack writes the regular files of an archive.
func unpack(t *testing.T, archive []byte, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = root.Close() }()
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		switch h.Typeflag {
		case tar.TypeDir:
			err = root.MkdirAll(strings.TrimSuffix(h.Name, "/"), 0o700)
		case tar.TypeReg:
			var data []byte
			if data, err = io.ReadAll(r); err == nil {
				err = root.WriteFile(h.Name, data, 0o600)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// program is one of the two, on a database.
type program struct {
	path, url, dir string
}

func (p program) on(url, dir string) program {
	p.url, p.dir = url, dir
	return p
}

func (p program) command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), p.path, args...)
	cmd.Dir = p.dir
	cmd.Env = append(os.Environ(), "SONIQ_DATABASE_URL="+p.url, "SONIQ_HOOK_ALLOW=127.0.0.0/8", "SONIQ_DEV=")
	return cmd
}

// ok runs a command that must succeed, and returns its standard output.
func (p program) ok(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	cmd := p.command(t, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %q: %v: %s%s", filepath.Base(p.path), args, err, stdout.String(), stderr.String())
	}
	return stdout.String()
}

// running is a command under way.
type running struct {
	testkit.Log
	cmd  *exec.Cmd
	name string
}

// start runs a command until the test ends it.
func (p program) start(t *testing.T, args ...string) *running {
	t.Helper()
	r := &running{cmd: p.command(t, args...), name: filepath.Base(p.path)}
	r.cmd.Stdout, r.cmd.Stderr = r, r
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s %q wrote: %.4000s", r.name, args, r.String())
		}
	})
	return r
}

// stop ends a command in order.
func (r *running) stop(t *testing.T) {
	t.Helper()
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Errorf("stop %s: %v", r.name, err)
	}
	if err := r.cmd.Wait(); err != nil {
		t.Errorf("%s ended: %v: %s", r.name, err, r.String())
	}
}

// kill ends it as kill -9 does.
func (r *running) kill(t *testing.T) {
	t.Helper()
	if err := r.cmd.Process.Kill(); err != nil {
		t.Errorf("kill %s: %v", r.name, err)
	}
	_ = r.cmd.Wait()
}

var openPool = testkit.Open

// value returns the one value of a query.
func value[T any](t testing.TB, pool *pgxpool.Pool, sql string, args ...any) T {
	t.Helper()
	return testkit.Value[T](t, pool, sql, args...)
}
