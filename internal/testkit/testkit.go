// Package testkit has what the tests of several packages check with.
package testkit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/internal/eventually"
)

// Deadline bounds each wait of a test. It is much longer than anything takes, even
// on a machine that runs other tests too.
const Deadline = 30 * time.Second

// Secret is a valid secret of Standard Webhooks.
const Secret = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5"

// ConfigFile writes a soniq.yaml into a folder of the test's own, and returns its
// path.
func ConfigFile(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "soniq.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Decode parses text, which must be JSON.
func Decode[T any](t testing.TB, text string) (v T) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("not JSON: %v: %s", err, text)
	}
	return v
}

// SameJSON reports whether two documents mean the same. want is "" for none.
func SameJSON(t testing.TB, got json.RawMessage, want string) bool {
	t.Helper()
	if want == "" || got == nil {
		return want == "" && got == nil
	}
	return reflect.DeepEqual(Decode[any](t, string(got)), Decode[any](t, want))
}

// Count returns the one number that a query yields.
func Count(t testing.TB, pool *pgxpool.Pool, sql string, args ...any) (n int) {
	t.Helper()
	if err := pool.QueryRow(context.Background(), sql, args...).Scan(&n); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return n
}

// ProcessesEnd waits until the processes whose ids are in file have ended.
func ProcessesEnd(t testing.TB, file string) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, field := range strings.Fields(string(data)) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			t.Fatal(err)
		}
		eventually.True(t, "process "+field+" to end", func() bool { return Ended(pid) })
	}
}

// Ended reports whether a process is gone, or only waits for its parent to notice.
func Ended(pid int) bool {
	if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		return true
	}
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err == nil && bytes.Contains(stat, []byte(") Z "))
}

// Installed reports whether an interpreter is there. Where it must be, by
// SONIQ_TEST_EXAMPLES=must, the test fails if it is not.
func Installed(t testing.TB, interpreter string) bool {
	t.Helper()
	err := exec.Command(interpreter, "-c", "").Run()
	if interpreter == "node" {
		err = exec.Command(interpreter, "--version").Run()
	}
	if err == nil {
		return true
	}
	if os.Getenv("SONIQ_TEST_EXAMPLES") == "must" {
		t.Errorf("%s is not installed, and SONIQ_TEST_EXAMPLES=must: %v", interpreter, err)
	}
	t.Logf("%s is not installed: its example was not run", interpreter)
	return false
}

// ClosedAddress returns a local address on which nothing listens.
func ClosedAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// Rand returns a source of chance, whose seed is in the test's log.
func Rand(t testing.TB) *rand.Rand {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 1))
}
