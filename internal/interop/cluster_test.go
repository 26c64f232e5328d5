package interop

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"soniq/internal/eventually"
)

// A cluster is a PostgreSQL server whose files a test copies, rolls back and promotes. Its user is
// postgres, without a password.
type cluster struct {
	dir  string
	port int
}

// postgresBin is the folder of the newest server's programs on this machine.
func postgresBin() string {
	folders, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	if len(folders) == 0 {
		return ""
	}
	return folders[len(folders)-1]
}

// postgresProgram runs a program of the server. It refuses to run as root.
func postgresProgram(t *testing.T, program string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	name := filepath.Join(postgresBin(), program)
	if os.Getuid() == 0 {
		args = append([]string{"--reuid=postgres", "--regid=postgres", "--clear-groups", name}, args...)
		name = "setpriv"
	}
	// A server that pg_ctl starts keeps its output: so it must be no pipe.
	file, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", file, file
	err = cmd.Run()
	said, _ := os.ReadFile(file.Name())
	if err != nil {
		t.Fatalf("%s %s: %v: %s", program, strings.Join(args, " "), err, said)
	}
	return string(said)
}

// clusterRoot is a folder of the test that the user postgres can enter.
func clusterRoot(t *testing.T) string {
	t.Helper()
	root, err := os.MkdirTemp("", "soniq-moves")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(root) })
	if os.Getuid() == 0 {
		shell(t, "chown", "postgres", root)
	}
	return root
}

func shell(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}

// newCluster makes an empty one, and starts it.
func newCluster(t *testing.T, root, name string) *cluster {
	t.Helper()
	c := &cluster{dir: filepath.Join(root, name)}
	postgresProgram(t, "initdb", "-D", c.dir, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-N")
	c.configure(t)
	c.start(t)
	c.sql(t, "postgres", "create database app")
	return c
}

// configure gives the server a port of its own.
func (c *cluster) configure(t *testing.T, more ...string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c.port = listener.Addr().(*net.TCPAddr).Port
	_ = listener.Close()
	file, err := os.OpenFile(filepath.Join(c.dir, "postgresql.auto.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, line := range append([]string{
		"fsync = off", "wal_level = logical", "unix_socket_directories = ''", "listen_addresses = '127.0.0.1'",
		"max_wal_senders = 5", "max_prepared_transactions = 5", "port = " + strconv.Itoa(c.port),
	}, more...) {
		if _, err := fmt.Fprintln(file, line); err != nil {
			t.Fatal(err)
		}
	}
}

func (c *cluster) start(t *testing.T) {
	t.Helper()
	postgresProgram(t, "pg_ctl", "-D", c.dir, "-w", "-t", "120", "-l", c.dir+".log", "start")
	t.Cleanup(func() {
		if _, err := os.Stat(filepath.Join(c.dir, "postmaster.pid")); err == nil {
			cmd := exec.Command("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups",
				filepath.Join(postgresBin(), "pg_ctl"), "-D", c.dir, "-m", "immediate", "stop")
			cmd.Dir = "/"
			_ = cmd.Run()
		}
	})
}

// stop is clean, fast or immediate.
func (c *cluster) stop(t *testing.T, mode string) {
	t.Helper()
	postgresProgram(t, "pg_ctl", "-D", c.dir, "-w", "-m", mode, "stop")
}

func (c *cluster) url() string {
	return fmt.Sprintf("postgres://postgres:none@127.0.0.1:%d/app?sslmode=disable", c.port)
}

// sql runs a statement and returns what psql prints.
func (c *cluster) sql(t *testing.T, database, statement string) string {
	t.Helper()
	return strings.TrimSpace(postgresProgram(t, "psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", strconv.Itoa(c.port),
		"-U", "postgres", "-d", database, "-c", statement))
}

// copyTo copies the files of a stopped server.
func (c *cluster) copyTo(t *testing.T, name string) *cluster {
	t.Helper()
	to := &cluster{dir: filepath.Join(filepath.Dir(c.dir), name), port: c.port}
	shell(t, "cp", "-a", c.dir, to.dir)
	return to
}

// backup is a base backup of a running server; standby makes it a standby.
func (c *cluster) backup(t *testing.T, name string, standby bool) *cluster {
	t.Helper()
	to := &cluster{dir: filepath.Join(filepath.Dir(c.dir), name)}
	args := []string{"-h", "127.0.0.1", "-p", strconv.Itoa(c.port), "-U", "postgres", "-D", to.dir, "-X", "fetch", "-c", "fast"}
	if standby {
		args = append(args, "-R")
	}
	postgresProgram(t, "pg_basebackup", args...)
	return to
}

// recover has a backup end its recovery with a new timeline.
func (c *cluster) recover(t *testing.T) {
	t.Helper()
	c.configure(t, "restore_command = 'false'")
	file := filepath.Join(c.dir, "recovery.signal")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if os.Getuid() == 0 {
		shell(t, "chown", "postgres", file)
	}
	c.start(t)
	c.writable(t)
}

// single runs a statement on a server that is not started.
func (c *cluster) single(t *testing.T, statement string) {
	t.Helper()
	file := c.dir + ".sql"
	if err := os.WriteFile(file, []byte(statement+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if os.Getuid() == 0 {
		shell(t, "chown", "postgres", file)
		shell(t, "setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "sh", "-c", singleShell, "single", filepath.Join(postgresBin(), "postgres"), c.dir, file)
		return
	}
	shell(t, "sh", "-c", singleShell, "single", filepath.Join(postgresBin(), "postgres"), c.dir, file)
}

const singleShell = `cd / && exec "$1" --single -D "$2" app < "$3"`

func (c *cluster) writable(t *testing.T) {
	t.Helper()
	eventually.True(t, "the end of recovery", func() bool { return c.sql(t, "app", "select pg_is_in_recovery()") == "f" })
}

// set sets a setting that a reload takes.
func (c *cluster) set(t *testing.T, name, value string) {
	t.Helper()
	c.sql(t, "postgres", "alter system set "+name+" = "+value)
	c.sql(t, "postgres", "select pg_reload_conf()")
}

const walWriterSQL = "select pid from pg_stat_activity where backend_type = 'walwriter'"

// crash kills a process of the server, which then ends all sessions and recovers.
func (c *cluster) crash(t *testing.T) {
	t.Helper()
	pid := c.sql(t, "postgres", walWriterSQL)
	shell(t, "kill", "-KILL", pid)
	eventually.True(t, "the server's recovery", func() bool {
		conn, err := pgx.Connect(t.Context(), c.url())
		if err != nil {
			return false
		}
		defer func() { _ = conn.Close(context.Background()) }()
		var now string
		return conn.QueryRow(t.Context(), "select pid::text from ("+walWriterSQL+") w").Scan(&now) == nil && now != pid
	})
}
