package engine_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"soniq/engine"
	"soniq/internal/testdb"
)

func expectEnqueued(t *testing.T, what string, c *engine.Client, name string, args any, want *uuid.UUID, opts ...engine.EnqueueOption) uuid.UUID {
	t.Helper()
	e, err := c.Enqueue(t.Context(), name, args, opts...)
	switch {
	case err != nil:
		t.Errorf("%s: %v", what, err)
	case want == nil && e.Duplicate:
		t.Errorf("%s: is a duplicate of %s, want a new job", what, e.ID)
	case want != nil && (!e.Duplicate || e.ID != *want):
		t.Errorf("%s: %+v, want a duplicate of %s", what, e, want)
	}
	return e.ID
}

func TestClient_unique_isByNameAndArgumentsWhileQueued(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	c := newClient(t, pool)
	unique := engine.Unique()
	args := json.RawMessage(`{"a": 1, "b": 2}`)
	first := expectEnqueued(t, "first", c, "n", args, nil, unique)
	expectEnqueued(t, "same arguments in another order", c, "n", json.RawMessage(`{"b":2,"a":1}`), &first, unique)
	expectEnqueued(t, "another queue and time", c, "n", map[string]int{"a": 1, "b": 2}, &first, unique, engine.Queue("q"), engine.After(1))
	expectEnqueued(t, "other arguments", c, "n", nil, nil, unique)
	expectEnqueued(t, "another name", c, "m", args, nil, unique)
	expectEnqueued(t, "not unique itself", c, "n", args, nil)

	for _, status := range []string{"processing", "done", "cancelled"} {
		queued := expectEnqueued(t, "before it is "+status, c, "x", args, nil, unique)
		exec(t, pool, `update soniq_jobs set status = $1 where id = $2`, status, queued)
		again := expectEnqueued(t, "once the first is "+status, c, "x", args, nil, unique)
		exec(t, pool, `delete from soniq_jobs where id = $1`, again)
	}
}

// A unique job of Python's excludes ours: the two hash alike.
func TestClient_unique_countsPythonsJobs(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	id := queryValue[uuid.UUID](t, pool, `
		insert into soniq_jobs (id, job_name, args, args_hash, max_attempts, priority, queue, unique_job)
		values (gen_random_uuid(), 'n', '{"a": 1, "b": 2}', $1, 4, 100, 'default', true)
		returning id`, hashOfTwo)
	expectEnqueued(t, "after Python", newClient(t, pool), "n", map[string]int{"b": 2, "a": 1}, &id, engine.Unique())
}

func TestClient_dedupKey_isAcrossNamesAndQueues(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	c := newClient(t, pool)
	key := engine.DedupKey("k")
	first := expectEnqueued(t, "first", c, "n", nil, nil, key)
	expectEnqueued(t, "the same key", c, "m", map[string]int{"a": 1}, &first, key, engine.Queue("q"))
	expectEnqueued(t, "another key", c, "n", nil, nil, engine.DedupKey("K"))
	expectEnqueued(t, "no key", c, "n", nil, nil)
	exec(t, pool, `update soniq_jobs set status = 'processing' where id = $1`, first)
	expectEnqueued(t, "once the first runs", c, "n", nil, nil, key)
}

func TestClient_uniqueWithDedupKey_eitherIsADuplicate(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	c := newClient(t, pool)
	unique, key := engine.Unique(), engine.DedupKey("k")
	both := expectEnqueued(t, "both", c, "n", nil, nil, unique, key)
	expectEnqueued(t, "both again", c, "n", nil, &both, unique, key)
	expectEnqueued(t, "the arguments alone", c, "n", nil, &both, unique, engine.DedupKey("other"))
	expectEnqueued(t, "the key alone", c, "m", nil, &both, unique, key)
	// One job has the arguments, another the key.
	byArgs := expectEnqueued(t, "arguments", c, "x", nil, nil, unique)
	expectEnqueued(t, "key", c, "y", nil, nil, engine.DedupKey("y"))
	expectEnqueued(t, "two in the way", c, "x", nil, &byArgs, unique, engine.DedupKey("y"))
	if n := countJobs(t, pool); n != 3 {
		t.Errorf("%d jobs, want 3", n)
	}
}

func TestClient_uniqueAtOnce_makesOneJobForAll(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	c := newClient(t, pool)
	for round := range 5 {
		done := make([]engine.Enqueued, 20)
		var g errgroup.Group
		for i := range done {
			g.Go(func() (err error) {
				done[i], err = c.Enqueue(context.Background(), "n", map[string]int{"round": round}, engine.Unique())
				return err
			})
		}
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
		inserted := 0
		for _, e := range done {
			if !e.Duplicate {
				inserted++
			}
			if e.ID != done[0].ID {
				t.Errorf("ids %s and %s", e.ID, done[0].ID)
			}
		}
		if n := countJobs(t, pool); inserted != 1 || n != round+1 {
			t.Errorf("%d say they inserted, and there are %d jobs; want 1 and %d", inserted, n, round+1)
		}
	}
}

// The job in the way may be claimed between the INSERT and the look-up.
func TestClient_uniqueWhileOthersClaim_neverFails(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	c := newClient(t, pool)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var claimer, producers errgroup.Group
	claimer.Go(func() error {
		for ctx.Err() == nil {
			if _, err := pool.Exec(context.Background(), `update soniq_jobs set status = 'done' where status = 'queued'`); err != nil {
				return err
			}
		}
		return nil
	})
	for range 4 {
		producers.Go(func() error {
			for range 100 {
				if _, err := c.Enqueue(context.Background(), "n", nil, engine.Unique()); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := producers.Wait(); err != nil {
		t.Error(err)
	}
	stop()
	if err := claimer.Wait(); err != nil {
		t.Error(err)
	}
}

func TestClient_enqueueMany_duplicatesOfEachOther(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	c := newClient(t, pool)
	existing := enqueue(t, c, "n", nil, engine.DedupKey("there"))
	opts := func(o ...engine.EnqueueOption) []engine.EnqueueOption { return o }
	done, err := c.EnqueueMany(t.Context(), []engine.Insert{
		0: {Name: "n", Args: map[string]int{"a": 1}, Options: opts(engine.Unique())},
		1: {Name: "n", Args: map[string]int{"a": 1}, Options: opts(engine.Unique())},
		2: {Name: "n", Args: map[string]int{"a": 1}},
		3: {Name: "n", Options: opts(engine.DedupKey("k"))},
		4: {Name: "m", Options: opts(engine.DedupKey("k"))},
		5: {Name: "m", Options: opts(engine.DedupKey("there"))},
		6: {Name: "n", Args: map[string]int{"a": 1}, Options: opts(engine.Unique())},
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, of := range map[int]uuid.UUID{1: done[0].ID, 4: done[3].ID, 5: existing, 6: done[0].ID} {
		if !done[i].Duplicate || done[i].ID != of {
			t.Errorf("job %d is %+v, want a duplicate of %s", i, done[i], of)
		}
	}
	for _, i := range []int{0, 2, 3} {
		if done[i].Duplicate {
			t.Errorf("job %d is a duplicate, want a new one", i)
		}
	}
	if n := countJobs(t, pool); n != 4 {
		t.Errorf("%d jobs, want 4", n)
	}
}

func TestClient_enqueueMany_thousandsOfDuplicates(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	c := newClient(t, pool)
	jobs := make([]engine.Insert, 3_000)
	for i := range jobs {
		jobs[i] = engine.Insert{Name: "n", Args: map[string]int{"i": i}, Options: []engine.EnqueueOption{engine.Unique()}}
	}
	first, err := c.EnqueueMany(t.Context(), jobs)
	if err != nil {
		t.Fatal(err)
	}
	second, err := c.EnqueueMany(t.Context(), jobs)
	if err != nil {
		t.Fatal(err)
	}
	for i := range first {
		if !second[i].Duplicate || second[i].ID != first[i].ID {
			t.Fatalf("job %d: %+v, want a duplicate of %s", i, second[i], first[i].ID)
		}
	}
}

// Two producers that fan out the same unique jobs each go through them in an
// order of their own: of a map, say.
func TestClient_enqueueManyInOppositeOrders_doNotDeadlock(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	c := newClient(t, pool)
	for round := range 5 {
		var forth []engine.Insert
		for i := range 200 {
			job := engine.Insert{Name: fmt.Sprint("n", i%3), Args: map[string]int{"round": round, "i": i / 3}}
			job.Options = []engine.EnqueueOption{engine.Unique()}
			if i%5 == 0 {
				job.Options = []engine.EnqueueOption{engine.DedupKey(fmt.Sprint(round, "/", i))}
			}
			forth = append(forth, job)
		}
		back := slices.Clone(forth)
		slices.Reverse(back)
		done := make([][]engine.Enqueued, 4)
		var g errgroup.Group
		for i := range done {
			g.Go(func() (err error) {
				done[i], err = c.EnqueueMany(context.Background(), [][]engine.Insert{forth, back}[i%2])
				return err
			})
		}
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
		for i, e := range done[0] {
			if e.ID != done[1][len(back)-1-i].ID || e.ID != done[2][i].ID {
				t.Fatalf("job %d has several ids", i)
			}
		}
	}
}
