// Package app is what all commands of soniq share: the process that runs them,
// the flags of every command, the database that these flags lead to, exit
// codes, questions, and how an error is reported.
//
// A command gets an *App. It touches the outside by that alone: streams, clock,
// environment, signals, database. So tests run commands in their own process.
package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/internal/cli/terminal"
)

// Process is all that a command touches, the database aside. main fills it from
// the real process, tests as they like.
type Process struct {
	// Self is the command that starts this program, such as 'soniq'.
	Self string
	// Actor is the user who runs it, such as 'ann@host'; it is recorded with
	// changes.
	Actor          string
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Whether the stream is a terminal.
	StdinIsTTY, StdoutIsTTY, StderrIsTTY bool
	// Width of the terminal in columns; 0 means no limit.
	Width  int
	Getenv func(string) string
	// Now is this machine's time. Once an [App] has opened the database, it is that of
	// the database.
	Now     func() time.Time
	Signals <-chan os.Signal
	// Exit ends the process at once. The last signal calls it.
	Exit func(code int)
}

// App is what the Run method of a command gets: the process, the flags of every
// command, and what follows from both.
type App struct {
	Process
	Globals
	// Ctx ends at the first signal, except in commands that read signals
	// themselves.
	Ctx   context.Context
	Out   *terminal.Output // data
	Notes *terminal.Output // everything else
	Log   *slog.Logger
	// FileSchema is the schema that the worker's configuration names, or empty, and
	// FileSchemaSource is where it stands, for messages. --schema and SONIQ_SCHEMA
	// come first.
	FileSchema, FileSchemaSource string
	// IgnoreInterrupts is set while Ctrl-C is meant for another program on the
	// same terminal.
	IgnoreInterrupts atomic.Bool

	// pool is what Open opened. Nil before that.
	pool    *pgxpool.Pool
	closers []func() error

	// abortCleanups run when the process ends in the middle of a command.
	abortMu       sync.Mutex
	abortCleanups map[*func()]struct{}
	abortHints    []string
}

// New returns an App whose command line is not parsed yet.
func New(ctx context.Context, p Process) *App {
	return &App{Process: p, Ctx: ctx, Out: terminal.NewOutput(p.Stdout), Notes: terminal.NewOutput(p.Stderr)}
}

// Configure sets the flags of every command, and what follows from them:
// colours and the logger.
func (a *App) Configure(g Globals) error {
	a.Globals = g
	// A terminal that doesn't say what it is may show escapes as they are.
	colour := a.Getenv("TERM") != "" && !a.plain()
	a.Out.Colour, a.Notes.Colour = a.StdoutIsTTY && colour, a.StderrIsTTY && colour
	var err error
	a.Log, err = a.NewLogger()
	return err
}

// Close runs what AtExit registered, the latest first.
func (a *App) Close() (err error) {
	for _, c := range a.closers {
		err = errors.Join(err, c())
	}
	return err
}

// OnSignals calls the next of answers for each signal. stop ends that, and waits
// until it has ended.
func (a *App) OnSignals(answers ...func()) (stop func()) {
	quit, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for len(answers) > 0 {
			select {
			case <-quit:
				return
			case s := <-a.Signals:
				if s == os.Interrupt && a.IgnoreInterrupts.Load() {
					continue
				}
				answers[0]()
				answers = answers[1:]
			}
		}
		<-quit
	}()
	return func() {
		close(quit)
		<-stopped
	}
}

// Abort runs the cleanups of OnAbort, says so, and ends the process at once.
func (a *App) Abort() {
	a.abortMu.Lock()
	end := "soniq: ended at once, by another signal"
	for _, hint := range a.abortHints {
		end += "; " + hint
	}
	// The command may be about to write to Notes.
	_, _ = fmt.Fprintln(a.Stderr, end)
	for remove := range a.abortCleanups {
		(*remove)()
	}
	a.abortMu.Unlock()
	a.Exit(ExitFailed)
}

// HintOnAbort registers what to say where a signal ends the process in the middle of the command, such as how to
// go on.
func (a *App) HintOnAbort(hint string) {
	a.abortMu.Lock()
	defer a.abortMu.Unlock()
	a.abortHints = append(a.abortHints, hint)
}

// OnAbort registers a cleanup, such as to remove a temporary file, for the case
// that a signal ends the process in the middle of the command. done runs it, and
// takes it off the list.
func (a *App) OnAbort(remove func()) (done func()) {
	a.abortMu.Lock()
	defer a.abortMu.Unlock()
	if a.abortCleanups == nil {
		a.abortCleanups = map[*func()]struct{}{}
	}
	a.abortCleanups[&remove] = struct{}{}
	return func() {
		a.abortMu.Lock()
		defer a.abortMu.Unlock()
		delete(a.abortCleanups, &remove)
		remove()
	}
}

// AtExit registers what Close runs after the command, whether it failed or not.
func (a *App) AtExit(f func() error) {
	a.closers = append([]func() error{f}, a.closers...)
}

// Note prints a line that is not data on standard error.
func (a *App) Note(format string, args ...any) {
	a.Notes.Printf(format, args...)
}

// Globals are the flags of every command.
type Globals struct {
	DatabaseURL string  `group:"global" name:"database-url" placeholder:"URL" help:"The database: postgres://USER:PASSWORD@HOST:PORT/NAME. Default $$SONIQ_DATABASE_URL, then $$DATABASE_URL."`
	Schema      *string `group:"global" placeholder:"NAME" help:"The schema of the tables. Default $$SONIQ_SCHEMA, then public."`
	Dev         bool    `group:"global" help:"Use a private PostgreSQL on this machine, started when needed (or set SONIQ_DEV=1)."`
	JSON        bool    `group:"global" name:"json" help:"Print JSON."`
	LogFormat   string  `group:"global" enum:"auto,text,json" default:"auto" placeholder:"FORMAT" help:"text, json, or auto: text on a terminal, else JSON."`
	LogLevel    string  `group:"global" enum:"debug,info,warn,error" default:"info" placeholder:"LEVEL" help:"debug, info, warn or error. Default info."`
	NoColor     bool    `group:"global" help:"No colours (or set NO_COLOR)."`
}
