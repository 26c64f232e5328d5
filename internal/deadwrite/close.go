package deadwrite

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"soniq/internal/byindex"
	"soniq/internal/pause"
	"soniq/internal/pg"
)

const (
	// closeBatch is how many dead letters one statement looks at: some 20 ms.
	closeBatch = 1000
	// closePause is the least time between two batches. Usually it is as long as the last one took.
	closePause = 5 * time.Millisecond
)

// closeSQL sets why a dead letter needs no attention where that isn't as its state and its
// replays say, and leaves rows that are locked. The dead letter of a replay is locked against
// its deletion, which opens the other one again. All are looked at before the first is changed: a statement
// can't lock what it has changed. $1 and $2 the position after which it begins,
// $3 the batch.
const closeSQL = `
with page as materialized (
  select d.id, d.moved_to_dead_letter_at as at, d.state, d.replay_job_id, d.closed
  from public.soniq_dead_letter_jobs d
  where d.closed is distinct from 'resolved'
    and (d.moved_to_dead_letter_at, d.id) > ($1::timestamptz, $2::uuid)
  order by d.moved_to_dead_letter_at, d.id
  limit $3
), looked as materialized (
  select p.*, case
    when p.state = 'resolved' then 'resolved'
    when p.state <> 'dead' or p.replay_job_id is null then null
    when p.closed is not null then (
      select 'superseded'
      from public.soniq_dead_letter_jobs s
      where s.id = p.replay_job_id and s.replay_of = p.id
    )
    else (
      select 'superseded'
      from public.soniq_dead_letter_jobs s
      where s.id = p.replay_job_id and s.replay_of = p.id
      for key share skip locked
    )
  end as now_closed
  from page p
), locked as materialized (
  select l.id, l.now_closed
  from looked l
  cross join lateral (
    select d.id
    from public.soniq_dead_letter_jobs d
    where d.id = l.id
      and d.state = l.state
      and d.replay_job_id is not distinct from l.replay_job_id
    for no key update skip locked
  ) d
  where l.now_closed is distinct from l.closed
    and (select count(*) from looked) > 0
), changed as (
  update public.soniq_dead_letter_jobs d
  set closed = l.now_closed
  from locked l
  where d.id = l.id
  returning d.id
)
select (select count(*) from changed), p.at, p.id, (select count(*) from page)
from page p
order by p.at desc, p.id desc
limit 1`

// Close looks at all dead letters that may need attention, and marks those that need none:
// resolved or superseded ones that a program of 0.1.0 wrote, an import, or a statement for
// which the database's triggers were off. It opens those again whose mark is wrong. It works
// in small batches with pauses, and returns how many it changed, also after an error.
//
// Errors: the context's; those of the database.
func Close(ctx context.Context, pool *pg.Pool) (changed int64, err error) {
	at, id := pgtype.Timestamptz{InfinityModifier: pgtype.NegativeInfinity, Valid: true}, uuid.Nil
	for {
		var n, looked int64
		began := time.Now()
		err := byindex.LookupRow(ctx, pool, closeSQL, []any{at, id, closeBatch}, &n, &at, &id, &looked)
		if errors.Is(err, pgx.ErrNoRows) {
			return changed, nil
		}
		if err != nil {
			return changed, fmt.Errorf("close dead letters: %w", err)
		}
		changed += n
		if looked < closeBatch {
			return changed, nil
		}
		if err := pause.For(ctx, max(time.Since(began), closePause)); err != nil {
			return changed, err
		}
	}
}
