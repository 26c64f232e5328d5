package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"soniq/deadletter"
)

type historyCmd struct {
	ID    *string `arg:"" optional:"" name:"id" help:"What was done to this dead letter, which may be gone. Without it: the operations on many."`
	Limit int     `default:"20" placeholder:"N" help:"The latest N operations. Default 20."`
}

func (historyCmd) Help() string {
	return `Replays, deletions, cleanups, imports and tags are recorded with who did them (--as) and why (--because); so is who was shown secrets (--reveal), of jobs too. Arguments are recorded without their secrets; what people wrote (--because, filters) is shown without them.

    soniq dead-letter history
    soniq dead-letter history 01890a5d-ac96-774b-bcce-b302099a8057`
}

func (c *historyCmd) Run(a *app) error {
	const most = 10_000
	if c.Limit < 1 || c.Limit > most {
		return usagef("--limit must be from 1 to %d, not %d", most, c.Limit)
	}
	if c.ID != nil {
		if err := checkIDs([]string{*c.ID}); err != nil {
			return err
		}
	}
	pool, err := a.open()
	if err != nil {
		return err
	}
	queue, err := a.deadLetters(pool)
	if err != nil {
		return err
	}
	if c.ID != nil {
		return c.one(a, queue)
	}
	ops, err := queue.Operations(a.ctx, c.Limit)
	if err != nil {
		return err
	}
	ops = hideAll(a, ops)
	if a.JSON {
		if ops == nil {
			ops = []deadletter.Operation{}
		}
		return a.out.document(ops)
	}
	if len(ops) == 0 {
		a.note("no operations yet")
		return nil
	}
	return a.printOperations(ops)
}

func (c *historyCmd) one(a *app, queue *deadletter.Queue) error {
	id, err := findID(a.ctx, queue, *c.ID)
	if err != nil {
		return fmt.Errorf("%s: %w", *c.ID, err)
	}
	records, err := queue.History(a.ctx, id)
	if err != nil {
		return err
	}
	records = hideAll(a, records)
	if len(records) == 0 {
		if _, err := queue.Get(a.ctx, id); errors.Is(err, deadletter.ErrNotFound) {
			return fmt.Errorf("%s: %w, and nothing is known of it", id, deadletter.ErrNotFound)
		} else if err != nil {
			return err
		}
	}
	if a.JSON {
		if records == nil {
			records = []deadletter.Record{}
		}
		return a.out.document(records)
	}
	if len(records) == 0 {
		a.note("nothing was done to it")
	}
	for _, line := range a.recordLines(records) {
		a.out.printf("%s", line)
	}
	return nil
}

// recordLines are a line for each record, the oldest first.
func (a *app) recordLines(records []deadletter.Record) []string {
	lines := make([]string, len(records))
	for i, r := range records {
		line := a.when(r.At) + "  " + r.Action
		if r.JobID != nil {
			line += " as job " + r.JobID.String()
		}
		if bytes.Contains(r.Detail, []byte(`"args"`)) {
			line += " with other arguments"
		}
		if r.Actor != "" {
			line += ", by " + r.Actor
		}
		if r.Because != "" {
			line += ": " + r.Because
		}
		lines[i] = oneLine(line)
	}
	return lines
}

func (a *app) printOperations(ops []deadletter.Operation) error {
	t := table{columns: []column{
		{title: "AGE", right: true},
		{title: "WHAT"},
		{title: "DONE", right: true},
		{title: "OF", right: true},
		{title: "STATE", min: 10},
		{title: "WHO", min: 8, drop: 2},
		{title: "WHY", min: 8, drop: 3},
		{title: "FILTER", min: 10, drop: 4},
		{title: "OPERATION", drop: 1},
	}}
	now := a.now()
	for _, op := range ops {
		stood := op.State
		if op.StoppedBy != "" {
			stood += " by " + op.StoppedBy
		}
		t.add(age(now, op.CreatedAt), op.Action, thousands(op.Done), thousands(op.Total), stood, op.Actor, op.Because, filterWords(op), op.ID.String())
	}
	return t.write(a.out, a.tableWidth())
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
