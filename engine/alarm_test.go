package engine_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"soniq/engine"
	"soniq/internal/testdb"
)

// bury inserts n dead letters that died so long ago.
func bury(t *testing.T, pool *pgxpool.Pool, n int, age time.Duration, state string) {
	t.Helper()
	exec(t, pool, `
		insert into soniq_dead_letter_jobs (
		  id, job_name, args, queue, priority, max_attempts, attempts, dead_letter_reason,
		  original_created_at, moved_to_dead_letter_at, state
		)
		select gen_random_uuid(), 'x', '{}', 'default', 100, 3, 3, 'timeout', now(), now() - $2::interval, $3
		from generate_series(1, $1)`, n, age, state)
}

// watchers are workers that don't run, with one log.
func watchers(t *testing.T, pool *pgxpool.Pool, n int, config engine.WorkerConfig) (workers []*engine.Worker, log *journal) {
	t.Helper()
	log = &journal{}
	config.Logger = log.logger()
	for range n {
		reg := engine.NewRegistry()
		noop(reg, "x")
		w, err := engine.NewWorker(pool, reg, config)
		if err != nil {
			t.Fatal(err)
		}
		workers = append(workers, w)
	}
	return workers, log
}

// aMinuteLater lets all of them look, at the same time.
func aMinuteLater(t *testing.T, pool *pgxpool.Pool, workers []*engine.Worker) {
	t.Helper()
	exec(t, pool, `update soniq_leader_tasks set begun_at = begun_at - interval '1 minute'`)
	var g errgroup.Group
	for _, w := range workers {
		g.Go(func() error { return w.WatchDeadLetters(t.Context()) })
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
}

func TestWorker_deadLettersPileUp_theFleetWarnsOnce(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	workers, log := watchers(t, pool, 5, engine.WorkerConfig{WarnDead: 10})
	wants := func(what string, warned, calmed int) {
		t.Helper()
		aMinuteLater(t, pool, workers)
		if w, c := strings.Count(log.String(), "pile up"), strings.Count(log.String(), "fewer again"); w != warned || c != calmed {
			t.Fatalf("%s: warned %d times and calmed %d times, want %d and %d; the log:\n%s", what, w, c, warned, calmed, log.String())
		}
	}
	bury(t, pool, 9, time.Hour, "dead")
	bury(t, pool, 20, time.Hour, "resolved")
	bury(t, pool, 20, time.Hour, "replaying")
	wants("below the limit", 0, 0)
	bury(t, pool, 3, time.Hour, "dead")
	wants("above it", 1, 0)
	if !strings.Contains(log.String(), "dead=12 limit=10 oldest=1h") {
		t.Errorf("the log says: %s", log.String())
	}
	wants("still above it", 1, 0)
	remove := func(n int) {
		exec(t, pool, `delete from soniq_dead_letter_jobs where id in (select id from soniq_dead_letter_jobs where state = 'dead' limit $1)`, n)
	}
	remove(3)
	wants("a little below it", 1, 0)
	bury(t, pool, 1, time.Hour, "dead")
	wants("above it again, after a dip", 1, 0)
	remove(2)
	wants("recovered", 1, 1)
	wants("still well", 1, 1)
	bury(t, pool, 2, time.Hour, "dead")
	wants("above it again", 2, 1)
}

func TestWorker_deadLetterWaitsTooLong_theFleetWarnsOnce(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	workers, log := watchers(t, pool, 3, engine.WorkerConfig{WarnDead: -1, WarnDeadAge: 24 * time.Hour})
	wants := func(what string, warned, calmed int) {
		t.Helper()
		aMinuteLater(t, pool, workers)
		if w, c := strings.Count(log.String(), "has been waiting for long;"), strings.Count(log.String(), "waiting for long any more"); w != warned || c != calmed {
			t.Fatalf("%s: warned %d times and calmed %d times, want %d and %d; the log:\n%s", what, w, c, warned, calmed, log.String())
		}
	}
	bury(t, pool, 2000, 23*time.Hour, "dead")
	bury(t, pool, 1, 100*time.Hour, "resolved")
	wants("none is old", 0, 0)
	bury(t, pool, 1, 25*time.Hour, "dead")
	oldest := queryValue[uuid.UUID](t, pool, `select id from soniq_dead_letter_jobs where state = 'dead' order by moved_to_dead_letter_at limit 1`)
	wants("one is", 1, 0)
	if !strings.Contains(log.String(), oldest.String()) {
		t.Errorf("the warning doesn't name %s: %s", oldest, log.String())
	}
	wants("it still is", 1, 0)
	exec(t, pool, `update soniq_dead_letter_jobs set state = 'resolved' where id = $1`, oldest)
	wants("it was mended", 1, 1)
}

// By default it warns, and one with another limit is another alarm.
func TestWorker_deadLetterWarning_limits(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	never, silence := watchers(t, pool, 1, engine.WorkerConfig{WarnDead: -1})
	byDefault, log := watchers(t, pool, 1, engine.WorkerConfig{})
	high, quiet := watchers(t, pool, 1, engine.WorkerConfig{WarnDead: 1001})
	bury(t, pool, 1000, time.Hour, "dead")
	for range 2 {
		aMinuteLater(t, pool, append(append(never, byDefault...), high...))
	}
	if n := strings.Count(log.String(), "dead=1000 limit=1000"); n != 1 {
		t.Errorf("by default it warned %d times: %s", n, log.String())
	}
	if silence.String() != "" || quiet.String() != "" {
		t.Errorf("warned below the limit, or without one: %s%s", silence.String(), quiet.String())
	}
}

func TestWorker_running_warnsOfDeadLetters(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	bury(t, pool, 3, time.Hour, "dead")
	reg := engine.NewRegistry()
	noop(reg, "x")
	log := &journal{}
	w := start(t, pool, reg, engine.WorkerConfig{WarnDead: 3, WarnDeadAge: time.Minute, Logger: log.logger()})
	waitTrue(t, "both warnings", func() bool {
		return strings.Contains(log.String(), "dead letters pile up") && strings.Contains(log.String(), "waiting for long;")
	})
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
}
