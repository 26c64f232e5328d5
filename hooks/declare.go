package hooks

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"soniq/internal/pg"
)

// It changes every column that a configuration has. A hook that somebody disabled
// stays disabled.
const declareSQL = `
insert into public.soniq_hooks as h (name, kind, url, secrets, settings, events, jobs, queues, reasons, tags, declarations, declared_at)
values ($1, $2, nullif($3, ''), nullif($4, ''), $5, $6, $7, $8, $9, $10, $11, clock_timestamp())
on conflict (name) do update
set kind = excluded.kind,
  url = excluded.url,
  secrets = excluded.secrets,
  settings = excluded.settings,
  events = excluded.events,
  jobs = excluded.jobs,
  queues = excluded.queues,
  reasons = excluded.reasons,
  tags = excluded.tags,
  declarations = excluded.declarations,
  declared_at = excluded.declared_at
where h.declared_at is not null
returning enabled, coalesce(disabled_reason, 'its row says so')`

// Declare adds the hooks of a configuration, or changes them to what it says. All or
// nothing: after an error none was changed. Call it before Run.
//
// Declared hooks are sent to as declared here, whatever their row says, and only by
// dispatchers that declare them. So a command needs no AllowExec, and a hook may name
// any variable and network. The row has no secret. Events are kept for them while none
// of these dispatchers runs. A hook that no running dispatcher has declared for a week
// is removed.
//
// While dispatchers run that declare a hook of the same name in another way, the hook
// receives what any of them asks for, and a warning says where they differ.
//
// Errors: a [*DeclareError] names the hook. It wraps [ErrExists] if a hook that was
// not declared has the name, and else what [Spec.Check] or the database returns.
func (d *Dispatcher) Declare(ctx context.Context, specs ...Spec) error {
	disabled := map[string]string{}
	var conflicts []declaration
	err := pg.InTx(ctx, d.outbox.pool, func(tx pgx.Tx) error {
		conflicts = nil
		if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock($1)`, d.outbox.pool.Schema().LockKey(declareLock)); err != nil {
			return err
		}
		for _, spec := range specs {
			if err := spec.Check(); err != nil {
				return &DeclareError{spec.Name, err}
			}
			others, known, err := d.declarations(ctx, tx, spec)
			if err != nil {
				return &DeclareError{spec.Name, err}
			}
			conflicts = append(conflicts, others...)
			wide := spec.redacted().widened(others)
			var enabled bool
			var reason string
			err = tx.QueryRow(ctx, declareSQL, append(wide.row(), known)...).Scan(&enabled, &reason)
			if errors.Is(err, pgx.ErrNoRows) {
				err = ErrExists
			}
			if err != nil {
				return &DeclareError{spec.Name, err}
			}
			if !enabled {
				disabled[spec.Name] = reason
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("declare hooks: %w", err)
	}
	for name, reason := range disabled {
		d.log.Warn("a hook of the configuration is disabled; 'soniq hooks enable' lets it go on", "hook", name, "reason", reason)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.warnOfConflicts(conflicts, specs)
	for _, spec := range specs {
		d.declared[spec.Name] = func() Spec { return spec }
	}
	return nil
}

// DeclareError says which hook can't be declared, and why.
type DeclareError struct {
	// Hook is its name.
	Hook string
	// Err is the reason.
	Err error
}

func (e *DeclareError) Error() string { return fmt.Sprintf("hook %q: %s", e.Hook, e.Err) }

// Unwrap returns Err.
func (e *DeclareError) Unwrap() error { return e.Err }
