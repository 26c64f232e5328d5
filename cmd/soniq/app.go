package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// world is what a command may touch outside of the database. main fills it
// from the process, tests as they like.
type world struct {
	// self is how a person runs this program: 'soniq'.
	self string
	// actor is who runs it, for the records: 'ann@host'.
	actor          string
	stdin          io.Reader
	stdout, stderr io.Writer
	// Whether a person is at the other end.
	stdinIsTTY, stdoutIsTTY, stderrIsTTY bool
	// width of the terminal in columns; 0 means no limit.
	width   int
	getenv  func(string) string
	now     func() time.Time
	signals <-chan os.Signal
	// exit ends the process at once: the last signal's answer.
	exit func(code int)
}

// app is what Run gets: the world, the global flags, and what follows from
// both.
type app struct {
	world
	globals
	// ctx ends at the first signal, except in commands that read signals
	// themselves.
	ctx   context.Context
	out   *output // data
	notes *output // everything else
	log   *slog.Logger
	// ignoreInterrupts is set while Ctrl-C is meant for another program on the
	// same terminal.
	ignoreInterrupts atomic.Bool

	closers []func() error

	// What is to be taken away when the process ends in the middle of a command.
	litterMu sync.Mutex
	litterOf map[*func()]struct{}
}

// newApp is an app before its command line is parsed.
func newApp(ctx context.Context, w world) *app {
	return &app{world: w, ctx: ctx, out: newOutput(w.stdout), notes: newOutput(w.stderr)}
}

// configure takes the flags of every command over.
func (a *app) configure(g globals) error {
	a.globals = g
	// A terminal that doesn't say what it is may show escapes as they are.
	colour := a.getenv("TERM") != "" && !a.plain()
	a.out.colour, a.notes.colour = a.stdoutIsTTY && colour, a.stderrIsTTY && colour
	var err error
	a.log, err = a.newLogger()
	return err
}

// close does what atExit has registered.
func (a *app) close() (err error) {
	for _, c := range a.closers {
		err = errors.Join(err, c())
	}
	return err
}

// onSignals calls one function for each signal, in order. The function it
// returns ends that and waits for it.
func (a *app) onSignals(answers ...func()) (stop func()) {
	quit, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for len(answers) > 0 {
			select {
			case <-quit:
				return
			case s := <-a.signals:
				if s == os.Interrupt && a.ignoreInterrupts.Load() {
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

// abort ends the process at once, and takes away what would be left behind.
func (a *app) abort() {
	a.litterMu.Lock()
	for remove := range a.litterOf {
		(*remove)()
	}
	a.litterMu.Unlock()
	a.exit(exitFailed)
}

// litter has remove called when the process ends in the middle of the command.
// The function it returns calls it otherwise.
func (a *app) litter(remove func()) (clear func()) {
	a.litterMu.Lock()
	defer a.litterMu.Unlock()
	if a.litterOf == nil {
		a.litterOf = map[*func()]struct{}{}
	}
	a.litterOf[&remove] = struct{}{}
	return func() {
		a.litterMu.Lock()
		defer a.litterMu.Unlock()
		delete(a.litterOf, &remove)
		remove()
	}
}

// atExit registers what to do after the command, whatever its outcome; the
// latest comes first.
func (a *app) atExit(f func() error) {
	a.closers = append([]func() error{f}, a.closers...)
}

// note tells the person at the terminal something that isn't data.
func (a *app) note(format string, args ...any) {
	a.notes.printf(format, args...)
}

// globals are the flags of every command.
type globals struct {
	DatabaseURL string `group:"global" name:"database-url" placeholder:"URL" help:"The database: postgres://USER:PASSWORD@HOST:PORT/NAME. Default $$SONIQ_DATABASE_URL, then $$DATABASE_URL."`
	Dev         bool   `group:"global" help:"Use a private PostgreSQL on this machine, started when needed (or set SONIQ_DEV=1)."`
	JSON        bool   `group:"global" name:"json" help:"Print JSON."`
	LogFormat   string `group:"global" enum:"auto,text,json" default:"auto" placeholder:"FORMAT" help:"text, json, or auto: text on a terminal, else JSON."`
	LogLevel    string `group:"global" enum:"debug,info,warn,error" default:"info" placeholder:"LEVEL" help:"debug, info, warn or error. Default info."`
	NoColor     bool   `group:"global" help:"No colours (or set NO_COLOR)."`
}
