package jobs

import (
	"context"
	"slices"
	"time"

	"github.com/google/uuid"

	"soniq/engine"
	"soniq/internal/cli/app"
	"soniq/internal/pause"
)

type jobBuryCmd struct {
	jobIDs
	app.Authorship
	DryRun bool `help:"Say what would be moved, and change nothing."`
}

func (jobBuryCmd) Help() string {
	return `Moves jobs that are queued, now or for later, to the dead letters with the reason manual_move. The comment is the dead letter's error too; without one a job keeps its last error. Cancel a running job first. 'soniq dead-letter replay' queues a buried job again.

    soniq job bury 01890a5d-ac96-774b-bcce-b302099a8057 --comment "the ledger has moved"`
}

func (c *jobBuryCmd) Run(a *app.App) error {
	buried, line := []uuid.UUID{}, "Buried %s"
	if c.DryRun {
		line = "Would bury %s"
	}
	failed, broken, err := c.each(a, func(_ context.Context, client *engine.Client, id uuid.UUID) error {
		if err := c.bury(a, client, id); err != nil {
			return err
		}
		buried = append(buried, id)
		if !a.JSON {
			a.Out.Printf(line, id)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if a.JSON {
		result := map[string]any{"buried": buried, "failed": failed}
		if c.DryRun {
			result = map[string]any{"dry_run": true, "ids": buried, "failed": failed}
		}
		if err := a.Out.Document(result); err != nil {
			return err
		}
	}
	return a.BrokenOutcome(len(buried), failed, broken)
}

// How often a job that another transaction has locked is tried again, and the time between
// two tries. A worker's claim holds its lock for some milliseconds.
const (
	lockTries = 10
	lockPause = 100 * time.Millisecond
)

// bury moves one job.
//
// Errors: [engine.ErrJobNotFound]; an [*engine.RefusedError]; those of the database.
func (c *jobBuryCmd) bury(a *app.App, client *engine.Client, id uuid.UUID) error {
	_, queue, err := c.Open(a)
	if err != nil {
		return err
	}
	for range lockTries {
		if !c.DryRun {
			moved, err := queue.MoveQueued(a.Ctx, []uuid.UUID{id}, c.Comment)
			if err != nil || slices.Contains(moved, id) {
				return err
			}
		}
		j, err := client.Job(a.Ctx, id)
		if err != nil {
			return err
		}
		switch {
		case j.Status == engine.StatusQueued && c.DryRun:
			return nil
		case j.Status == engine.StatusProcessing:
			return &engine.RefusedError{ID: id, Status: j.Status, Problem: "; cancel it first"}
		case j.Status == engine.StatusDeadLetter:
			return &engine.RefusedError{ID: id, Status: j.Status, Problem: " already"}
		case j.Status != engine.StatusQueued:
			return &engine.RefusedError{ID: id, Status: j.Status, Problem: "; only a queued job can be buried"}
		}
		if err := pause.For(a.Ctx, lockPause); err != nil {
			return err
		}
	}
	return &engine.RefusedError{ID: id, Status: engine.StatusQueued, Problem: ", and another transaction has it locked; try again"}
}
