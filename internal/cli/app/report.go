package app

import (
	"errors"
	"strings"

	"github.com/alecthomas/kong"

	"soniq/internal/cli/terminal"
	"soniq/internal/redact"
)

// Report prints err on one line of standard error. Of a usage error's command
// it names the help.
func (a *App) Report(cmd *kong.Context, err error) {
	if errors.Is(err, ErrReported) {
		return
	}
	a.Note("soniq: %s", terminal.OneLine(a.ReportText(cmd, err)))
}

// LogError reports err for a command that people and programs follow by its log. If the
// log is JSON, the error is a record. A usage error is a plain line, unless --log-format
// says json.
func (a *App) LogError(cmd *kong.Context, err error) {
	if a.Log == nil || !a.LogsJSON() || a.LogFormat != "json" && ExitCode(err) == ExitUsage {
		a.Report(cmd, err)
	} else if !errors.Is(err, ErrReported) {
		a.Log.Error(terminal.OneLine(a.ReportText(cmd, err)))
	}
}

// Complain prints a line about a mistake in the input, as a record where JSON was asked
// for.
func (a *App) Complain(line string) {
	if a.LogFormat == "json" && a.Log != nil {
		a.Log.Error(terminal.OneLine(line))
		return
	}
	a.Note("%s", terminal.OneLine(line))
}

// ReportText is err on one line, without secrets, and with where to read on
// after a usage error.
func (a *App) ReportText(cmd *kong.Context, err error) string {
	text := strings.Join(strings.FieldsFunc(redact.Text(a.Describe(err)), func(r rune) bool { return r == '\n' }), "; ")
	if ExitCode(err) == ExitUsage && !errors.Is(err, ErrNoDatabase) {
		text += " (see '" + commandPath(cmd) + " --help')"
	}
	return text
}

// commandPath is the selected command as one would type it: without the name
// of what runs by default.
func commandPath(cmd *kong.Context) string {
	path := ""
	if cmd != nil {
		for node := cmd.Selected(); node != nil && node.Parent != nil; node = node.Parent {
			if node.Parent.DefaultCmd != node {
				path = " " + node.Name + path
			}
		}
	}
	return "soniq" + path
}

// NoTable ends a command that has no table to print: with an error, with a document
// for --json, or with a note where there is nothing.
func NoTable[T any](a *App, list []T, err error, empty string) error {
	switch {
	case err != nil:
		return err
	case a.JSON:
		return a.Out.Document(list)
	default:
		a.Note("%s", empty)
		return nil
	}
}
