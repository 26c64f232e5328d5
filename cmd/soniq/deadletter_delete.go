package main

import (
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/deadletter"
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

func (c *deleteCmd) Run(a *app) error {
	bulk, f, err := c.resolve(a.now())
	if err != nil {
		return err
	}
	pool, err := a.open()
	if err != nil {
		return err
	}
	queue, err := c.queue(a, pool)
	if err != nil {
		return err
	}
	if bulk {
		return c.bulk(a, pool, queue, f)
	}
	ids, failed, err := findIDs(a.ctx, queue, c.IDs)
	if err != nil {
		return err
	}
	return c.single(a, queue, ids, failed)
}

func (c *deleteCmd) single(a *app, queue *deadletter.Queue, ids []uuid.UUID, failed []failure) error {
	deleted := []uuid.UUID{}
	done := "Deleted"
	if c.DryRun {
		done = "Would delete"
	}
	var broken error
	for _, id := range ids {
		var err error
		if c.DryRun {
			_, err = queue.Get(a.ctx, id)
		} else {
			err = queue.Delete(a.ctx, id)
		}
		if errors.Is(err, deadletter.ErrNotFound) {
			failed = append(failed, failure{id.String(), deadletter.ErrNotFound.Error()})
			continue
		}
		if broken = err; broken != nil {
			break
		}
		deleted = append(deleted, id)
		if !a.JSON {
			a.out.printf("%s %s", done, id)
		}
	}
	if a.JSON {
		result := map[string]any{"deleted": deleted, "failed": failed}
		if c.DryRun {
			result = map[string]any{"dry_run": true, "ids": deleted, "failed": failed}
		}
		if err := a.out.document(result); err != nil {
			return err
		}
	}
	return a.brokenOutcome(len(deleted), failed, broken)
}

func (c *deleteCmd) bulk(a *app, pool *pgxpool.Pool, queue *deadletter.Queue, f deadletter.Filter) error {
	if err := pin(a.ctx, pool, &f); err != nil {
		return err
	}
	n, err := queue.Count(a.ctx, f)
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
		return a.preview("delete", n, func() ([]deadletter.Job, error) {
			f.Limit = int(min(n, shownRows))
			return queue.List(a.ctx, f)
		})
	}
	if err := a.confirm(c.Yes, fmt.Sprintf("This will permanently delete %s. This cannot be undone.", letters(n))); err != nil {
		return err
	}
	deleted, err := queue.DeleteAll(a.ctx, f)
	if err != nil && deleted == 0 {
		return err
	}
	if !a.JSON {
		a.out.printf("Deleted %s.", letters(deleted))
	} else if err := a.out.document(map[string]any{"deleted": deleted}); err != nil {
		return err
	}
	return partly(deleted, err)
}
