package devdb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sys/unix"

	"soniq/internal/pause"
	"soniq/internal/pg"
)

// start runs a server on the data folder, which it makes if need be, and
// returns the pipe that keeps it. The start lock is the caller's, and no server
// runs on the folder.
func (c *cluster) start(ctx context.Context) (*os.File, error) {
	if err := c.owner.checkEnter(c.base); err != nil {
		return nil, err
	}
	major, err := c.majorVersion()
	if err != nil {
		return nil, err
	}
	// A download has bounds of its own.
	b, err := findBinaries(ctx, c, major)
	if errors.Is(err, ErrVersionMismatch) && c.fast {
		return c.startAfresh(ctx, err)
	}
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout,
		fmt.Errorf("not ready after %s; its log is %s", startTimeout, c.logPath()))
	defer cancel()
	if major == 0 {
		if err := c.initialise(ctx, b); err != nil {
			return nil, err
		}
	}

	// Another program may take the port in between, and the backends of a
	// killed server may need a moment to notice.
	const attempts = 4
	for attempt := 1; ; attempt++ {
		pipe, err := c.launch(ctx, b, attempt)
		if err == nil || !errors.Is(err, errServerDied) {
			return pipe, err
		}
		if attempt == attempts {
			if c.fast && major != 0 {
				return c.startAfresh(ctx, err)
			}
			return nil, err
		}
		if err := pause.For(ctx, 100*time.Millisecond); err != nil {
			return nil, err
		}
	}
}

// startAfresh is for tests' data, of which nothing was meant to last: without
// fsync, a crash of the machine may leave a folder that doesn't start, and
// PostgreSQL may have been upgraded meanwhile.
func (c *cluster) startAfresh(ctx context.Context, reason error) (*os.File, error) {
	c.log.Warn("making the database anew", "reason", reason)
	if err := os.RemoveAll(c.dataDir()); err != nil {
		return nil, fmt.Errorf("remove unusable database: %w", err)
	}
	return c.start(ctx)
}

// errServerDied is returned by launch when the server ended by itself.
var errServerDied = errors.New("the server ended at once")

// launch starts the server and waits until it answers. The server runs as long as the
// pipe that is returned is open.
func (c *cluster) launch(ctx context.Context, b binaries, attempt int) (_ *os.File, err error) {
	wanted := c.port()
	if attempt > 1 {
		wanted = 0
	}
	port, err := freePort(wanted)
	if err != nil {
		return nil, err
	}
	if err := c.clearStalePid(); err != nil {
		return nil, err
	}
	if err := c.clearAnswers(); err != nil {
		return nil, fmt.Errorf("start server: %w", err)
	}
	reader, pipe, err := makePipe(c.pipePath())
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = pipe.Close()
		}
	}()
	died, err := c.startWatchdog(b, port, reader)
	_ = reader.Close()
	if err != nil {
		return nil, err
	}
	defer died.Close()

	if err := c.waitReady(ctx, port, died); err != nil {
		// The watchdog ends what has been started so far. The folder stays, for
		// another attempt.
		_, _ = pipe.WriteString(keepLine)
		_ = pipe.Close()
		if endErr := waitEnd(died, stopTimeout); endErr != nil {
			return nil, errors.Join(err, fmt.Errorf("wait for its end: %w", endErr))
		}
		return nil, err
	}
	if err := writeFile(c.portPath(), strconv.Itoa(port)); err != nil {
		return nil, fmt.Errorf("remember port: %w", err)
	}
	return pipe, nil
}

// startWatchdog starts the watchdog, which starts the server and ends it when stdin is
// closed. died is at its end when both have ended.
func (c *cluster) startWatchdog(b binaries, port int, stdin *os.File) (died *os.File, err error) {
	log, err := os.OpenFile(c.logPath(), os.O_CREATE|os.O_TRUNC|os.O_WRONLY|os.O_APPEND|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	defer log.Close()
	died, diedWriter, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer diedWriter.Close()

	scratch := ""
	if c.scratch {
		scratch = c.base
	}
	args := append([]string{"-c", watchdogScript, "soniq-watchdog", c.answersDir(), c.dataDir(), scratch, b.postgres()}, c.settings(port)...)
	cmd := c.owner.command(c.dataDir(), "/bin/sh", args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, log, log
	cmd.ExtraFiles = []*os.File{diedWriter}
	// The shell only forks the watchdog, which then has no parent here.
	if err := cmd.Run(); err != nil {
		_ = died.Close()
		return nil, fmt.Errorf("start server in %s: %w", c.dataDir(), err)
	}
	return died, nil
}

// clearStalePid removes the pid file of a server that ended without removing
// it, if its pid is another program's by now: PostgreSQL would take that for a
// running server. In any other case PostgreSQL decides better.
func (c *cluster) clearStalePid() error {
	text, err := readFile(c.pidPath())
	if err != nil {
		return nil // none, or the server will say what is wrong with it
	}
	var pid int
	if _, err := fmt.Sscan(string(text), &pid); err != nil || pid <= 0 {
		return nil
	}
	if ours, err := c.postmaster(); err != nil || ours != 0 {
		return err
	}
	if syscall.Kill(pid, 0) == nil {
		return os.Remove(c.pidPath())
	}
	return nil
}

func (c *cluster) settings(port int) []string {
	settings := []string{
		"-D", c.dataDir(),
		"-c", "listen_addresses=127.0.0.1",
		"-c", "port=" + strconv.Itoa(port),
		"-c", "unix_socket_directories=",
		"-c", "cluster_name=soniq-" + c.name,
		"-c", "timezone=UTC",
		"-c", "log_timezone=UTC",
		// Two-phase commit can be tried out.
		"-c", "max_prepared_transactions=10",
	}
	if c.fast {
		settings = append(settings,
			// Many packages' tests at once, as many tests as processors in each,
			// each test with a pool.
			"-c", "max_connections="+strconv.Itoa(max(300, 40*runtime.NumCPU())),
			// The one setting that pays. The others, synchronous_commit above
			// all, would lose commits when a test kills the server.
			"-c", "fsync=off",
			// To compile a test's statement takes longer than to run it.
			"-c", "jit=off",
		)
	}
	return settings
}

// waitReady waits until the server answers and has its database.
func (c *cluster) waitReady(ctx context.Context, port int, died *os.File) error {
	// How long a refused server is left alone; a start takes some 100 ms.
	const interval = 10 * time.Millisecond
	for {
		err := c.ensureDatabase(ctx, port)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("start server in %s: %w", c.dataDir(), context.Cause(ctx))
		}
		if pg.Code(err) != "" && !pg.IsCode(err, pg.CannotConnectNow) {
			return fmt.Errorf("start server in %s: %w", c.dataDir(), err)
		}
		// Wait, or notice that there is nothing to wait for.
		if waitEnd(died, interval) == nil {
			log, _ := readFile(c.logPath())
			return fmt.Errorf("start server in %s: %w: %s", c.dataDir(), errServerDied, complaint(string(log)))
		}
	}
}

// waitEnd waits until the server and all its children have let go of a pipe.
func waitEnd(died *os.File, timeout time.Duration) error {
	if err := died.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	_, err := died.Read(make([]byte, 1))
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// ensureDatabase connects to the database, and makes it on a server that
// doesn't have it yet.
func (c *cluster) ensureDatabase(ctx context.Context, port int) error {
	err := c.ping(ctx, port, database, nil)
	if !pg.IsCode(err, pg.InvalidCatalogName) {
		return err
	}
	err = c.ping(ctx, port, "postgres", func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, "create database "+database)
		return err
	})
	if pg.IsCode(err, pg.DuplicateDatabase) {
		return nil
	}
	return err
}

const dataDirectorySQL = `select current_setting('data_directory')`

// ping connects, makes sure that it is this cluster's server that answers at
// the port and not that of a copy of the folder, and runs do.
func (c *cluster) ping(ctx context.Context, port int, db string, do func(*pgx.Conn) error) (err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	dsn, err := c.url(port, db)
	if err != nil {
		return err
	}
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		return err
	}
	// Another user's program may sit at the port, and ask for the password
	// itself.
	config.RequireAuth = "scram-sha-256"
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	var dir string
	if err := conn.QueryRow(ctx, dataDirectorySQL).Scan(&dir); err != nil {
		return err
	}
	if dir != c.dataDir() {
		return fmt.Errorf("port %d is another server's", port)
	}
	if do == nil {
		return nil
	}
	return do(conn)
}
