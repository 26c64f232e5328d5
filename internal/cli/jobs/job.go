// Package jobs has the commands that add, show and change jobs and queues.
package jobs

import (
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/engine"
	"soniq/internal/cli/app"
	"soniq/internal/cli/terminal"
	"soniq/internal/cli/workerflags"
)

// JobCommand groups what can be done with jobs. 'soniq job ID' alone shows one.
type JobCommand struct {
	Show   jobShowCmd   `cmd:"" default:"withargs" help:"Show a job: status, arguments, result, error. 'soniq job ID' does the same."`
	List   jobListCmd   `cmd:"" help:"List jobs, the newest first."`
	Cancel jobCancelCmd `cmd:"" help:"Cancel jobs that are queued or running."`
	Retry  jobRetryCmd  `cmd:"" help:"Run scheduled or cancelled jobs now."`
	Bury   jobBuryCmd   `cmd:"" help:"Move queued jobs to the dead letters by hand."`
	Delete jobDeleteCmd `cmd:"" help:"Delete jobs that are queued, done or cancelled."`
}

// Help implements [kong.HelpProvider].
func (JobCommand) Help() string {
	return jobShowCmd{}.Help() + `
    soniq job list --status queued --queue emails
    soniq job cancel 01890a5d-ac96-774b-bcce-b302099a8057`
}

type jobShowCmd struct {
	ID string `arg:"" name:"id" help:"The job's id. Its first 8 or more digits are enough."`
	waitFlags
	workerflags.TraceFlag
	app.RevealFlags
}

func (jobShowCmd) Help() string {
	return `Shows a job. With --wait it first waits until the job has ended.

    soniq job 01890a5d-ac96-774b-bcce-b302099a8057 --json
    soniq job 01890a5d-ac96-774b-bcce-b302099a8057 --wait --wait-timeout 1m
    soniq job 01890a5d-ac96-774b-bcce-b302099a8057 --reveal --comment "ticket OPS-7"`
}

func (c *jobShowCmd) Run(a *app.App) error {
	if err := errors.Join(app.CheckIDs(c.ID), c.waitFlags.check(), c.RevealFlags.Check(), c.CheckTrace(a)); err != nil {
		return err
	}
	pool, client, err := a.OpenClient()
	if err != nil {
		return err
	}
	j, err := c.find(a, client)
	if err != nil {
		return err
	}
	id := j.ID
	if c.Wait {
		j, err = c.wait(a, pool, client, j)
		if err != nil {
			return err
		}
	}
	if err := c.Show(a, pool, id); err != nil {
		return err
	}
	j = app.Redacted(a, j)
	trace := c.Trace(a, j.TraceContext)
	if !a.JSON {
		printJob(a, j, trace)
	} else if err := a.Out.Document(shownJob{j, trace}); err != nil {
		return err
	}
	if !c.Wait {
		return nil
	}
	outcome := outcomeOf(engine.Enqueued{ID: id}, j)
	return outcome.failure()
}

func (c *jobShowCmd) find(a *app.App, client *engine.Client) (*engine.Job, error) {
	id, err := findJob(a.Ctx, client, c.ID)
	var j *engine.Job
	if err == nil {
		j, err = client.Job(a.Ctx, id)
	}
	var ambiguous *engine.AmbiguousError
	switch {
	case errors.Is(err, engine.ErrJobNotFound):
		return nil, fmt.Errorf("%s: %w: it never was, or its result has expired", c.ID, engine.ErrJobNotFound)
	case errors.As(err, &ambiguous):
		return nil, fmt.Errorf("%s: %w", c.ID, err)
	}
	return j, err
}

// wait waits until the job has ended, and returns it. If its row is gone by then, it
// returns what was read last.
func (c *jobShowCmd) wait(a *app.App, pool *pgxpool.Pool, client *engine.Client, j *engine.Job) (*engine.Job, error) {
	err := c.await(a, pool, client, []uuid.UUID{j.ID}, func(_ uuid.UUID, now *engine.Job) {
		if now == nil {
			j.Status, j.WorkerID = engine.StatusDone, nil
			a.Note(goneText)
			return
		}
		j = now
	})
	return j, err
}

// shownJob is a job with what is known of its trace.
type shownJob struct {
	*engine.Job
	workerflags.Trace
}

func printJob(a *app.App, j *engine.Job, trace workerflags.Trace) {
	p := a.Out.Printf
	field := func(name, value string) {
		if value != "" {
			p("%-12s %s", name, terminal.OneLine(value))
		}
	}
	field("Job", j.ID.String())
	field("Name", j.Name)
	field("Status", string(j.Status))
	field("Reason", string(j.DeadLetterReason))
	field("Attempts", fmt.Sprintf("%d of %d", j.Attempts, j.MaxAttempts))
	field("Queue", fmt.Sprintf("%s, priority %d", j.Queue, j.Priority))
	field("Created", a.When(j.CreatedAt))
	if j.ScheduledAt != nil {
		field("Due", a.When(*j.ScheduledAt))
	}
	field("Updated", a.When(j.UpdatedAt))
	if j.ExpiresAt != nil {
		field("Expires", a.When(*j.ExpiresAt))
	}
	if j.CancelRequestedAt != nil && j.Status == engine.StatusProcessing {
		field("Cancelling", "asked at "+a.When(*j.CancelRequestedAt))
	}
	if j.ReplayOf != nil {
		field("Replay of", j.ReplayOf.String())
	}
	field("Dedup key", j.DedupKey)
	field("Producer", j.ProducerID)
	if j.WorkerID != nil {
		field("Worker", j.WorkerID.String())
	}
	field("Trace", trace.Line())
	if j.LastError != "" {
		p("\nLast error\n%s", terminal.Indent(j.LastError, "  "))
	}
	a.PrintAttempts(j.Errors)
	p("\nArguments\n%s", terminal.Indent(terminal.PrettyJSON(j.Args), "  "))
	if j.Result != nil {
		p("\nResult\n%s", terminal.Indent(terminal.PrettyJSON(j.Result), "  "))
	}
	if j.Status == engine.StatusDeadLetter {
		a.Note("\nMore: soniq dead-letter show %s", j.ID)
	}
}
