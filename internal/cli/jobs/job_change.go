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
	IDs []string `arg:"" name:"id" help:"Ids, as 'soniq job list' shows them."`
}

// parse checks all ids before anything is done with one of them. One that is
// named twice counts once.
func (j *jobIDs) parse() (ids []uuid.UUID, err error) {
	seen := map[uuid.UUID]bool{}
	for _, text := range j.IDs {
		id, err := app.ParseID(text)
		if err != nil {
			return nil, err
		}
		if !seen[id] {
			seen[id] = true
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// each changes the jobs one by one, and tells what could not be done. broken is
// what kept it from the jobs that come after; err, from all of them.
func (j *jobIDs) each(a *app.App, change func(context.Context, *engine.Client, uuid.UUID) error) (failed []app.Failure, broken, err error) {
	ids, err := j.parse()
	if err != nil {
		return nil, nil, err
	}
	client, err := a.Client()
	if err != nil {
		return nil, nil, err
	}
	failed = []app.Failure{}
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
	return `A queued job never runs. A running one is asked to stop: its handler's context ends, a command gets SIGTERM, then SIGKILL, a request is broken off. Unless it succeeds all the same, or is dead for good already, it ends as cancelled. Cancelled jobs are kept for a day; 'soniq job retry' runs them after all.

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
	return `A job that is queued for later, be it scheduled or waiting for its next attempt, is made due now and keeps its attempts. A cancelled one is queued again with all its attempts before it. Dead letters are replayed: see 'soniq dead-letter replay'.

    soniq job retry 01890a5d-ac96-774b-bcce-b302099a8057`
}

func (c *jobRetryCmd) Run(a *app.App) error {
	return c.run(a, "retried", "Queued %s to run now", (*engine.Client).RetryJob)
}

type jobDeleteCmd struct {
	jobIDs
}

func (jobDeleteCmd) Help() string {
	return `A job that is deleted is gone, with its result. A running one must be cancelled first. Dead letters are deleted by 'soniq dead-letter delete'.

    soniq job delete 01890a5d-ac96-774b-bcce-b302099a8057`
}

func (c *jobDeleteCmd) Run(a *app.App) error {
	return c.run(a, "deleted", "Deleted %s", (*engine.Client).DeleteJob)
}

// run is a command whose change succeeds in one way.
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
