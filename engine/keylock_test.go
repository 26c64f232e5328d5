package engine_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/engine"
	"soniq/internal/testdb"
)

// holdKeys inserts queued jobs with these dedup keys, in a transaction that stays
// open until the test ends. Whoever may enqueue can do so.
func holdKeys(t *testing.T, pool *pgxpool.Pool, keysSQL string) {
	t.Helper()
	conn, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = tx.Rollback(context.Background())
		conn.Release()
	})
	if _, err := tx.Exec(t.Context(), `
		insert into soniq_jobs (id, job_name, args, dedup_key, scheduled_at)
		select gen_random_uuid(), 'held', '{}', k, now() + interval '1 day' from (`+keysSQL+`) as s (k)`); err != nil {
		t.Fatal(err)
	}
}

// A job that is to be tried again does not wait for a key that somebody has
// inserted and doesn't commit; nor do the outcomes of others.
func TestWorker_keyIsInsertedAndNotCommitted_outcomesAreWritten(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	started, release := make(chan struct{}, 10), make(chan struct{})
	engine.HandleRaw(reg, "fails", func(context.Context, *engine.Job) (any, error) {
		started <- struct{}{}
		<-release
		return nil, errors.New("no")
	}, soon, engine.AttemptLimit(2))
	noop(reg, "quick")
	client := newClient(t, pool)
	var log journal
	w := start(t, pool, reg, engine.WorkerConfig{Concurrency: 10, Logger: log.logger()})
	var ids []uuid.UUID
	for _, key := range []string{"a", "b", "free"} {
		ids = append(ids, enqueue(t, client, "fails", nil, engine.DedupKey(key)))
		receive(t, "its start", started)
	}
	holdKeys(t, pool, `values ('a'), ('b')`)
	close(release)
	for range 3 {
		w.waitForJob(t, enqueue(t, client, "quick", nil))
	}
	for _, id := range ids {
		// That of the first attempt may be reported after that of the second: what waits is
		// written beside the rest.
		w.waitFor(t, "both outcomes of a job", func(all []engine.Outcome) bool {
			n := 0
			for _, o := range all {
				if o.Job.ID == id {
					n++
				}
			}
			return n == 2
		})
	}
	if n := queryValue[int](t, pool, `select count(*) from soniq_dead_letter_jobs where dedup_key is null`); n != 2 {
		t.Errorf("%d jobs have gone on without their key, want 2:\n%s", n, log.String())
	}
}

// A hundred orphans wait for such keys, and one after them for nothing.
func TestWorker_orphansKeysAreInsertedAndNotCommitted_allAreRecovered(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	noop(reg, "known")
	w := newIdle(t, pool, reg, new(journal))
	exec(t, pool, `
		insert into soniq_jobs (id, job_name, args, status, attempts, updated_at, dedup_key)
		select gen_random_uuid(), 'known', '{}', 'processing', 1, now() - interval '1 day', case when n <= 100 then 'k' || n end
		from generate_series(1, 101) n`)
	holdKeys(t, pool, `select 'k' || n from generate_series(1, 100) n`)
	// One pass, and some more where the machine is so busy that a statement waits in vain
	// without any lock.
	const orphans = 101
	queued := func() int {
		return queryValue[int](t, pool, `select count(*) from soniq_jobs where status = 'queued' and dedup_key is null`)
	}
	var err error
	for pass := 0; pass < 10 && queued() < orphans; pass++ {
		err = w.RecoverOrphans(t.Context())
	}
	if n := queued(); n != orphans {
		t.Errorf("%d are queued, want %d: %v", n, orphans, err)
	}
}

// newIdle is a worker that isn't started.
func newIdle(t *testing.T, pool *pgxpool.Pool, reg *engine.Registry, log *journal) *engine.Worker {
	t.Helper()
	w, err := engine.NewWorker(pool, reg, engine.WorkerConfig{Logger: log.logger()})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Beat(t.Context()); err != nil {
		t.Fatal(err)
	}
	return w
}

// Rows that name a worker which lives, and that no claim of its has made: without
// the attempt that a claim counts. It passes over them, however many there are.
func TestWorker_rowsThatNameALiveWorker_holdUpNobody(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	noop(reg, "known")
	log := new(journal)
	w := newIdle(t, pool, reg, log)
	exec(t, pool, `
		insert into soniq_jobs (id, job_name, args, status, worker_id, claim_token, attempts, updated_at)
		select gen_random_uuid(), 'known', '{}', 'processing', case when n <= 1500 then $1::uuid end, 5,
		  case when n > 1500 then 1 end, now() - interval '1 day'
		from generate_series(1, 1501) n`, w.ID())
	began := time.Now()
	if err := w.RecoverOrphans(t.Context()); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %s", took)
	}
	if n := queryValue[int](t, pool, `select count(*) from soniq_jobs where status = 'queued'`); n != 1 {
		t.Errorf("%d are queued, want the orphan", n)
	}
	if n := strings.Count(log.String(), "\n"); n > 3 {
		t.Errorf("the log has %d lines:\n%.2000s", n, log.String())
	}
}

// What the server answers to a value that it has no room for is told of one row,
// and so is a statement that takes too long. Neither keeps others from being
// recovered, or outcomes from being written.
func TestWorker_rowTheServerFailsAt_holdsUpNobody(t *testing.T) {
	t.Parallel()
	for _, code := range []string{"XX000", "53200", "57014"} {
		t.Run(code, func(t *testing.T) {
			t.Parallel()
			pool := testdb.New(t)
			exec(t, pool, `create function fails() returns trigger language plpgsql as $$ begin raise 'too much' using errcode = '`+code+`'; end $$`)
			exec(t, pool, `create trigger fails before update on soniq_jobs for each row
				when (old.status = 'processing' and new.status = 'queued' and old.job_name = 'stuck') execute function fails()`)
			reg := engine.NewRegistry()
			noop(reg, "orphan")
			client := newClient(t, pool)
			ids := orphans(t, pool, "stuck", "orphan", "stuck", "orphan")
			exec(t, pool, `update soniq_jobs set updated_at = now() - interval '1 day'`)
			exec(t, pool, `update soniq_jobs set worker_id = null where id in ($1, $2)`, ids[2], ids[3])
			log := new(journal)
			w := newIdle(t, pool, reg, log)
			_ = w.RecoverOrphans(t.Context())
			for _, id := range []uuid.UUID{ids[1], ids[3]} {
				if job := getJob(t, client, id); job.Status != engine.StatusQueued {
					t.Errorf("job %s is %s", id, job.Status)
				}
			}
			if n := strings.Count(log.String(), "refuses to recover a job"); n != 2 {
				t.Errorf("told %d times:\n%s", n, log.String())
			}
		})
	}
}
