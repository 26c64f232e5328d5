package dashboard

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"soniq/deadletter"
)

// lettersPage is what the page of rows shows.
type lettersPage struct {
	Picked selection
	Rows   []row
	// Count is how many are picked among those that were read, and Exact that these were all.
	// Bounded: all that were read are picked, and there are more.
	Count          int64
	Exact, Bounded bool
	Window         int64
	// Looked is how far back a page looked that doesn't have all.
	Looked time.Time
	// Next is the position of the next page, or empty. Older is that of what was not
	// looked at.
	Next, Older string
	// Later: the page is not the first.
	Later   bool
	Common  []fact
	Choices choices
}

// A row is a dead letter in a list.
type row struct {
	deadletter.Job
	StateText string
}

func newRow(j deadletter.Job) row { return row{j.Redacted(), stateText(j)} }

// stateText is the state as people say it.
func stateText(j deadletter.Job) string {
	if j.OutcomeUnknown() {
		return "replayed, outcome unknown"
	}
	return string(j.State)
}

func (d *Dashboard) letters(v *visit) error {
	picked, err := v.picked()
	if err != nil {
		return err
	}
	after, err := readPosition(v.r.URL.Query().Get("after"))
	if err != nil {
		return err
	}
	page, err := d.readLetters(v.Context(), picked, after, v.user.Reveal, v.r.URL.Query().Get("all") != "")
	if err != nil {
		return err
	}
	return v.show("letters", view{Title: "Dead letters", Nav: "/groups", Data: page})
}

// mostLooked is how many rows a page reads that somebody asked to look at everything.
const mostLooked = 100_000_000

// readLetters reads a page of dead letters. Whoever may not see secrets finds a text only where
// they see it.
func (d *Dashboard) readLetters(ctx context.Context, picked selection, after deadletter.Cursor, secrets, all bool) (page lettersPage, err error) {
	ctx, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	page = lettersPage{Picked: picked, Window: window, Later: after != (deadletter.Cursor{}), Choices: newChoices()}
	rows := window
	if all {
		rows = mostLooked
	}
	f := picked.Filter
	f.Limit = pageRows + 1
	look, err := d.queue.Look(ctx, f, after, rows)
	if err != nil {
		return page, err
	}
	page.Count, page.Exact, page.Looked = int64(look.Count), look.Whole, look.End.MovedAt
	page.Bounded = !look.Whole && look.Count == look.Read
	if len(look.Jobs) > pageRows {
		look.Jobs = look.Jobs[:pageRows]
		page.Next = positionText(look.Jobs[pageRows-1].Cursor())
	} else if !look.Whole {
		page.Older = positionText(look.End)
	}
	for _, j := range look.Jobs {
		r := newRow(j)
		if picked.ByText() && !secrets && !shows(r.Job, picked.Filter) {
			continue
		}
		page.Rows = append(page.Rows, r)
	}
	if picked.ByText() && !secrets {
		page.Count, page.Exact, page.Bounded = int64(len(page.Rows)), look.Whole && page.Next == "", false
	}
	page.Common = inCommon(page.Rows)
	return page, nil
}

// shows reports whether a redacted dead letter has the texts of a filter.
func shows(j deadletter.Job, f deadletter.Filter) bool {
	has := func(text, part string) bool { return strings.Contains(strings.ToLower(text), strings.ToLower(part)) }
	return has(j.LastError, f.ErrorLike) && (has(j.LastError, f.Text) || has(string(j.Args), f.Text))
}

// positionText is a position as a part of a URL.
func positionText(c deadletter.Cursor) string {
	return c.MovedAt.UTC().Format(time.RFC3339Nano) + "_" + c.ID.String()
}

func readPosition(text string) (c deadletter.Cursor, err error) {
	if text == "" {
		return c, nil
	}
	at, id, _ := strings.Cut(text, "_")
	if c.MovedAt, err = time.Parse(time.RFC3339Nano, at); err != nil {
		return c, badInput("after: not a position that this page has made: %q", text)
	}
	if c.ID, err = uuid.Parse(id); err != nil {
		return c, badInput("after: not a position that this page has made: %q", text)
	}
	return c, nil
}

// A fact is what the rows of a page have in common, or not.
type fact struct {
	Name, Value string
	// Of is how many rows have it.
	Of, Rows int
}

// inCommon finds what may have changed: one queue, one producer, one worker, one type of error.
func inCommon(rows []row) (facts []fact) {
	if len(rows) < 3 {
		return nil
	}
	for _, about := range []struct {
		name  string
		value func(deadletter.Job) string
	}{
		{"job", func(j deadletter.Job) string { return j.JobName }},
		{"queue", func(j deadletter.Job) string { return j.Queue }},
		{"reason", func(j deadletter.Job) string { return string(j.Reason) }},
		{"producer", func(j deadletter.Job) string { return optional(j.ProducerID) }},
		{"worker", func(j deadletter.Job) string { return idText(j.WorkerID) }},
		{"type of error", func(j deadletter.Job) string { return j.ErrorType }},
		{"code", func(j deadletter.Job) string { return j.ErrorCode }},
	} {
		counts := map[string]int{}
		for _, r := range rows {
			counts[about.value(r.Job)]++
		}
		for value, n := range counts {
			// Nearly all: a few others don't make it a coincidence.
			if value != "" && n*10 >= len(rows)*9 {
				facts = append(facts, fact{about.name, value, n, len(rows)})
			}
		}
	}
	return slices.Clip(facts)
}

func optional(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func idText(id *uuid.UUID) string {
	if id == nil {
		return ""
	}
	return id.String()
}
