package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/alecthomas/kong"
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

// signalReader is a command that reads world.signals itself.
type signalReader interface{ readsSignals() }

// monitored is a command that a monitor runs, which reads its answer, and
// whatever kept it from one, off standard output.
type monitored interface {
	// unknown reports err in the monitor's language and returns the exit code.
	unknown(a *app, cmd *kong.Context, err error) int
}

// run parses args, runs the command and returns the exit code.
func run(w world, args []string) int {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	a := &app{world: w, ctx: ctx, out: newOutput(w.stdout), notes: newOutput(w.stderr)}

	cmd, done, err := a.parse(args)
	if !done && err == nil {
		_, a.out.revealed = selected[secretShower](cmd)
		_, own := selected[signalReader](cmd)
		if !own {
			defer a.onSignals(cancel, a.abort)()
		}
		err = cmd.Run(a)
		if own {
			// It has stopped reading them, and closing can take its time.
			defer a.onSignals(a.abort)()
		}
		for _, c := range a.closers {
			err = errors.Join(err, c())
		}
	}
	if a.out.err != nil && exitCode(err) == exitDone {
		err = fmt.Errorf("write standard output: %w", a.out.err)
	}
	if err != nil {
		if m, ok := selected[monitored](cmd); ok && !errors.Is(err, errReported) {
			return m.unknown(a, cmd, err)
		}
		a.report(cmd, err)
	}
	return exitCode(err)
}

// selected is the command of that line, if there is one and it is a T.
func selected[T any](cmd *kong.Context) (t T, ok bool) {
	if cmd == nil || cmd.Selected() == nil {
		return t, false
	}
	t, ok = cmd.Selected().Target.Addr().Interface().(T)
	return t, ok
}

// parse turns args into a command, its flags set. done means that there is
// nothing left to run: help was printed.
func (a *app) parse(args []string) (cmd *kong.Context, done bool, err error) {
	var g grammar
	parser, err := kong.New(&g,
		kong.Name("soniq"),
		kong.Description(description),
		kong.Writers(a.out, a.notes),
		// Help exits in the middle of parsing; the rest of it is ignored.
		kong.Exit(func(int) { done = true }),
		kong.Help(printHelp),
		kong.ConfigureHelp(kong.HelpOptions{
			Compact:             true,
			NoExpandSubcommands: true,
			WrapUpperBound:      100,
		}),
		kong.ExplicitGroups(groups),
		kong.Vars{"version": versionLine()},
	)
	if err != nil {
		return nil, false, fmt.Errorf("build the grammar: %w", err)
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	// kong passes values through JSON, which would replace invalid bytes in
	// silence.
	if i := slices.IndexFunc(args, func(arg string) bool { return !utf8.ValidString(arg) }); i >= 0 {
		return nil, false, usagef("argument %d is not valid UTF-8: %q", i+1, args[i])
	}
	cmd, err = parser.Parse(args)
	if done {
		return nil, true, nil
	}
	if err != nil {
		var parseErr *kong.ParseError
		if errors.As(err, &parseErr) {
			cmd = parseErr.Context
		}
		return cmd, false, usagef("%s", err)
	}
	a.globals = g.globals
	// A terminal that doesn't say what it is may show escapes as they are.
	colour := a.getenv("TERM") != "" && !a.plain()
	a.out.colour, a.notes.colour = a.stdoutIsTTY && colour, a.stderrIsTTY && colour
	if a.log, err = a.newLogger(); err != nil {
		return cmd, false, err
	}
	return cmd, false, nil
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
