package engine_test

import (
	"context"
	"flag"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"soniq/internal/testdb"
)

var (
	benchTurn     = flag.Duration("waiters.turn", 500*time.Millisecond, "how long each kind of INSERT of BenchmarkEnqueue has its turn")
	benchSnapshot = flag.Bool("waiters.snapshot", false,
		"BenchmarkEnqueue compares with a database in which a snapshot has been held for 20 minutes")
)

// benched is a kind of INSERT.
type benched struct {
	name  string
	pool  *pgxpool.Pool
	table string
	// waiting is set up before each turn: which of the ten workers, each of
	// queue and of its own, have a row in soniq_waiters.
	waiting string
	queues  int  // that the jobs go to
	later   bool // the jobs are due later: a claim finds none
	rates   []float64
}

// workersSQL registers ten busy workers of ours.
const workersSQL = `
insert into soniq_workers (id, hostname, pid, queues, version, incarnation)
select gen_random_uuid(), 'h' || i, i, array['q' || i], 'go/0', 1 from generate_series(1, 10) i`

// BenchmarkEnqueue compares what triggers and NOTIFY cost autocommitted INSERTs
// of one job, with ratios to those into the same table without triggers. Each
// iteration gives each kind its turn, so that a busy machine is as busy for all.
//
//	go test ./engine -run '^$' -bench Enqueue -benchtime 5x
//
// SONIQ_TEST_DATABASE_URL names another server than that of the tests, on which
// a commit waits for no disk.
func BenchmarkEnqueue(b *testing.B) {
	for _, clients := range []int{8, 32} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			pool := benchPool(b, clients)
			kinds := []*benched{
				{name: "plain", pool: pool, table: "plain", waiting: `false`, queues: 1},
				{name: "busy", pool: pool, waiting: `false`, queues: 1},
				{name: "1-of-10-queues-waiting", pool: pool, waiting: `w.pid = 1`, queues: 10},
				{name: "1-of-10-workers-waiting", pool: pool, waiting: `w.pid = 1`, queues: 1},
				{name: "all-waiting", pool: pool, waiting: `true`, queues: 10},
			}
			if *benchSnapshot {
				kinds = append(kinds[:2], &benched{name: "busy-held", pool: heldPool(b, clients), waiting: "false", queues: 1})
			}
			for b.Loop() {
				for _, k := range kinds {
					k.turn(b, clients)
				}
			}
			plain := median(kinds[0].rates)
			b.ReportMetric(plain, "plain/s")
			for _, k := range kinds[1:] {
				b.ReportMetric(median(k.rates)/plain, k.name+"/plain")
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

func benchPool(b *testing.B, clients int) *pgxpool.Pool {
	b.Helper()
	config, err := pgxpool.ParseConfig(testdb.NewURL(b))
	if err != nil {
		b.Fatal(err)
	}
	config.MaxConns = int32(clients) + 2
	pool, err := pgxpool.NewWithConfig(b.Context(), config)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(pool.Close)
	run(b, pool, `create table plain (like soniq_jobs including all)`)
	run(b, pool, workersSQL)
	return pool
}

// heldPool is on a database with an old snapshot, and all that ten workers at
// the edge between waiting and not write in 20 minutes: each 25 times their
// rows, and 120 heartbeats.
func heldPool(b *testing.B, clients int) *pgxpool.Pool {
	b.Helper()
	pool := benchPool(b, clients)
	tx, err := pool.BeginTx(b.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = tx.Rollback(context.Background()) })
	if _, err := tx.Exec(b.Context(), `select count(*) from soniq_waiters`); err != nil {
		b.Fatal(err)
	}
	for i := range 120 {
		run(b, pool, `update soniq_workers set last_heartbeat = clock_timestamp()`)
		if i < 25 {
			run(b, pool, `delete from soniq_waiters`)
			run(b, pool, `insert into soniq_waiters select unnest(queues), id from soniq_workers`)
		}
	}
	return pool
}

func run(b *testing.B, pool *pgxpool.Pool, sql string) {
	b.Helper()
	if _, err := pool.Exec(b.Context(), sql); err != nil {
		b.Fatalf("%s: %v", sql, err)
	}
}

// turn inserts for a while, and notes how many a second.
func (k *benched) turn(b *testing.B, clients int) {
	b.Helper()
	table := "soniq_jobs"
	if k.table != "" {
		table = k.table
	}
	run(b, k.pool, `truncate soniq_jobs, plain`)
	run(b, k.pool, `delete from soniq_waiters`)
	run(b, k.pool, `insert into soniq_waiters select unnest(w.queues), w.id from soniq_workers w where `+k.waiting)
	k.table = table
	k.rates = append(k.rates, k.insert(b, clients, *benchTurn))
}

// insert inserts for a while, and returns how many a second.
func (k *benched) insert(b *testing.B, clients int, lasts time.Duration) float64 {
	b.Helper()
	due := "null"
	if k.later {
		due = "now() + interval '5 minutes'"
	}
	sql := `insert into ` + k.table + ` (id, job_name, args, queue, scheduled_at) values (gen_random_uuid(), 'n', '{}', $1, ` + due + `)`
	var inserted atomic.Int64
	var g errgroup.Group
	began := time.Now()
	for client := range clients {
		g.Go(func() error {
			return k.pool.AcquireFunc(b.Context(), func(conn *pgxpool.Conn) error {
				for i := client; time.Since(began) < lasts; i++ {
					if _, err := conn.Exec(b.Context(), sql, fmt.Sprintf("q%d", i%k.queues+1)); err != nil {
						return err
					}
					inserted.Add(1)
				}
				return nil
			})
		})
	}
	if err := g.Wait(); err != nil {
		b.Fatal(err)
	}
	return float64(inserted.Load()) / time.Since(began).Seconds()
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}
