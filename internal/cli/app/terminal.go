package app

import (
	"io"
	"time"

	"soniq/internal/cli/terminal"
	"soniq/internal/unit"
)

// TableWidth is the width of the terminal that tables go to, or 0.
func (a *App) TableWidth() int {
	if a.StdoutIsTTY {
		return a.Width
	}
	return 0
}

// When is a time in UTC, and as an age. --since and --until read it.
func (a *App) When(t time.Time) string {
	now := a.Now()
	text := unit.FormatTime(t)
	if t.After(now) {
		return text + " (in " + terminal.Age(t, now) + ")"
	}
	return text + " (" + terminal.Age(now, t) + " ago)"
}

// ProgressFrom is the number of jobs from which a progress bar is shown. They take some
// tenths of a second.
const ProgressFrom = 5_000

// Progress returns a progress bar. It draws nothing if standard error is no terminal, or
// if total is less than from.
func (a *App) Progress(doing string, total, from int) *terminal.ProgressBar {
	var out io.Writer
	if a.StderrIsTTY && total >= from {
		out = a.Stderr
	}
	return terminal.NewProgressBar(out, a.Width, a.Now, doing, int64(total))
}
