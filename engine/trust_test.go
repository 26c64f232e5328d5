package engine_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"soniq/engine"
	"soniq/internal/testdb"
)

// Jobs that claim to replay a dead letter, of whoever may enqueue: whatever
// becomes of them, the dead letter stays as it is, and theirs tells of no origin.
func TestWorker_jobThatClaimsToBeAReplay_changesNoDeadLetter(t *testing.T) {
	t.Parallel()
	for name, ttl := range map[string]time.Duration{"kept": time.Hour, "deleted": -1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := testdb.New(t)
			reg := engine.NewRegistry()
			noop(reg, "done")
			engine.Handle(reg, "dead", func(context.Context, struct{}) error { return errors.New("no") })
			engine.Handle(reg, "tx", func(ctx context.Context, _ struct{}) error {
				return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error { return engine.CompleteTx(ctx, tx, nil) })
			})
			bury(t, pool, 3, time.Hour, "dead")
			exec(t, pool, `update soniq_dead_letter_jobs set state = 'replaying', replay_job_id = gen_random_uuid()
				where id = (select min(id::text)::uuid from soniq_dead_letter_jobs)`)
			const rowsSQL = `select string_agg(to_jsonb(d)::text, ' ' order by id) from soniq_dead_letter_jobs d where job_name <> 'dead'`
			before := queryValue[string](t, pool, rowsSQL)
			w := start(t, pool, reg, engine.WorkerConfig{ResultTTL: ttl})
			for _, job := range []string{"done", "dead", "tx"} {
				for i := range 3 {
					w.waitForJob(t, queryValue[uuid.UUID](t, pool, `
						insert into soniq_jobs (id, job_name, args, max_attempts, replay_of)
						select gen_random_uuid(), $1, '{}', 1, id from soniq_dead_letter_jobs where job_name <> 'dead' order by id offset $2 limit 1
						returning id`, job, i))
				}
			}
			if err := w.stop(); err != nil {
				t.Error(err)
			}
			if after := queryValue[string](t, pool, rowsSQL); after != before {
				t.Errorf("the dead letters were\n%s\nand are\n%s", before, after)
			}
			if n := queryValue[int](t, pool, `select count(*) from soniq_dead_letter_jobs where job_name = 'dead' and replay_of is null`); n != 3 {
				t.Errorf("%d of 3 new dead letters have no origin", n)
			}
		})
	}
}

// Whoever runs a worker hears once of a database that lets others in.
func TestWorker_databaseLetsOthersIn_warnsAtTheStart(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	exec(t, pool, `revoke create on schema public from public`)
	started := func() string {
		t.Helper()
		var log journal
		reg := engine.NewRegistry()
		noop(reg, "a")
		w := start(t, pool, reg, engine.WorkerConfig{Logger: log.logger()})
		waitUntil(t, pool, "the worker has started", `select exists (select from soniq_workers where id = $1 and status = 'active')`, w.ID())
		if err := w.stop(); err != nil {
			t.Error(err)
		}
		return log.String()
	}
	if log := started(); strings.Contains(log, "any role") || strings.Contains(log, "soniq setup") {
		t.Errorf("of a database that is well it said %s", log)
	}
	exec(t, pool, `grant execute on function soniq_jobs_inserted() to public`)
	exec(t, pool, `grant create on schema public to public`)
	log := started()
	for _, part := range []string{
		"any role that may log in can execute 1 functions of Soniq", "run 'soniq setup'",
		"any role may create objects in schema public", `remedy="revoke create on schema public from public"`,
	} {
		if strings.Count(log, part) != 1 {
			t.Errorf("%q is not there once: %s", part, log)
		}
	}
}
