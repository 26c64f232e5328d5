package engine_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/engine"
	"soniq/internal/testdb"
)

// timed knows when each handler returned and when its outcome was written.
type timed struct {
	*observed
	mu              sync.Mutex
	returned, wrote map[uuid.UUID]time.Time
}

func (o *timed) Settled(ctx context.Context, outcome engine.Outcome) {
	o.mu.Lock()
	o.wrote[outcome.Job.ID] = time.Now()
	o.mu.Unlock()
	o.observed.Settled(ctx, outcome)
}

// slowest enqueues n jobs that are done or die, and as many as refused says that don't, in one
// transaction. It returns the longest time that an outcome took which nothing refuses.
func (o *timed) slowest(t *testing.T, pool *pgxpool.Pool, n, refused int) (slowest time.Duration) {
	t.Helper()
	var sql strings.Builder
	var ids []uuid.UUID
	for i := range n + refused {
		id, name := uuid.New(), [...]string{"done", "dead"}[i%2]
		if i < refused {
			name = "refused"
		} else {
			ids = append(ids, id)
		}
		fmt.Fprintf(&sql, "insert into soniq_jobs (id, job_name, args, max_attempts) values ('%s', '%s', '{}', 5);", id, name)
	}
	exec(t, pool, sql.String())
	o.waitFor(t, "the outcomes that nothing refuses", func([]engine.Outcome) bool {
		o.mu.Lock()
		defer o.mu.Unlock()
		slowest = 0
		for _, id := range ids {
			at, ok := o.wrote[id]
			if !ok {
				return false
			}
			slowest = max(slowest, at.Sub(o.returned[id]))
		}
		return true
	})
	return slowest
}

// The outcomes of others take less than a second more while some are refused, also those
// of the same batch, and also while a try to write a refused one hangs. They are compared
// with what they take in the same run without the fault: the machine may be busy.
func TestWorker_outcomeIsRefused_othersAreWrittenWithinASecond(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	exec(t, pool, `
		create function refuses() returns trigger language plpgsql as $$
		begin
			if new.job_name = 'hangs' and not pg_try_advisory_xact_lock_shared(7) then
				perform pg_sleep(60);
			end if;
			raise 'the application refuses it';
		end $$;
		create trigger refuses before insert on soniq_dead_letter_jobs for each row when (new.job_name in ('refused', 'hangs')) execute function refuses()`)
	o := &timed{observed: newObserved(), returned: map[uuid.UUID]time.Time{}, wrote: map[uuid.UUID]time.Time{}}
	reg := engine.NewRegistry()
	for _, name := range []string{"done", "dead", "refused", "hangs"} {
		engine.HandleRaw(reg, name, func(_ context.Context, job *engine.Job) (any, error) {
			o.mu.Lock()
			defer o.mu.Unlock()
			o.returned[job.ID] = time.Now()
			if name != "done" {
				return nil, engine.Permanent(errors.New("never"))
			}
			return nil, nil
		})
	}
	start(t, pool, reg, engine.WorkerConfig{Concurrency: 40, Observer: o})
	const n, refused = 30, 5
	within := func(what string, slowest func() time.Duration) {
		t.Helper()
		for deadline := time.Now().Add(patience); ; {
			without, with := o.slowest(t, pool, n, 0), slowest()
			if with < without+time.Second {
				t.Logf("%s: %s, without %s", what, with, without)
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: the others took %s, without the fault %s", what, with, without)
			}
		}
	}
	within("refused ones in the same batch", func() time.Duration { return o.slowest(t, pool, n, refused) })
	within("refused ones wait", func() time.Duration { return o.slowest(t, pool, n, 0) })

	// From now on each try to write one of these hangs.
	exec(t, pool, `insert into soniq_jobs (id, job_name, args, max_attempts) values (gen_random_uuid(), 'hangs', '{}', 5)`)
	waitUntil(t, pool, "its refusal", `select exists (select from soniq_kept_outcomes k join soniq_jobs j on j.id = k.job_id where j.job_name = 'hangs')`)
	lock, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Release()
	if _, err := lock.Exec(t.Context(), `select pg_advisory_lock(7)`); err != nil {
		t.Fatal(err)
	}
	const hangingSQL = `select coalesce(max(query_start), '-infinity') from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'`
	hanging := func() (since time.Time) {
		t.Helper()
		waitTrue(t, "a try that hangs", func() bool {
			var at *time.Time
			if err := pool.QueryRow(t.Context(), `select nullif((`+hangingSQL+`), '-infinity')`).Scan(&at); err != nil {
				t.Fatal(err)
			}
			if at != nil {
				since = *at
			}
			return at != nil
		})
		return since
	}
	waitTrue(t, "the outcomes of others while a try hangs", func() bool {
		since := hanging()
		o.slowest(t, pool, n, refused)
		return queryValue[bool](t, pool, `select (`+hangingSQL+`) = $1`, since)
	})
	if _, err := lock.Exec(t.Context(), `select pg_advisory_unlock(7)`); err != nil {
		t.Fatal(err)
	}
	exec(t, pool, `drop function refuses() cascade`)
	waitUntil(t, pool, "the refused ones", `select not exists (select from soniq_jobs where status = 'processing')`)
}
