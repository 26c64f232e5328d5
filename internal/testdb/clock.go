package testdb

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"soniq/internal/devdb"
	"soniq/internal/testkit"
)

// clockScript is a postgres whose clock is the machine's plus what a file says. The
// monotonic clock stays, as it does when a machine's clock is set. Parameters: the
// library, the file, the real program.
const clockScript = `#!/bin/sh
export LD_PRELOAD=%s FAKETIME_TIMESTAMP_FILE=%s FAKETIME_NO_CACHE=1 FAKETIME_DONT_FAKE_MONOTONIC=1 DONT_FAKE_MONOTONIC=1
exec %s "$@"
`

// StartClockServer is [StartServer] with a server whose clock can be set while it runs:
// set makes it differ from the machine's by that much, in whole seconds. The test is
// skipped where libfaketime is not installed.
func StartClockServer(t testing.TB) (server *devdb.Server, set func(time.Duration)) {
	t.Helper()
	testkit.Program(t, "faketime")
	libraries, err := filepath.Glob("/usr/lib/*/faketime/libfaketime.so.1")
	if err != nil || len(libraries) == 0 {
		t.Fatalf("testdb: no libfaketime beside the program faketime: %v", err)
	}
	// Debian's are not on the PATH.
	servers, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if err != nil {
		t.Fatal(err)
	}
	if len(servers) == 0 {
		servers = []string{testkit.Program(t, "postgres")}
	}
	postgres, err := filepath.EvalSymlinks(servers[len(servers)-1])
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "soniq-clock-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	offset := filepath.Join(dir, "offset")
	set = func(d time.Duration) {
		t.Helper()
		// Replaced, and not written: a reader never sees a half.
		next := offset + ".next"
		if err := os.WriteFile(next, fmt.Appendf(nil, "%+d\n", int(d.Seconds())), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(next, offset); err != nil {
			t.Fatal(err)
		}
	}
	set(0)
	programs, err := filepath.Glob(filepath.Join(filepath.Dir(postgres), "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, program := range programs {
		if name := filepath.Base(program); name != "postgres" {
			if err := os.Symlink(program, filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	script := fmt.Appendf(nil, clockScript, libraries[0], offset, postgres)
	if err := os.WriteFile(filepath.Join(dir, "postgres"), script, 0o755); err != nil { //nolint:gosec // A program that another user runs.
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // The server runs as another user.
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return startServer(ctx, t, devdb.Options{Fast: true, Binaries: dir}), set
}
