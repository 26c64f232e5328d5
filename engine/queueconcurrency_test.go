package engine_test

import (
	"context"
	"strings"
	"sync"
	"testing"

	"soniq/engine"
	"soniq/internal/claim"
	"soniq/internal/testdb"
)

// most counts what runs at once.
type most struct {
	mu       sync.Mutex
	now, max map[string]int
}

func (m *most) add(what string, n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.now[what] += n
	m.max[what] = max(m.max[what], m.now[what])
}

func TestWorker_queueConcurrency_boundsItsJobsAndNoOthers(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	running := most{now: map[string]int{}, max: map[string]int{}}
	started, release := make(chan string, 100), make(chan struct{})
	for _, name := range []string{"any", "bounded"} {
		var opts []engine.HandleOption
		if name == "bounded" {
			opts = append(opts, engine.Concurrency(1))
		}
		engine.HandleRaw(reg, name, func(_ context.Context, job *engine.Job) (any, error) {
			running.add(job.Queue, 1)
			running.add(job.Name, 1)
			started <- job.Queue
			<-release
			running.add(job.Queue, -1)
			running.add(job.Name, -1)
			return nil, nil
		}, opts...)
	}
	const narrow, wide, each = 2, 4, 6
	w := start(t, pool, reg, engine.WorkerConfig{
		Queues: []string{"narrow", "wide"}, Concurrency: 10, QueueConcurrency: map[string]int{"narrow": narrow},
	})
	client := newClient(t, pool)
	for range each {
		enqueue(t, client, "any", nil, engine.Queue("narrow"))
	}
	for range wide {
		enqueue(t, client, "any", nil, engine.Queue("wide"))
	}
	enqueue(t, client, "bounded", nil, engine.Queue("narrow"))
	enqueue(t, client, "bounded", nil, engine.Queue("wide"))
	enqueue(t, client, "bounded", nil, engine.Queue("wide"))
	// All that may run does: what stands still doesn't hold up the rest.
	got := map[string]int{}
	for range narrow + wide + 1 {
		got[receive(t, "a start", started)]++
	}
	if got["narrow"] != narrow || got["wide"] != wide+1 {
		t.Errorf("%v run, want %d of narrow and %d of wide", got, narrow, wide+1)
	}
	close(release)
	w.waitFor(t, "all jobs", func(all []engine.Outcome) bool { return len(all) == each+wide+3 })
	if running.max["narrow"] != narrow || running.max["bounded"] != 1 {
		t.Errorf("at most %d of queue narrow ran at once, want %d; at most %d of name bounded, want 1",
			running.max["narrow"], narrow, running.max["bounded"])
	}
}

// Nothing but the end of a job can say that the queue has room, and until then
// nobody asks for its due jobs.
func TestWorker_queueAtItsBound_sleepsUntilAJobEnds(t *testing.T) {
	t.Parallel()
	url := testdb.NewURL(t)
	pool, sent := tracedFor(t, url, claim.LimitedSQL)
	reg := engine.NewRegistry()
	started, release := make(chan *engine.Job, 10), make(chan struct{}, 10)
	engine.HandleRaw(reg, "a", func(_ context.Context, job *engine.Job) (any, error) {
		started <- job
		<-release
		return nil, nil
	})
	w := start(t, pool, reg, engine.WorkerConfig{Concurrency: 10, QueueConcurrency: map[string]int{"default": 1}})
	waitTrue(t, "trust in notifications", w.Hears)
	client := newClient(t, connect(t, url))
	first, second := enqueue(t, client, "a", nil), enqueue(t, client, "a", nil)
	if job := receive(t, "the first", started); job.ID != first {
		t.Errorf("job %s first, want %s", job.ID, first)
	}
	_, before := sent.count()
	// A third one wakes it, and finds no room.
	third := enqueue(t, client, "a", nil)
	release <- struct{}{}
	if job := receive(t, "the second", started); job.ID != second {
		t.Errorf("job %s, want %s", job.ID, second)
	}
	if _, n := sent.count(); n-before > 3 {
		t.Errorf("%d claims while the queue was at its bound", n-before)
	}
	release <- struct{}{}
	release <- struct{}{}
	w.waitForJob(t, third)
}

func TestWorker_queueConcurrency_mistakes(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	noop(reg, "a")
	for want, bounds := range map[string]map[string]int{
		`queue "default": must be at least 1, not 0`: {"default": 0},
		`queue "other" is not served`:                {"other": 1},
	} {
		if _, err := engine.NewWorker(pool, reg, engine.WorkerConfig{QueueConcurrency: bounds}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: error %v, want %s", bounds, err, want)
		}
	}
}
