package deadletters

import (
	"errors"
	"fmt"
	"time"

	"soniq/deadletter"
	"soniq/deadletter/classify"
	"soniq/internal/cli/app"
	"soniq/internal/cli/terminal"
	"soniq/internal/unit"
)

type listCmd struct {
	selection
	Limit int     `default:"50" placeholder:"N" help:"Show at most N; 0 for all. Default 50."`
	After *string `placeholder:"ID" help:"Continue after this dead letter, the last one of the page before."`
	app.RevealFlags
}

func (listCmd) Help() string {
	return `Examples:

    soniq dead-letter list
    soniq dead-letter list --filter send_welcome_email --since 24h
    soniq dead-letter list --error "connection refused" --no-replayed
    soniq dead-letter list --reason timeout --json`
}

// request checks the flags, and returns the filter of the rows to read.
func (c *listCmd) request(now time.Time) (f deadletter.Filter, err error) {
	if f, err = c.filter(now); err != nil {
		return f, err
	}
	if err := c.Check(); err != nil {
		return f, err
	}
	if f.Limit, err = app.ListLimit(c.Limit); err != nil {
		return f, err
	}
	if c.After != nil {
		if err := app.CheckIDs(*c.After); err != nil {
			return f, err
		}
	}
	return f, nil
}

func (c *listCmd) Run(a *app.App) error {
	f, err := c.request(a.Now())
	if err != nil {
		return err
	}
	pool, queue, err := a.OpenDeadLetters()
	if err != nil {
		return err
	}
	if err := c.window(&f, a.Now()); err != nil {
		return err
	}
	after, err := c.cursor(a, queue)
	if err != nil {
		return err
	}
	jobs, err := queue.ListAfter(a.Ctx, f, after)
	if err != nil {
		return err
	}
	picked := f
	picked.Limit = c.Limit
	if err := c.ShowList(a, pool, picked, app.LetterIDs(jobs)); err != nil {
		return err
	}
	jobs = app.AllRedacted(a, jobs)
	total := int64(len(jobs))
	if len(jobs) == f.Limit || c.After != nil {
		f.Limit = 0
		if total, err = queue.Count(a.Ctx, f); err != nil {
			return err
		}
	}
	if a.JSON {
		if jobs == nil {
			jobs = []deadletter.Job{}
		}
		err = a.Out.Document(jobs)
	} else if len(jobs) > 0 {
		err = printLetters(a, jobs)
	}
	if err != nil {
		return err
	}
	c.noteTotal(a, jobs, total)
	return nil
}

// noteTotal says how many of the total were printed, and how to read on.
func (c *listCmd) noteTotal(a *app.App, jobs []deadletter.Job, total int64) {
	shown := int64(len(jobs))
	switch {
	case total == 0 && c.given():
		a.Note("no dead letter matches")
	case total == 0:
		a.Note("no dead letters")
	case shown == 0:
		a.Note("nothing comes after that; %s in all", terminal.Letters(total))
	case len(jobs) == c.Limit && total > shown:
		a.Note("%s of %s; --limit 0 for all, --after %s for the next", unit.Thousands(shown), terminal.Letters(total), jobs[shown-1].ID)
	case total > shown:
		a.Note("the last %s of %s", unit.Thousands(shown), terminal.Letters(total))
	default:
		a.Note("%s", terminal.Letters(total))
	}
}

// cursor is the position after the dead letter that --after names.
func (c *listCmd) cursor(a *app.App, queue *deadletter.Queue) (deadletter.Cursor, error) {
	if c.After == nil {
		return deadletter.Cursor{}, nil
	}
	id, err := findID(a.Ctx, queue, *c.After)
	if err != nil {
		return deadletter.Cursor{}, fmt.Errorf("--after %s: %w", *c.After, err)
	}
	j, err := queue.Get(a.Ctx, id)
	if errors.Is(err, deadletter.ErrNotFound) {
		return deadletter.Cursor{}, fmt.Errorf("--after %s: %w", *c.After, deadletter.ErrNotFound)
	}
	return j.Cursor(), err
}

// narrow is the width, in columns, below which a dead letter takes two lines: the
// id and the reason alone need about sixty.
const narrow = 110

// printLetters prints a table that fits the terminal.
func printLetters(a *app.App, jobs []deadletter.Job) error {
	if w := a.TableWidth(); w > 0 && w < narrow {
		return printLettersNarrow(a, jobs, w)
	}
	t := terminal.Table{Columns: []terminal.Column{
		{Title: "ID"},
		{Title: "JOB", Min: 14},
		{Title: "REASON", Style: reasonStyle},
		{Title: "ATTEMPTS", Right: true, Drop: 3},
		{Title: "AGE", Right: true},
		{Title: "STATE", Drop: 2, Style: stateStyle},
		{Title: "ERROR", Min: 16, Drop: 4},
	}}
	now := a.Now()
	for _, j := range jobs {
		t.Add(
			j.ID.String(), j.JobName, string(j.Reason),
			fmt.Sprintf("%d/%d", j.Attempts, j.MaxAttempts), terminal.Age(now, j.MovedAt), state(j), terminal.ErrorLine(j.LastError),
		)
	}
	return t.Write(a.Out, a.TableWidth())
}

// printLettersNarrow prints two lines for each: the id, the state and the reason,
// then the job and its error.
func printLettersNarrow(a *app.App, jobs []deadletter.Job, width int) error {
	now := a.Now()
	for _, j := range jobs {
		head := fmt.Sprintf("%s  %s  %s  ", j.ID, state(j), terminal.Age(now, j.MovedAt))
		line := terminal.CutWidth(head+terminal.OneLine(string(j.Reason)), width)
		cut := min(len(head), len(line))
		_ = a.Out.Spans(terminal.Span{Text: line[:cut]}, terminal.Span{Text: line[cut:], Style: reasonStyle(string(j.Reason))})
		a.Out.Printf("\n%s", terminal.CutWidth("  "+terminal.OneLine(j.JobName)+": "+terminal.ErrorLine(j.LastError), width))
	}
	return a.Out.Err
}

// reasonStyle is the colour of a reason. Red needs a person; yellow may pass by
// itself.
func reasonStyle(reason string) terminal.Style {
	switch classify.Reason(reason) {
	case classify.PermanentFailure, classify.InvalidArguments:
		return terminal.Red
	case classify.MaxRetriesExceeded:
		return terminal.Yellow
	case classify.Timeout:
		return terminal.Magenta
	case classify.JobNotFound:
		return terminal.Blue
	default:
		return terminal.Cyan
	}
}

// stateStyle is the colour of a state.
func stateStyle(state string) terminal.Style {
	switch deadletter.State(state) {
	case deadletter.StateResolved:
		return terminal.Green
	case deadletter.StateReplaying:
		return terminal.Cyan
	default:
		return ""
	}
}

// state is the dead letter's state as text.
func state(j deadletter.Job) string {
	if j.OutcomeUnknown() {
		return "replayed, outcome unknown"
	}
	return string(j.State)
}
