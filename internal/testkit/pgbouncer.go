package testkit

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"soniq/internal/eventually"
)

// nobody runs a PgBouncer that root starts: it refuses to be root.
const nobody = 65534

// PgBouncer starts a PgBouncer in front of the server of a database's URL, in a pool
// mode, and returns the database's URL through it. Settings are lines of its
// configuration. All databases of the server can be reached. It ends with the test, which
// is skipped where there is no pgbouncer.
func PgBouncer(t testing.TB, databaseURL, mode string, settings ...string) string {
	t.Helper()
	program := os.Getenv("SONIQ_TEST_PGBOUNCER")
	if program == "" {
		program = Program(t, "pgbouncer")
	}
	server, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	address := ClosedAddress(t)
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	password, _ := server.User.Password()
	startPgBouncer(t, program, append([]string{
		"[databases]",
		fmt.Sprintf("* = host=%s port=%s user=%s password=%s", server.Hostname(), server.Port(), server.User.Username(), password),
		"[pgbouncer]",
		"listen_addr = 127.0.0.1",
		"listen_port = " + port,
		"unix_socket_dir =",
		"auth_type = any",
		"pool_mode = " + mode,
		"default_pool_size = 20",
		"max_client_conn = 500",
	}, settings...))
	eventually.True(t, "pgbouncer to accept connections", func() bool {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			return false
		}
		return conn.Close() == nil
	})
	pooled := *server
	pooled.Host = address
	query := pooled.Query()
	query.Set("sslmode", "disable")
	pooled.RawQuery = query.Encode()
	return pooled.String()
}

// startPgBouncer runs a PgBouncer with a configuration, until the end of the test.
func startPgBouncer(t testing.TB, program string, lines []string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "soniq-pgbouncer-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // in a temporary folder anyway
	file := filepath.Join(dir, "pgbouncer.ini")
	if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, file)
	if os.Geteuid() == 0 {
		for _, path := range []string{dir, file} {
			if err := os.Chown(path, nobody, nobody); err != nil {
				t.Fatal(err)
			}
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	var output Log
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("pgbouncer: %s", output.String())
		}
	})
}
