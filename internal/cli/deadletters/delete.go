package deadletters

import (
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/deadletter"
	"soniq/internal/cli/app"
	"soniq/internal/cli/terminal"
	"soniq/internal/unit"
)

type deleteCmd struct {
	target
}

func (deleteCmd) Help() string {
	return `Examples:

    soniq dead-letter delete 01890a5d-ac96-774b-bcce-b302099a8057
    soniq dead-letter delete --state resolved --dry-run
    soniq dead-letter delete --all --yes`
}

func (c *deleteCmd) Run(a *app.App) error {
	bulk, f, err := c.resolve(a.Now())
	if err != nil {
		return err
	}
	pool, queue, err := c.Authorship.Open(a)
	if err != nil {
		return err
	}
	if err := c.window(&f, a.Now()); err != nil {
		return err
	}
	if bulk {
		return c.bulk(a, pool, queue, f)
	}
	ids, failed, err := findIDs(a.Ctx, queue, c.IDs)
	if err != nil {
		return err
	}
	return c.single(a, queue, ids, failed)
}

func (c *deleteCmd) single(a *app.App, queue *deadletter.Queue, ids []uuid.UUID, failed []app.Failure) error {
	deleted := []uuid.UUID{}
	done := "Deleted"
	if c.DryRun {
		done = "Would delete"
	}
	var broken error
	for _, id := range ids {
		var err error
		if c.DryRun {
			_, err = queue.Get(a.Ctx, id)
		} else {
			err = queue.Delete(a.Ctx, id)
		}
		if errors.Is(err, deadletter.ErrNotFound) {
			failed = append(failed, app.Failure{ID: id.String(), Error: deadletter.ErrNotFound.Error()})
			continue
		}
		if broken = err; broken != nil {
			break
		}
		deleted = append(deleted, id)
		if !a.JSON {
			a.Out.Printf("%s %s", done, id)
		}
	}
	if a.JSON {
		result := map[string]any{"deleted": deleted, "failed": failed}
		if c.DryRun {
			result = map[string]any{"dry_run": true, "ids": deleted, "failed": failed}
		}
		if err := a.Out.Document(result); err != nil {
			return err
		}
	}
	return a.BrokenOutcome(len(deleted), failed, broken)
}

func (c *deleteCmd) bulk(a *app.App, pool *pgxpool.Pool, queue *deadletter.Queue, f deadletter.Filter) error {
	if err := pin(a, pool, queue, &f); err != nil {
		return err
	}
	n, err := queue.Count(a.Ctx, f)
	if err != nil {
		return err
	}
	if f.Limit > 0 {
		n = min(n, int64(f.Limit))
	}
	if n == 0 {
		return errNothingMatched
	}
	if c.DryRun {
		return preview(a, "delete", n, func() ([]deadletter.Job, error) {
			f.Limit = int(min(n, shownRows))
			return queue.List(a.Ctx, f)
		})
	}
	if err := a.Confirm(c.Yes, fmt.Sprintf("This will permanently delete %s. This cannot be undone.", terminal.Letters(n))); err != nil {
		return err
	}
	deleted, err := queue.DeleteAll(a.Ctx, f)
	if err != nil && deleted == 0 {
		return err
	}
	if !a.JSON {
		a.Out.Printf("Deleted %s.", terminal.Letters(deleted))
	} else if err := a.Out.Document(map[string]any{"deleted": deleted}); err != nil {
		return err
	}
	return unfinished(a, fmt.Sprintf("deleted %s of %s", unit.Thousands(deleted), terminal.Letters(n)), deleted, err)
}
