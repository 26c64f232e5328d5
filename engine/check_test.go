package engine_test

import (
	"errors"
	"testing"

	"soniq/engine"
	"soniq/internal/testdb"
)

func TestClient_check_namesMistakesAndInsertsNothing(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	c := newClient(t, pool)
	if err := c.CheckJob("n", map[string]int{"a": 1}, engine.Queue("q"), engine.Unique()); err != nil {
		t.Error(err)
	}
	var wrong *engine.ArgumentError
	if err := c.CheckJob("n", []int{1}); !errors.As(err, &wrong) || wrong.Field != "args" {
		t.Errorf("an array: %v", err)
	}
	if err := c.CheckJob("n", nil, engine.MaxAttempts(0)); !errors.As(err, &wrong) || wrong.Field != "max attempts" {
		t.Errorf("no attempts: %v", err)
	}
	if n := countJobs(t, pool); n != 0 {
		t.Errorf("%d jobs", n)
	}
}

func TestClient_service_countsLiveWorkersOfTheQueue(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	c := newClient(t, pool)
	want := func(what, queue, name string, want engine.Availability) {
		t.Helper()
		if got, err := c.Availability(t.Context(), queue, name); err != nil || got != want {
			t.Errorf("%s: %+v, %v, want %+v", what, got, err, want)
		}
	}
	want("no worker", "q", "n", engine.Availability{})
	for _, sql := range []string{
		`insert into soniq_workers (id, hostname, pid, queues, version, status, last_heartbeat) values
		  ('00000000-0000-0000-0000-000000000001', 'live', 1, '{q}', 'go/1', 'active', now()),
		  ('00000000-0000-0000-0000-000000000002', 'silent', 1, '{silent}', 'go/1', 'active', now() - interval '1 minute'),
		  ('00000000-0000-0000-0000-000000000003', 'stopped', 1, '{stopped}', 'go/1', 'stopped', now()),
		  ('00000000-0000-0000-0000-000000000004', 'python', 1, '{py}', null, 'active', now() - interval '1 minute')`,
		`insert into soniq_task_registry (task_name, worker_id, last_seen_at)
		 values ('n', '00000000-0000-0000-0000-000000000001', now())`,
	} {
		if _, err := pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	want("served and handled", "q", "n", engine.Availability{Queue: true, Handler: true})
	want("served, not handled", "q", "other", engine.Availability{Queue: true})
	want("a silent worker", "silent", "n", engine.Availability{})
	want("a stopped worker", "stopped", "n", engine.Availability{})
	want("a Python worker", "py", "anything", engine.Availability{Queue: true, Handler: true})
}
