package dashboard

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/google/uuid"

	"soniq/deadletter"
	"soniq/internal/unit"
)

// cleanupPage is what the page to clean up shows.
type cleanupPage struct {
	Picked    selection
	Choices   choices
	Older     string
	Query     string
	Previewed bool
	Count     int64
	Token     string
}

// readAge reads how old what is cleaned up must be.
func readAge(text string) (time.Duration, error) {
	const century = 36500 * 24 * time.Hour
	d, err := unit.ParseDuration(text)
	if err != nil || d <= 0 || d > century {
		return 0, badInput("older must be an age above 0 such as 36h or 30d, not %q", text)
	}
	return d, nil
}

// cleanupPreview says how many a cleanup would delete.
func (d *Dashboard) cleanupPreview(v *visit) error {
	picked, err := v.picked()
	if err != nil {
		return err
	}
	given := v.r.URL.Query().Get("older")
	page := cleanupPage{Picked: picked, Choices: newChoices(), Older: cmp.Or(given, "30d"), Query: picked.Query.Encode(), Previewed: given != "", Token: uuid.NewString()}
	age, err := readAge(page.Older)
	if err != nil {
		return err
	}
	if picked.ByText() && !v.user.Reveal {
		return badInput("only who may see secrets can act on all that have a text")
	}
	if page.Previewed {
		ctx, cancel := context.WithTimeout(v.Context(), longest)
		defer cancel()
		if page.Count, err = d.queue.CleanupCount(ctx, age, picked.Filter); err != nil {
			return err
		}
	}
	return v.show("cleanup", view{Title: "Clean up", Nav: "/groups", Data: page})
}

// cleanup deletes what died long ago.
func (d *Dashboard) cleanup(v *visit) error {
	if err := v.r.ParseForm(); err != nil {
		return err
	}
	age, err := readAge(v.r.PostForm.Get("older"))
	if err != nil {
		return err
	}
	picked, err := v.formFilter()
	if err != nil {
		return err
	}
	queue := v.queue(v.r.PostForm.Get("comment"))
	path, err := d.runs.once(v.Context(), v.r.PostForm.Get("token"), func() (string, error) {
		n, err := queue.CleanupCount(v.Context(), age, picked.Filter)
		if err != nil {
			return "", err
		}
		id, err := d.runs.other("cleanup", n, func(ctx context.Context) (int64, error) { return queue.Cleanup(ctx, age, picked.Filter) })
		return "/runs/" + id.String(), err
	})
	if err != nil {
		return err
	}
	return v.redirect(path)
}

// formFilter reads the filter of a form.
func (v *visit) formFilter() (picked selection, err error) {
	query, err := url.ParseQuery(v.r.PostForm.Get("picked"))
	if err != nil {
		return picked, badInput("the filter can't be read: %s", err)
	}
	now, err := v.d.now(v.Context())
	if err != nil {
		return picked, err
	}
	if picked, err = readSelection(query, now); err == nil && picked.ByText() && !v.user.Reveal {
		return picked, badInput("only who may see secrets can act on all that have a text")
	}
	return picked, err
}

// export sends a file of all that a filter picks, as 'soniq dead-letter export' writes it: with the
// secrets, so the history records who took it.
func (d *Dashboard) export(v *visit) error {
	if err := v.r.ParseForm(); err != nil {
		return err
	}
	format, err := deadletter.ParseFormat(cmp.Or(v.r.PostForm.Get("format"), "jsonl"))
	if err != nil {
		return badInput("%s", err)
	}
	picked, err := v.formFilter()
	if err != nil {
		return err
	}
	// What dies from now on is not in it.
	if now, err := d.now(v.Context()); err != nil {
		return err
	} else if picked.To.IsZero() || picked.To.After(now) {
		picked.To = now
	}
	if err := v.recordExport(picked.Filter, format); err != nil {
		return err
	}
	v.written = true
	v.w.Header().Set("Content-Type", map[deadletter.Format]string{deadletter.FormatJSON: "application/json", deadletter.FormatCSV: "text/csv; charset=utf-8"}[format])
	if format == deadletter.FormatJSONL {
		v.w.Header().Set("Content-Type", "application/x-ndjson")
	}
	v.w.Header().Set("Content-Disposition", fmt.Sprintf(`attachment; filename="dead-letters-%s.%s"`, time.Now().UTC().Format("2006-01-02-150405"), format))
	v.w.WriteHeader(http.StatusOK)
	if _, err := d.queue.Export(v.Context(), v.w, picked.Filter, format); err != nil {
		v.d.log.WarnContext(v.Context(), "an export of the dashboard ended early", "error", err)
		// The connection is cut, so that nobody takes the part for the whole.
		panic(http.ErrAbortHandler)
	}
	return nil
}

// recordExport records who takes the dead letters with their secrets.
func (v *visit) recordExport(f deadletter.Filter, format deadletter.Format) error {
	filter, err := json.Marshal(f)
	if err != nil {
		return err
	}
	what, err := json.Marshal(map[string]any{"export": format, "filter": json.RawMessage(filter)})
	if err != nil {
		return err
	}
	// Up to a thousand are recorded one by one.
	f.Limit = 1001
	jobs, err := v.d.queue.List(v.Context(), f)
	if err != nil {
		return err
	}
	ids := make([]uuid.UUID, len(jobs))
	for i, j := range jobs {
		ids[i] = j.ID
	}
	return v.queue(v.r.PostForm.Get("comment")).RevealList(v.Context(), what, ids)
}
