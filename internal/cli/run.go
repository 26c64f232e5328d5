package cli

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/alecthomas/kong"

	"soniq/internal/cli/app"
	"soniq/internal/unit"
)

// signalReader is a command that reads [app.Process.Signals] itself.
type signalReader interface{ ReadsSignals() }

// errorLogger is a command that logs its errors.
type errorLogger interface{ LogsErrors() }

// monitored is a command for monitors, which read its answer and its errors from
// standard output.
type monitored interface {
	// Unknown prints err as the monitor expects it, and returns the exit code.
	Unknown(a *app.App, cmd *kong.Context, err error) int
}

// Run parses args, runs the command and returns the exit code.
func Run(w app.Process, args []string) int {
	ctx, end := context.WithCancelCause(context.Background())
	cancel := func() { end(nil) }
	defer cancel()
	a := app.New(ctx, w)
	a.Out.OnClosed = func() { end(app.ErrClosed) }
	cmd, done, err := parse(a, args)
	if a.Out.Err != nil {
		done, err = true, nil // the help couldn't be written, which is said below
	}
	if !done && err == nil {
		if _, ok := selected[secretShower](cmd); ok {
			a.Out.Reveal()
		}
		_, own := selected[signalReader](cmd)
		if !own {
			defer a.OnSignals(cancel, a.Abort)()
		}
		err = a.Located(cmd.Run(a))
		if own {
			// It has stopped reading them, and closing can take its time.
			defer a.OnSignals(a.Abort)()
		}
		err = errors.Join(err, a.Close())
	}
	if a.Out.Closed() && app.ExitCode(err) != app.ExitPartly {
		// The reader has seen enough, as in 'list | head'.
		return app.ExitClosed
	}
	if a.Out.Err != nil && app.ExitCode(err) == app.ExitDone {
		err = fmt.Errorf("write standard output: %w", a.Out.Err)
	}
	if err != nil {
		if m, ok := selected[monitored](cmd); ok && !errors.Is(err, app.ErrReported) {
			return m.Unknown(a, cmd, err)
		}
		if _, ok := selected[errorLogger](cmd); ok {
			a.LogError(cmd, err)
		} else {
			a.Report(cmd, err)
		}
	}
	return app.ExitCode(err)
}

// selected is the command that was parsed, if it is a T.
func selected[T any](cmd *kong.Context) (t T, ok bool) {
	if cmd == nil || cmd.Selected() == nil {
		return t, false
	}
	t, ok = cmd.Selected().Target.Addr().Interface().(T)
	return t, ok
}

// parse turns args into a command, its flags set. done means that there is
// nothing left to run: help was printed.
func parse(a *app.App, args []string) (cmd *kong.Context, done bool, err error) {
	var g grammar
	parser, err := kong.New(&g,
		kong.Name("soniq"),
		kong.Description(description),
		kong.Writers(a.Out, a.Notes),
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
		kong.TypeMapper(reflect.TypeFor[time.Duration](), kong.MapperFunc(decodeDuration)),
	)
	if err != nil {
		return nil, false, fmt.Errorf("build the grammar: %w", err)
	}
	switch {
	case len(args) == 0:
		args = []string{"--help"}
	case args[0] == "help":
		args = append(slices.Clone(args[1:]), "--help")
	}
	// kong passes values through JSON, which would replace invalid bytes in
	// silence.
	if i := slices.IndexFunc(args, func(arg string) bool { return !utf8.ValidString(arg) }); i >= 0 {
		return nil, false, app.Usagef("argument %d is not valid UTF-8: %q", i+1, args[i])
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
		if h := hint(parser.Model, args); h != "" {
			// It knows more than kong, which compares letters.
			text, _, _ := strings.Cut(err.Error(), ", did you mean")
			return cmd, false, app.Usagef("%s; %s", text, h)
		}
		return cmd, false, app.Usagef("%s", flagHint(cmd, err.Error()))
	}
	if h := hint(parser.Model, args); h != "" && args[0] == "job" {
		// kong takes the verb for the id of 'job show', the default command.
		return cmd, false, app.Usagef("unexpected argument; %s", h)
	}
	if err := checkOnce(cmd); err != nil {
		return cmd, false, err
	}
	if err := checkFilled(cmd); err != nil {
		return cmd, false, err
	}
	return cmd, false, a.Configure(g.Globals)
}

// decodeDuration reads a flag's duration, in the grammar of all durations.
func decodeDuration(ctx *kong.DecodeContext, target reflect.Value) error {
	var text string
	if err := ctx.Scan.PopValueInto("duration", &text); err != nil {
		return err
	}
	d, err := unit.ParseDuration(text)
	if err != nil {
		return err
	}
	target.SetInt(int64(d))
	return nil
}

// secretShower is a command that prints a secret which it has just made. It is
// shown once.
type secretShower interface{ ShowsSecret() }
