package main

import (
	"errors"
	"strings"

	"github.com/alecthomas/kong"

	"soniq/internal/redact"
)

// report prints err on one line of standard error. Of a usage error's command
// it names the help.
func (a *app) report(cmd *kong.Context, err error) {
	if errors.Is(err, errReported) {
		return
	}
	a.note("soniq: %s", oneLine(reportText(cmd, err)))
}

// reportText is err on one line, without secrets, and with where to read on
// after a usage error.
func reportText(cmd *kong.Context, err error) string {
	text := strings.Join(strings.FieldsFunc(redact.Text(describe(err)), func(r rune) bool { return r == '\n' }), "; ")
	if exitCode(err) == exitUsage && !errors.Is(err, errNoDatabase) {
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
