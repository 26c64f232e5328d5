package deadletters

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"soniq/deadletter"
	"soniq/internal/cli/app"
	"soniq/internal/cli/terminal"
	"soniq/internal/unit"
)

type historyCmd struct {
	ID    *string `arg:"" optional:"" name:"id" help:"Show the history of this dead letter, deleted or not; its first digits are enough if it still exists. Without an id: operations on many, and what was done to single ones."`
	Actor *string `placeholder:"NAME" help:"What somebody of exactly this name did (--as)."`
	Since *string `placeholder:"TIME" help:"Done at or after TIME: an age (90m, 24h, 7d) or a time, as any command prints it. Without a zone it is in UTC."`
	Until *string `placeholder:"TIME" help:"Done at or before TIME, or within the second that it names."`
	Limit int     `default:"20" placeholder:"N" help:"Show the latest N entries; 0 for all. Default 20."`
}

func (historyCmd) Help() string {
	return `The history records each replay, deletion, cleanup, import, tag, burial and look at secrets (--reveal, of jobs too), with who did it (--as) and why (--comment). Arguments are recorded without secrets, and comments and filters are shown without them.

    soniq dead-letter history
    soniq dead-letter history --actor ada@laptop --since 7d
    soniq dead-letter history 01890a5d-ac96-774b-bcce-b302099a8057`
}

// filter turns the flags into a filter.
func (c *historyCmd) filter(now time.Time) (f deadletter.HistoryFilter, err error) {
	if f.Limit, err = app.ListLimit(c.Limit); err != nil {
		return f, err
	}
	if c.ID != nil {
		if err := app.CheckIDs(*c.ID); err != nil {
			return f, err
		}
	}
	if c.Actor != nil {
		f.Actor = *c.Actor
	}
	if f.From, err = app.ParseTime("--since", c.Since, now); err != nil {
		return f, err
	}
	f.To, err = app.ParseUntil("--until", c.Until, now)
	return f, err
}

func (c *historyCmd) Run(a *app.App) error {
	if _, err := c.filter(a.Now()); err != nil {
		return err
	}
	_, queue, err := a.OpenDeadLetters()
	if err != nil {
		return err
	}
	f, err := c.filter(a.Now()) // again, by the database's clock
	if err != nil {
		return err
	}
	if c.ID != nil {
		return c.one(a, queue, f)
	}
	ops, err := queue.OperationsOf(a.Ctx, f)
	if err != nil {
		return err
	}
	records, err := queue.Records(a.Ctx, f)
	if err != nil {
		return err
	}
	entries := newestEntries(app.AllRedacted(a, ops), app.AllRedacted(a, records), f.Limit)
	switch {
	case a.JSON:
		return a.Out.Document(entries)
	case len(entries) > 0:
		c.noteMore(a, len(entries))
		return printEntries(a, entries)
	case c.Actor != nil || c.Since != nil || c.Until != nil:
		a.Note("nothing matches")
	default:
		a.Note("nothing was done yet")
	}
	return nil
}

// noteMore says that there may be older entries.
func (c *historyCmd) noteMore(a *app.App, shown int) {
	if shown == c.Limit {
		a.Note("the latest %d; --limit for more", shown)
	}
}

// An entry is an operation on many dead letters, or the record of a change to one.
type entry struct {
	at        time.Time
	operation *deadletter.Operation
	record    *deadletter.Record
}

// MarshalJSON returns the operation, or the record, as it is.
func (e entry) MarshalJSON() ([]byte, error) {
	if e.operation != nil {
		return json.Marshal(e.operation)
	}
	return json.Marshal(e.record)
}

// newestEntries merges both, the newest first.
func newestEntries(ops []deadletter.Operation, records []deadletter.Record, limit int) []entry {
	entries := make([]entry, 0, len(ops)+len(records))
	for i, op := range ops {
		entries = append(entries, entry{at: op.CreatedAt, operation: &ops[i]})
	}
	for i, r := range records {
		entries = append(entries, entry{at: r.At, record: &records[i]})
	}
	slices.SortStableFunc(entries, func(x, y entry) int { return y.at.Compare(x.at) })
	return entries[:min(limit, len(entries))]
}

func (c *historyCmd) one(a *app.App, queue *deadletter.Queue, f deadletter.HistoryFilter) error {
	id, err := findID(a.Ctx, queue, *c.ID)
	if err != nil {
		return fmt.Errorf("%s: %w", *c.ID, err)
	}
	f.ID = &id
	records, err := queue.Records(a.Ctx, f)
	if err != nil {
		return err
	}
	slices.Reverse(records)
	records = app.AllRedacted(a, records)
	filtered := c.Actor != nil || c.Since != nil || c.Until != nil
	if len(records) == 0 && !filtered {
		if _, err := queue.Get(a.Ctx, id); errors.Is(err, deadletter.ErrNotFound) {
			return fmt.Errorf("%s: %w, and nothing is known of it", id, deadletter.ErrNotFound)
		} else if err != nil {
			return err
		}
	}
	if a.JSON {
		if records == nil {
			records = []deadletter.Record{}
		}
		return a.Out.Document(records)
	}
	switch {
	case len(records) == 0 && filtered:
		a.Note("nothing matches")
	case len(records) == 0:
		a.Note("nothing was done to it")
	}
	for _, line := range recordLines(a, records) {
		a.Out.Printf("%s", line)
	}
	c.noteMore(a, len(records))
	return nil
}

// tagWords are the tags that a record says were set, as 'owner=me', sorted. One that was
// removed has no value.
func tagWords(r deadletter.Record) string {
	var d struct{ Tags map[string]any }
	if r.Action != deadletter.ActionTag || json.Unmarshal(r.Detail, &d) != nil {
		return ""
	}
	var words []string
	for _, key := range slices.Sorted(maps.Keys(d.Tags)) {
		words = append(words, fmt.Sprintf("%s=%v", key, d.Tags[key]))
	}
	return strings.Join(words, " ")
}

// recordLines are a line for each record, the oldest first.
func recordLines(a *app.App, records []deadletter.Record) []string {
	lines := make([]string, len(records))
	for i, r := range records {
		line := a.When(r.At) + "  " + string(r.Action)
		if words := tagWords(r); words != "" {
			line += " " + words
		}
		if r.JobID != nil {
			line += " as job " + r.JobID.String()
		}
		if bytes.Contains(r.Detail, []byte(`"args"`)) {
			line += " with other arguments"
		}
		if r.Actor != "" {
			line += ", by " + r.Actor
		}
		if r.Comment != "" {
			line += ": " + r.Comment
		}
		lines[i] = terminal.OneLine(line)
	}
	return lines
}

func printEntries(a *app.App, entries []entry) error {
	t := terminal.Table{Columns: []terminal.Column{
		{Title: "AGE", Right: true},
		{Title: "WHAT"},
		{Title: "DONE", Right: true},
		{Title: "OF", Right: true},
		{Title: "STATE", Min: 10},
		{Title: "WHO", Min: 8, Drop: 2},
		{Title: "WHY", Min: 8, Drop: 3},
		{Title: "FILTER", Min: 10, Drop: 4},
		{Title: "OPERATION OR LETTER", Drop: 1},
	}}
	now := a.Now()
	for _, e := range entries {
		if r := e.record; r != nil {
			words := tagWords(*r)
			if r.JobID != nil {
				words = "as job " + r.JobID.String()
			}
			t.Add(terminal.Age(now, r.At), string(r.Action), "1", "1", "done", r.Actor, r.Comment, words, r.DeadLetterID.String())
			continue
		}
		op := e.operation
		t.Add(terminal.Age(now, op.CreatedAt), string(op.Action), unit.Thousands(op.Done), unit.Thousands(op.Total), stateText(*op), op.Actor, op.Comment, filterWords(*op), op.ID.String())
	}
	if err := t.Write(a.Out, a.TableWidth()); err != nil {
		return err
	}
	for _, e := range entries {
		if op := e.operation; op != nil && op.Action == deadletter.ActionReplay && op.State == deadletter.OperationStopped && now.Sub(op.UpdatedAt) < deadletter.ResumableFor {
			a.Note("'soniq dead-letter replay --resume %s' goes on with the replay that was stopped last", op.ID)
			break
		}
	}
	return nil
}

// stateText is how far an operation is and, if it stopped, why.
func stateText(op deadletter.Operation) string {
	switch op.StoppedBy {
	case "":
		return string(op.State)
	case deadletter.StoppedByCanary, deadletter.StoppedByBreaker:
		return "stopped by its " + op.StoppedBy
	case deadletter.StoppedByLoss:
		return "stopped: its process is gone"
	default:
		return "stopped: " + op.StoppedBy
	}
}

// filterWords is a filter as 'reasons=timeout queues=a,b'. The moment at which
// a command bounded it is left out, but for a cleanup, which it is all about.
func filterWords(op deadletter.Operation) string {
	dec := json.NewDecoder(bytes.NewReader(op.Filter))
	dec.UseNumber() // a million isn't 1e+06
	var fields map[string]any
	if dec.Decode(&fields) != nil {
		return ""
	}
	names := []string{"source", "job_names", "name_like", "queues", "reasons", "groups", "error_like", "text", "state", "replayed", "tags", "from", "limit"}
	if op.Action == deadletter.ActionCleanup {
		names = append(names, "to")
	}
	var words []string
	for _, name := range names {
		switch v := fields[name].(type) {
		case nil:
		case []any:
			values := make([]string, len(v))
			for i, e := range v {
				values[i] = fmt.Sprint(e)
			}
			words = append(words, name+"="+strings.Join(values, ","))
		default:
			words = append(words, name+"="+fmt.Sprint(v))
		}
	}
	return strings.Join(words, " ")
}
