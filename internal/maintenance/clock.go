package maintenance

import (
	"context"
	"fmt"

	"soniq/internal/pg"
)

// clockTask is looked at by one worker of all that see the same step.
const clockTask = "jobs from the future"

// makeDueSQL makes jobs due that have no time of their own and were made in the future:
// the database's clock was set back since, or their producer dated them so, perhaps at
// infinity. It doesn't wait for a row. Parameter: $1 how many.
const makeDueSQL = `
update public.soniq_jobs
set scheduled_at = now()
where id in (
  select j.id
  from public.soniq_jobs j
  where j.status = 'queued'
    and j.scheduled_at is null
    and j.created_at > now() + interval '1 second'
  limit $1
  for update skip locked
)`

const makeDueBatch = 1000

// MakeDue makes jobs due that were made for now by a clock that was set back since. Jobs
// that were put off to a time, by a producer or for another attempt, keep that time.
//
// Errors: those of the database.
func (m *Maintenance) MakeDue(ctx context.Context) error {
	leads, err := pg.TakeTurn(ctx, m.config.Pool, clockTask, clockTurn)
	for leads && err == nil {
		tag, execErr := m.config.Pool.Exec(ctx, makeDueSQL, makeDueBatch)
		if execErr != nil {
			return fmt.Errorf("make jobs from the future due: %w", execErr)
		}
		leads = tag.RowsAffected() == makeDueBatch
	}
	return err
}
