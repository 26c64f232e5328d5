package dashboard

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"soniq/deadletter"
	"soniq/internal/explain"
	"soniq/internal/unit"
)

const (
	// mostSelected bounds the rows that a form picks one by one.
	mostSelected = 1000
	// shownRows is how many rows a preview shows.
	shownRows = 10
)

// A frozen is what somebody selected, as it was then: rows one by one, or all that a filter picks
// and that had died by that moment. It travels in the form.
type frozen struct {
	IDs []uuid.UUID `json:"ids,omitempty"`
	// Query is the filter as a part of a URL, and At the moment by which its rows had died.
	Query string    `json:"query,omitempty"`
	At    time.Time `json:"at,omitzero"`
	// All: without a filter, all of them.
	All bool `json:"all,omitempty"`
}

func (f frozen) String() string {
	text, _ := json.Marshal(f) // it has nothing that JSON can't
	return string(text)
}

// filter is the selection as a filter. Ages in it are before the moment of the selection.
func (f frozen) filter() (deadletter.Filter, error) {
	query, err := url.ParseQuery(f.Query)
	if err != nil {
		return deadletter.Filter{}, badInput("the filter can't be read: %s", err)
	}
	picked, err := readSelection(query, f.At)
	if err != nil {
		return deadletter.Filter{}, err
	}
	filter := picked.Filter
	if filter.To.IsZero() || filter.To.After(f.At) {
		if filter.From.After(f.At) {
			return filter, nil // it picks nothing, and must go on doing so
		}
		filter.To = f.At
	}
	filter.All = f.All
	return filter, nil
}

// readFrozen reads the selection of a form.
func readFrozen(text string) (f frozen, err error) {
	if json.Unmarshal([]byte(text), &f) != nil || len(f.IDs) > mostSelected || len(f.IDs) == 0 && f.At.IsZero() {
		return f, badInput("the form is not one of this dashboard: open the page again")
	}
	return f, nil
}

// selected reads what is selected on a list.
func (v *visit) selected() (f frozen, err error) {
	if v.r.PostForm.Get("all") != "" {
		if f.At, err = v.d.now(v.Context()); err != nil {
			return f, err
		}
		f.Query = v.r.PostForm.Get("picked")
		query, err := url.ParseQuery(f.Query)
		if err != nil {
			return f, badInput("the filter can't be read: %s", err)
		}
		picked, err := readSelection(query, f.At)
		if err != nil {
			return f, err
		}
		if picked.ByText() && !v.user.Reveal {
			return f, badInput("only who may see secrets can act on all that have a text: select rows, or take the group")
		}
		f.All = !picked.Narrow()
		return f, nil
	}
	for _, text := range v.r.PostForm["id"] {
		id, err := uuid.Parse(text)
		if err != nil {
			return f, badInput("not the id of a dead letter: %q", text)
		}
		if !slices.Contains(f.IDs, id) {
			f.IDs = append(f.IDs, id)
		}
	}
	switch {
	case len(f.IDs) == 0:
		return f, badInput("nothing is selected: tick rows, or 'all that match'")
	case len(f.IDs) > mostSelected:
		return f, badInput("at most %d rows can be selected one by one: use 'all that match'", mostSelected)
	}
	return f, nil
}

// preparePage is what is shown before many are changed.
type preparePage struct {
	Verb   string
	Frozen frozen
	Token  string
	Back   string
	// Count is exactly how many it changes.
	Count int64
	// LeftOut says what the filter picks and a replay doesn't take.
	LeftOut string
	Rows    []row
	Rest    int64
}

// prepare shows what would be done with a selection. It changes nothing.
func (d *Dashboard) prepare(v *visit) error {
	if err := v.r.ParseForm(); err != nil {
		return err
	}
	f, err := v.selected()
	if err != nil {
		return err
	}
	page := preparePage{Verb: v.r.PostForm.Get("do"), Frozen: f, Token: uuid.NewString(), Back: "/dead-letters?" + f.Query}
	ctx, cancel := context.WithTimeout(v.Context(), longest)
	defer cancel()
	switch {
	case !slices.Contains([]string{"replay", "delete", "tag"}, page.Verb):
		return badInput("nothing can be done by the name %q", page.Verb)
	case page.Verb == "tag" && len(f.IDs) == 0:
		return badInput("rows are tagged one by one: tick them")
	case len(f.IDs) > 0:
		err = d.prepareRows(ctx, &page)
	default:
		err = d.prepareAll(ctx, &page)
	}
	if err != nil {
		return err
	}
	title := map[string]string{"replay": "Replay ", "delete": "Delete ", "tag": "Tag "}[page.Verb] + unit.Plural(page.Count, "dead letter")
	return v.show("prepare", view{Title: title, Nav: "/groups", Data: page})
}

func (d *Dashboard) prepareRows(ctx context.Context, page *preparePage) error {
	for _, id := range page.Frozen.IDs {
		j, err := d.queue.Get(ctx, id)
		if errors.Is(err, deadletter.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		if page.Count++; len(page.Rows) < shownRows {
			page.Rows = append(page.Rows, newRow(j))
		}
	}
	page.Rest = page.Count - int64(len(page.Rows))
	return nil
}

func (d *Dashboard) prepareAll(ctx context.Context, page *preparePage) error {
	f, err := page.Frozen.filter()
	if err != nil {
		return err
	}
	var jobs []deadletter.Job
	if page.Verb == "replay" {
		o := deadletter.ReplayOptions{MaxReplays: defaultReplays}
		plan, err := d.queue.PlanReplay(ctx, f, o)
		if err != nil {
			return err
		}
		page.Count, page.LeftOut = plan.Replay, explain.LeftOut(plan, "", "")
		if jobs, err = d.queue.ReplayList(ctx, f, o, shownRows); err != nil {
			return err
		}
	} else {
		if page.Count, err = d.queue.Count(ctx, f); err != nil {
			return err
		}
		f.Limit = shownRows
		if jobs, err = d.queue.List(ctx, f); err != nil {
			return err
		}
	}
	for _, j := range jobs {
		page.Rows = append(page.Rows, newRow(j))
	}
	page.Rest = page.Count - int64(len(page.Rows))
	return nil
}

// form begins what a form asks for: once for its token.
func (v *visit) form(do func(f frozen, queue *deadletter.Queue) (path string, err error)) error {
	if err := v.r.ParseForm(); err != nil {
		return err
	}
	f, err := readFrozen(v.r.PostForm.Get("selection"))
	if err != nil {
		return err
	}
	path, err := v.d.runs.once(v.Context(), v.r.PostForm.Get("token"), func() (string, error) {
		return do(f, v.queue(v.r.PostForm.Get("comment")))
	})
	if err != nil {
		return err
	}
	return v.redirect(path)
}

const (
	// The defaults are those of the command line.
	defaultReplays = 3
	defaultBreaker = 50
)

// readReplay reads the options of a replay.
func readReplay(form url.Values) (o deadletter.ReplayOptions, p deadletter.Pace, err error) {
	number := func(name string, least, most int) (n int, err error) {
		text := strings.TrimSpace(form.Get(name))
		if text == "" {
			return 0, nil
		}
		if n, err = strconv.Atoi(text); err != nil || n < least || n > most {
			return 0, badInput("%s must be a number from %d to %d, not %q", name, least, most, text)
		}
		return n, nil
	}
	if p.Canary, err = number("canary", 1, 1000); err != nil {
		return o, p, err
	}
	if o.MaxReplays, err = number("max_replays", 0, 1_000_000); err != nil {
		return o, p, err
	}
	if text := strings.TrimSpace(form.Get("rate")); text != "" {
		if p.Rate, err = strconv.ParseFloat(text, 64); err != nil || !(p.Rate > 0 && p.Rate <= 1e6) {
			return o, p, badInput("rate must be a number of jobs a second above 0, not %q", text)
		}
	}
	breaker, err := number("breaker", 0, 100)
	if err != nil {
		return o, p, err
	}
	p.Breaker = float64(breaker) / 100
	if text := strings.TrimSpace(form.Get("delay")); text != "" {
		if o.Delay, err = unit.ParseDuration(text); err != nil || o.Delay < 0 {
			return o, p, badInput("delay must be a duration such as 10m, not %q", text)
		}
	}
	o.Queue = form.Get("queue")
	if err := o.Validate(); err != nil {
		return o, p, badInput("%s", err)
	}
	return o, p, nil
}

// replayMany replays a selection.
func (d *Dashboard) replayMany(v *visit) error {
	return v.form(func(f frozen, queue *deadletter.Queue) (string, error) {
		o, pace, err := readReplay(v.r.PostForm)
		if err != nil {
			return "", err
		}
		if len(f.IDs) > 0 {
			return d.eachRow("replay", f.IDs, func(ctx context.Context, id uuid.UUID) error {
				o := o
				o.MaxReplays = 0
				_, err := queue.Replay(ctx, id, o)
				return err
			})
		}
		filter, err := f.filter()
		if err != nil {
			return "", err
		}
		id, err := d.replayAll(v.Context(), queue, filter, deadletter.ReplayAllOptions{ReplayOptions: o, Pace: pace})
		switch {
		case err != nil:
			return "", err
		case id == uuid.Nil:
			return "", badInput("nothing is left to replay: somebody else was faster, or it was deleted")
		}
		return "/operations/" + id.String(), nil
	})
}

// replayAll begins a bulk replay, and returns its operation. It is nil where there is nothing to
// do.
func (d *Dashboard) replayAll(ctx context.Context, queue *deadletter.Queue, f deadletter.Filter, o deadletter.ReplayAllOptions) (uuid.UUID, error) {
	id, err := d.runs.replay(ctx, func(ctx context.Context, onProgress func(deadletter.Operation, []deadletter.Replayed)) (deadletter.ReplayResult, error) {
		o.OnProgress = onProgress
		return queue.ReplayAll(ctx, f, o)
	})
	if err != nil {
		return id, replayError(err)
	}
	return id, nil
}

// deleteMany deletes a selection.
func (d *Dashboard) deleteMany(v *visit) error {
	return v.form(func(f frozen, queue *deadletter.Queue) (string, error) {
		if len(f.IDs) > 0 {
			return d.eachRow("delete", f.IDs, func(ctx context.Context, id uuid.UUID) error { return queue.Delete(ctx, id) })
		}
		filter, err := f.filter()
		if err != nil {
			return "", err
		}
		n, err := queue.Count(v.Context(), filter)
		if err != nil {
			return "", err
		}
		id, err := d.runs.other("delete", n, func(ctx context.Context) (int64, error) { return queue.DeleteAll(ctx, filter) })
		return "/runs/" + id.String(), err
	})
}

// tagMany tags rows.
func (d *Dashboard) tagMany(v *visit) error {
	return v.form(func(f frozen, queue *deadletter.Queue) (string, error) {
		key, value := strings.TrimSpace(v.r.PostForm.Get("key")), v.r.PostForm.Get("value")
		if key == "" {
			return "", badInput("a tag needs a name")
		}
		return d.eachRow("tag", f.IDs, func(ctx context.Context, id uuid.UUID) error {
			return queue.Tag(ctx, id, map[string]string{key: value})
		})
	})
}

// eachRow does something with rows one by one, in the background as a browser that goes away
// must not leave half of it undone, and leads to what came of it.
func (d *Dashboard) eachRow(verb string, ids []uuid.UUID, do func(context.Context, uuid.UUID) error) (path string, err error) {
	if len(ids) == 0 {
		return "", badInput("nothing is selected")
	}
	id, err := d.runs.other(verb, int64(len(ids)), func(ctx context.Context) (done int64, failed error) {
		var problems []string
		for _, id := range ids {
			err := do(ctx, id)
			if err == nil {
				done++
				continue
			}
			if ctx.Err() != nil {
				return done, ctx.Err()
			}
			problems = append(problems, id.String()+": "+replayError(err).Error())
		}
		if len(problems) > 0 {
			failed = errors.New(strings.Join(problems, "\n"))
		}
		return done, failed
	})
	return "/runs/" + id.String(), err
}

// replayError says why a dead letter isn't replayed.
func replayError(err error) error {
	var attempts *deadletter.AttemptsError
	var duplicate *deadletter.DuplicateError
	var state *deadletter.StateError
	var misfit *deadletter.EditError
	switch {
	case errors.As(err, &misfit):
		return badInput("%s: %s", misfit.Path, misfit.Why)
	case errors.As(err, &state) && state.State == deadletter.StateReplaying:
		return badInput("a replay is under way already")
	case errors.As(err, &state):
		return badInput("a replay has succeeded already")
	case errors.As(err, &duplicate):
		return badInput("an equal job is queued already: %s", duplicate.ID)
	case errors.As(err, &attempts):
		return badInput("it has made %d of %d attempts", attempts.Attempts, attempts.MaxAttempts)
	case errors.Is(err, deadletter.ErrNotFound):
		return errNoLetter
	case errors.Is(err, deadletter.ErrFilterEmpty):
		return badInput("the filter is empty: choose 'all that match' on the page")
	}
	return err
}

// runPage shows what came of work on many rows.
func (d *Dashboard) runPage(v *visit) error {
	id, err := uuid.Parse(v.r.PathValue("id"))
	if err != nil {
		return errNoPage
	}
	r, ok := d.runs.look(id)
	if !ok {
		return badInput("this dashboard knows nothing of it: it was restarted since; the history has what was done")
	}
	verb := map[string]string{"delete": "Deleting", "replay": "Replaying", "tag": "Tagging", "cleanup": "Cleaning up"}[r.Verb]
	return v.show("run", view{Title: fmt.Sprintf("%s %s", verb, unit.Plural(r.Picked, "dead letter")), Nav: "/groups", Data: r})
}
