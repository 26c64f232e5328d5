package app_test

import (
	"strings"
	"testing"
	"time"

	"soniq/internal/cli/app"
	"soniq/internal/cli/terminal"
)

// shownBy is what stands on a line of a terminal after all that was written.
func shownBy(written string) string {
	var line []rune
	at := 0
	for _, c := range written {
		if c == '\r' {
			at = 0
			continue
		}
		if at == len(line) {
			line = append(line, ' ')
		}
		line[at] = c
		at++
	}
	return strings.TrimRight(string(line), " ")
}

func TestProgress_look(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	a := &app.App{Process: app.Process{Stderr: &out, StderrIsTTY: true, Now: func() time.Time { return now }}}
	bar := a.Progress("enqueueing", 10_000, 5_000)
	step := func(n int, after time.Duration, want string) {
		t.Helper()
		now = now.Add(after)
		if err := bar.Add(n); err != nil {
			t.Fatal(err)
		}
		if got := shownBy(out.String()); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	thousand := "enqueueing  10% |███                           | (1000/10000) [1s:9s]"
	step(1000, time.Second, thousand)
	step(1000, terminal.ProgressEvery-1, thousand) // not yet
	step(1000, time.Second, "enqueueing  30% |█████████                     | (3000/10000) [2s:5s]")
	step(6999, time.Minute, "enqueueing 100% |█████████████████████████████ | (9999/10000) [1m2s:0s]")
	// More than was thought.
	step(5000, time.Minute, "enqueueing 100% |██████████████████████████████| (14999/10000) [2m2s:0s]")
	for range 2 {
		if err := bar.Clear(); err != nil || shownBy(out.String()) != "" {
			t.Errorf("after Clear: %q, %v", shownBy(out.String()), err)
		}
	}
	bar.Describe("x")
	bar.ChangeMax(0)
	step(-20_000, 0, "x   0% |                              | (-5001/1) [2m2s]")
	if strings.Contains(out.String(), "\n") || strings.Contains(out.String(), "\x1b") {
		t.Errorf("%q", out.String())
	}
}

func TestProgress_narrowTerminal_neverWraps(t *testing.T) {
	t.Parallel()
	for width, want := range map[int]string{
		80: "enqueueing  50% |███████████████               | (5/10) [0s:0s]",
		62: "enqueueing  50% (5/10) [0s:0s]",
		20: "enqueueing  50%",
		10: "",
	} {
		var out strings.Builder
		a := &app.App{Process: app.Process{Stderr: &out, StderrIsTTY: true, Width: width, Now: time.Now}}
		if err := a.Progress("enqueueing", 10, 0).Set(5); err != nil {
			t.Fatal(err)
		}
		if got := shownBy(out.String()); got != want {
			t.Errorf("on %d columns: %q, want %q", width, got, want)
		}
	}
}

func TestProgress_hidden_whereNobodySees(t *testing.T) {
	t.Parallel()
	for name, a := range map[string]struct {
		tty   bool
		total int
	}{"no terminal": {false, 10_000}, "short": {true, 4_999}} {
		var out strings.Builder
		bar := (&app.App{Process: app.Process{Stderr: &out, StderrIsTTY: a.tty, Now: time.Now}}).Progress("x", a.total, 5_000)
		if err := bar.Set64(1); err != nil {
			t.Error(err)
		}
		if err := bar.Finish(); err != nil || out.Len() > 0 {
			t.Errorf("%s: %q, %v", name, out.String(), err)
		}
	}
}
