package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"soniq/internal/pause"
)

// Fleet is many workers of a System. A pool of its own stands for a process: workers of
// different pools share nothing.
type Fleet struct {
	System
	// Label is its Name.
	Label string
	// Workers are those of all processes, and Processes has as many pools. Defaults 1 and 1.
	Workers, Processes int
	// PoolSize is how many connections each pool has at most. All of them, those that listen,
	// and some for the benchmark must fit the server's max_connections. Default 20.
	PoolSize int
}

// Name implements [System].
func (f Fleet) Name() string { return f.Label }

// Work implements [System].
func (f Fleet) Work(ctx context.Context, pool *pgxpool.Pool, probe Probe) error {
	workers, processes := max(f.Workers, 1), max(f.Processes, 1)
	group, ctx := errgroup.WithContext(ctx)
	for i := range processes {
		group.Go(func() error {
			return f.process(ctx, pool.Config(), probe, workers*(i+1)/processes-workers*i/processes)
		})
	}
	return group.Wait()
}

// process runs workers on a pool of their own.
func (f Fleet) process(ctx context.Context, config *pgxpool.Config, probe Probe, workers int) error {
	if f.PoolSize > 0 {
		config.MaxConns = int32(f.PoolSize)
	}
	// They end in good order after ctx.
	pool, err := pgxpool.NewWithConfig(context.WithoutCancel(ctx), config)
	if err != nil {
		return err
	}
	defer pool.Close()
	group, ctx := errgroup.WithContext(ctx)
	for range workers {
		group.Go(func() error { return f.System.Work(ctx, pool, probe) })
	}
	return group.Wait()
}

const (
	// fleetGap lies between two jobs: workers fall asleep again.
	fleetGap = 30 * time.Millisecond
	// statsDelay is how long the server may keep what an idle session did out of its statistics.
	statsDelay = 10 * time.Second
	// settleStep is how long the transactions are counted to see whether a fleet has come to
	// rest, and settleSteps how often at most.
	settleStep, settleSteps = 2 * time.Second, 30
)

// A tally counts what all sessions of a stage do: their transactions as the server counts them,
// which include the notifications that they receive, and the statements as they send them.
type tally struct {
	stage *stage
	sent  *statements
	// pool is one whose statements are counted.
	pool *pgxpool.Pool
}

// count is a reading of a tally.
type count struct{ transactions, statements float64 }

func (c count) less(o count) count {
	return count{c.transactions - o.transactions, c.statements - o.statements}
}

func (s *stage) tally(ctx context.Context) (*tally, error) {
	sent := &statements{}
	config := s.config.Copy()
	config.ConnConfig.Tracer = sent
	pool, err := pgxpool.NewWithConfig(ctx, config)
	return &tally{s, sent, pool}, err
}

// Reading it is a transaction, too.
const transactionsSQL = `select (xact_commit + xact_rollback)::float8 from pg_stat_database where datname = current_database()`

func (t *tally) read(ctx context.Context) (c count, err error) {
	err = t.stage.pool.QueryRow(ctx, transactionsSQL).Scan(&c.transactions)
	c.statements = float64(t.sent.n.Load())
	return c, err
}

// settle returns when the transactions a second have stopped falling, and those have arrived in
// the statistics that came before.
func (t *tally) settle(ctx context.Context, step, delay time.Duration) error {
	last, err := t.read(ctx)
	if err != nil {
		return err
	}
	before := -1.0
	for range settleSteps {
		if err := pause.For(ctx, step); err != nil {
			return err
		}
		now, err := t.read(ctx)
		if err != nil {
			return err
		}
		n := now.less(last).transactions
		last = now
		if before >= 0 && n > 0.8*before-10 {
			break
		}
		before = n
	}
	return pause.For(ctx, delay)
}

// fleetWakes measures what a job costs idle workers: one job each 30 ms, enqueued by one session.
func fleetWakes(ctx context.Context, s *stage, o Options) (figures []Figure, err error) {
	t, err := s.tally(ctx)
	if err != nil {
		return nil, err
	}
	defer t.pool.Close()
	insert, err := s.system.Inserter(t.pool)
	if err != nil {
		return nil, err
	}
	clock := newStopwatch()
	err = s.work(ctx, t.pool, clock, func(ctx context.Context) error {
		w := &sleeper{s, insert, clock, 0}
		for range warmUps {
			if _, err := w.sample(ctx); err != nil {
				return err
			}
		}
		figures, err = t.wakes(ctx, w, o)
		return err
	})
	return figures, err
}

// wakes counts what a job costs above what the same time costs at rest, and how long it waits.
// Jobs come for as long as the fleet was watched at rest: workers that were started together do at
// once what each does twice a minute.
func (t *tally) wakes(ctx context.Context, w *sleeper, o Options) ([]Figure, error) {
	delay := min(o.Idle, statsDelay)
	if err := t.settle(ctx, min(o.Idle, settleStep), delay); err != nil {
		return nil, err
	}
	began, err := t.read(ctx)
	if err != nil {
		return nil, err
	}
	if err := pause.For(ctx, o.Idle); err != nil {
		return nil, err
	}
	rested, err := t.read(ctx)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	waited, err := w.stream(ctx, max(int(o.Idle/fleetGap), 1), fleetGap)
	if err != nil {
		return nil, err
	}
	// What the last jobs have cost must arrive in the statistics.
	if err := pause.For(ctx, delay); err != nil {
		return nil, err
	}
	took := time.Since(start)
	worked, err := t.read(ctx)
	if err != nil {
		return nil, err
	}
	rest, jobs := rested.less(began), worked.less(rested)
	aJob := func(all, atRest float64) float64 {
		return max((all-atRest*took.Seconds()/o.Idle.Seconds())/float64(len(waited)), 0)
	}
	return append([]Figure{
		{Name: TransactionsAJob, Value: aJob(jobs.transactions, rest.transactions), Lower: true},
		{Name: "statements a job", Value: aJob(jobs.statements, rest.statements), Lower: true},
		{Name: TransactionsAtRest, Value: rest.transactions / o.Idle.Minutes(), Lower: true},
	}, delays(waited)...), nil
}

// The names of figures that are judged.
const (
	TransactionsAJob   = "transactions a job"
	TransactionsAtRest = "transactions a minute at rest"
)

// stream inserts n jobs, one after each gap, and returns how long each took, from the call on,
// until its handler began.
func (w *sleeper) stream(ctx context.Context, n int, gap time.Duration) ([]time.Duration, error) {
	ticker := time.NewTicker(gap)
	defer ticker.Stop()
	began := make([]time.Time, n)
	first := w.seq + 1
	for i := range began {
		began[i] = time.Now()
		w.seq++
		if err := w.insert(ctx, nil, w.seq); err != nil {
			return nil, err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, wakePatience, errors.New("not all jobs had started a minute after the last insert"))
	defer cancel()
	waited := make([]time.Duration, n)
	for i := range began {
		at, err := w.clock.wait(ctx, first+int64(i))
		if err != nil {
			return nil, err
		}
		waited[i] = at.Sub(began[i])
	}
	return waited, nil
}

// manyQueues works off a fifth of Jobs with a worker of some queues, and measures its wakes.
func manyQueues(ctx context.Context, s *stage, o Options) ([]Figure, error) {
	jobs := max(o.Jobs/5, 1)
	if err := s.fill(ctx, jobs); err != nil {
		return nil, err
	}
	left := newCountdown(jobs)
	if err := s.work(ctx, s.pool, left, left.wait); err != nil {
		return nil, err
	}
	if err := s.nothingLeft(ctx); err != nil {
		return nil, err
	}
	if _, err := s.pool.Exec(ctx, s.system.Expire()); err != nil {
		return nil, fmt.Errorf("expire: %w", err)
	}
	figures, err := wakes(ctx, s, o, wakePause, nil)
	return append([]Figure{perSecond("worked off", jobs, left.took())}, figures...), err
}

// Fleets are those of [ManyWorkers], which are compared with one worker.
func Fleets(schema string) (all []System) {
	for _, f := range []Fleet{
		{Label: "1 worker", Workers: 1},
		{Label: "10 workers", Workers: 10},
		{Label: "10 processes", Workers: 10, Processes: 10, PoolSize: 5},
		{Label: "40 workers", Workers: 40},
		// Together with the four sessions that listen, they fit a max_connections of 100.
		{Label: "400 workers, 4 processes", Workers: 400, Processes: 4, PoolSize: 16},
	} {
		f.System = Soniq{Schema: schema}
		all = append(all, f)
	}
	return all
}

// QueueCounts are those of [ManyQueues], which are compared with a worker of one queue.
func QueueCounts(schema string) []System {
	return []System{
		Soniq{Schema: schema, Label: "1 queue"},
		Soniq{Schema: schema, Label: "100 queues", Queues: 100},
		Soniq{Schema: schema, Label: "1,000 queues", Queues: 1000},
		Soniq{Schema: schema, Label: "10 jobs of others for each", Strangers: true},
	}
}

// LimitCounts are those of [Limits], which are compared with a worker that has none.
func LimitCounts(schema string) []System {
	return []System{
		Soniq{Schema: schema, Label: "no limits", Names: 30, Queues: 6},
		Soniq{Schema: schema, Label: "36 limits", Names: 30, Queues: 6, Limited: true},
	}
}
