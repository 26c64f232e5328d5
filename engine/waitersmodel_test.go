package engine_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/engine"
	"soniq/internal/testdb"
)

var (
	waitersLast = flag.Duration("waiters", 3*time.Second,
		"how long producers meet workers that fall asleep (give -timeout 5 min more)")
	waitersSeed = flag.Uint64("waiters.seed", 0, "the seed of what the producers do; 0 is a new one")
)

// bedtime is producers and workers of a few queues. Nobody polls: a job that a
// worker sleeps through stays.
type bedtime struct {
	*testing.T
	pool *pgxpool.Pool

	mu        sync.Mutex
	committed map[uuid.UUID]time.Time // due then
	started   map[uuid.UUID]time.Time
	changed   chan struct{}
}

// start notes that a job runs.
func (b *bedtime) start(id uuid.UUID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.started[id] = time.Now()
	close(b.changed)
	b.changed = make(chan struct{})
}

func (b *bedtime) commit(ids []uuid.UUID, due time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, id := range ids {
		b.committed[id] = due
	}
}

// missing is how many jobs have not begun, and when that changes.
func (b *bedtime) missing() (n int, changed <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for id := range b.committed {
		if _, ok := b.started[id]; !ok {
			n++
		}
	}
	return n, b.changed
}

// settle waits for all jobs and returns how long each had to wait.
func (b *bedtime) settle() ([]time.Duration, error) {
	timeout := time.NewTimer(time.Minute)
	defer timeout.Stop()
	for {
		n, changed := b.missing()
		if n == 0 {
			break
		}
		select {
		case <-changed:
		case <-timeout.C:
			return nil, fmt.Errorf("%d jobs are there and nobody wakes", n)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	var waits []time.Duration
	for id, due := range b.committed {
		waits = append(waits, b.started[id].Sub(due))
	}
	clear(b.committed)
	clear(b.started)
	return waits, nil
}

// producing is one producer's transaction.
type producing struct {
	*bedtime
	conn   *pgx.Conn
	random *rand.Rand
	queue  string
	ids    []uuid.UUID
	due    time.Duration
}

func (p *producing) exec(ctx context.Context, sql string, args ...any) error {
	if len(args) == 0 {
		args = []any{pgx.QueryExecModeSimpleProtocol} // several statements
	}
	_, err := p.conn.Exec(ctx, sql, args...)
	return err
}

// insert adds jobs that count once the transaction is committed.
func (p *producing) insert(ctx context.Context, n int, status string) error {
	ids := make([]uuid.UUID, n)
	for i := range ids {
		ids[i] = uuid.New()
	}
	err := p.exec(ctx, `
		insert into soniq_jobs (id, job_name, args, queue, status, scheduled_at)
		select i, 'quick', '{}', $2, $3, now() + $4::interval from unnest($1::uuid[]) i`, ids, p.queue, status, p.due)
	p.ids = append(p.ids, ids...)
	return err
}

// linger is some of the time that a transaction takes.
func (p *producing) linger(most time.Duration) { <-time.After(upTo(p.random, most)) }

func upTo(random *rand.Rand, most time.Duration) time.Duration {
	return time.Duration(random.Int64N(int64(most)))
}

// errGone is the end of a transaction that made nothing.
var errGone = errors.New("nothing was made")

// ways are what producers do. Each ends its transaction, or returns an error.
var ways = map[string]func(*producing, context.Context) error{
	"one": func(p *producing, ctx context.Context) error { return p.insert(ctx, 1, "queued") },
	"many": func(p *producing, ctx context.Context) error {
		return p.insert(ctx, 1+p.random.IntN(20), "queued")
	},
	"soon due": func(p *producing, ctx context.Context) error {
		p.due = upTo(p.random, 30*time.Millisecond)
		return p.insert(ctx, 1, "queued")
	},
	"slow": func(p *producing, ctx context.Context) error { return p.within(ctx, "", "commit", 10*time.Millisecond) },
	"very slow": func(p *producing, ctx context.Context) error {
		return p.within(ctx, "", "commit", 200*time.Millisecond)
	},
	"rolled back": func(p *producing, ctx context.Context) error {
		return p.within(ctx, "", "rollback", 10*time.Millisecond)
	},
	"repeatable read": func(p *producing, ctx context.Context) error {
		return p.within(ctx, "isolation level repeatable read", "commit", 10*time.Millisecond)
	},
	"serializable": func(p *producing, ctx context.Context) error {
		return p.within(ctx, "isolation level serializable", "commit", 10*time.Millisecond)
	},
	"savepoint": func(p *producing, ctx context.Context) error {
		if err := p.exec(ctx, "begin; savepoint s"); err != nil {
			return err
		}
		if err := p.insert(ctx, 1, "queued"); err != nil {
			return err
		}
		p.linger(3 * time.Millisecond)
		if err := p.exec(ctx, "rollback to savepoint s"); err != nil {
			return err
		}
		p.ids = nil
		if err := p.insert(ctx, 1, "queued"); err != nil {
			return err
		}
		p.linger(3 * time.Millisecond)
		return p.exec(ctx, "commit")
	},
	"duplicate": func(p *producing, ctx context.Context) error {
		id := uuid.New()
		tag, err := p.conn.Exec(ctx, `
			insert into soniq_jobs (id, job_name, args, queue, dedup_key)
			values ($1, 'quick', '{}', $2, 'the same') on conflict do nothing`, id, p.queue)
		if err == nil && tag.RowsAffected() == 1 {
			p.ids = append(p.ids, id)
		}
		return err
	},
	"requeue": func(p *producing, ctx context.Context) error {
		if err := p.insert(ctx, 1+p.random.IntN(3), "cancelled"); err != nil {
			return err
		}
		if err := p.exec(ctx, "begin"); err != nil {
			return err
		}
		if err := p.exec(ctx, `update soniq_jobs set status = 'queued' where id = any ($1)`, p.ids); err != nil {
			return err
		}
		p.linger(10 * time.Millisecond)
		return p.exec(ctx, "commit")
	},
	"two phases": func(p *producing, ctx context.Context) error {
		name := uuid.NewString()
		if err := p.exec(ctx, "begin"); err != nil {
			return err
		}
		if err := p.insert(ctx, 1, "queued"); err != nil {
			return err
		}
		p.linger(3 * time.Millisecond)
		err := p.exec(ctx, "prepare transaction '"+name+"'")
		var pgErr *pgconn.PgError
		if errors.As(err, &pgErr) && pgErr.Code == "0A000" {
			return errGone // it had to notify
		}
		if err != nil {
			return err
		}
		p.linger(10 * time.Millisecond)
		return p.exec(ctx, "commit prepared '"+name+"'")
	},
}

// within inserts in a transaction that may have a snapshot before, and goes on
// for up to 'most' after.
func (p *producing) within(ctx context.Context, isolation, end string, most time.Duration) error {
	if err := p.exec(ctx, "begin "+isolation); err != nil {
		return err
	}
	if err := p.exec(ctx, "select count(*) from soniq_waiters"); err != nil {
		return err
	}
	p.linger(3 * time.Millisecond)
	if err := p.insert(ctx, 1, "queued"); err != nil {
		return err
	}
	p.linger(most)
	if err := p.exec(ctx, end); err != nil {
		return err
	}
	if end == "rollback" {
		return errGone
	}
	return nil
}

// produce goes one way, and notes the jobs that came of it.
func (b *bedtime) produce(way string, queue string, seed uint64) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err := b.pool.AcquireFunc(ctx, func(conn *pgxpool.Conn) error {
		p := &producing{bedtime: b, conn: conn.Conn(), random: rand.New(rand.NewPCG(seed, 0)), queue: queue}
		if err := ways[way](p, ctx); errors.Is(err, errGone) {
			return nil
		} else if err != nil {
			return err
		}
		b.commit(p.ids, time.Now().Add(p.due))
		return nil
	})
	if err != nil {
		return fmt.Errorf("%s: %w", way, err)
	}
	return nil
}

// disturbances make a worker begin anew.
var disturbances = []string{
	`select pg_terminate_backend(pid) from pg_stat_activity
	 where datname = current_database() and application_name = 'soniq-listener' order by random() limit 1`,
	`update soniq_workers set status = 'stopped' where id = (select id from soniq_workers order by random() limit 1)`,
	`delete from soniq_workers where id = (select id from soniq_workers order by random() limit 1)`,
}

// Each round, a few producers meet workers that are falling asleep, asleep or
// busy; then nobody does anything until all jobs have begun. A worker that
// sleeps through one would do so for minutes. In the second half, somebody holds
// a snapshot.
func TestWaiters_producersAndSleepers_noWakeIsLost(t *testing.T) {
	t.Parallel()
	seed := *waitersSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("the seed is %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	url := testdb.NewURL(t)
	b := &bedtime{
		T: t, pool: connect(t, url),
		committed: map[uuid.UUID]time.Time{}, started: map[uuid.UUID]time.Time{}, changed: make(chan struct{}),
	}
	for _, config := range []engine.WorkerConfig{
		{Queues: []string{"a"}, Concurrency: 1},
		{Queues: []string{"b", "c"}, Concurrency: 4, QueueConcurrency: map[string]int{"c": 1}},
		{Queues: []string{"d"}, Concurrency: 2},
		{Queues: []string{"d"}, Concurrency: 2},
	} {
		reg := engine.NewRegistry()
		engine.HandleRaw(reg, "quick", func(_ context.Context, job *engine.Job) (any, error) {
			b.start(job.ID)
			<-time.After(rand.N(2 * time.Millisecond))
			return nil, nil
		})
		w := start(t, connect(t, url), reg, config,
			engine.Timing{Trust: time.Hour, Beat: 100 * time.Millisecond, WithdrawAfter: 2 * time.Millisecond})
		waitTrue(t, "trust in notifications", w.Hears)
	}
	names := slices.Sorted(func(yield func(string) bool) {
		for name := range ways {
			if !yield(name) {
				return
			}
		}
	})
	var waits []time.Duration
	rounds, held := 0, false
	began := time.Now()
	for ; time.Since(began) < *waitersLast || rounds < 10; rounds++ {
		if !held && time.Since(began) > *waitersLast/2 {
			held = true
			hold(t, b.pool)
		}
		var plan []string
		var producers sync.WaitGroup
		failed := make(chan error, 10)
		for range 1 + random.IntN(5) {
			way, queue, seed := names[random.IntN(len(names))], string("abcd"[random.IntN(4)]), random.Uint64()
			delay := upTo(random, 4*time.Millisecond)
			plan = append(plan, way+" in "+queue)
			producers.Go(func() {
				<-time.After(delay)
				if err := b.produce(way, queue, seed); err != nil {
					failed <- err
				}
			})
		}
		if random.IntN(20) == 0 {
			what := disturbances[random.IntN(len(disturbances))]
			plan = append(plan, what)
			exec(t, b.pool, what)
		}
		producers.Wait()
		close(failed)
		for err := range failed {
			t.Fatalf("round %d: %v", rounds, err)
		}
		w, err := b.settle()
		if err != nil {
			t.Fatalf("round %d of seed %d: %q: %v", rounds, seed, plan, err)
		}
		waits = append(waits, w...)
	}
	slices.Sort(waits)
	at := func(share float64) time.Duration { return waits[int(share*float64(len(waits)-1))] }
	t.Logf("%d rounds, %d jobs: from commit to start 50%% %s, 99%% %s, at most %s", rounds, len(waits), at(0.5), at(0.99), at(1))
}

// hold keeps a snapshot until the end of the test: nothing that is deleted goes
// out of the way.
func hold(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	tx, err := pool.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
	if _, err := tx.Exec(t.Context(), `select count(*) from soniq_waiters`); err != nil {
		t.Fatal(err)
	}
}
