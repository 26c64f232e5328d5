// Package dev has the commands that need nothing but this program: the private
// database of --dev, the demo and the benchmark.
package dev

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	"github.com/jackc/pgx/v5"

	"soniq/internal/cli/app"
	"soniq/internal/cli/terminal"
	"soniq/internal/devdb"
	"soniq/internal/unit"
)

// Command groups what can be done with the private database of --dev.
type Command struct {
	Status devStatusCmd `cmd:"" default:"1" help:"Show where the private database is and whether it runs."`
	Up     devUpCmd     `cmd:"" help:"Keep the private database running until stopped."`
	Psql   devPsqlCmd   `cmd:"" passthrough:"" help:"Run psql on the private database."`
	URL    devURLCmd    `cmd:"" name:"url" help:"Print the private database's URL, password included, for other programs."`
	Stop   devStopCmd   `cmd:"" help:"Stop the private database, even while it is in use."`
	Reset  devResetCmd  `cmd:"" help:"Delete the private database."`
}

// Help implements [kong.HelpProvider].
func (Command) Help() string {
	return `The private database is a PostgreSQL in a folder of yours that listens on this machine only. It starts when a command with --dev needs it, and stops with the last of them.

    soniq dev
    soniq dev psql`
}

// private makes the command one of the private database's, whatever the
// environment names.
func private(a *app.App) error {
	if a.DatabaseURL != "" {
		return app.Usagef("dev is about the private database and takes no --database-url")
	}
	a.Dev = true
	return nil
}

type devStatusCmd struct{}

func (devStatusCmd) Help() string {
	return `Shows it without starting it.

    soniq dev
    soniq dev --json`
}

func (devStatusCmd) Run(a *app.App) error {
	if err := private(a); err != nil {
		return err
	}
	s, err := devdb.Inspect(devdb.Options{})
	if err != nil {
		return err
	}
	if a.JSON {
		return a.Out.Document(map[string]any{
			"folder": s.Dir, "exists": s.Exists, "running": s.PID != 0,
			"postgres_version": s.Major, "pid": s.PID, "port": s.Port,
		})
	}
	a.Out.Printf("Folder    %s", terminal.OneLine(s.Dir))
	if !s.Exists {
		a.Out.Printf("State     not made yet; the first command with --dev makes it")
		return nil
	}
	state := "not running; a command with --dev starts it"
	if s.PID != 0 {
		state = fmt.Sprintf("running, process %d, 127.0.0.1:%d", s.PID, s.Port)
	}
	a.Out.Printf("State     %s", state)
	a.Out.Printf("Version   PostgreSQL %d", s.Major)
	a.Out.Printf("SQL       %s dev psql", a.Self)
	return nil
}

type devUpCmd struct{}

func (devUpCmd) Help() string {
	return `Without this command it stops with the last command that uses it.

    soniq dev up`
}

// devWatchInterval is how often 'dev up' looks whether its server is still
// there: soon enough for a person who stopped it elsewhere.
const devWatchInterval = time.Second

func (devUpCmd) Run(a *app.App) error {
	if err := private(a); err != nil {
		return err
	}
	pool, err := a.Open()
	if err != nil {
		return err
	}
	pool.Reset() // an idle connection is of no use here
	s, err := devdb.Inspect(devdb.Options{})
	if err != nil {
		return err
	}
	a.Note("PostgreSQL %d runs on 127.0.0.1:%d until Ctrl-C; '%s dev psql' opens it", s.Major, s.Port, a.Self)
	ticker := time.NewTicker(devWatchInterval)
	defer ticker.Stop()
	for {
		select {
		case <-a.Ctx.Done():
			return nil
		case <-ticker.C:
		}
		now, err := devdb.Inspect(devdb.Options{})
		if err != nil {
			return err
		}
		if now.PID != s.PID {
			return errors.New("the private database was stopped")
		}
	}
}

type devPsqlCmd struct {
	Args []string `arg:"" optional:"" help:"Arguments for psql."`
}

func (devPsqlCmd) Help() string {
	return `The password is in psql's environment, not on its command line.

    soniq dev psql
    soniq dev psql -tAc 'select job_name, status from public.soniq_jobs'`
}

// ReadsSignals: Ctrl-C is psql's, which cancels a query by it.
func (devPsqlCmd) ReadsSignals() {}

func (c *devPsqlCmd) Run(a *app.App, k *kong.Context) error {
	// All that follows is psql's, but for our own help.
	if len(c.Args) == 1 && (c.Args[0] == "--help" || c.Args[0] == "-h") {
		return k.PrintUsage(false)
	}
	if err := private(a); err != nil {
		return err
	}
	path, err := exec.LookPath("psql")
	if err != nil {
		return fmt.Errorf("psql is not installed (Debian's package postgresql-client); '%s dev url' is for other programs", a.Self)
	}
	// Before psql is there, a signal ends the command as any other.
	ctx, cancel := context.WithCancel(a.Ctx)
	defer cancel()
	a.Ctx = ctx
	stop := a.OnSignals(cancel)
	pool, err := a.Open()
	stop()
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	server := pool.Config().ConnConfig
	pool.Reset()
	psql := exec.Command(path, append([]string{
		"--host", server.Host, "--port", strconv.Itoa(int(server.Port)),
		"--username", server.User, "--dbname", server.Database,
	}, c.Args...)...)
	psql.Stdin, psql.Stdout, psql.Stderr = a.Stdin, a.Stdout, a.Stderr
	psql.Env = psqlEnvironment(os.Environ(), server.Password)
	err = runBeside(a, psql)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return &app.ExitError{Code: max(exit.ExitCode(), app.ExitFailed), Err: app.ErrReported}
	}
	return err
}

// psqlEnvironment is environ without what libpq reads of other servers: some of
// it, such as PGHOSTADDR, beats what stands on psql's command line.
func psqlEnvironment(environ []string, password string) []string {
	environ = slices.DeleteFunc(slices.Clone(environ), func(v string) bool { return strings.HasPrefix(v, "PG") })
	return append(environ, "PGPASSWORD="+password)
}

// runBeside runs a program that shares our terminal, where Ctrl-C reaches it
// without us. SIGTERM is passed on.
func runBeside(a *app.App, cmd *exec.Cmd) error {
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case err := <-ended:
			return err
		case s := <-a.Signals:
			if s == syscall.SIGTERM {
				_ = cmd.Process.Signal(s)
			}
		}
	}
}

type devURLCmd struct{}

func (devURLCmd) Help() string {
	return `The URL has the password in it; no other command prints one. It works while the private database runs: see 'soniq dev up'.

    soniq dev url
    DATABASE_URL=$(soniq dev url) python manage.py`
}

func (devURLCmd) Run(a *app.App) error {
	if err := private(a); err != nil {
		return err
	}
	before, err := devdb.Inspect(devdb.Options{})
	if err != nil {
		return err
	}
	pool, err := a.Open()
	if err != nil {
		return err
	}
	if before.PID == 0 {
		a.Note("the private database stops again now; '%s dev up' keeps it running", a.Self)
	}
	url := pool.Config().ConnString()
	if a.JSON {
		return a.Out.Document(map[string]string{"url": url})
	}
	a.Out.Printf("%s", url)
	return nil
}

type devStopCmd struct{}

func (devStopCmd) Help() string {
	return `Its data stays. Commands that use it fail; the next one starts it again.

    soniq dev stop`
}

func (devStopCmd) Run(a *app.App) error {
	if err := private(a); err != nil {
		return err
	}
	s, err := devdb.Inspect(devdb.Options{})
	if err != nil {
		return err
	}
	if s.PID != 0 {
		if err := devdb.Stop(a.Ctx, devdb.Options{Logger: a.Log}); err != nil {
			return err
		}
	}
	switch {
	case a.JSON:
		return a.Out.Document(map[string]bool{"stopped": s.PID != 0})
	case s.PID == 0:
		a.Note("it wasn't running")
	default:
		a.Out.Printf("Stopped")
	}
	return nil
}

type devResetCmd struct {
	Yes   bool `short:"y" help:"Don't ask."`
	Force bool `help:"Delete it even while other commands use it; they fail."`
}

func (devResetCmd) Help() string {
	return `Deletes all jobs, dead letters and other data in it. The next command with --dev creates a new one.

    soniq dev reset
    soniq dev reset --yes --force`
}

func (c *devResetCmd) Run(a *app.App) error {
	if err := private(a); err != nil {
		return err
	}
	s, err := c.unused()
	if err != nil {
		return err
	}
	if !s.Exists {
		if a.JSON {
			return a.Out.Document(map[string]any{"reset": false})
		}
		a.Note("there is none in %s", terminal.OneLine(s.Dir))
		return nil
	}
	if !c.Yes {
		if err := a.Confirm(false, fmt.Sprintf("This deletes the private database in %s%s.", terminal.OneLine(s.Dir), contents(a))); err != nil {
			return err
		}
		// Somebody may have come while the question stood there.
		if _, err := c.unused(); err != nil {
			return err
		}
	}
	if err := devdb.Reset(a.Ctx, devdb.Options{Logger: a.Log}); err != nil {
		return err
	}
	if a.JSON {
		return a.Out.Document(map[string]any{"reset": true, "folder": s.Dir})
	}
	a.Out.Printf("Deleted the private database in %s", terminal.OneLine(s.Dir))
	return nil
}

// unused refuses a database that is in use. One that runs is: it stops with
// its last user.
func (c *devResetCmd) unused() (devdb.Status, error) {
	s, err := devdb.Inspect(devdb.Options{})
	if err == nil && s.PID != 0 && !c.Force {
		err = errors.New("the private database is in use: end the commands with --dev first, or add --force")
	}
	return s, err
}

const devContentsSQL = `
select
  (select count(*) from public.soniq_jobs),
  (select count(*) from public.soniq_dead_letter_jobs),
  (select pg_size_pretty(sum(pg_database_size(oid))) from pg_database)`

// contents is what a reset loses, or nothing where that can't be read: a
// database that doesn't start any more is a reason to delete it.
func contents(a *app.App) string {
	if !a.StdinIsTTY {
		return "" // nobody is there to read it
	}
	schema, err := a.TableSchema()
	if err != nil {
		return ""
	}
	lease, err := devdb.Acquire(a.Ctx, devdb.Options{})
	if err != nil {
		return ""
	}
	defer func() { _ = lease.Close() }()
	conn, err := pgx.Connect(a.Ctx, lease.URL())
	if err != nil {
		return ""
	}
	defer func() { _ = conn.Close(context.WithoutCancel(a.Ctx)) }()
	var jobs, dead int64
	var size string
	if err := conn.QueryRow(a.Ctx, schema.SQL(devContentsSQL)).Scan(&jobs, &dead, &size); err != nil {
		return ""
	}
	return fmt.Sprintf(": %s, %s, %s in all", unit.Plural(jobs, "job"), terminal.Letters(dead), size)
}

func (*devURLCmd) ShowsSecret() {}
