package deadletter_test

import (
	"context"
	"encoding/json"
	"flag"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	osexec "os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/deadletter"
	"soniq/deadletter/classify"
	"soniq/internal/deadwrite"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
)

var benchRows = flag.Int("rows", 1_000_000, "how many dead letters BenchmarkDeadLetters works on")

// keptQueue is the queue of the oldest dead letters, which a rule keeps for ever.
const keptQueue = "ledger"

// benchFillSQL makes dead letters that are spread as real ones: few of many
// names and queues have most of them; two hundred causes; ninety days, in the
// last of which one hour has as many as two days before it; four in ten were
// replayed with success. They lie in the order of their deaths, as they would.
// $1 the number of the first, $2 of the last, $3 of all.
const benchFillSQL = `
insert into soniq_dead_letter_jobs (
  id, job_name, args, queue, priority, max_attempts, attempts, last_error, dead_letter_reason,
  original_created_at, moved_to_dead_letter_at, resurrection_count, last_resurrection_at, state, replay_job_id,
  error_kind, error_type, error_code, decided_by, fingerprint, args_hash, worker_id, errors
)
select
  (substr(time, 1, 8) || '-' || substr(time, 9, 4) || '-7' || substr(hash, 1, 3) || '-8' || substr(hash, 4, 3) || '-' || substr(hash, 7, 12))::uuid,
  name,
  jsonb_build_object('user_id', n, 'order', 'order-' || n % 100000, 'locale', 'en', 'note', repeat('x', n::integer % 60)),
  case when age > interval '80 days' then '` + keptQueue + `' else 'queue.' || floor(10 * q * q) end,
  100, 4, 4,
  message, reason,
  at - interval '10 minutes', at,
  mended::integer, case when mended then at + interval '1 hour' end,
  case when mended then 'resolved' else 'dead' end,
  case when mended then gen_random_uuid() end,
  'error', '*net.OpError', case when cause % 3 = 0 then '503' end, 'budget',
  substr(md5(name || cause), 1, 16),
  md5(n::text), '00000000-0000-7000-8000-000000000001',
  jsonb_build_array(
    jsonb_build_object('attempt', 1, 'kind', 'error', 'type', '*net.OpError', 'failed_at', at, 'decided_by', 'budget', 'message', message),
    jsonb_build_object('attempt', 4, 'kind', 'error', 'type', '*net.OpError', 'failed_at', at, 'decided_by', 'budget', 'message', message)
  )
from (
  select
    n, q, cause, age, now() - age as at, mended,
    'team' || cause % 6 || '.job' || lpad((cause % 30)::text, 2, '0') as name,
    'call service-' || cause || ' for order ' || n || ': dial tcp 10.0.0.7:443: connection refused' as message,
    case
      when cause % 20 < 12 then 'max_retries_exceeded'
      when cause % 20 < 16 then 'permanent_failure'
      when cause % 20 < 18 then 'timeout'
      when cause % 20 < 19 then 'invalid_arguments'
      else 'job_not_found'
    end as reason,
    lpad(to_hex(floor(extract(epoch from now() - age) * 1000)::bigint), 12, '0') as time,
    md5(n::text) as hash
  from (
    select
      n, random() as q, floor(200 * power(random(), 2))::integer as cause, random() < 0.4 as mended,
      case
        when n < 0.97 * $3 then interval '21 hours' + (0.97 - n / $3::double precision) / 0.97 * (interval '90 days' - interval '21 hours')
        when n < 0.99 * $3 then interval '20 hours' + (0.99 - n / $3::double precision) / 0.02 * interval '1 hour'
        else (1 - n / $3::double precision) / 0.01 * interval '20 hours'
      end as age
    from generate_series($1::bigint, $2::bigint) n
  ) dice
) rows`

// benchFill fills the table without its secondary indexes and makes them again,
// by their own definitions: that is quicker, and they are as a rebuild leaves
// them.
func benchFill(b *testing.B, pool *pgxpool.Pool, rows int) {
	b.Helper()
	conn, err := pool.Acquire(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Release()
	run := func(sql string, args ...any) {
		b.Helper()
		if _, err := conn.Exec(b.Context(), sql, args...); err != nil {
			b.Fatalf("%s: %v", sql, err)
		}
	}
	var definitions []string
	const definitionsSQL = `
		select array_agg(pg_get_indexdef(indexrelid)) from pg_index
		where indrelid = 'soniq_dead_letter_jobs'::regclass and not indisprimary`
	if err := conn.QueryRow(b.Context(), definitionsSQL).Scan(&definitions); err != nil {
		b.Fatal(err)
	}
	for _, definition := range definitions {
		run("drop index " + strings.Fields(definition)[2])
	}
	run("set soniq.notify = off")
	run("select setseed(0.42)")
	const chunk = 250_000
	for first := 1; first <= rows; first += chunk {
		run(benchFillSQL, first, min(first+chunk-1, rows), rows)
	}
	run("set maintenance_work_mem = '256MB'")
	for _, definition := range definitions {
		run(definition)
	}
	run("vacuum (analyze) soniq_dead_letter_jobs")
	run("checkpoint")
	run("reset all")
	var size string
	if err := conn.QueryRow(b.Context(), "select pg_size_pretty(pg_total_relation_size('soniq_dead_letter_jobs'))").Scan(&size); err != nil {
		b.Fatal(err)
	}
	b.Logf("%d dead letters, %s with their indexes", rows, size)
}

// BenchmarkDeadLetters measures what people do with a large queue of the dead:
//
//	go test ./deadletter -run '^$' -bench DeadLetters -rows=10000000
//
// It needs some 1.4 KB of disk a row. A part of it can be run alone, by
// -bench 'DeadLetters/list'. docs/performance.md has what it should reach.
func BenchmarkDeadLetters(b *testing.B) {
	// A server of its own: a statement that runs for a minute holds up whoever
	// follows the dead letters in any database of the same one.
	pool, err := pgxpool.New(b.Context(), testdb.StartServer(b).URL())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(pool.Close)
	rows := *benchRows
	benchFill(b, pool, rows)
	queue := newQueue(b, pool)

	b.Run("read", func(b *testing.B) { benchReads(b, pool, queue) })
	b.Run("export", func(b *testing.B) { benchExport(b, queue, min(rows, 1_000_000)) })
	b.Run("move", func(b *testing.B) { benchMove(b, pool) })

	w := startProbedWorker(b, pool)
	b.Run("worker=alone", func(b *testing.B) {
		for b.Loop() {
			w.while(b, func() {
				select {
				case <-time.After(3 * time.Second):
				case <-b.Context().Done():
				}
			})
		}
		b.ReportMetric(0, "ns/op")
	})
	b.Run("replay", func(b *testing.B) { benchReplay(b, queue, w, min(rows/10, 150_000)) })
	b.Run("retain", func(b *testing.B) { benchRetain(b, queue) })
	b.Run("cleanup", func(b *testing.B) { benchCleanup(b, queue, w, min(rows/5, 1_000_000)) })
}

// benchEach measures one call.
func benchEach(b *testing.B, name string, call func(ctx context.Context) error) {
	b.Run(name, func(b *testing.B) {
		for b.Loop() {
			if err := call(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(b.Elapsed().Seconds()*1e3/float64(b.N), "ms/op")
		b.ReportMetric(0, "ns/op")
	})
}

func benchReads(b *testing.B, pool *pgxpool.Pool, queue *deadletter.Queue) {
	var some []uuid.UUID
	const someSQL = `select array_agg(id) from (select id from soniq_dead_letter_jobs tablesample bernoulli (1) limit 1000) d`
	if err := pool.QueryRow(b.Context(), someSQL).Scan(&some); err != nil {
		b.Fatal(err)
	}
	list := func(f deadletter.Filter, want int) func(context.Context) error {
		f.Limit = 50
		return func(ctx context.Context) error {
			jobs, err := queue.List(ctx, f)
			if err == nil && len(jobs) < want {
				b.Errorf("%+v: %d rows, want %d", f, len(jobs), want)
			}
			return err
		}
	}
	// What all of the table costs: the others can be compared with it.
	benchEach(b, "scan", func(ctx context.Context) error {
		var n int
		return pool.QueryRow(ctx, "select count(*) from soniq_dead_letter_jobs where attempts < 0").Scan(&n)
	})
	day, all := deadletter.Filter{From: time.Now().Add(-24 * time.Hour)}, deadletter.Filter{}
	names := []string{"team1.job07", "team2.job14", "team5.job29"}
	benchEach(b, "list=newest", list(all, 50))
	benchEach(b, "list=dead", list(deadletter.Filter{State: deadletter.StateDead}, 50))
	benchEach(b, "list=name", list(deadletter.Filter{JobNames: names[:1]}, 50))
	benchEach(b, "list=names+reason+queue", list(deadletter.Filter{
		JobNames: names, Reasons: []classify.Reason{classify.MaxRetriesExceeded, classify.PermanentFailure}, Queues: []string{"queue.1"},
	}, 1))
	benchEach(b, "list=rare-reason", list(deadletter.Filter{Reasons: []classify.Reason{classify.ManualMove}}, 0))
	benchEach(b, "list=pattern", list(deadletter.Filter{NameLike: "team?.job1*"}, 50))
	benchEach(b, "list=part", list(deadletter.Filter{NameLike: "job29"}, 50))
	benchEach(b, "list=no-such-name", list(deadletter.Filter{NameLike: "nobody"}, 0))
	benchEach(b, "show", func(ctx context.Context) error {
		id := some[rand.IntN(len(some))] //nolint:gosec // any will do
		if _, err := queue.Get(ctx, id); err != nil {
			return err
		}
		if _, err := queue.Lineage(ctx, id); err != nil {
			return err
		}
		_, err := queue.History(ctx, id)
		return err
	})
	benchEach(b, "check", func(ctx context.Context) error {
		_, err := queue.Backlog(ctx, deadletter.Filter{State: deadletter.StateDead, Limit: 1001})
		return err
	})
	stats := func(window time.Duration) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := queue.Stats(ctx, window)
			return err
		}
	}
	groups := func(f deadletter.Filter) func(context.Context) error {
		f.Limit = 21
		return func(ctx context.Context) error {
			found, err := queue.Groups(ctx, f)
			if err == nil && len(found) < 21 {
				b.Errorf("%d groups", len(found))
			}
			return err
		}
	}
	benchEach(b, "stats=day", stats(24*time.Hour))
	benchEach(b, "stats=all", stats(0))
	benchEach(b, "groups=day", groups(day))
	benchEach(b, "groups=all", groups(all))
}

func benchExport(b *testing.B, queue *deadletter.Queue, rows int) {
	for _, format := range []deadletter.Format{deadletter.FormatJSON, deadletter.FormatJSONL, deadletter.FormatCSV} {
		b.Run("format="+string(format), func(b *testing.B) {
			runtime.GC()
			peak, stop := uint64(0), make(chan struct{})
			var sampling sync.WaitGroup
			sampling.Go(func() {
				tick := time.NewTicker(20 * time.Millisecond)
				defer tick.Stop()
				for {
					var m runtime.MemStats
					runtime.ReadMemStats(&m)
					peak = max(peak, m.HeapInuse+m.StackInuse)
					select {
					case <-stop:
						return
					case <-tick.C:
					}
				}
			})
			var done int64
			for b.Loop() {
				n, err := queue.Export(b.Context(), io.Discard, deadletter.Filter{Limit: rows}, format)
				if err != nil {
					b.Fatal(err)
				}
				done += n
			}
			close(stop)
			sampling.Wait()
			reportRate(b, done)
			b.ReportMetric(float64(peak)/(1<<20), "peak-MB")
		})
	}
}

// reportRate tells how many rows a second that were, in place of the time.
func reportRate(b *testing.B, rows int64) {
	b.ReportMetric(float64(rows)/b.Elapsed().Seconds(), "rows/s")
	b.ReportMetric(0, "ns/op")
}

// benchMove measures what each dead letter costs when it is made, with all of
// the indexes that the others need.
func benchMove(b *testing.B, pool *pgxpool.Pool) {
	const enqueueSQL = `
		with made as (
		  insert into soniq_jobs (id, job_name, args, queue)
		  select gen_random_uuid(), 'team1.job' || n % 30, '{"user_id": 42}', 'queue.' || n % 10 from generate_series(1, $1) n
		  returning id
		)
		select array_agg(id) from made`
	verdict := classify.Decide(classify.Attempt{
		JobName: "x", Kind: classify.KindError, Err: context.DeadlineExceeded, Attempt: 1, MaxAttempts: 1,
	})
	const batch, batches = 500, 20
	var moved int64
	for b.Loop() {
		b.StopTimer()
		var ids []uuid.UUID
		if err := pool.QueryRow(b.Context(), enqueueSQL, batch*batches).Scan(&ids); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		for some := range slices.Chunk(ids, batch) {
			done, err := deadwrite.MoveQueued(b.Context(), pool, some, verdict)
			if err != nil {
				b.Fatal(err)
			}
			moved += int64(len(done))
		}
	}
	reportRate(b, moved)
}

func benchReplay(b *testing.B, queue *deadletter.Queue, w *probedWorker, rows int) {
	var replayed int64
	for b.Loop() {
		w.while(b, func() {
			result, err := queue.ReplayAll(b.Context(), deadletter.Filter{State: deadletter.StateDead, Limit: rows}, deadletter.ReplayAllOptions{})
			if err != nil || len(result.Replayed) == 0 {
				b.Fatalf("replayed %d: %v", len(result.Replayed), err)
			}
			replayed += int64(len(result.Replayed))
		})
	}
	reportRate(b, replayed)
}

// benchRetain is for what a rule keeps for ever at the old end of the table, in
// the way of the rule after it: what a worker pays each hour.
func benchRetain(b *testing.B, queue *deadletter.Queue) {
	rules := []deadletter.Retention{
		{Filter: deadletter.Filter{Queues: []string{keptQueue}}},
		{Keep: 79*24*time.Hour + 12*time.Hour},
	}
	retain := func(b *testing.B, most int64) int64 {
		n, err := queue.ApplyRetention(b.Context(), rules, deadletter.MaintenanceOptions{})
		if err != nil || n > most {
			b.Fatalf("deleted %d: %v", n, err)
		}
		return n
	}
	// The one time that there is something to delete, however often it is run.
	deleted, took := int64(-1), time.Duration(0)
	b.Run("first", func(b *testing.B) {
		if deleted < 0 {
			began := time.Now()
			deleted = retain(b, int64(*benchRows))
			took = time.Since(began)
		}
		b.ReportMetric(float64(deleted), "rows")
		b.ReportMetric(float64(deleted)/took.Seconds(), "rows/s")
		b.ReportMetric(0, "ns/op")
	})
	// Some may have grown too old since.
	benchEach(b, "nothing-to-do", func(context.Context) error {
		retain(b, int64(*benchRows)/1000)
		return nil
	})
}

func benchCleanup(b *testing.B, queue *deadletter.Queue, w *probedWorker, rows int) {
	var deleted int64
	for b.Loop() {
		w.while(b, func() {
			n, err := queue.Cleanup(b.Context(), time.Hour, deadletter.Filter{Limit: rows})
			if err != nil {
				b.Fatal(err)
			}
			deleted += n
		})
	}
	reportRate(b, deleted)
}

// A probedWorker is a worker in a process of its own, whose jobs tell how long
// they took from the insert to their start.
type probedWorker struct {
	pool   *pgxpool.Pool
	mu     sync.Mutex
	sent   []time.Time
	waited []time.Duration
}

const probeSQL = `insert into soniq_jobs (id, job_name, args, queue) values (gen_random_uuid(), 'probe', jsonb_build_object('n', $1::integer), 'probe')`

func startProbedWorker(b *testing.B, pool *pgxpool.Pool) *probedWorker {
	b.Helper()
	w := &probedWorker{pool: pool}
	server := httptest.NewServer(w)
	b.Cleanup(server.Close)
	binary := filepath.Join(b.TempDir(), "soniq")
	if out, err := osexec.Command("go", "build", "-o", binary, "soniq/cmd/soniq").CombinedOutput(); err != nil {
		b.Fatalf("build: %v: %s", err, out)
	}
	worker := osexec.Command(binary, "worker", "--queues", "probe", "--handle", "probe="+server.URL)
	worker.Env = append(os.Environ(), "SONIQ_DEV=", "SONIQ_DATABASE_URL="+pool.Config().ConnString())
	if err := worker.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = worker.Process.Signal(syscall.SIGTERM)
		if err := worker.Wait(); err != nil {
			b.Errorf("worker: %v", err)
		}
	})
	w.probe(b)
	eventually.True(b, "the worker", func() bool { return w.ended() == 1 })
	return w
}

func (w *probedWorker) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	var args struct{ N int }
	if json.NewDecoder(r.Body).Decode(&args) != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.waited = append(w.waited, time.Since(w.sent[args.N]))
}

func (w *probedWorker) ended() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.waited)
}

// probe enqueues one job.
func (w *probedWorker) probe(b *testing.B) {
	w.mu.Lock()
	n := len(w.sent)
	w.sent = append(w.sent, time.Now())
	w.mu.Unlock()
	if _, err := w.pool.Exec(b.Context(), probeSQL, n); err != nil {
		b.Error(err)
	}
}

// while runs work, enqueues a job every 20 ms meanwhile, and reports how long
// these waited.
func (w *probedWorker) while(b *testing.B, work func()) {
	b.Helper()
	before, done := w.ended(), make(chan struct{})
	var probing sync.WaitGroup
	probing.Go(func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				w.probe(b)
			}
		}
	})
	func() {
		defer probing.Wait()
		defer close(done)
		work()
	}()
	b.StopTimer()
	defer b.StartTimer()
	w.mu.Lock()
	sent := len(w.sent)
	w.mu.Unlock()
	eventually.Count(b, "the worker's jobs", sent, w.ended)
	w.mu.Lock()
	defer w.mu.Unlock()
	waited := slices.Sorted(slices.Values(w.waited[before:]))
	for name, part := range map[string]float64{"start-p50-ms": 0.5, "start-p99-ms": 0.99, "start-max-ms": 1} {
		b.ReportMetric(waited[int(part*float64(len(waited)-1))].Seconds()*1e3, name)
	}
}
