package testkit

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// systemPaths are where a system keeps servers, which are not on every user's PATH.
var systemPaths = []string{"/usr/sbin", "/usr/local/sbin", "/sbin"}

// Program returns the path of a program of the machine, such as pgbouncer. Where it is
// missing the test is skipped, and its log names the program; with
// SONIQ_TEST_PROGRAMS=must the test fails.
func Program(t testing.TB, name string) string {
	t.Helper()
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	for _, dir := range systemPaths {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path
		}
	}
	if os.Getenv("SONIQ_TEST_PROGRAMS") == "must" {
		t.Fatalf("%s is not installed, and SONIQ_TEST_PROGRAMS=must", name)
	}
	t.Skipf("%s is not installed", name)
	return ""
}
