package bench

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/internal/pause"
)

// burnDown works off Jobs that wait; the clock runs from the worker's first look
// until the outcome of the last is written.
func burnDown(ctx context.Context, s *stage, o Options) ([]Figure, error) {
	var written wal
	if err := written.begin(ctx, s.pool); err != nil {
		return nil, err
	}
	if err := s.fill(ctx, o.Jobs); err != nil {
		return nil, err
	}
	left := newCountdown(o.Jobs)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	stopWatching, peak := watchHeap()
	clock, err := startClock(ctx, s.pool)
	if err != nil {
		return nil, err
	}
	err = s.work(ctx, s.pool, left, left.wait)
	stopWatching()
	if err != nil {
		return nil, err
	}
	runtime.ReadMemStats(&after)
	spent, err := clock.figures(ctx, "worked off", o.Jobs)
	if err != nil {
		return nil, err
	}
	if err := s.nothingLeft(ctx); err != nil {
		return nil, err
	}
	tuples, err := s.deadTuples(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := s.pool.Exec(ctx, s.system.Expire()); err != nil {
		return nil, fmt.Errorf("expire: %w", err)
	}
	bytes, err := written.end(ctx, s.pool)
	if err != nil {
		return nil, err
	}
	n := float64(o.Jobs)
	// spent begins with another rate, which includes the start of the worker.
	return append([]Figure{
		perSecond("worked off", o.Jobs, left.took()),
		{Name: WAL, Value: bytes / n, Unit: "B", Lower: true},
		{Name: "row versions left behind a job", Value: tuples / n, Unit: "", Lower: true},
		{Name: "allocations a job", Value: float64(after.Mallocs-before.Mallocs) / n, Unit: "", Lower: true},
		{Name: "heap at most", Value: float64(peak.Load()) / (1 << 20), Unit: "MB", Lower: true},
	}, spent[1:]...), nil
}

// burnDownFew is burnDown with a tenth of the jobs.
func burnDownFew(ctx context.Context, s *stage, o Options) ([]Figure, error) {
	o.Jobs = max(o.Jobs/10, 1)
	return burnDown(ctx, s, o)
}

// burnDownHeld is burnDown while a transaction is idle that has a snapshot from
// before: no row version that is left behind can be taken away, and each claim
// has to pass all of them.
func burnDownHeld(ctx context.Context, s *stage, o Options) (figures []Figure, err error) {
	tx, err := s.pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, tx.Rollback(context.WithoutCancel(ctx))) }()
	if _, err := tx.Exec(ctx, `select count(*) from pg_class`); err != nil {
		return nil, err
	}
	return burnDown(ctx, s, o)
}

// WAL is the name of a burn-down's figure.
const WAL = "WAL a job, with its insert and expiry"

// wal measures what is written to the server's log between begin and end. Other
// databases of the server write there too.
type wal struct{ from string }

func (w *wal) begin(ctx context.Context, db DB) error {
	return db.QueryRow(ctx, `select pg_current_wal_insert_lsn()::text`).Scan(&w.from)
}

func (w *wal) end(ctx context.Context, db DB) (bytes float64, err error) {
	err = db.QueryRow(ctx, `select (pg_current_wal_insert_lsn() - $1::pg_lsn)::float8`, w.from).Scan(&bytes)
	return bytes, err
}

// Each update and delete leaves a version of the row behind, which vacuum takes
// away, or the next reader of its page.
const deadTuplesSQL = `select coalesce(sum(n_tup_upd + n_tup_del), 0)::float8 from pg_stat_user_tables`

// deadTuples counts the row versions that were left behind. Sessions report
// theirs when they end, which takes a moment.
func (s *stage) deadTuples(ctx context.Context) (n float64, err error) {
	s.pool.Reset()
	before := -1.0
	for range 20 {
		if err := s.pool.QueryRow(ctx, deadTuplesSQL).Scan(&n); err != nil {
			return 0, err
		}
		if n == before && n > 0 {
			break
		}
		before = n
		select {
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		case <-time.After(200 * time.Millisecond):
		}
	}
	return n, nil
}

// watchHeap looks for the largest heap until it is stopped.
func watchHeap() (stop func(), peak *atomic.Uint64) {
	peak = new(atomic.Uint64)
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		ticker := time.NewTicker(20 * time.Millisecond)
		defer ticker.Stop()
		for {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			peak.Store(max(peak.Load(), m.HeapAlloc))
			select {
			case <-ticker.C:
			case <-end:
				return
			}
		}
	}()
	return func() { close(end); <-ended }, peak
}

// idle counts the statements of a worker that has nothing to do.
func idle(ctx context.Context, s *stage, o Options) ([]Figure, error) {
	sent := &statements{}
	config := s.config.Copy()
	config.ConnConfig.Tracer = sent
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	var counted int64
	err = s.work(ctx, pool, newCountdown(1), func(ctx context.Context) error {
		// What it does to begin with is no part of its idle life.
		if err := pause.For(ctx, idleStart); err != nil {
			return err
		}
		before := sent.n.Load()
		err := pause.For(ctx, o.Idle)
		counted = sent.n.Load() - before
		return err
	})
	if err != nil {
		return nil, err
	}
	return []Figure{{Name: "statements a minute", Value: float64(counted) / o.Idle.Minutes(), Lower: true}}, nil
}

// idleStart is how long a worker takes to come to rest.
const idleStart = 3 * time.Second
