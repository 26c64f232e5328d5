package app

import (
	"fmt"
	"strings"
	"time"

	"soniq/deadletter/classify"
	"soniq/internal/cli/terminal"
)

// PrintAttempts prints a job's history: a line for each failed attempt, and
// the stack of the last one that has one. A gap stands for the attempts that
// were not kept.
func (a *App) PrintAttempts(failures []classify.Failure) {
	if len(failures) == 0 {
		return
	}
	p := a.Out.Printf
	p("\nFailed attempts")
	last := 0
	for _, f := range failures {
		if last > 0 && f.Attempt > last+1 {
			p("  ...")
		}
		last = f.Attempt
		about := []string{string(f.Kind)}
		if f.Code != "" {
			about = append(about, f.Code)
		}
		if f.StartedAt != nil {
			took := f.FailedAt.Sub(*f.StartedAt)
			if took > time.Millisecond {
				took = took.Round(time.Millisecond)
			}
			about = append(about, "after "+took.String())
		}
		message, _, _ := strings.Cut(f.Message, "\n")
		p("%s", terminal.OneLine(fmt.Sprintf("  %d  %s  %s  %s", f.Attempt, a.When(f.FailedAt), strings.Join(about, ", "), message)))
	}
	for i := len(failures) - 1; i >= 0; i-- {
		if failures[i].Stack != "" {
			p("\nStack of attempt %d\n%s", failures[i].Attempt, terminal.Indent(failures[i].Stack, "  "))
			break
		}
	}
}
