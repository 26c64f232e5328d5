package rollup

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"soniq/deadletter/classify"
	"soniq/internal/pause"
	"soniq/internal/pg"
)

const (
	// deathsTask is the name of the task that counts the dead letters. Its row has the position up to which they
	// are counted.
	deathsTask  = "count dead letters"
	deathsEvery = time.Minute
	// pruneTask and pruneEvery are about the rows that have served their time.
	pruneTask  = "delete old counts"
	pruneEvery = 15 * time.Minute
	// deathsBatch is how many dead letters one statement counts: some 20 ms.
	deathsBatch = 5000
	// deathsPatience is when the rest is left to the next turn. All dead letters that were there before the table
	// are counted too, at some 100,000 a second.
	deathsPatience = 20 * time.Second
)

// reasons are those that have rows of their own, and Other.
var reasons = func() (all []string) {
	for _, r := range classify.Reasons() {
		all = append(all, string(r))
	}
	return append(all, Other)
}()

// knownReasonsSQL is a list of them for IN.
var knownReasonsSQL = "'" + strings.Join(reasons, "', '") + "'"

// positionSQL reads the position up to which the dead letters are counted, and locks it: two leaders never count
// the same ones. Parameter: $1 the task.
const positionSQL = `
with counted as (
  select (t.result ->> 'epoch')::bigint as epoch, (t.result ->> 'xid')::xid8 as xid, (t.result ->> 'id')::uuid as id
  from public.soniq_leader_tasks t
  where t.name = $1
    and t.result is not null
  for update
)`

// deathSQL is a dead letter d as it is counted: at the time of its death, which the server wrote.
var deathSQL = `
  least(d.moved_to_dead_letter_at, now()) as at,
  case when char_length(d.queue) > ` + fmt.Sprint(maxName) + ` then left(d.queue, ` + fmt.Sprint(maxName-1) + `) || '…' else d.queue end as queue,
  case when char_length(d.job_name) > ` + fmt.Sprint(maxName) + ` then left(d.job_name, ` + fmt.Sprint(maxName-1) + `) || '…' else d.job_name end as job_name,
  case when d.dead_letter_reason in (` + knownReasonsSQL + `) then d.dead_letter_reason else '` + Other + `' end as reason`

// countSQL counts the dead letters after the position, in the order of the feed, in which none is missed and none
// comes twice. What is restored by an import is not in the feed: it was counted when it died. Parameters: $1 the
// task, $2 how many.
var countSQL = positionSQL + `, page as materialized (
  select d.moved_epoch, d.moved_xid, d.id,` + deathSQL + `
  from public.soniq_dead_letter_feed d
  where (d.moved_epoch, d.moved_xid, d.id) > ((select epoch from counted), (select xid from counted), (select id from counted))
  order by d.moved_epoch, d.moved_xid, d.id
  limit $2
), item as (
  select p.at, p.queue, p.job_name, p.reason, count(*) as dead
  from (select ` + bin("60", "p.at") + ` as at, p.queue, p.job_name, p.reason from page p where p.at > now() - interval '` + seconds(kept) + ` seconds') p
  group by 1, 2, 3, 4
)` + namedSQL + `, added as (
  insert into public.soniq_job_stats as s (step, at, queue, job_name, reason, dead)
  select l.step, ` + bin("l.step", "n.at") + `, n.counted_queue, n.counted_name, n.reason, sum(n.dead)::bigint
  from named n
  cross join (` + stepsSQL + `) l (step)
  group by 1, 2, 3, 4, 5
  order by 1, 2, 3, 4, 5
  on conflict (step, at, queue, job_name, reason) do update
  set dead = s.dead + excluded.dead
), last as (
  select p.moved_epoch, p.moved_xid, p.id
  from page p
  order by p.moved_epoch desc, p.moved_xid desc, p.id desc
  limit 1
), moved as (
  update public.soniq_leader_tasks
  set result = jsonb_build_object('epoch', l.moved_epoch, 'xid', l.moved_xid::text, 'id', l.id)
  from last l
  where name = $1
)
select exists (select from counted), (select count(*) from page)`

// notStartedSQL locks the task's row if nothing was counted yet, and startSQL begins to count: a position that was
// lost would have the deaths that are in the table counted again. Parameter of both: $1 the task.
const (
	notStartedSQL = `select true from public.soniq_leader_tasks t where t.name = $1 and t.result is null for update`
	forgetSQL     = `delete from public.soniq_job_stats where reason <> ''`
	startSQL      = `
update public.soniq_leader_tasks
set result = jsonb_build_object('epoch', 0, 'xid', '0', 'id', '00000000-0000-0000-0000-000000000000')
where name = $1`
)

// CountDeaths counts the dead letters that are not counted yet, if the caller is the leader of this turn.
//
// Errors: those of the database.
func CountDeaths(ctx context.Context, pool *pg.Pool) error {
	leads, err := pg.TakeTurn(ctx, pool, deathsTask, deathsEvery)
	if err != nil || !leads {
		return err
	}
	return countDeaths(ctx, pool)
}

func countDeaths(ctx context.Context, pool *pg.Pool) error {
	began, tried := time.Now(), false
	for time.Since(began) < deathsPatience {
		var started bool
		var n int
		sent := time.Now()
		if err := inOrder(ctx, pool, func(tx pgx.Tx) error {
			return tx.QueryRow(ctx, countSQL, deathsTask, deathsBatch).Scan(&started, &n)
		}); err != nil {
			return fmt.Errorf("count dead letters: %w", err)
		}
		if !started && tried {
			return nil // the task's row was deleted meanwhile
		}
		if !started {
			tried = true
			if err := start(ctx, pool); err != nil {
				return fmt.Errorf("begin to count dead letters: %w", err)
			}
			continue
		}
		if n < deathsBatch {
			return nil
		}
		if err := pause.For(ctx, time.Since(sent)); err != nil {
			return err
		}
	}
	return nil
}

// start sets the position before all dead letters, if there is none.
func start(ctx context.Context, pool *pg.Pool) error {
	return pg.InTx(ctx, pool, func(tx pgx.Tx) error {
		var free bool
		err := tx.QueryRow(ctx, notStartedSQL, deathsTask).Scan(&free)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil // another leader has begun, or the row is gone: the next turn makes it
		}
		if err == nil {
			_, err = tx.Exec(ctx, forgetSQL)
		}
		if err == nil {
			_, err = tx.Exec(ctx, startSQL, deathsTask)
		}
		return err
	})
}

// orderSQL has the feed read by its index, whatever the statistics say.
const orderSQL = `select set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true),
  set_config('enable_incremental_sort', 'off', true), set_config('jit', 'off', true)`

func inOrder(ctx context.Context, pool *pg.Pool, do func(pgx.Tx) error) error {
	return pg.InTx(ctx, pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, orderSQL); err != nil {
			return err
		}
		return do(tx)
	})
}

// pruneSQL deletes rows of a length that have ended long enough ago, and those of a time that a clock has made up
// which was ahead. Parameters: $1 the length, $2 for how long they are kept.
const pruneSQL = `
delete from public.soniq_job_stats
where step = $1
  and (at < now() - $2::interval or at > now() + interval '1 day')`

// Prune deletes the rows that have served their time, if the caller is the leader of this turn.
//
// Errors: those of the database.
func Prune(ctx context.Context, pool *pg.Pool) error {
	leads, err := pg.TakeTurn(ctx, pool, pruneTask, pruneEvery)
	if err != nil || !leads {
		return err
	}
	return prune(ctx, pool)
}

func prune(ctx context.Context, pool *pg.Pool) error {
	var errs []error
	for _, s := range steps {
		if _, err := pool.Exec(ctx, pruneSQL, int(s.Length/time.Second), s.Keep+s.Length); err != nil {
			errs = append(errs, fmt.Errorf("delete old counts: %w", err))
		}
	}
	return errors.Join(errs...)
}
