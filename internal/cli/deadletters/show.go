package deadletters

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"soniq/deadletter"
	"soniq/internal/cli/app"
	"soniq/internal/cli/terminal"
	"soniq/internal/cli/workerflags"
	"soniq/internal/explain"
	"soniq/internal/unit"
)

type showCmd struct {
	ID    *string `arg:"" optional:"" name:"id" help:"The dead letter's id. Its first digits are enough."`
	Group *string `placeholder:"GROUP" help:"The latest of this group, in place of an id. 'soniq dead-letter groups' shows the groups."`
	workerflags.TraceFlag
	app.RevealFlags
}

func (showCmd) Help() string {
	return `Shows why it died, the error of each attempt, the arguments, its replays and their outcome, and its history.

    soniq dead-letter show 01890a5d-ac96-774b-bcce-b302099a8057
    soniq dead-letter show --group 4f2a9c0d1e3b5a77
    soniq dead-letter show 01890a5d --reveal --comment "ticket OPS-7"`
}

func (c *showCmd) Run(a *app.App) error {
	switch {
	case c.ID == nil && c.Group == nil:
		return app.Usagef("which dead letter? give its id, or --group for the latest of a group")
	case c.ID != nil && c.Group != nil:
		return app.Usagef("give either an id or --group")
	case c.ID != nil:
		if err := app.CheckIDs(*c.ID); err != nil {
			return err
		}
	}
	if err := errors.Join(c.Check(), c.CheckTrace(a)); err != nil {
		return err
	}
	pool, queue, err := a.OpenDeadLetters()
	if err != nil {
		return err
	}
	j, err := c.letter(a.Ctx, queue)
	if err != nil {
		return err
	}
	if err := c.Show(a, pool, j.ID); err != nil {
		return err
	}
	s := letterStory{Job: app.Redacted(a, j), Trace: c.Trace(a, j.TraceContext)}
	if s.Lineage, err = queue.Lineage(a.Ctx, j.ID); err != nil {
		return err
	}
	if s.History, err = queue.History(a.Ctx, j.ID); err != nil {
		return err
	}
	// The history is shown without secrets, --reveal or not.
	for i, r := range s.History {
		s.History[i] = r.Redacted()
	}
	if a.JSON {
		return a.Out.Document(s)
	}
	printLetter(a, s)
	return nil
}

// letter reads the dead letter that the command names.
func (c *showCmd) letter(ctx context.Context, queue *deadletter.Queue) (j deadletter.Job, err error) {
	if c.Group != nil {
		jobs, err := queue.List(ctx, deadletter.Filter{Groups: []string{*c.Group}, Limit: 1})
		if err == nil && len(jobs) == 0 {
			err = fmt.Errorf("--group %s: no dead letter is of this group", *c.Group)
		}
		if err != nil {
			return j, err
		}
		return jobs[0], nil
	}
	id, err := findID(ctx, queue, *c.ID)
	if err != nil {
		return j, fmt.Errorf("%s: %w", *c.ID, err)
	}
	j, err = queue.Get(ctx, id)
	if errors.Is(err, deadletter.ErrNotFound) {
		return j, fmt.Errorf("%s: %w", id, deadletter.ErrNotFound)
	}
	return j, err
}

// letterStory is a dead letter with its replays and its history.
type letterStory struct {
	deadletter.Job
	workerflags.Trace
	Lineage deadletter.Lineage  `json:"lineage"`
	History []deadletter.Record `json:"history"`
}

// printField prints a name and a value on one line.
func printField(a *app.App, name, format string, args ...any) {
	a.Out.Printf("%-12s %s", name, terminal.OneLine(fmt.Sprintf(format, args...)))
}

// printLetter prints all that is known of a dead letter.
func printLetter(a *app.App, s letterStory) {
	j := s.Job
	printFacts(a, s)
	printError(a, j)
	a.PrintAttempts(j.Errors)
	a.Out.Printf("\nArguments\n%s", terminal.Indent(terminal.PrettyJSON(j.Args), "  "))
	printReplays(a, s)
	a.Out.Printf("\nReplay it\n  %s", replayCommand(a, j))
}

// printFacts prints the part with a line for each field.
func printFacts(a *app.App, s letterStory) {
	j := s.Job
	field := func(name, format string, args ...any) { printField(a, name, format, args...) }
	optional := func(name string, value *string) {
		if value != nil && *value != "" {
			field(name, "%s", *value)
		}
	}
	field("Dead letter", "%s", j.ID)
	field("Job", "%s", j.JobName)
	field("State", "%s", lineage(j))
	_ = a.Out.Spans(
		terminal.Span{Text: fmt.Sprintf("%-12s ", "Reason")}, terminal.Span{Text: terminal.OneLine(string(j.Reason)), Style: reasonStyle(string(j.Reason))},
		terminal.Span{Text: ". " + terminal.OneLine(explain.Death(j)) + "\n"},
	)
	field("Attempts", "%d of %d", j.Attempts, j.MaxAttempts)
	field("Queue", "%s, priority %d", j.Queue, j.Priority)
	field("Created", "%s", a.When(j.OriginalCreatedAt))
	if j.ScheduledAt != nil {
		field("Due", "%s", a.When(*j.ScheduledAt))
	}
	field("Died", "%s", a.When(j.MovedAt))
	if j.ResurrectionCount > 0 {
		last := ""
		if j.LastResurrectionAt != nil {
			last = ", last " + a.When(*j.LastResurrectionAt)
		}
		field("Replayed", "%s%s", unit.Plural(int64(j.ResurrectionCount), "time"), last)
	}
	if j.ReplayOf != nil {
		origins := j.ReplayOf.String()
		for _, id := range s.Lineage.Ancestors[min(1, len(s.Lineage.Ancestors)):] {
			origins += ", of " + id.String()
		}
		field("Replay of", "%s", origins)
	}
	if j.UniqueJob {
		field("Unique", "yes")
	}
	optional("Dedup key", j.DedupKey)
	optional("Producer", j.ProducerID)
	if j.WorkerID != nil {
		field("Worker", "%s", *j.WorkerID)
	}
	if len(j.Tags) > 0 && string(j.Tags) != "null" {
		field("Tags", "%s", terminal.CompactJSON(j.Tags))
	}
	optional("Group", &j.Fingerprint)
	optional("Trace", new(s.Trace.Line()))
}

// printError prints the last error, under what is known of its kind.
func printError(a *app.App, j deadletter.Job) {
	var about []string
	for _, part := range []string{string(j.ErrorKind), explain.ErrorType(j), j.ErrorCode} {
		if part != "" {
			about = append(about, terminal.OneLine(part))
		}
	}
	title := "Error"
	if len(about) > 0 {
		title += " (" + strings.Join(about, ", ") + ")"
	}
	a.Out.Printf("\n%s", title)
	if j.LastError == "" {
		a.Out.Printf("  none recorded")
		return
	}
	a.Out.Printf("%s", terminal.Indent(j.LastError, "  "))
}

// printReplays prints the replays of a dead letter and its history.
func printReplays(a *app.App, s letterStory) {
	if len(s.Lineage.Replays) > 0 {
		a.Out.Printf("\nReplays")
	}
	for _, r := range s.Lineage.Replays {
		line := "  " + r.JobID.String() + "  " + string(r.Outcome)
		if r.Outcome == deadletter.OutcomeDied {
			line += ", see 'soniq dead-letter show " + r.JobID.String() + "'"
		}
		if r.At != nil {
			line += "  " + a.When(*r.At)
		}
		a.Out.Printf("%s", terminal.OneLine(line))
	}
	if len(s.History) > 0 {
		a.Out.Printf("\nHistory")
	}
	for i, line := range recordLines(a, s.History) {
		a.Out.Printf("  %s", line)
		_ = a.Out.Spans(changeSpans(s.History[i].Changes(s.Args), "    ")...)
	}
}

// lineage is the state of a dead letter, with the job that replays it.
func lineage(j deadletter.Job) string {
	s := state(j)
	if j.ReplayJobID != nil {
		switch j.State {
		case deadletter.StateReplaying:
			s += fmt.Sprintf(", as job %s", *j.ReplayJobID)
		case deadletter.StateResolved:
			s += fmt.Sprintf(": job %s succeeded", *j.ReplayJobID)
		default:
			s += fmt.Sprintf(", after job %s did not succeed", *j.ReplayJobID)
		}
	}
	return s
}

// replayCommand is the command line that replays j. It leaves out the database's
// URL, which may hold a password.
func replayCommand(a *app.App, j deadletter.Job) string {
	command := "soniq dead-letter replay " + j.ID.String()
	if a.Schema != nil {
		command += " --schema " + app.ShellWord(*a.Schema)
	}
	if a.Dev {
		command += " --dev"
	}
	if j.State != deadletter.StateDead {
		command += " --force"
	}
	return command
}
