package dashboard

import (
	"context"
	"time"

	"soniq/deadletter"
	"soniq/deadletter/classify"
)

const (
	// window is how many rows a page reads at most: whatever a table holds, it opens in a
	// moment. Where a page counts to it, it says '10,000+'.
	window = 10_000
	// pageRows is how many rows a page shows.
	pageRows = 50
	// pageGroups is how many groups it shows.
	pageGroups = 50
	// longest bounds the statements of a page that somebody asked to count everything.
	longest = 60 * time.Second
)

// groupsPage is what the page of groups shows.
type groupsPage struct {
	Picked selection
	Groups []deadletter.Group
	// Whole: they are the groups of all that is picked, and not of the newest alone.
	Whole  bool
	Window int64
	// Attention is how many dead letters need it, counted to the window.
	Attention int64
	Choices   choices
}

// choices are what the form of a filter offers.
type choices struct {
	Reasons []classify.Reason
	States  []deadletter.State
}

func newChoices() choices {
	return choices{classify.Reasons(), []deadletter.State{deadletter.StateDead, deadletter.StateReplaying, deadletter.StateResolved}}
}

// picked reads the filter of the request.
func (v *visit) picked() (selection, error) {
	now, err := v.d.now(v.Context())
	if err != nil {
		return selection{}, err
	}
	return readSelection(v.r.URL.Query(), now)
}

const clockSQL = `select clock_timestamp()`

// now is the time of the database, which dates the dead letters.
func (d *Dashboard) now(ctx context.Context) (t time.Time, err error) {
	err = d.db.QueryRow(ctx, clockSQL).Scan(&t)
	return t, err
}

func (d *Dashboard) groups(v *visit) error {
	picked, err := v.picked()
	if err != nil {
		return err
	}
	if picked.ByText() && !v.user.Reveal {
		return v.redirect("/dead-letters?" + picked.Query.Encode())
	}
	page, err := d.readGroups(v.Context(), picked, v.r.URL.Query().Get("all") != "")
	if err != nil {
		return err
	}
	return v.show("groups", view{Title: "Dead letters", Nav: "/groups", Data: page})
}

// readGroups counts the groups of the newest dead letters that are picked, or of all.
func (d *Dashboard) readGroups(ctx context.Context, picked selection, all bool) (page groupsPage, err error) {
	ctx, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	page = groupsPage{Picked: picked, Window: window, Whole: true, Choices: newChoices()}
	f := picked.Filter
	f.Limit = pageGroups
	if !all {
		if f, page.Whole, err = d.queue.Recent(ctx, f, window); err != nil {
			return page, err
		}
	}
	if page.Groups, err = d.queue.Groups(ctx, f); err != nil {
		return page, err
	}
	for i := range page.Groups {
		page.Groups[i] = page.Groups[i].Redacted()
	}
	backlog, err := d.queue.Backlog(ctx, deadletter.Filter{State: deadletter.StateDead, Limit: window + 1})
	page.Attention = backlog.Count
	return page, err
}
