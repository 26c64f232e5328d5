package engine_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/deadletter/classify"
	"soniq/engine"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

// metered is a pool that counts what its connections read.
func metered(t *testing.T, url string) (*pgxpool.Pool, *atomic.Int64) {
	t.Helper()
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	read := new(atomic.Int64)
	dial := config.ConnConfig.DialFunc
	config.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &meteredConn{conn, read}, nil
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool, read
}

type meteredConn struct {
	net.Conn

	read *atomic.Int64
}

func (c *meteredConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.read.Add(int64(n))
	return n, err
}

// Jobs of 70 MB, and others that are small in the table and gigabytes as
// text, die without having come to the worker, whose other jobs go on.
func TestWorker_giantArguments_areNeverLoaded(t *testing.T) {
	t.Parallel()
	url := testdb.NewURL(t)
	pool := connect(t, url)
	// No text is made of what is larger than 64 MiB, and from 1 MiB in the table a dead letter is moved apart from
	// others: one letter again and again compresses to a hundredth, and digests don't.
	giants, size := testkit.Size(4, 10), testkit.Size(68_000_000, 200_000_000)
	exec(t, pool, `
		insert into soniq_jobs (id, job_name, args, priority) values (gen_random_uuid(), 'giant', jsonb_build_object(
			'x', repeat('x', $1::int), 'y', (select string_agg(md5(n::text), '') from generate_series(1, 20000) n)), 1)`, size)
	bytes := queryValue[int](t, pool, `select pg_column_size(array[args]) from soniq_jobs`)
	exec(t, pool, `
		insert into soniq_jobs (id, job_name, args, priority)
		select gen_random_uuid(), 'giant', j.args, 1 from soniq_jobs j, generate_series(2, $1::int)`, giants)
	// Digits that only the text has: 2 GB, 80 MB, and 18 MB in one row of 2 kB.
	for _, digits := range []int{15_000, 600, 140} {
		exec(t, pool, `
			insert into soniq_jobs (id, job_name, args, priority)
			select gen_random_uuid(), 'digits', ('{"x": [1e131071' || repeat(', 1e131071', $1::int - 1) || ']}')::jsonb, 1`, digits)
	}
	workers, read := metered(t, url)
	reg := engine.NewRegistry()
	noop(reg, "giant")
	noop(reg, "digits")
	noop(reg, "ours")
	client := newClient(t, pool)
	var ours []uuid.UUID
	for range 20 {
		ours = append(ours, enqueue(t, client, "ours", map[string]any{"n": 1}))
	}
	w := start(t, workers, reg, engine.WorkerConfig{Concurrency: 4})
	for _, id := range ours {
		w.waitForJob(t, id)
	}
	outcomes := w.waitFor(t, "the end of the giants", func(all []engine.Outcome) bool { return len(all) == len(ours)+giants+3 })
	for _, o := range outcomes {
		if o.Job.Name == "ours" {
			continue
		}
		v := o.Verdict
		if o.Kind != engine.OutcomeDeadLetter || v.Reason != classify.InvalidArguments || !strings.Contains(v.Message, "arguments") {
			t.Errorf("%s: %s, %s: %q", o.Job.Name, o.Kind, v.Reason, v.Message)
		}
		if o.Job.Name == "giant" && (v.Code != "arguments_too_large" || !strings.Contains(v.Message, strconv.Itoa(bytes)+" bytes") || !strings.Contains(v.Message, "--max-args-size")) {
			t.Errorf("%s: %q", v.Code, v.Message)
		}
	}
	// Nothing of them is lost.
	if n := queryValue[int](t, pool, `
		select count(*) from soniq_dead_letter_jobs d
		where d.job_name = 'giant' and pg_column_size(d.args) > 1 << 20`); n != giants {
		t.Errorf("%d dead letters have all of their arguments, want %d", n, giants)
	}
	if n := read.Load(); n > 4<<20 {
		t.Errorf("the worker read %d bytes", n)
	}
}

// The other columns of a claim, and the jobs of dead workers.
func TestWorker_giantTexts_areNotReadWhole(t *testing.T) {
	t.Parallel()
	url := testdb.NewURL(t)
	pool := connect(t, url)
	exec(t, pool, `
		insert into soniq_jobs (id, job_name, args, last_error, producer_id, dedup_key, result, errors)
		select gen_random_uuid(), 'ours', '{}', g.text, g.text, repeat('k', 100000), to_jsonb(g.text), jsonb_build_array(g.text)
		from (select repeat('x', 3000000) as text) g`)
	// An orphan that goes on, and one that has no attempt left.
	exec(t, pool, `
		insert into soniq_jobs (id, job_name, args, status, attempts, max_attempts, last_error, updated_at, errors)
		select gen_random_uuid(), 'ours', '{}', 'processing', n, 3, repeat('x', 3000000), now() - interval '1 day', jsonb_build_array(repeat('x', 3000000))
		from generate_series(1, 3, 2) n`)
	workers, read := metered(t, url)
	reg := engine.NewRegistry()
	noop(reg, "ours")
	w := start(t, workers, reg, engine.WorkerConfig{})
	w.waitFor(t, "the jobs", func(all []engine.Outcome) bool { return len(all) == 2 })
	waitUntil(t, pool, "the end of the other", `select count(*) = 1 from soniq_dead_letter_jobs where length(last_error) >= 3000000`)
	if n := read.Load(); n > 1<<20 {
		t.Errorf("the worker read %d bytes", n)
	}
}

// Whatever the size, a handler gets what was enqueued.
func TestWorker_argumentsOfEverySize_arriveWhole(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	client, err := engine.NewClient(pool, engine.ClientConfig{MaxArgsBytes: 32 << 20})
	if err != nil {
		t.Fatal(err)
	}
	type text struct {
		X string `json:"x"`
	}
	reg := engine.NewRegistry()
	var mu sync.Mutex
	got := map[uuid.UUID]string{}
	engine.Handle(reg, "sized", func(ctx context.Context, args text) error {
		mu.Lock()
		defer mu.Unlock()
		got[engine.JobFromContext(ctx).ID] = args.X
		return nil
	})
	want := map[uuid.UUID]string{}
	random := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{0, 1, 1900, 1990, 2100, 8000, 16_383, 16_384, 16_385, 40_000, 65_000, 65_537, 1 << 20, 15 << 20} {
		for name, letter := range map[string]func() rune{
			"compressible": func() rune { return 'x' },
			"random":       func() rune { return rune('a' + random.IntN(26)) },
			"wide":         func() rune { return rune(0x4e00 + random.IntN(20_000)) },
			// A byte in the table, six as text.
			"escaped": func() rune { return rune(1 + random.IntN(8)) },
		} {
			if n > 1<<20 && (name == "compressible" || name == "wide") && !testkit.Long() {
				continue // as large in the table, or as text, as the others
			}
			var s strings.Builder
			for s.Len() < n && (name != "escaped" || 6*s.Len() < n) {
				s.WriteRune(letter())
			}
			x := s.String()
			want[enqueue(t, client, "sized", text{x})] = x
		}
	}
	w := start(t, pool, reg, engine.WorkerConfig{})
	for id, x := range want {
		o := w.waitForJob(t, id)
		mu.Lock()
		if got[id] != x {
			t.Errorf("%d bytes did not arrive: %s %s", len(x), o[0].Kind, o[0].Verdict.Message)
		}
		mu.Unlock()
	}
}

// Jobs wait for memory, and not the others with them.
func TestWorker_argsMemory_isABound(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	const size = 700 << 10
	reg := engine.NewRegistry()
	var held, most atomic.Int64
	engine.HandleRaw(reg, "large", func(_ context.Context, job *engine.Job) (any, error) {
		now := held.Add(int64(len(job.Args)))
		for old := most.Load(); now > old && !most.CompareAndSwap(old, now); old = most.Load() {
		}
		held.Add(-int64(len(job.Args)))
		return nil, nil
	})
	began, goOn := make(chan uuid.UUID, 20), make(chan struct{})
	engine.HandleRaw(reg, "waits", func(_ context.Context, job *engine.Job) (any, error) {
		held.Add(int64(len(job.Args)))
		began <- job.ID
		<-goOn
		held.Add(-int64(len(job.Args)))
		return nil, nil
	})
	noop(reg, "small")
	client := newClient(t, pool)
	args := json.RawMessage(fmt.Sprintf(`{"x": %q}`, strings.Repeat("x", size)))
	w := start(t, pool, reg, engine.WorkerConfig{Concurrency: 10, MaxArgsBytes: 1 << 20, MaxArgsMemory: 2 << 20})
	var ids []uuid.UUID
	for range 3 {
		ids = append(ids, enqueue(t, client, "waits", args))
	}
	for range 2 {
		receive(t, "a start", began)
	}
	// The third waits for room; what is small goes by.
	w.waitForJob(t, enqueue(t, client, "small", nil))
	select {
	case id := <-began:
		t.Errorf("job %s began beyond the bound", id)
	default:
	}
	for range 10 {
		ids = append(ids, enqueue(t, client, "large", args))
	}
	close(goOn)
	for _, id := range ids {
		w.waitForJob(t, id)
	}
	if n := most.Load(); n > 2<<20 {
		t.Errorf("handlers held %d bytes at once", n)
	}
}

// What waits for room is given back at once when the worker stops.
func TestWorker_waitsForMemory_isGivenBackAtShutdown(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	started, release := slowJob(reg, "slow")
	client := newClient(t, pool)
	args := json.RawMessage(fmt.Sprintf(`{"x": %q}`, strings.Repeat("x", 700<<10)))
	w := start(t, pool, reg, engine.WorkerConfig{MaxArgsBytes: 1 << 20, MaxArgsMemory: 1 << 20})
	first := enqueue(t, client, "slow", args)
	receive(t, "the first", started)
	second := enqueue(t, client, "slow", args)
	waitUntil(t, pool, "the claim", `select status = 'processing' from soniq_jobs where id = $1`, second)
	w.cancel()
	w.Cancel()
	w.waitFor(t, "the second", func(all []engine.Outcome) bool {
		return slices.ContainsFunc(all, func(o engine.Outcome) bool { return o.Job.ID == second })
	})
	if job := getJob(t, client, second); job.Status != engine.StatusQueued || job.Attempts != 0 {
		t.Errorf("the second is %s after %d attempts", job.Status, job.Attempts)
	}
	close(release)
	w.waitFor(t, "the first", func(all []engine.Outcome) bool { return len(all) == 2 })
	_ = first
}

func TestWorker_limits_mistakes(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	noop(reg, "a")
	for want, config := range map[string]engine.WorkerConfig{
		"MaxArgsBytes must be from 1 to 1073741824, not -1":                 {MaxArgsBytes: -1},
		"MaxArgsMemory must be at least MaxArgsBytes, which is 16777216":    {MaxArgsMemory: 1},
		"MaxArgsMemory must be at least MaxArgsBytes, which is 2000, not 9": {MaxArgsBytes: 2000, MaxArgsMemory: 9},
		"MaxAttemptsLimit must be at most 2147483647":                       {MaxAttemptsLimit: 1 << 40},
	} {
		if _, err := engine.NewWorker(pool, reg, config); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %s", err, want)
		}
	}
}
