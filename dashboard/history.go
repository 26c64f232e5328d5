package dashboard

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"soniq/deadletter"
)

const (
	// listedEntries is how many entries of the history a page lists.
	listedEntries = 100
	// sameMoment is how many more are read, and listed if they are of the same moment as the
	// last: the rows of one change are, and the next page begins before that moment.
	sameMoment = 1100
)

// historyPage is what the page of the history shows.
type historyPage struct {
	Actor, Since, Until string
	Entries             []historyEntry
	// Next is the moment before which the next page begins, or empty.
	Next string
	// Later: the page is not the first.
	Later bool
}

// Narrow reports whether the history is filtered.
func (p historyPage) Narrow() bool { return p.Actor != "" || p.Since != "" || p.Until != "" }

// A historyEntry is an operation on many, or the record of a change to one.
type historyEntry struct {
	At        time.Time
	Operation *deadletter.Operation
	Record    *deadletter.Record
	// What says more than the action: the tags that were set, for instance.
	What string
}

func (d *Dashboard) history(v *visit) error {
	query := v.r.URL.Query()
	page := historyPage{Actor: query.Get("actor"), Since: query.Get("since"), Until: query.Get("until")}
	ctx, cancel := context.WithTimeout(v.Context(), pageTimeout)
	defer cancel()
	now, err := d.now(ctx)
	if err != nil {
		return err
	}
	f := deadletter.HistoryFilter{Actor: page.Actor, Limit: listedEntries + sameMoment}
	if f.From, err = readTime("since", page.Since, now, false); err != nil {
		return err
	}
	if f.To, err = readTime("until", page.Until, now, true); err != nil {
		return err
	}
	if before := query.Get("before"); before != "" {
		at, err := time.Parse(time.RFC3339Nano, before)
		if err != nil {
			return badInput("before: not a position that this page has made: %q", before)
		}
		page.Later, f.To = true, at.Add(-time.Microsecond)
	}
	if err := f.Validate("history"); err != nil {
		return badInput("%s", err)
	}
	if err := d.readHistory(ctx, &page, f); err != nil {
		return err
	}
	return v.show("history", view{Title: "History", Nav: "/history", Data: page})
}

// readHistory reads the latest entries, the newest first.
func (d *Dashboard) readHistory(ctx context.Context, page *historyPage, f deadletter.HistoryFilter) error {
	ops, err := d.queue.OperationsOf(ctx, f)
	if err != nil {
		return err
	}
	records, err := d.queue.Records(ctx, f)
	if err != nil {
		return err
	}
	all := make([]historyEntry, 0, len(ops)+len(records))
	for _, op := range ops {
		op = op.Redacted()
		all = append(all, historyEntry{At: op.CreatedAt, Operation: &op, What: stoppedText(op)})
	}
	for _, r := range records {
		r = r.Redacted()
		all = append(all, historyEntry{At: r.At, Record: &r, What: detailText(r)})
	}
	slices.SortStableFunc(all, func(a, b historyEntry) int { return b.At.Compare(a.At) })
	end := min(listedEntries, len(all))
	for end > 0 && end < len(all) && all[end].At.Equal(all[end-1].At) {
		end++
	}
	if end < len(all) {
		page.Next = all[end-1].At.UTC().Format(time.RFC3339Nano)
	}
	page.Entries = all[:end]
	return nil
}

// detailText is what a record says beyond its action.
func detailText(r deadletter.Record) string {
	var detail struct {
		Tags map[string]any
		Args json.RawMessage
	}
	if json.Unmarshal(r.Detail, &detail) != nil {
		return ""
	}
	var words []string
	for _, key := range slices.Sorted(maps.Keys(detail.Tags)) {
		words = append(words, fmt.Sprintf("%s=%v", key, detail.Tags[key]))
	}
	if len(detail.Args) > 0 {
		words = append(words, "with other arguments")
	}
	return strings.Join(words, " ")
}
