package jobs

import (
	"fmt"
	"slices"

	"github.com/google/uuid"

	"soniq/engine"
	"soniq/internal/cli/app"
	"soniq/internal/cli/terminal"
	"soniq/internal/pg"
	"soniq/internal/suggest"
	"soniq/internal/unit"
)

type jobListCmd struct {
	Status []string `placeholder:"STATUS" help:"queued, processing (or running), done or cancelled. Repeatable: any of them."`
	Queue  []string `sep:"none" placeholder:"QUEUE" help:"Jobs of this queue. Repeatable: any of them."`
	Job    []string `sep:"none" placeholder:"NAME" help:"Jobs with exactly this name. Repeatable: any of them."`
	Limit  int      `default:"50" placeholder:"N" help:"Show at most N; 0 for all. Default 50."`
	app.RevealFlags
}

func (jobListCmd) Help() string {
	return `Dead letters are not in this list: see 'soniq dead-letter list'.

    soniq job list
    soniq job list --status queued --status processing --queue emails
    soniq job list --job emails.send --limit 0 --json`
}

// filter turns the flags into a filter. An empty value is refused: in a
// script it is a variable that isn't set, and it must not mean 'any'.
func (c *jobListCmd) filter() (f engine.JobFilter, err error) {
	for flag, values := range map[string][]string{"--status": c.Status, "--queue": c.Queue, "--job": c.Job} {
		if slices.Contains(values, "") {
			return f, app.Usagef("%s is empty; leave it out to match any", flag)
		}
	}
	for _, text := range c.Status {
		if text == "running" {
			text = string(engine.StatusProcessing) // as 'soniq status' calls it
		}
		status := engine.JobStatus(text)
		if !slices.Contains(Statuses(), text) {
			return f, app.Usagef("--status must be queued, processing, done or cancelled, not %q%s", text, suggest.Question(text, append(Statuses(), "running")))
		}
		f.Statuses = append(f.Statuses, status)
	}
	if len(c.Queue) > 0 {
		f.Queues = c.Queue
	}
	if len(c.Job) > 0 {
		f.Names = c.Job
	}
	f.Limit, err = app.ListLimit(c.Limit)
	return f, err
}

// Statuses are those that a job in its queue can have.
func Statuses() []string {
	return []string{
		string(engine.StatusQueued), string(engine.StatusProcessing), string(engine.StatusDone), string(engine.StatusCancelled),
	}
}

func (c *jobListCmd) Run(a *app.App) error {
	f, err := c.filter()
	if err != nil {
		return err
	}
	if err := c.Check(); err != nil {
		return err
	}
	pool, client, err := a.OpenClient()
	if err == nil {
		err = a.CheckRowSecurity(pool, pg.ReadsRows, "soniq_jobs") // no jobs would be untrue
	}
	if err != nil {
		return err
	}
	jobs, err := client.ListJobs(a.Ctx, f)
	if err != nil {
		return err
	}
	ids := make([]uuid.UUID, len(jobs))
	for i, j := range jobs {
		ids[i] = j.ID
	}
	picked := map[string]any{"source": "jobs", "statuses": f.Statuses, "queues": f.Queues, "job_names": f.Names, "limit": c.Limit}
	if err := c.ShowList(a, pool, picked, ids); err != nil {
		return err
	}
	jobs = app.AllRedacted(a, jobs)
	switch {
	case a.JSON:
		err = a.Out.Document(jobs)
	case len(jobs) > 0:
		err = printJobs(a, jobs)
	}
	switch given := len(c.Status)+len(c.Queue)+len(c.Job) > 0; {
	case err != nil:
		return err
	case len(jobs) == 0 && given:
		a.Note("no job matches")
	case len(jobs) == 0:
		a.Note("no jobs")
	case len(jobs) == f.Limit:
		a.Note("the newest %s; --limit 0 for all", unit.Plural(int64(len(jobs)), "job"))
	default:
		a.Note("%s", unit.Plural(int64(len(jobs)), "job"))
	}
	return nil
}

// printJobs prints a table that fits the terminal. On a narrow one the error
// goes first: 'show' has all of it.
func printJobs(a *app.App, jobs []*engine.Job) error {
	t := terminal.Table{Columns: []terminal.Column{
		{Title: "ID"},
		{Title: "JOB", Min: 14},
		{Title: "STATUS"},
		{Title: "QUEUE", Min: 8, Drop: 2},
		{Title: "ATTEMPTS", Right: true, Drop: 3},
		{Title: "AGE", Right: true},
		{Title: "ERROR", Min: 16, Drop: 4},
	}}
	now := a.Now()
	for _, j := range jobs {
		status := string(j.Status)
		switch {
		case j.Status == engine.StatusQueued && j.ScheduledAt != nil && j.ScheduledAt.After(now):
			// Age is used for the time until then.
			status = "due in " + terminal.Age(*j.ScheduledAt, now)
		case j.Status == engine.StatusProcessing && j.CancelRequestedAt != nil:
			status = "cancelling"
		}
		t.Add(
			j.ID.String(), j.Name, status, j.Queue,
			fmt.Sprintf("%d/%d", j.Attempts, j.MaxAttempts), terminal.Age(now, j.CreatedAt), terminal.FirstLine(j.LastError),
		)
	}
	return t.Write(a.Out, a.TableWidth())
}
