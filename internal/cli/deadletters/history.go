package deadletters

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"soniq/deadletter"
	"soniq/internal/cli/app"
	"soniq/internal/cli/terminal"
)

type historyCmd struct {
	ID    *string `arg:"" optional:"" name:"id" help:"Show the history of this dead letter, deleted or not. Without an id: the operations on many."`
	Limit int     `default:"20" placeholder:"N" help:"The latest N operations. Default 20."`
}

func (historyCmd) Help() string {
	return `The history records each replay, deletion, cleanup, import, tag and look at secrets (--reveal, of jobs too), with who did it (--as) and why (--comment). Arguments are recorded without secrets, and comments and filters are shown without them.

    soniq dead-letter history
    soniq dead-letter history 01890a5d-ac96-774b-bcce-b302099a8057`
}

func (c *historyCmd) Run(a *app.App) error {
	const most = 10_000
	if c.Limit < 1 || c.Limit > most {
		return app.Usagef("--limit must be from 1 to %d, not %d", most, c.Limit)
	}
	if c.ID != nil {
		if err := app.CheckIDs(*c.ID); err != nil {
			return err
		}
	}
	_, queue, err := a.OpenDeadLetters()
	if err != nil {
		return err
	}
	if c.ID != nil {
		return c.one(a, queue)
	}
	ops, err := queue.Operations(a.Ctx, c.Limit)
	if err != nil {
		return err
	}
	ops = app.AllRedacted(a, ops)
	if a.JSON {
		if ops == nil {
			ops = []deadletter.Operation{}
		}
		return a.Out.Document(ops)
	}
	if len(ops) == 0 {
		a.Note("no operations yet")
		return nil
	}
	return printOperations(a, ops)
}

func (c *historyCmd) one(a *app.App, queue *deadletter.Queue) error {
	id, err := findID(a.Ctx, queue, *c.ID)
	if err != nil {
		return fmt.Errorf("%s: %w", *c.ID, err)
	}
	records, err := queue.History(a.Ctx, id)
	if err != nil {
		return err
	}
	records = app.AllRedacted(a, records)
	if len(records) == 0 {
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
	if len(records) == 0 {
		a.Note("nothing was done to it")
	}
	for _, line := range recordLines(a, records) {
		a.Out.Printf("%s", line)
	}
	return nil
}

// recordLines are a line for each record, the oldest first.
func recordLines(a *app.App, records []deadletter.Record) []string {
	lines := make([]string, len(records))
	for i, r := range records {
		line := a.When(r.At) + "  " + string(r.Action)
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

func printOperations(a *app.App, ops []deadletter.Operation) error {
	t := terminal.Table{Columns: []terminal.Column{
		{Title: "AGE", Right: true},
		{Title: "WHAT"},
		{Title: "DONE", Right: true},
		{Title: "OF", Right: true},
		{Title: "STATE", Min: 10},
		{Title: "WHO", Min: 8, Drop: 2},
		{Title: "WHY", Min: 8, Drop: 3},
		{Title: "FILTER", Min: 10, Drop: 4},
		{Title: "OPERATION", Drop: 1},
	}}
	now := a.Now()
	for _, op := range ops {
		t.Add(terminal.Age(now, op.CreatedAt), string(op.Action), terminal.Thousands(op.Done), terminal.Thousands(op.Total), stateText(op), op.Actor, op.Comment, filterWords(op), op.ID.String())
	}
	if err := t.Write(a.Out, a.TableWidth()); err != nil {
		return err
	}
	for _, op := range ops {
		if op.Action == deadletter.ActionReplay && op.State == deadletter.OperationStopped && now.Sub(op.UpdatedAt) < deadletter.ResumableFor {
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
	names := []string{"source", "job_names", "name_like", "queues", "reasons", "groups", "error_like", "state", "replayed", "tags", "from", "limit"}
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
