package engine_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"soniq/deadletter"
	"soniq/deadletter/classify"
	"soniq/engine"
	"soniq/internal/deadwrite"
	"soniq/internal/testdb"
)

func TestWorker_retention_isKept(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	bury(t, pool, 5, 48*time.Hour, "dead")
	bury(t, pool, 3, 48*time.Hour, "replaying")
	bury(t, pool, 2, time.Minute, "resolved")
	reg := engine.NewRegistry()
	noop(reg, "x")
	log := &journal{}
	w := start(t, pool, reg, engine.WorkerConfig{Retention: []deadletter.Retention{{Keep: 24 * time.Hour}}, Logger: log.logger()})
	waitUntil(t, pool, "the end of the old ones", `select count(*) = 5 from soniq_dead_letter_jobs`)
	waitTrue(t, "the log", func() bool { return strings.Contains(log.String(), `msg="dead letters cleaned up"`) })
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	ops, err := newQueue(t, pool).Operations(t.Context(), 10)
	if err != nil || len(ops) != 1 || ops[0].Action != deadletter.ActionCleanup || ops[0].Done != 5 || ops[0].Actor != "worker "+w.ID().String() {
		t.Errorf("the history says %+v, %v", ops, err)
	}
}

// One worker passes at a time, and not again before the next turn.
func TestWorker_retention_isOneWorkersTurn(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	rules := []deadletter.Retention{{Keep: 24 * time.Hour}}
	workers, log := watchers(t, pool, 4, engine.WorkerConfig{Retention: rules})
	pass := func() {
		t.Helper()
		var g errgroup.Group
		for _, w := range workers {
			g.Go(func() error { return w.Retain(t.Context()) })
		}
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	left := func() int { return queryValue[int](t, pool, `select count(*) from soniq_dead_letter_jobs`) }
	bury(t, pool, 20, 48*time.Hour, "dead")
	if pass(); left() != 0 {
		t.Errorf("%d are left", left())
	}
	bury(t, pool, 20, 48*time.Hour, "dead")
	if pass(); left() != 20 {
		t.Errorf("%d are left within the same turn, want 20", left())
	}
	exec(t, pool, `update soniq_leader_tasks set begun_at = begun_at - interval '1 hour'`)
	if pass(); left() != 0 || strings.Count(log.String(), "cleaned up") != 2 {
		t.Errorf("%d are left, the log: %s", left(), log.String())
	}
}

// A batch under way holds nobody up who moves jobs, and waits for nobody.
func TestWorker_retention_blocksNoMover(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	workers, _ := watchers(t, pool, 1, engine.WorkerConfig{Retention: []deadletter.Retention{{Keep: time.Hour}}})
	bury(t, pool, 50, 48*time.Hour, "dead")
	held := queryValue[uuid.UUID](t, pool, `select id from soniq_dead_letter_jobs limit 1`)
	// A batch that has deleted its rows and hasn't committed: it waits in a
	// trigger for a lock of the test's.
	exec(t, pool, `
		create function wait() returns trigger language plpgsql as $$
		begin
		  perform pg_advisory_xact_lock(11);
		  return null;
		end $$;
		create trigger wait after delete on soniq_dead_letter_jobs for each statement execute function wait()`)
	gate, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer gate.Release()
	if _, err := gate.Exec(t.Context(), `select pg_advisory_lock(11)`); err != nil {
		t.Fatal(err)
	}
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(t.Context()) //nolint:errcheck // it was rolled back already
	if _, err := tx.Exec(t.Context(), `select from soniq_dead_letter_jobs where id = $1 for update`, held); err != nil {
		t.Fatal(err)
	}
	passed := make(chan error, 1)
	go func() { passed <- workers[0].Retain(t.Context()) }()
	waitUntil(t, pool, "a batch that waits in its trigger", `
		select exists (
		  select from pg_locks l join pg_database d on d.oid = l.database
		  where d.datname = current_database() and l.locktype = 'advisory' and l.objid = 11 and not l.granted
		)`)

	client := newClient(t, pool)
	job := enqueue(t, client, "x", nil)
	moved, err := deadwrite.MoveQueued(t.Context(), pool, []uuid.UUID{job}, classify.Decide(classify.Attempt{Kind: classify.KindUnregistered}))
	if err != nil || len(moved) != 1 {
		t.Errorf("the move of a job meanwhile: %v, %v", moved, err)
	}
	if _, err := gate.Exec(t.Context(), `select pg_advisory_unlock(11)`); err != nil {
		t.Fatal(err)
	}
	if err := receive(t, "the end of the pass", passed); err != nil {
		t.Error(err)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := queryValue[int](t, pool, `select count(*) from soniq_dead_letter_jobs where id in ($1, $2)`, held, job); n != 2 {
		t.Errorf("%d are left of the one in use and the new one, want 2", n)
	}
	if n := queryValue[int](t, pool, `select count(*) from soniq_dead_letter_jobs`); n != 2 {
		t.Errorf("%d are left, want 2", n)
	}
}

func TestNewWorker_retentionThatMakesNoSense_saysSo(t *testing.T) {
	t.Parallel()
	reg := engine.NewRegistry()
	noop(reg, "x")
	_, err := engine.NewWorker(testdb.New(t), reg, engine.WorkerConfig{Retention: []deadletter.Retention{{Keep: -1}}})
	if err == nil || !strings.Contains(err.Error(), "config: Retention: rule 1: keep: -1ns is negative") {
		t.Errorf("%v", err)
	}
}
