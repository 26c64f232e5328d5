package engine

import (
	"context"
	"fmt"
	"time"
)

// Some chores are the fleet's: it is enough, or it matters, that one worker
// does them. Each has a row in soniq_chores, and whoever finds that its turn
// has come takes it for all. A worker that dies with a turn costs that one turn.

// A name that is not due writes nothing: one look at a row for each worker. A
// clock that was set back must not end the chore. Parameters: $1 name, $2 every.
const takeTurnSQL = `
insert into public.soniq_chores (name, begun_at)
select $1, now()
where not exists (
  select from public.soniq_chores c
  where c.name = $1
    and c.begun_at between now() - $2::interval and now()
)
on conflict (name) do update
set begun_at = excluded.begun_at
where soniq_chores.begun_at not between now() - $2::interval and now()`

// takeTurn reports whether this worker is the one to do the chore now. Each
// worker asks at its own pace, so a turn is due a little earlier than that: else
// one that comes just too soon would leave it for a whole round.
func (w *Worker) takeTurn(ctx context.Context, name string, every time.Duration) (bool, error) {
	tag, err := w.pool.Exec(ctx, takeTurnSQL, name, every-every/10)
	if err != nil {
		return false, fmt.Errorf("take the turn of %s: %w", name, err)
	}
	return tag.RowsAffected() > 0, nil
}
