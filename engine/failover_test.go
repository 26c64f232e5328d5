package engine_test

import (
	"context"
	"testing"

	"soniq/engine"
	"soniq/internal/testdb"
)

// A failover with loss brings back the row that the job had while it ran, under a worker that has settled it and
// lives: the job runs again, and the attempt is charged once.
func TestWorker_outcomeLostByAFailover_runsAgain(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	started, release := make(chan *engine.Job, 10), make(chan struct{})
	for name, err := range map[string]error{"good": nil, "bad": engine.Permanent(context.Canceled)} {
		engine.HandleRaw(reg, name, func(_ context.Context, job *engine.Job) (any, error) {
			started <- job
			<-release
			return nil, err
		})
	}
	w := start(t, pool, reg, engine.WorkerConfig{})
	client := newClient(t, pool)
	ids := []any{enqueue(t, client, "good", nil), enqueue(t, client, "bad", nil)}
	for range ids {
		receive(t, "the first run", started)
	}
	exec(t, pool, `create table standby as select * from soniq_jobs`)
	close(release)
	w.waitFor(t, "both outcomes", func(all []engine.Outcome) bool { return len(all) == 2 })
	exec(t, pool, `delete from soniq_jobs`)
	exec(t, pool, `delete from soniq_dead_letter_jobs`)
	exec(t, pool, `insert into soniq_jobs select * from standby`)
	if err := w.RecoverOrphans(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range ids {
		if job := receive(t, "the run after the failover", started); job.Attempts != 1 {
			t.Errorf("%s runs as attempt %d", job.Name, job.Attempts)
		}
	}
	w.waitFor(t, "both outcomes again", func(all []engine.Outcome) bool { return len(all) == 4 })
	if n := queryValue[int](t, pool, `select count(*) from soniq_jobs where status = 'done' and id = $1`, ids[0]); n != 1 {
		t.Errorf("%d jobs are done, want one", n)
	}
	if n := queryValue[int](t, pool, `select count(*) from soniq_dead_letter_jobs where id = $1`, ids[1]); n != 1 {
		t.Errorf("%d dead letters, want one", n)
	}
}
