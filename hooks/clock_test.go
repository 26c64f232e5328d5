package hooks

import (
	"testing"
	"time"

	"github.com/google/uuid"

	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

// stepped has the dispatcher see that the database's clock was set by step.
func stepped(d *Dispatcher, step time.Duration) {
	now := time.Now()
	d.outbox.clock.Note(now.Add(-step), now, now)
}

// A clock that is set forward ends every lease at once. What another dispatcher sends
// just then must not be sent twice.
func TestDispatcher_clockIsSetForward_takesNoLease(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	o := outboxOf(t, pool)
	hook := scalar[uuid.UUID](t, pool, `insert into soniq_hooks (name, kind) values ('h', 'log') returning id`)
	scalar[uuid.UUID](t, pool, makeDeliverySQL, hook, "pending", 0.0)
	if rows, err := o.claim(t.Context(), dueHook{ID: hook, Server: scalar[time.Time](t, pool, `select pg_postmaster_start_time()`)}, uuid.New(), 10, leaseTime, 0); err != nil || len(rows) != 1 {
		t.Fatal(len(rows), err)
	}
	testkit.Exec(t, pool, `update soniq_hook_deliveries set next_attempt_at = next_attempt_at - interval '1 hour'`)
	d := dispatcherOf(t, pool, Config{})
	stepped(d, time.Hour)
	wait, _, err := d.pass(t.Context(), t.Context())
	if err != nil || wait > leaseTime/2 {
		t.Errorf("waits %s, %v", wait, err)
	}
	if rows, err := d.outbox.claim(t.Context(), dueHook{ID: hook, Server: scalar[time.Time](t, pool, `select pg_postmaster_start_time()`)}, uuid.New(), 10, leaseTime, 0); err != nil || len(rows) != 0 {
		t.Errorf("took %d, %v", len(rows), err)
	}
	// To one that saw no step the lease has expired.
	if rows, err := o.claim(t.Context(), dueHook{ID: hook, Server: scalar[time.Time](t, pool, `select pg_postmaster_start_time()`)}, uuid.New(), 10, leaseTime, 0); err != nil || len(rows) != 1 {
		t.Errorf("another took %d, %v", len(rows), err)
	}
}

// A clock that is set back puts off whatever waits for a time.
func TestDispatcher_clockIsSetBack_nothingIsPutOff(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	hook := scalar[uuid.UUID](t, pool, `insert into soniq_hooks (name, kind, blocked_until) values ('h', 'go', now() + interval '62 minutes') returning id`)
	made := func(set string) uuid.UUID {
		id := scalar[uuid.UUID](t, pool, makeDeliverySQL, hook, "pending", 0.0)
		testkit.Exec(t, pool, `update soniq_hook_deliveries set `+set+` where id = $1`, id)
		return id
	}
	waits := map[uuid.UUID]time.Duration{
		made(`created_at = now() + interval '1 hour', next_attempt_at = now() + interval '1 hour'`):      0,
		made(`attempts = 3, next_attempt_at = now() + interval '70 minutes'`):                            10 * time.Minute,
		made(`attempts = 1, next_attempt_at = now() + interval '61 minutes', lease = gen_random_uuid()`): time.Minute,
		made(`attempts = 1, next_attempt_at = now() + interval '59 seconds', lease = gen_random_uuid()`): 59 * time.Second,
	}
	d := dispatcherOf(t, pool, Config{})
	stepped(d, -time.Hour)
	for range 2 { // the second one sees no step
		if _, _, err := d.pass(t.Context(), t.Context()); err != nil {
			t.Fatal(err)
		}
		for id, want := range waits {
			const leftSQL = `select extract(epoch from next_attempt_at - now())::float8 from soniq_hook_deliveries where id = $1`
			left := time.Duration(scalar[float64](t, pool, leftSQL, id) * float64(time.Second))
			if left > want+time.Second || left < want-time.Minute {
				t.Errorf("waits %s, want %s", left, want)
			}
		}
	}
	if !scalar[bool](t, pool, `select blocked_until < now() + interval '2 minutes 1 second' from soniq_hooks`) {
		t.Error("the hook is blocked for longer than it was")
	}
}

// Who begins after the step finds what was made by the clock as it was.
func TestDispatcher_begins_findsWhatWasMadeInTheFuture(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	hook := scalar[uuid.UUID](t, pool, `insert into soniq_hooks (name, kind) values ('h', 'go') returning id`)
	scalar[uuid.UUID](t, pool, makeDeliverySQL, hook, "pending", -0.1)
	if err := outboxOf(t, pool).clockBack(t.Context(), futureTask, 0); err != nil {
		t.Fatal(err)
	}
	if !scalar[bool](t, pool, `select next_attempt_at <= clock_timestamp() from soniq_hook_deliveries`) {
		t.Error("it is not due")
	}
}
