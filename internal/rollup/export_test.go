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
