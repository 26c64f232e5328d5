package hooks

import (
	"context"
	"fmt"
	"strings"

	"soniq/internal/pg"
	needed "soniq/internal/rights"
	"soniq/internal/roles"
)

// checkGrants logs in one line which rights the dispatcher's role lacks
// (docs/security.md grants them). A database that doesn't answer is met again soon.
//
// Errors: that it lacks some without which it can't send.
func (d *Dispatcher) checkGrants(ctx context.Context) error {
	pool := d.outbox.pool
	grants, stops, err := needed.Of(ctx, pool, roles.Dispatcher)
	list := strings.Join(grants, "; ")
	switch {
	case pg.IsCode(err, pg.InsufficientPrivilege):
		return err
	case stops:
		return fmt.Errorf("the dispatcher's role lacks rights that it can't work without: %s; %s", list, needed.Hint(pool, roles.Dispatcher))
	case len(grants) > 0:
		d.log.Error("the dispatcher's role lacks rights; what needs them waits until they are granted", "remedy", list)
	}
	return nil
}
