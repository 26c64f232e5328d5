package engine_test

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/engine"
)

const advertisingTogetherSQL = `select count(distinct lock_key) = 1 and count(lock_key) = $1 from soniq_workers where status = 'active'`

// beating are workers of one process that have found together: their rows name one lock.
func beating(t *testing.T, n int) (pool *pgxpool.Pool, workers []*running, sent *chores) {
	t.Helper()
	sent = &chores{sent: map[string]int{}, texts: map[string]string{"together": "named as (\n  update public.soniq_task_registry", "alone": "insert into public.soniq_workers ("}}
	pool = tracedBy(t, sent)
	for range n {
		reg := engine.NewRegistry()
		noop(reg, "n")
		workers = append(workers, start(t, pool, reg, engine.WorkerConfig{}, engine.Timing{Beat: 100 * time.Millisecond}))
	}
	waitUntil(t, pool, "the lock of all", advertisingTogetherSQL, n)
	return pool, workers, sent
}

// more waits for so many heartbeats of each kind.
func (c *chores) more(t *testing.T, what string, n int) {
	t.Helper()
	before := c.count()[what]
	waitTrue(t, what, func() bool { return c.count()[what] >= before+n })
}

// Of the workers of a process one writes the heartbeats of all.
func TestWorkers_ofOneProcess_oneBeatsForAll(t *testing.T) {
	t.Parallel()
	const workers = 8
	_, _, sent := beating(t, workers)
	sent.more(t, "together", 4)
	before := sent.count()
	sent.more(t, "together", 20)
	n := sent.count()
	// Each statement for all the others follows a heartbeat of the one that sends it. On a busy machine
	// another one may be due at the same time.
	if alone, together := n["alone"]-before["alone"], n["together"]-before["together"]; alone > 3*together {
		t.Errorf("%d heartbeats of single workers and %d of all the others, of %d workers", alone, together, workers)
	}
}

// What another worker can't renew, each worker writes itself: a row that is gone or was marked as
// stopped. One that somebody has locked keeps none of the others from beating.
func TestWorkers_oneCannotBeBeatenFor_theOthersAre(t *testing.T) {
	t.Parallel()
	pool, workers, sent := beating(t, 4)
	beaten := func(what string, others bool) {
		t.Helper()
		before := queryValue[time.Time](t, pool, `select clock_timestamp()`)
		ids := []any{workers[1].ID(), before}
		if others {
			waitUntil(t, pool, what, `select count(*) = 3 from soniq_workers where id <> $1 and last_heartbeat > $2 and status = 'active'`, ids...)
		} else {
			waitUntil(t, pool, what, `select count(*) = 1 from soniq_workers where id = $1 and last_heartbeat > $2 and status = 'active' and lock_key is not null`, ids...)
		}
	}
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `select from soniq_workers where id = $1 for update`, workers[1].ID()); err != nil {
		t.Fatal(err)
	}
	sent.more(t, "together", 3)
	beaten("the others' heartbeats beside a locked row", true)
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	beaten("the heartbeat of a row that is free again", false)
	incarnation := queryValue[int64](t, pool, `select incarnation from soniq_workers where id = $1`, workers[1].ID())
	exec(t, pool, `update soniq_workers set status = 'stopped', lock_key = null where id = $1`, workers[1].ID())
	beaten("the heartbeat of one that was marked as stopped", false)
	if again := queryValue[int64](t, pool, `select incarnation from soniq_workers where id = $1`, workers[1].ID()); again == incarnation {
		t.Error("it has the same incarnation, so it does not know that it did not count as waiting")
	}
	exec(t, pool, `delete from soniq_workers where id = $1`, workers[1].ID())
	beaten("the heartbeat of a row that was gone", false)
	beaten("the others'", true)
	// One that has stopped stays so.
	if err := workers[1].stop(); err != nil {
		t.Fatal(err)
	}
	sent.more(t, "together", 3)
	if status := queryValue[string](t, pool, `select status from soniq_workers where id = $1`, workers[1].ID()); status != "stopped" {
		t.Errorf("a worker that has stopped is %s", status)
	}
}

// The names of the jobs of all are refreshed, too.
func TestWorkers_ofOneProcess_theirNamesAreRefreshed(t *testing.T) {
	t.Parallel()
	pool, _, _ := beating(t, 3)
	for range 3 {
		waitUntil(t, pool, "the names of all", `select count(*) = 3 from soniq_task_registry where last_seen_at > $1`,
			queryValue[time.Time](t, pool, `select clock_timestamp()`))
	}
}
