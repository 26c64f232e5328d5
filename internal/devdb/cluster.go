package devdb

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// cluster is one data folder, with all that belongs to it, below base:
//
//	data/      PGDATA, the server user's
//	answers/   the watchdog's answers, the server user's
//	pipe       what holders hold
//	start.lock serialises starts and stops
//	users.lock shared by the holders
//	password   for 'soniq', the folder owner's alone
//	port       the last one
//	log        of the last start, the server's and the watchdog's
type cluster struct {
	base     string
	name     string
	fast     bool
	scratch  bool // base goes when the server ends
	binaries string
	log      *slog.Logger
	owner    *owner
}

func (c *cluster) dataDir() string      { return filepath.Join(c.base, "data") }
func (c *cluster) pidPath() string      { return filepath.Join(c.dataDir(), "postmaster.pid") }
func (c *cluster) answersDir() string   { return filepath.Join(c.base, "answers") }
func (c *cluster) pipePath() string     { return filepath.Join(c.base, "pipe") }
func (c *cluster) startPath() string    { return filepath.Join(c.base, "start.lock") }
func (c *cluster) usersPath() string    { return filepath.Join(c.base, "users.lock") }
func (c *cluster) passwordPath() string { return filepath.Join(c.base, "password") }
func (c *cluster) portPath() string     { return filepath.Join(c.base, "port") }
func (c *cluster) logPath() string      { return filepath.Join(c.base, "log") }

// prepare makes the folders and finds out who the server runs as.
func (c *cluster) prepare() error {
	var err error
	if c.owner, err = findOwner(c.dataDir()); err != nil {
		return err
	}
	if err := makeFolders(c.base, c.owner.folderMode()); err != nil {
		return fmt.Errorf("make data folder: %w", err)
	}
	if c.scratch {
		// The watchdog removes it if this process is killed.
		if err := c.owner.give(c.base); err != nil {
			return fmt.Errorf("make data folder: %w", err)
		}
	}
	c.base = realPath(c.base)
	return checkOurs(c.base, c.owner)
}

// clearAnswers makes an empty folder for a new watchdog's answers.
func (c *cluster) clearAnswers() error {
	if err := os.RemoveAll(c.answersDir()); err != nil {
		return err
	}
	if err := os.Mkdir(c.answersDir(), 0o700); err != nil {
		return err
	}
	return c.owner.give(c.answersDir())
}

// realPath is the one spelling of a folder by which its server is recognised
// among the processes. A folder that isn't there yet keeps its name.
func realPath(dir string) string {
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		return real
	}
	return dir
}

// majorVersion of the data folder; 0 if there is none yet.
func (c *cluster) majorVersion() (int, error) {
	text, err := readFile(filepath.Join(c.dataDir(), "PG_VERSION"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read version of data folder: %w", err)
	}
	major, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("read version of data folder %s: %w; remove %s, which loses its data", c.dataDir(), err, c.base)
	}
	return major, nil
}

// initialise makes the data folder. It is made aside and moved into place, so
// that an interrupted one is never taken for whole.
func (c *cluster) initialise(ctx context.Context, b binaries) error {
	c.log.Info("making a database", "folder", c.base)
	// An initdb whose starter was killed may still be at its folder.
	leftovers, _ := filepath.Glob(c.dataDir() + ".new-*")
	for _, dir := range leftovers {
		if err := removeAll(ctx, dir); err != nil {
			return fmt.Errorf("initialise database: %w", err)
		}
	}
	fresh, err := os.MkdirTemp(c.base, filepath.Base(c.dataDir())+".new-")
	if err != nil {
		return fmt.Errorf("initialise database: %w", err)
	}
	if err := c.owner.give(fresh); err != nil {
		return fmt.Errorf("initialise database: %w", err)
	}

	password := rand.Text()
	passwordFile := c.passwordPath() + ".new"
	if err := writeFile(passwordFile, password); err != nil {
		return fmt.Errorf("initialise database: %w", err)
	}
	// initdb reads the file as the server's user.
	forInitdb := passwordFile + ".initdb"
	secret := password
	if c.fast {
		if secret, err = scramSecret(password, weakIterations); err != nil {
			return fmt.Errorf("initialise database: %w", err)
		}
	}
	if err := writeFile(forInitdb, secret); err != nil {
		return fmt.Errorf("initialise database: %w", err)
	}
	defer os.Remove(forInitdb)
	if err := c.owner.give(forInitdb); err != nil {
		return fmt.Errorf("initialise database: %w", err)
	}

	args := []string{
		"-D", fresh, "-U", role, "--pwfile", forInitdb, "--auth", "scram-sha-256",
		"--encoding", "UTF8", "--locale", "C", "--no-instructions",
	}
	if c.fast {
		args = append(args, "--no-sync")
	}
	if err := run(ctx, c.owner, fresh, b.initdb(), args...); err != nil {
		return fmt.Errorf("initialise database: %w", err)
	}
	if err := os.Rename(passwordFile, c.passwordPath()); err != nil {
		return fmt.Errorf("initialise database: %w", err)
	}
	if err := os.Rename(fresh, c.dataDir()); err != nil {
		return fmt.Errorf("initialise database: %w", err)
	}
	return nil
}

// run a program to its end, or to that of ctx.
func run(ctx context.Context, o *owner, dir, path string, args ...string) error {
	cmd := o.command(dir, path, args...)
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		return err
	}
	// Not exec.CommandContext: it would kill initdb and leave its child, a
	// postgres. The command leads a session and so a process group.
	stop := context.AfterFunc(ctx, func() { _ = killGroup(cmd.Process.Pid) })
	err := cmd.Wait()
	if !stop() {
		return fmt.Errorf("run %s: %w", filepath.Base(path), context.Cause(ctx))
	}
	if err != nil {
		return fmt.Errorf("run %s: %w: %s", filepath.Base(path), err, complaint(output.String()))
	}
	return nil
}

func (c *cluster) url(port int, db string) (string, error) {
	password, err := readFile(c.passwordPath())
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read password: %w; remove %s, which loses its data", err, c.base)
	}
	if err != nil {
		return "", fmt.Errorf("read password: %w", err)
	}
	u := url.URL{
		Scheme:   "postgres",
		User:     url.UserPassword(role, string(password)),
		Host:     net.JoinHostPort("127.0.0.1", strconv.Itoa(port)),
		Path:     "/" + db,
		RawQuery: "sslmode=disable",
	}
	return u.String(), nil
}

// port is the one that the server had last, or 0.
func (c *cluster) port() int {
	text, err := readFile(c.portPath())
	if err != nil {
		return 0
	}
	port, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || port < 1 || port > 65535 {
		return 0
	}
	return port
}

// freePort returns the wanted port if it is free, else any that is. Someone
// may take it before the server does; the start is then tried again.
func freePort(wanted int) (int, error) {
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(wanted)))
	if err != nil {
		if wanted == 0 {
			return 0, fmt.Errorf("find a free port: %w", err)
		}
		return freePort(0)
	}
	port := l.Addr().(*net.TCPAddr).Port
	return port, l.Close()
}

// writeFile writes a file that only its owner can read, and never half of it.
// Nothing that lies at the path already is followed or written to: a temporary
// folder belongs to the server's user, and this process may be root.
func writeFile(path, text string) error {
	aside := path + ".tmp"
	if err := os.Remove(aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(aside, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(aside, path)
}

// readFile reads a short file, and neither follows a link nor waits for a pipe.
func readFile(path string) ([]byte, error) {
	const longest = 64 << 10
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no file", path)
	}
	return io.ReadAll(io.LimitReader(f, longest))
}

// complaint picks the line of a log that says what went wrong.
func complaint(log string) string {
	lines := strings.Split(strings.TrimSpace(log), "\n")
	for _, mark := range []string{"FATAL:", "PANIC:", "error:", "ERROR:", "could not"} {
		for _, line := range lines {
			if strings.Contains(line, mark) {
				return strings.TrimSpace(line)
			}
		}
	}
	return strings.TrimSpace(lines[len(lines)-1])
}
