package claim

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

func (c claimer) addLanes(t *testing.T) {
	t.Helper()
	exec(t, c.pool, `
		insert into soniq_jobs (id, job_name, args, queue, priority, scheduled_at)
		select gen_random_uuid(), 'x', '{}', 'q', n, now() + interval '1 year' from generate_series(1, 700) n where n <> 650`)
}

// Beyond the lanes that are walked nothing is found at first, and a claim that
// has not seen everything is never taken for one that has.
func TestClaimer_manyLanes_isSeenAndForgotten(t *testing.T) {
	t.Parallel()
	c := newClaimer(t)
	c.addLanes(t)
	c.fill(t, 3, 650, "q")
	look := func(wantExpensive, wantUnsure bool) {
		t.Helper()
		next, err := c.UntilNext(t.Context(), Scope{Queues: []string{"q", "r"}, Names: []string{"x"}})
		if err != nil || c.expensive != wantExpensive || next.Unsure != wantUnsure {
			t.Errorf("expensive %t, unsure %t, %v; want %t, %t", c.expensive, next.Unsure, err, wantExpensive, wantUnsure)
		}
	}
	c.takes(t)
	look(true, true)
	c.takes(t, "1", "2")
	look(true, false)
	// What comes with the default priority need not wait for a whole claim.
	c.stayKnown(true)
	c.fill(t, 1, 100, "r")
	c.takes(t, "1", "3")
	c.fill(t, 3, 650, "q")
	exec(t, c.pool, `delete from soniq_jobs where priority <> 650`)
	look(false, false)
	c.takes(t, "1", "2")
}

// The order of priorities holds over all queues, however many lanes one of them
// has.
func TestClaimer_manyLanes_keepsTheOrderOfPriorities(t *testing.T) {
	t.Parallel()
	c := newClaimer(t)
	c.addLanes(t)
	c.expensive = true
	c.fill(t, 2, 650, "q")
	exec(t, c.pool, `
		insert into soniq_jobs (id, job_name, args, queue, priority)
		values (gen_random_uuid(), 'x', '4', 'r', 649), (gen_random_uuid(), 'x', '5', 'r', 651), (gen_random_uuid(), 'x', '6', 'q', -1)`)
	for _, want := range []string{"4 6", "1 2", "5", ""} {
		if got := strings.Join(c.take(t, 2), " "); got != want {
			t.Errorf("it took %q, want %q", got, want)
		}
		c.stayKnown(false)
	}
}

// More queues than lanes are walked.
func TestClaimer_manyQueues_allAreServed(t *testing.T) {
	t.Parallel()
	c := newClaimer(t)
	exec(t, c.pool, `
		insert into soniq_jobs (id, job_name, args, queue, priority)
		select gen_random_uuid(), 'x', '{}', 'q' || n, case when n % 2 = 0 then -2147483648 else n end from generate_series(1, 800) n`)
	exec(t, c.pool, `insert into soniq_queues (name, paused_at) values ('q7', now()), ('q795', now())`)
	var queues []string
	for n := range 800 {
		queues = append(queues, fmt.Sprint("q", n+1))
	}
	taken := map[string]int{}
	for range 3 {
		jobs, err := c.from(t.Context(), queues, []string{"x"}, 1000)
		if err != nil {
			t.Fatal(err)
		}
		for _, j := range jobs {
			taken[j.Queue]++
		}
		if _, err := c.UntilNext(t.Context(), Scope{Queues: queues, Names: []string{"x"}}); err != nil {
			t.Fatal(err)
		}
	}
	if len(taken) != 798 || taken["q7"]+taken["q795"] != 0 {
		t.Errorf("jobs of %d queues were taken, want 798", len(taken))
	}
}

// Between two whole claims only the lanes count where jobs were found.
func TestClaimer_manyLanes_goesOnWhereJobsWereFound(t *testing.T) {
	t.Parallel()
	c := newClaimer(t)
	c.addLanes(t)
	c.expensive = true
	c.fill(t, 5, 650, "q")
	c.takes(t, "1", "2")
	c.stayKnown(true)
	exec(t, c.pool, `insert into soniq_jobs (id, job_name, args, queue, priority) values (gen_random_uuid(), 'x', '9', 'q', 5)`)
	c.takes(t, "3", "4")
	exec(t, c.pool, `insert into soniq_queues (name, paused_at) values ('q', now())`)
	c.takes(t)
	exec(t, c.pool, `delete from soniq_queues`)
	c.takes(t, "5")
	c.stayKnown(false)
	c.takes(t, "9")
}

// A claim that takes too long is not made again and again as it is.
func TestClaimer_timeout_asksForFewer(t *testing.T) {
	t.Parallel()
	c := newClaimer(t)
	c.fill(t, 40, 100, "q")
	over, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	for range 2 {
		if _, err := c.from(over, []string{"q"}, []string{"x"}, 32); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
	}
	for _, want := range []int{2, 4, 8, 16} {
		if got := len(c.take(t, 32)); got != want {
			t.Errorf("it took %d, want %d", got, want)
		}
	}
}
