package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/deadletter"
)

// target is what replay and delete work on: single ids, or in bulk.
type target struct {
	IDs []string `arg:"" optional:"" name:"id" help:"Ids, as 'soniq dead-letter list' shows them; the first digits will do."`
	All bool     `help:"All of them; replay takes those that are dead."`
	selection
	Limit  *int `placeholder:"N" help:"At most N. Default no limit."`
	DryRun bool `help:"Say what would be done, and change nothing."`
	Yes    bool `short:"y" help:"Don't ask."`
	authorship
}

// resolve checks the whole command line before anything is done. Exactly one
// of ids and filter is meant: bulk says which.
func (t *target) resolve(now time.Time) (bulk bool, f deadletter.Filter, err error) {
	if len(t.IDs) > 0 {
		if t.All || t.given() || t.Limit != nil {
			return false, f, usagef("give either ids, or --all and filters")
		}
		return false, f, checkIDs(t.IDs)
	}
	if !t.All && !t.given() {
		return true, f, usagef("which dead letters? give ids, a filter such as --filter or --reason, or --all")
	}
	if f, err = t.filter(now); err != nil {
		return true, f, err
	}
	f.All = t.All
	if t.Limit != nil {
		if f.Limit = *t.Limit; f.Limit < 1 {
			return true, f, usagef("--limit must be at least 1, not %d", f.Limit)
		}
	}
	return true, f, nil
}

const serverTimeSQL = `select clock_timestamp()`

// pin bounds f to the dead letters of this moment, by the server's clock: what
// dies while a person reads the question is not what they agreed to.
func pin(ctx context.Context, pool *pgxpool.Pool, f *deadletter.Filter) error {
	var now time.Time
	if err := pool.QueryRow(ctx, serverTimeSQL).Scan(&now); err != nil {
		return fmt.Errorf("read the server's time: %w", err)
	}
	// A --since in the future stays alone: it matches nothing, as it should.
	if (f.To.IsZero() || f.To.After(now)) && !f.From.After(now) {
		f.To = now
	}
	return nil
}

// confirm asks before a bulk command, unless the person said --yes. Without a
// terminal there is nobody to ask.
func (a *app) confirm(yes bool, question string) error {
	if yes {
		return nil
	}
	if !a.stdinIsTTY {
		return usagef("%s Nobody is there to confirm it: add --yes", question)
	}
	return a.ask(question + " Continue?")
}

// ask returns nil if the person at the terminal says yes.
func (a *app) ask(question string) error {
	_, _ = fmt.Fprintf(a.notes, "%s [y/N] ", a.notes.redacted(question))
	answer := make(chan string, 1)
	// A read from a terminal can't be cancelled: after Ctrl-C this goroutine
	// ends with the process.
	go func() {
		answer <- strings.ToLower(strings.TrimSpace(readLine(a.stdin)))
	}()
	select {
	case <-a.ctx.Done():
		a.note("")
		return a.ctx.Err()
	case text := <-answer:
		if text == "y" || text == "yes" {
			return nil
		}
		return errors.New("aborted; nothing was changed")
	}
}

// readLine reads up to the end of a line and no further: what follows may be the
// answer to another question.
func readLine(r io.Reader) string {
	var line []byte
	for one := make([]byte, 1); ; {
		n, err := r.Read(one)
		if n == 1 {
			if one[0] == '\n' {
				return string(line)
			}
			// Longer than any answer.
			if len(line) < 100 {
				line = append(line, one[0])
			}
		}
		if err != nil {
			return string(line)
		}
	}
}

// brokenOutcome is outcome for a command that may have been kept by err from the
// ids that come after.
func (a *app) brokenOutcome(done int, failed []failure, err error) error {
	outcome := a.outcome(done, failed)
	if err != nil {
		return partly(int64(done), err)
	}
	return outcome
}

// failure is what went wrong with one of several ids.
type failure struct {
	ID    string `json:"id"`
	Error string `json:"error"`
}

// partly is err with the exit code that tells that done things were done before.
func partly(done int64, err error) error {
	if err == nil || done == 0 {
		return err
	}
	return &exitError{exitPartly, err}
}

// outcome ends a command on several ids: failures are named, each on its own
// line of standard error.
func (a *app) outcome(done int, failed []failure) error {
	for _, f := range failed {
		a.note("soniq: %s: %s", oneLine(f.ID), oneLine(f.Error))
	}
	switch {
	case len(failed) == 0:
		return nil
	case done == 0:
		return &exitError{exitFailed, errReported}
	default:
		return &exitError{exitPartly, errReported}
	}
}

// shownRows is how many dead letters a preview shows.
const shownRows = 10

// preview shows the first of the n dead letters that a bulk command would take.
func (a *app) preview(verb string, n int64, list func() ([]deadletter.Job, error)) error {
	if a.JSON {
		return a.out.document(map[string]any{"dry_run": true, "count": n})
	}
	a.out.printf("Would %s %s.", verb, letters(n))
	return a.previewRows(n, list)
}

// previewRows prints the first of n dead letters, and how many more there are.
func (a *app) previewRows(n int64, list func() ([]deadletter.Job, error)) error {
	jobs, err := list()
	if err != nil {
		return err
	}
	for i := range jobs {
		jobs[i] = jobs[i].Redacted()
	}
	if err := a.printLetters(jobs); err != nil {
		return err
	}
	if rest := n - int64(len(jobs)); rest > 0 {
		a.out.printf("... and %s more", thousands(rest))
	}
	return nil
}
