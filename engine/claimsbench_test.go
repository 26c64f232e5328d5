package engine_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/engine"
	"soniq/internal/testdb"
)

// backlog is a kind of backlog that a worker works off.
type backlog struct {
	name string
	// slots are the worker's, and queues how many it serves, called q1, q2 and so on.
	slots, queues int
	// fill is a query of the jobs: their names, their queues and their priorities, with the number n.
	fill string
	// own is how many of them are the worker's.
	own int

	pool  *pgxpool.Pool
	rates []float64
	// busy is the server's processor time for a job, in microseconds, and read how many entries of
	// the index of claims were read for it.
	busy, read []float64
}

const othersInFront = ` union all select 'other', 'q1', %d, -n from generate_series(1, 100000) n`

// BenchmarkBacklog compares how fast a worker works off a backlog of many queues, or one behind
// jobs of others, with how fast it works off one of one queue. Each iteration gives each kind its turn.
//
//	go test ./engine -run '^$' -bench Backlog -benchtime 3x
func BenchmarkBacklog(b *testing.B) {
	const jobs = 20_000
	one := `select 'n', 'q1', 100, n from generate_series(1, %d) n`
	kinds := []*backlog{
		{name: "one-queue", slots: 10, queues: 1, fill: one, own: 1000},
		{name: "one-in-each-of-1000", slots: 10, queues: 1000, fill: `select 'n', 'q' || n, 100, n from generate_series(1, %d) n`, own: 1000},
		{name: "ten-in-each-of-100", slots: 10, queues: 100, fill: `select 'n', 'q' || 1 + n %% 100, 100, n from generate_series(1, %d) n`, own: 1000},
		{name: "skewed", slots: 10, queues: 1000, fill: `select 'n', 'q' || case when n %% 2 = 0 then 1 else n end, 100, n from generate_series(1, %d) n`, own: 1000},
		{name: "one-queue-500-slots", slots: 500, queues: 1, fill: one, own: jobs},
		{name: "behind-others-500-slots", slots: 500, queues: 1, fill: one + strings.Replace(othersInFront, "%d", "100", 1), own: jobs},
		{name: "behind-urgent-others-500-slots", slots: 500, queues: 1, fill: one + strings.Replace(othersInFront, "%d", "1", 1), own: jobs},
	}
	for _, k := range kinds {
		k.pool = benchClients(b, testdb.NewURL(b), 2)
		run(b, k.pool, `alter table soniq_jobs set (autovacuum_enabled = off)`)
	}
	for b.Loop() {
		for _, k := range kinds {
			k.turn(b)
		}
	}
	for _, k := range kinds {
		base := kinds[0]
		if k.slots == 500 {
			base = kinds[4]
		}
		b.ReportMetric(median(k.rates)/median(base.rates), k.name+"/rate")
		b.ReportMetric(median(k.busy), k.name+"/µs")
		b.ReportMetric(median(k.read), k.name+"/read")
	}
	b.ReportMetric(0, "ns/op")
}

// turn works off the backlog once.
func (k *backlog) turn(b *testing.B) {
	b.Helper()
	run(b, k.pool, `truncate soniq_jobs`)
	run(b, k.pool, `
		insert into soniq_jobs (id, job_name, args, queue, priority, created_at)
		select gen_random_uuid(), f.name, '{}', f.queue, f.priority, now() - interval '1 day' + f.n * interval '1 ms'
		from (`+fmt.Sprintf(k.fill, k.own)+`) f (name, queue, priority, n)
		order by f.n`)
	run(b, k.pool, `vacuum analyze soniq_jobs`)
	reg := engine.NewRegistry()
	var began atomic.Int64
	engine.HandleRaw(reg, "n", func(context.Context, *engine.Job) (any, error) {
		began.CompareAndSwap(0, time.Now().UnixNano())
		return nil, nil
	})
	config := engine.WorkerConfig{Concurrency: k.slots, UnknownGrace: -1, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))}
	for i := range k.queues {
		config.Queues = append(config.Queues, fmt.Sprint("q", i+1))
	}
	done := &nthOutcome{n: int64(k.own), last: make(chan struct{})}
	config.Observer = done
	const readSQL = `select idx_tup_read from pg_stat_user_indexes where indexrelname = 'idx_soniq_jobs_claim'`
	before := queryBench[int64](b, k.pool, readSQL)
	pool, err := pgxpool.NewWithConfig(b.Context(), k.pool.Config())
	if err != nil {
		b.Fatal(err)
	}
	defer pool.Close()
	w, err := engine.NewWorker(pool, reg, config)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	<-done.last
	k.rates = append(k.rates, float64(k.own)/time.Since(time.Unix(0, began.Load())).Seconds())
	k.busy = append(k.busy, backendTime(b, k.pool).Seconds()*1e6/float64(k.own))
	cancel()
	if err := <-ended; err != nil {
		b.Fatal(err)
	}
	pool.Close()
	<-time.After(1500 * time.Millisecond)
	k.read = append(k.read, float64(queryBench[int64](b, k.pool, readSQL)-before)/float64(k.own))
}

// nthOutcome closes a channel with the nth outcome.
type nthOutcome struct {
	n    int64
	seen atomic.Int64
	last chan struct{}
}

func (o *nthOutcome) Settled(context.Context, engine.Outcome) {
	if o.seen.Add(1) == o.n {
		close(o.last)
	}
}

func queryBench[T any](b *testing.B, pool *pgxpool.Pool, sql string) (v T) {
	b.Helper()
	if err := pool.QueryRow(b.Context(), sql).Scan(&v); err != nil {
		b.Fatal(err)
	}
	return v
}

// backendTime is the processor time of the sessions of a database, but for those of pool, as far as
// Linux tells.
func backendTime(b *testing.B, pool *pgxpool.Pool) (total time.Duration) {
	b.Helper()
	rows, err := pool.Query(b.Context(), `select pid from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid() and backend_start > (select backend_start from pg_stat_activity where pid = pg_backend_pid())`)
	if err != nil {
		b.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var pid int
		if err := rows.Scan(&pid); err != nil {
			b.Fatal(err)
		}
		// The first number is how long it ran, in nanoseconds.
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", pid))
		if err != nil {
			continue
		}
		var ran int64
		if _, err := fmt.Sscan(string(data), &ran); err != nil {
			b.Fatal(err)
		}
		total += time.Duration(ran)
	}
	return total
}
