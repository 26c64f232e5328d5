package hooks

import (
	"bytes"
	"context"
	"log/slog"
	"sync"
	"testing"

	"github.com/google/uuid"

	"soniq/internal/eventually"
	"soniq/internal/testdb"
)

// makeManySQL makes deliveries of one hook, each a second younger than the one
// before.
const makeManySQL = `
insert into soniq_hook_deliveries (hook_id, event, dead_letter_id, facts, group_key, state, created_at, next_attempt_at)
select $1, 'job.dead_lettered', gen_random_uuid(), '{}', 'g', $2, at, at
from (select now() - $3::float8 * interval '1 day' + n * interval '1 millisecond' as at from generate_series(1, $4) n) t`

// More than a batch of everything, in one go.
func TestOutbox_prune_goesOnUntilNothingIsLeft(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	hook := scalar[uuid.UUID](t, pool, `insert into soniq_hooks (name, kind) values ('h', 'log') returning id`)
	const many = 2*maintainBatch + 1
	for _, c := range []struct {
		hook  uuid.UUID
		state string
		days  float64
		n     int
	}{
		{hook, "delivered", 8, many},
		{hook, "failed", 31, many},
		{hook, "pending", 31, many},
		{uuid.New(), "delivered", 0, many},
		{hook, "delivered", 6, 1},
		{hook, "failed", 29, 1},
		{hook, "pending", 29, 1},
	} {
		if _, err := pool.Exec(t.Context(), makeManySQL, c.hook, c.state, c.days, c.n); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := pool.Exec(t.Context(), `
		insert into soniq_hook_groups (hook_id, group_key, sent_at, hold)
		select $1, n::text, now() - case when n = 0 then interval '70 minutes' else interval '80 minutes' end, '1 hour'
		from generate_series(0, $2) n`, hook, many); err != nil {
		t.Fatal(err)
	}
	// Two of them at once: one does it, and nobody waits for the other.
	o := outboxOf(t, pool)
	var both sync.WaitGroup
	for range 2 {
		both.Go(func() {
			if err := o.prune(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	both.Wait()
	if err := o.prune(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		sql  string
		want int
	}{
		{`select count(*) from soniq_hook_deliveries where state = 'delivered'`, 1},
		{`select count(*) from soniq_hook_deliveries where state = 'failed' and last_error = 'nobody has sent it for 30 days'`, many},
		{`select count(*) from soniq_hook_deliveries where state = 'failed' and last_error is null`, 1},
		{`select count(*) from soniq_hook_deliveries where state = 'pending'`, 1},
		{`select count(*) from soniq_hook_groups`, 1},
	} {
		if got := scalar[int](t, pool, c.sql); got != c.want {
			t.Errorf("%s: %d, want %d", c.sql, got, c.want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := o.prune(ctx); err == nil {
		t.Error("it does not end with its context")
	}
}

// What nobody can send is bounded: the newest are kept, also of a storm whose
// rows have one time; the rest is counted, and logged once.
func TestDispatcher_moreWaitThanMay_oldestAreDropped(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	// Nobody here may run the one, or has the other.
	hook := scalar[uuid.UUID](t, pool, `insert into soniq_hooks (name, kind) values ('h', 'exec') returning id`)
	other := scalar[uuid.UUID](t, pool, `insert into soniq_hooks (name, kind) values ('other', 'go') returning id`)
	for _, c := range []struct {
		hook uuid.UUID
		days float64
		n    int
	}{{hook, 2, 7000}, {hook, 1, 100}, {other, 5, 50}} {
		if _, err := pool.Exec(t.Context(), makeManySQL, c.hook, "pending", c.days, c.n); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := pool.Exec(t.Context(), `update soniq_hook_deliveries set next_attempt_at = created_at::date where created_at < now() - interval '36 hours'`); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var out bytes.Buffer
	d := dispatcherOf(t, pool, Config{MaxPending: 150, Logger: slog.New(slog.NewTextHandler(lockedWriter{&mu, &out}, nil))})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	eventually.True(t, "the drop", func() bool {
		return scalar[int](t, pool, `select count(*) from soniq_hook_deliveries where hook_id = $1`, hook) == 150
	})
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if n := scalar[int](t, pool, `select count(*) from soniq_hook_deliveries where hook_id = $1 and created_at > now() - interval '36 hours'`, hook); n != 100 {
		t.Errorf("%d of the 100 newest are left", n)
	}
	infos, err := storeOf(t, pool).List(t.Context())
	if err != nil || infos[0].Dropped != 6950 || infos[1].Dropped != 0 || infos[1].Pending != 50 {
		t.Errorf("%+v, %v", infos, err)
	}
	if err := d.bound(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if n := bytes.Count(out.Bytes(), []byte("the oldest are dropped")); n != 1 {
		t.Errorf("logged %d times: %s", n, out.String())
	}
}

type lockedWriter struct {
	mu  *sync.Mutex
	buf *bytes.Buffer
}

func (w lockedWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.Write(p)
}

func TestShare_boundOverAll_takesFromTheLargest(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		counts          []int
		each, all, want int
	}{
		{[]int{5, 10}, 100, 1000, 100},
		{[]int{500, 10}, 100, 1000, 100},
		{[]int{100, 100, 10}, 100, 110, 50},
		{[]int{100, 100, 100, 100}, 100, 100, 25},
		{nil, 100, 100, 100},
	} {
		var waiting []backlog
		for _, n := range c.counts {
			waiting = append(waiting, backlog{n: n})
		}
		if got := share(waiting, c.each, c.all); got != c.want {
			t.Errorf("%v, each %d, all %d: %d, want %d", c.counts, c.each, c.all, got, c.want)
		}
	}
}

// All dispatchers together look once a minute. One that has just started looks anyway.
func TestDispatcher_bound_isOnesOfTheFleet(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	hook := scalar[uuid.UUID](t, pool, `insert into soniq_hooks (name, kind) values ('h', 'go') returning id`)
	for i, c := range []struct {
		first bool
		want  int
	}{{false, 1}, {false, 4}, {true, 1}} {
		if _, err := pool.Exec(t.Context(), makeManySQL, hook, "pending", 1, 3); err != nil {
			t.Fatal(err)
		}
		d := dispatcherOf(t, pool, Config{MaxPending: 1})
		if err := d.bound(t.Context(), c.first); err != nil {
			t.Fatal(err)
		}
		if n := scalar[int](t, pool, `select count(*) from soniq_hook_deliveries`); n != c.want {
			t.Errorf("%d: %d are left, want %d", i, n, c.want)
		}
	}
}

const dieSQL = `
insert into soniq_dead_letter_jobs (id, job_name, args, queue, priority, max_attempts, attempts, dead_letter_reason,
  original_created_at, moved_to_dead_letter_at)
select gen_random_uuid(), 'j', '{}', 'default', 1, 1, 1, 'timeout', now(), now() from generate_series(1, $1)`

// Where no dispatcher has taken anything for a month, the outbox grows no more;
// other hooks hear of everything.
func TestOutbox_nobodySendsForAMonth_nothingMoreIsKept(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	stuck := scalar[uuid.UUID](t, pool, `insert into soniq_hooks (name, kind) values ('stuck', 'log') returning id`)
	scalar[uuid.UUID](t, pool, `insert into soniq_hooks (name, kind) values ('well', 'log') returning id`)
	scalar[uuid.UUID](t, pool, `
		insert into soniq_hooks (name, kind, jobs)
		values ('huge filter', 'log', array(select md5(n::text) from generate_series(1, 50000) n) || '{j}') returning id`)
	scalar[uuid.UUID](t, pool, makeDeliverySQL, stuck, "pending", 31)
	if _, err := pool.Exec(t.Context(), dieSQL, 10); err != nil {
		t.Fatal(err)
	}
	counts := scalar[map[string]int](t, pool, `
		select jsonb_object_agg(name, (select count(*) from soniq_hook_deliveries d where d.hook_id = h.id)) from soniq_hooks h`)
	if counts["stuck"] != 1 || counts["well"] != 10 || counts["huge filter"] != 0 {
		t.Errorf("%v", counts)
	}
	// A dispatcher gives the old one up, and the hook hears again.
	if err := outboxOf(t, pool).prune(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := pool.Exec(t.Context(), dieSQL, 1); err != nil {
		t.Fatal(err)
	}
	if n := scalar[int](t, pool, `select count(*) from soniq_hook_deliveries where hook_id = $1`, stuck); n != 2 {
		t.Errorf("%d deliveries", n)
	}
}
