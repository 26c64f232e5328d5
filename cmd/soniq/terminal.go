package main

import "io"

import "time"

// tableWidth is the width of the terminal that tables go to, or 0.
func (a *app) tableWidth() int {
	if a.stdoutIsTTY {
		return a.width
	}
	return 0
}

// when is a time on the wall and as an age.
func (a *app) when(t time.Time) string {
	now := a.now()
	text := t.In(now.Location()).Format("2006-01-02 15:04:05 MST")
	if t.After(now) {
		return text + " (in " + age(t, now) + ")"
	}
	return text + " (" + age(now, t) + " ago)"
}

// progressFrom is how many jobs are worth a progress bar: some tenths of a
// second.
const progressFrom = 5_000

// progress is a bar on the terminal, or nothing where there is none or no time
// to see it.
func (a *app) progress(doing string, total, from int) *progressBar {
	var out io.Writer
	if a.stderrIsTTY && total >= from {
		out = a.stderr
	}
	return newProgressBar(out, a.width, a.now, doing, int64(total))
}
