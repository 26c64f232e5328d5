package hooks

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"soniq/internal/redact"
)

// ownKind has hooks that programs register. open adds its digest limits for those
// that were registered with RegisterOptions.Digest.
var ownKind = kind{
	open: func(d *Dispatcher, p prepared) (Hook, *redact.Set, error) {
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.own[p.name].hook, nil, nil
	},
}

// ownDigest are the limits of a program's own digests. A dead letter can have
// megabytes of arguments, so only a hundred are read for one message.
var ownDigest = digestLimits{rows: maxDigest, read: 100}

// registered is a hook of Register.
type registered struct {
	hook   Hook
	digest bool
}

// RegisterOptions are the options of [Dispatcher.Register].
type RegisterOptions struct {
	// Digest gathers events in digests, as for Slack: the first of a group is sent at
	// once, later ones together. Default false: each event by itself.
	Digest bool
	// Events are the types of events that the hook receives. Default Dead.
	Events []EventType
}

const registerSQL = `
insert into public.soniq_hooks (name, kind, events)
values ($1, 'go', $2)
on conflict (name) do update
set events = excluded.events
where soniq_hooks.kind = 'go'
returning id`

// Register adds a hook of the program's own. Its name must stay the same from one
// release to the next: the outbox keeps its deliveries under it, and any dispatcher
// that has registered the name sends them. Call Register before Run.
//
// Errors: [ErrExists] where a hook of another kind has the name; else those of the
// database.
func (d *Dispatcher) Register(ctx context.Context, name string, hook Hook, o RegisterOptions) error {
	if len(o.Events) == 0 {
		o.Events = []EventType{Dead}
	}
	var id uuid.UUID
	err := d.outbox.pool.QueryRow(ctx, registerSQL, name, o.Events).Scan(&id)
	if errors.Is(err, pgx.ErrNoRows) {
		err = ErrExists
	}
	if err != nil {
		return fmt.Errorf("register hook %q: %w", name, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.own[name] = registered{hook, o.Digest}
	return nil
}
