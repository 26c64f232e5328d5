package main

import (
	"errors"
	"fmt"
	"math"

	"soniq/deadletter"
)

type listCmd struct {
	selection
	Limit int     `default:"50" placeholder:"N" help:"Show at most N; 0 for all. Default 50."`
	After *string `placeholder:"ID" help:"Go on after this dead letter: the last one of the page before."`
	revealFlags
}

func (listCmd) Help() string {
	return `Examples:

    soniq dead-letter list
    soniq dead-letter list --filter send_welcome_email --since 24h
    soniq dead-letter list --error "connection refused" --no-replayed
    soniq dead-letter list --reason timeout --json`
}

func (c *listCmd) Run(a *app) error {
	f, err := c.filter(a.now())
	if err != nil {
		return err
	}
	if err := c.check(); err != nil {
		return err
	}
	if c.Limit < 0 {
		return usagef("--limit must not be negative: %d", c.Limit)
	}
	if c.After != nil {
		if err := checkIDs([]string{*c.After}); err != nil {
			return err
		}
	}
	if f.Limit = c.Limit; f.Limit == 0 {
		f.Limit = math.MaxInt32
	}
	pool, err := a.open()
	if err != nil {
		return err
	}
	queue, err := a.deadLetters(pool)
	if err != nil {
		return err
	}
	after, err := c.cursor(a, queue)
	if err != nil {
		return err
	}
	jobs, err := queue.ListAfter(a.ctx, f, after)
	if err != nil {
		return err
	}
	picked := f
	picked.Limit = c.Limit
	if err := c.revealList(a, pool, picked, letterIDs(jobs)); err != nil {
		return err
	}
	jobs = hideAll(a, jobs)
	total := int64(len(jobs))
	if len(jobs) == f.Limit || c.After != nil {
		f.Limit = 0
		if total, err = queue.Count(a.ctx, f); err != nil {
			return err
		}
	}
	if a.JSON {
		if jobs == nil {
			jobs = []deadletter.Job{}
		}
		err = a.out.document(jobs)
	} else if len(jobs) > 0 {
		err = a.printLetters(jobs)
	}
	switch {
	case err != nil:
		return err
	case total == 0 && c.given():
		a.note("no dead letter matches")
	case total == 0:
		a.note("no dead letters")
	case len(jobs) == 0:
		a.note("nothing comes after that; %s in all", letters(total))
	case len(jobs) == c.Limit && total > int64(len(jobs)):
		a.note("%s of %s; --limit 0 for all, --after %s for the next", thousands(int64(len(jobs))), letters(total), jobs[len(jobs)-1].ID)
	case total > int64(len(jobs)):
		a.note("the last %s of %s", thousands(int64(len(jobs))), letters(total))
	default:
		a.note("%s", letters(total))
	}
	return nil
}

// cursor is the place that --after names.
func (c *listCmd) cursor(a *app, queue *deadletter.Queue) (deadletter.Cursor, error) {
	if c.After == nil {
		return deadletter.Cursor{}, nil
	}
	id, err := findID(a.ctx, queue, *c.After)
	if err != nil {
		return deadletter.Cursor{}, fmt.Errorf("--after %s: %w", *c.After, err)
	}
	j, err := queue.Get(a.ctx, id)
	if errors.Is(err, deadletter.ErrNotFound) {
		return deadletter.Cursor{}, fmt.Errorf("--after %s: %w", *c.After, deadletter.ErrNotFound)
	}
	return j.Cursor(), err
}

// narrow is the width below which a dead letter takes two lines: the id and the
// reason alone need some sixty columns.
const narrow = 110

// printLetters prints a table that fits the terminal.
func (a *app) printLetters(jobs []deadletter.Job) error {
	if w := a.tableWidth(); w > 0 && w < narrow {
		return a.printLettersNarrow(jobs, w)
	}
	t := table{columns: []column{
		{title: "ID"},
		{title: "JOB", min: 14},
		{title: "REASON", style: reasonStyle},
		{title: "ATTEMPTS", right: true, drop: 3},
		{title: "AGE", right: true},
		{title: "STATE", drop: 2, style: stateStyle},
		{title: "ERROR", min: 16, drop: 4},
	}}
	now := a.now()
	for _, j := range jobs {
		t.add(
			j.ID.String(), j.JobName, string(j.Reason),
			fmt.Sprintf("%d/%d", j.Attempts, j.MaxAttempts), age(now, j.MovedAt), state(j), errorLine(j.LastError),
		)
	}
	return t.write(a.out, a.tableWidth())
}

// printLettersNarrow prints two lines for each: what an operator types, and
// what they read.
func (a *app) printLettersNarrow(jobs []deadletter.Job, width int) error {
	now := a.now()
	for _, j := range jobs {
		head := fmt.Sprintf("%s  %s  %s  ", j.ID, state(j), age(now, j.MovedAt))
		line := cutWidth(head+oneLine(string(j.Reason)), width)
		cut := min(len(head), len(line))
		_ = a.out.spans(span{text: line[:cut]}, span{line[cut:], reasonStyle(string(j.Reason))})
		a.out.printf("\n%s", cutWidth("  "+oneLine(j.JobName)+": "+errorLine(j.LastError), width))
	}
	return a.out.err
}

// reasonStyle is the colour of a reason: red is for a person to mend, yellow is
// what may pass by itself.
func reasonStyle(reason string) style {
	switch deadletter.Reason(reason) {
	case deadletter.PermanentFailure, deadletter.InvalidArguments:
		return red
	case deadletter.MaxRetriesExceeded:
		return yellow
	case deadletter.Timeout:
		return magenta
	case deadletter.JobNotFound:
		return blue
	default:
		return cyan
	}
}

// stateStyle is the colour of a state: what is settled stands back.
func stateStyle(state string) style {
	switch state {
	case deadletter.StateResolved:
		return green
	case deadletter.StateReplaying:
		return cyan
	default:
		return ""
	}
}

// state is the dead letter's state for people.
func state(j deadletter.Job) string {
	if j.OutcomeUnknown() {
		return "replayed, outcome unknown"
	}
	return j.State
}
