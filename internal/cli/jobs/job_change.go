package jobs

import (
	"context"
	"errors"

	"github.com/google/uuid"

	"soniq/engine"
	"soniq/internal/cli/app"
)

// jobIDs are the jobs that a command changes. Who names each of them is not
// asked again.
type jobIDs struct {
	IDs []string `arg:"" name:"id" help:"Ids, as 'soniq job list' shows them. The first 8 or more digits are enough."`
}

// findJob completes an id that [app.CheckIDs] has accepted.
func findJob(ctx context.Context, client *engine.Client, text string) (uuid.UUID, error) {
	if id, err := uuid.Parse(text); err == nil {
		return id, nil
	}
	return client.FindJob(ctx, text)
}

// find completes the ids. One that is named twice counts once. Ids that are not found, or
// fit several jobs, are returned in failed.
func (j *jobIDs) find(ctx context.Context, client *engine.Client) (ids []uuid.UUID, failed []app.Failure, err error) {
	seen := map[uuid.UUID]bool{}
	failed = []app.Failure{}
	for _, text := range j.IDs {
		id, err := findJob(ctx, client, text)
		var ambiguous *engine.AmbiguousError
		switch {
		case errors.As(err, &ambiguous), errors.Is(err, engine.ErrJobNotFound):
			failed = append(failed, app.Failure{ID: text, Error: err.Error()})
		case err != nil:
			return nil, nil, err
		case !seen[id]:
			seen[id] = true
			ids = append(ids, id)
		}
	}
	return ids, failed, nil
}

// each changes the jobs one by one; all ids are checked before the first. failed are those
// that could not be changed. broken is the error after which the rest was not tried; err
// is one before the first.
func (j *jobIDs) each(a *app.App, change func(context.Context, *engine.Client, uuid.UUID) error) (failed []app.Failure, broken, err error) {
	if err := app.CheckIDs(j.IDs...); err != nil {
		return nil, nil, err
	}
	client, err := a.Client()
	if err != nil {
		return nil, nil, err
	}
	ids, failed, err := j.find(a.Ctx, client)
	if err != nil {
		return nil, nil, err
	}
	for _, id := range ids {
		err := change(a.Ctx, client, id)
		var refused *engine.RefusedError
		var duplicate *engine.DuplicateError
		switch {
		case errors.Is(err, engine.ErrJobNotFound), errors.As(err, &refused), errors.As(err, &duplicate):
			failed = append(failed, app.Failure{ID: id.String(), Error: err.Error()})
		case err != nil:
			return failed, err, nil
		}
	}
	return failed, nil, nil
}

type jobCancelCmd struct {
	jobIDs
}

func (jobCancelCmd) Help() string {
	return `A queued job never runs. A running job is stopped: its handler's context ends, a command gets SIGTERM, then SIGKILL, and a request is cut off. It ends as cancelled, unless it succeeds or becomes a dead letter first. Cancelled jobs are kept for a day; 'soniq job retry' runs them again.

    soniq job cancel 01890a5d-ac96-774b-bcce-b302099a8057
    soniq job ID --wait                 # until a running one has ended`
}

func (c *jobCancelCmd) Run(a *app.App) error {
	cancelled, asked := []uuid.UUID{}, []uuid.UUID{}
	failed, broken, err := c.each(a, func(ctx context.Context, client *engine.Client, id uuid.UUID) error {
		status, err := client.CancelJob(ctx, id)
		switch {
		case err != nil:
			return err
		case status == engine.StatusProcessing:
			asked = append(asked, id)
			if !a.JSON {
				a.Out.Printf("Asked the worker of %s to cancel it", id)
			}
		default:
			cancelled = append(cancelled, id)
			if !a.JSON {
				a.Out.Printf("Cancelled %s", id)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if a.JSON {
		if err := a.Out.Document(map[string]any{"cancelled": cancelled, "requested": asked, "failed": failed}); err != nil {
			return err
		}
	}
	return a.BrokenOutcome(len(cancelled)+len(asked), failed, broken)
}

type jobRetryCmd struct {
	jobIDs
}

func (jobRetryCmd) Help() string {
	return `Makes a queued job due now, whether it is scheduled or waits for its next attempt; it keeps its attempts. Queues a cancelled job again, with all its attempts. For dead letters see 'soniq dead-letter replay'.

    soniq job retry 01890a5d-ac96-774b-bcce-b302099a8057`
}

func (c *jobRetryCmd) Run(a *app.App) error {
	return c.run(a, "retried", "Queued %s to run now", (*engine.Client).RetryJob)
}

type jobDeleteCmd struct {
	jobIDs
}

func (jobDeleteCmd) Help() string {
	return `Deletes jobs and their results. Cancel a running job first. For dead letters see 'soniq dead-letter delete'.

    soniq job delete 01890a5d-ac96-774b-bcce-b302099a8057`
}

func (c *jobDeleteCmd) Run(a *app.App) error {
	return c.run(a, "deleted", "Deleted %s", (*engine.Client).DeleteJob)
}

// run applies change to each job and prints line for each success.
func (j *jobIDs) run(a *app.App, key, line string, change func(*engine.Client, context.Context, uuid.UUID) error) error {
	done := []uuid.UUID{}
	failed, broken, err := j.each(a, func(ctx context.Context, client *engine.Client, id uuid.UUID) error {
		if err := change(client, ctx, id); err != nil {
			return err
		}
		done = append(done, id)
		if !a.JSON {
			a.Out.Printf(line, id)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if a.JSON {
		if err := a.Out.Document(map[string]any{key: done, "failed": failed}); err != nil {
			return err
		}
	}
	return a.BrokenOutcome(len(done), failed, broken)
}
