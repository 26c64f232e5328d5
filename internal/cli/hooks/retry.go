package hooks

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"

	"soniq/hooks"
	"soniq/internal/cli/app"
	"soniq/internal/cli/terminal"
	"soniq/internal/unit"
)

type hooksRetryCmd struct {
	IDs  []string `arg:"" optional:"" name:"delivery" help:"Ids of deliveries."`
	Hook string   `placeholder:"HOOK" help:"All deliveries of this hook that failed or wait for their next attempt."`
}

func (hooksRetryCmd) Help() string {
	return `Makes deliveries due now, with the same ids, also while their hook pauses after failures or a Retry-After. A delivered one is not sent again. Those of a disabled hook wait until it is enabled. Exits with 3 if there was nothing to send, and with 4 if one of the ids was left as it is.

    soniq hooks retry --hook slack
    soniq hooks retry 0b8ad1a6-6d0c-4f0e-9d4b-2a1b3c4d5e6f`
}

func (c *hooksRetryCmd) Run(a *app.App) error {
	if len(c.IDs) == 0 && c.Hook == "" {
		return app.Usagef("name deliveries, or --hook for all of one that failed or wait")
	}
	ids := make([]uuid.UUID, len(c.IDs))
	for i, text := range c.IDs {
		id, err := uuid.Parse(text)
		if err != nil {
			return app.Usagef("%q is not the id of a delivery", text)
		}
		ids[i] = id
	}
	store, err := storeWith(a, c.Hook)
	if err != nil {
		return err
	}
	n, left, err := c.retry(a, store, ids)
	if err != nil {
		return app.Partly(n, err)
	}
	if n == 0 {
		return errNoDelivery
	}
	if a.JSON {
		err = a.Out.Document(map[string]int64{"due": n})
	} else {
		a.Out.Printf("%s due now", deliveries(n))
	}
	c.noteWaiting(a, store, ids)
	if err == nil && len(left) > 0 {
		err = app.Partly(n, fmt.Errorf("%s: no such delivery, or it was delivered or is being sent", strings.Join(left, ", ")))
	}
	return err
}

// retry makes deliveries due, one id after the other, so that it can say how many it
// made due, and which ids were left as they are.
func (c *hooksRetryCmd) retry(a *app.App, store *hooks.Store, ids []uuid.UUID) (n int64, left []string, err error) {
	for i, id := range ids {
		if slices.Contains(ids[:i], id) {
			continue
		}
		due, err := store.RetryDeliveries(a.Ctx, []uuid.UUID{id}, "")
		if err != nil {
			return n, left, err
		}
		if n += due; due == 0 {
			left = append(left, id.String())
		}
	}
	if c.Hook != "" {
		due, err := store.RetryDeliveries(a.Ctx, nil, c.Hook)
		return n + due, left, err
	}
	return n, left, nil
}

// noteWaiting says which of the hooks send nothing now although deliveries are due. A role that can't
// read that is told nothing.
func (c *hooksRetryCmd) noteWaiting(a *app.App, store *hooks.Store, ids []uuid.UUID) {
	names := []string{c.Hook}
	if len(ids) > 0 {
		found, err := store.Deliveries(a.Ctx, hooks.DeliveryFilter{IDs: ids, State: hooks.Pending, Limit: len(ids)})
		if err != nil {
			return
		}
		for _, d := range found {
			names = append(names, d.Hook)
		}
	}
	all, err := store.List(a.Ctx)
	if err != nil {
		return
	}
	for _, h := range all {
		switch name := terminal.OneLine(h.Name); {
		case !slices.Contains(names, h.Name):
		case !h.Enabled:
			a.Note("hook %s is disabled (%s): it sends what is due after 'soniq hooks enable %s'", name, terminal.OneLine(h.DisabledReason), app.ShellWord(name))
		case h.Unavailable != "":
			a.Note("hook %s waits: %s", name, terminal.OneLine(h.Unavailable))
		}
	}
	a.NoteHeld()
}

func deliveries(n int64) string {
	if n == 1 {
		return "1 delivery is"
	}
	return unit.Thousands(n) + " deliveries are"
}

// errNoDelivery ends 'hooks retry' if no delivery matches.
var errNoDelivery = &app.ExitError{Code: app.ExitNothing, Err: errors.New("no delivery that failed or waits matches; nothing was changed")}
