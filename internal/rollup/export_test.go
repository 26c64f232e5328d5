package rollup

import (
	"context"

	"soniq/internal/pg"
)

// CountNow and PruneNow do what a leader does in its turn.
func CountNow(ctx context.Context, pool *pg.Pool) error {
	// The row of the task is what a turn makes.
	if _, err := pool.Exec(ctx, `insert into public.soniq_leader_tasks (name, begun_at) values ($1, now()) on conflict do nothing`, deathsTask); err != nil {
		return err
	}
	return countDeaths(ctx, pool)
}

// Uncounted is how many dead letters are not counted yet.
func Uncounted(ctx context.Context, pool *pg.Pool) (n int, err error) {
	err = pool.QueryRow(ctx, `
		select count(*)
		from public.soniq_dead_letter_jobs d
		left join public.soniq_leader_tasks t on t.name = $1
		where d.moved_xid is not null
		  and (d.moved_epoch, d.moved_xid, d.id) > ((t.result ->> 'epoch')::bigint, (t.result ->> 'xid')::xid8, (t.result ->> 'id')::uuid)`,
		deathsTask).Scan(&n)
	return n, err
}

func PruneNow(ctx context.Context, pool *pg.Pool) error { return prune(ctx, pool) }

// Bound is the lower bound of a bucket after the first.
func Bound(i int) int64 { return int64(bounds[i]) }

const MaxBucket = maxBucket

// MaxPending is how many rows wait at most.
const MaxPending = maxPending

// Pending is how many rows of counts wait.
func (r *Recorder) Pending() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.pending)
}

const DeathsBatch = deathsBatch
