package engine_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"soniq/deadletter"
	"soniq/engine"
	"soniq/hooks"
	"soniq/internal/eventually"
	"soniq/internal/testclient"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

// strictPool is on a database of its own whose sessions have that level as their default.
func strictPool(t *testing.T, level pgx.TxIsoLevel) *pgxpool.Pool {
	t.Helper()
	config, err := pgxpool.ParseConfig(testdb.NewURL(t))
	if err != nil {
		t.Fatal(err)
	}
	config.ConnConfig.RuntimeParams["default_transaction_isolation"] = string(level)
	config.MaxConns = 16
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// tally counts how often something was done, by what it was done to.
type tally struct {
	mu sync.Mutex
	of map[string]int
}

func (c *tally) add(key string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.of == nil {
		c.of = map[string]int{}
	}
	c.of[key]++
	return c.of[key]
}

// expect fails where something was not done exactly so often.
func (c *tally) expect(t *testing.T, what string, things, times int) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, n := range c.of {
		if n != times {
			t.Errorf("%s: %s: %d times, want %d", what, key, n, times)
		}
	}
	if len(c.of) != things {
		t.Errorf("%s: %d, want %d", what, len(c.of), things)
	}
}

func (c *tally) len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.of)
}

// strict is what the operations of a test work on: each list has one for each round, and each
// operation takes that of its round, so that all meet.
type strict struct {
	pool   *pgxpool.Pool
	client *engine.Client
	queue  *deadletter.Queue
	store  *hooks.Store
	// jobs wait for later, and are cancelled, retried and deleted. moving wait too, and are moved.
	jobs, moving []uuid.UUID
	// letters are replayed, and marked.
	letters []uuid.UUID
	// file has dead letters that are not in the database.
	file []byte

	ran, tried, hooked, moved, replayed, deleted tally
	swept, imported                              atomic.Int64
	declarers                                    []*hooks.Dispatcher
}

// domain returns an error of the database's, and none of those by which an operation says that
// it has nothing to do.
func domain(err error) error {
	if pgErr := (*pgconn.PgError)(nil); errors.As(err, &pgErr) {
		return err
	}
	return nil
}

// in runs do in a caller's transaction, which says its level.
func (s *strict) in(ctx context.Context, do func(pgx.Tx) error) error {
	return pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, do)
}

const (
	strictRounds  = 6
	strictCallers = 2
	strictBulk    = 60
)

// clientOperations are those of [engine.Client].
func (s *strict) clientOperations() map[string]func(ctx context.Context, caller, round int) error {
	type n struct{ N string }
	name := func(what string, caller, round int) n { return n{fmt.Sprint(what, caller, "-", round)} }
	return map[string]func(ctx context.Context, caller, round int) error{
		"enqueue": func(ctx context.Context, caller, round int) error {
			_, err := s.client.Enqueue(ctx, "ok", name("one", caller, round))
			return err
		},
		"enqueue unique": func(ctx context.Context, _, round int) error {
			_, err := s.client.Enqueue(ctx, "unique", name("unique", 0, round), engine.Unique(), engine.After(time.Hour))
			return domain(err)
		},
		"enqueue many": func(ctx context.Context, caller, round int) error {
			_, err := s.client.EnqueueMany(ctx, []engine.Insert{{Name: "ok", Args: name("many", caller, round)}, {Name: "once", Args: name("dies", caller, round)}})
			return err
		},
		"enqueue in a transaction": func(ctx context.Context, caller, round int) error {
			return s.in(ctx, func(tx pgx.Tx) error {
				_, err := s.client.EnqueueTx(ctx, tx, "again", name("tx", caller, round))
				return err
			})
		},
		"cancel": func(ctx context.Context, _, round int) error {
			_, err := s.client.CancelJob(ctx, s.jobs[round])
			return domain(err)
		},
		"retry": func(ctx context.Context, _, round int) error { return domain(s.client.RetryJob(ctx, s.jobs[round])) },
		"delete": func(ctx context.Context, _, round int) error {
			err := s.client.DeleteJob(ctx, s.jobs[round])
			if err == nil {
				s.deleted.add(s.jobs[round].String())
			}
			return domain(err)
		},
		"cancel in a transaction": func(ctx context.Context, _, round int) error {
			return domain(s.in(ctx, func(tx pgx.Tx) error { _, err := s.client.CancelJobTx(ctx, tx, s.jobs[round]); return err }))
		},
		"pause":  func(ctx context.Context, _, _ int) error { _, err := s.client.PauseQueue(ctx, "paused"); return err },
		"resume": func(ctx context.Context, _, _ int) error { _, err := s.client.ResumeQueue(ctx, "paused"); return err },
		"status": func(ctx context.Context, _, _ int) error { _, err := s.client.Status(ctx); return err },
	}
}

// queueOperations are those of [deadletter.Queue].
func (s *strict) queueOperations() map[string]func(ctx context.Context, caller, round int) error {
	bulk := deadletter.Filter{JobNames: []string{"bulk"}, Limit: strictBulk / 8}
	return map[string]func(ctx context.Context, caller, round int) error{
		"replay": func(ctx context.Context, _, round int) error {
			_, err := s.queue.Replay(ctx, s.letters[round], deadletter.ReplayOptions{Edits: []deadletter.ArgsEdit{{Path: "Edit", Value: json.RawMessage(`1`)}}})
			if err == nil {
				s.replayed.add(s.letters[round].String())
			}
			return domain(err)
		},
		"replay all": func(ctx context.Context, _, _ int) error {
			result, err := s.queue.ReplayAll(ctx, deadletter.Filter{JobNames: []string{"letter"}}, deadletter.ReplayAllOptions{})
			for _, r := range result.Replayed {
				s.replayed.add(r.From.String())
			}
			return err
		},
		"tag": func(ctx context.Context, caller, round int) error {
			return domain(s.queue.Tag(ctx, s.letters[round], map[string]string{fmt.Sprint("caller", caller): "tagged"}))
		},
		"delete letters": func(ctx context.Context, _, _ int) error {
			n, err := s.queue.DeleteAll(ctx, bulk)
			s.swept.Add(n)
			return err
		},
		"clean up": func(ctx context.Context, _, _ int) error {
			n, err := s.queue.Cleanup(ctx, 24*time.Hour, bulk)
			s.swept.Add(n)
			return err
		},
		"import": func(ctx context.Context, _, _ int) error {
			result, err := s.queue.Import(ctx, bytes.NewReader(s.file), deadletter.FormatJSONL, deadletter.ImportOptions{})
			s.imported.Add(result.Imported)
			return err
		},
		"move": func(ctx context.Context, _, round int) error {
			moved, err := s.queue.MoveQueued(ctx, s.moving[round:round+1], "by hand")
			for _, id := range moved {
				s.moved.add(id.String())
			}
			return err
		},
		"statistics": func(ctx context.Context, _, _ int) error { _, err := s.queue.Stats(ctx, time.Hour); return err },
	}
}

// hookOperations are those of hooks.
func (s *strict) hookOperations() map[string]func(ctx context.Context, caller, round int) error {
	return map[string]func(ctx context.Context, caller, round int) error{
		"declare": func(ctx context.Context, caller, round int) error {
			return s.declarers[caller].Declare(ctx, hooks.Spec{Name: "declared", Kind: hooks.Log, Jobs: []string{fmt.Sprint("job", round)}})
		},
		"disable": func(ctx context.Context, _, _ int) error { return s.store.Disable(ctx, "switched") },
		"enable":  func(ctx context.Context, _, _ int) error { return s.store.Enable(ctx, "switched") },
		"list":    func(ctx context.Context, _, _ int) error { _, err := s.store.List(ctx); return err },
	}
}

// fill makes what the operations work on.
func (s *strict) fill(t *testing.T) {
	t.Helper()
	ctx := t.Context()
	for range strictRounds {
		s.jobs = append(s.jobs, testclient.Enqueue(t, s.client, "free", struct{}{}, engine.After(time.Hour)))
		s.moving = append(s.moving, testclient.Enqueue(t, s.client, "free", struct{}{}, engine.After(time.Hour)))
	}
	const sql = `
insert into soniq_dead_letter_jobs (id, job_name, args, queue, priority, max_attempts, attempts, dead_letter_reason, original_created_at, moved_to_dead_letter_at)
select gen_random_uuid(), $1, jsonb_build_object('N', 'letter' || n), 'default', 100, 3, 3, 'timeout', now() - interval '1 year', now() - interval '9 days'
from (select set_config('soniq.notify', 'off', true)) quiet, generate_series(1, $2) n
returning id`
	letters := func(name string, n int) []uuid.UUID {
		rows, _ := s.pool.Query(ctx, sql, name, n)
		ids, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
		if err != nil {
			t.Fatal(err)
		}
		return ids
	}
	var file bytes.Buffer
	gone := letters("imported", strictBulk)
	if _, err := s.queue.Export(ctx, &file, deadletter.Filter{JobNames: []string{"imported"}}, deadletter.FormatJSONL); err != nil {
		t.Fatal(err)
	}
	if err := s.queue.Delete(ctx, gone...); err != nil {
		t.Fatal(err)
	}
	s.file = file.Bytes()
	s.letters = letters("letter", strictRounds)
	letters("bulk", strictBulk)
	if _, err := s.store.Add(ctx, hooks.Spec{Name: "switched", Kind: hooks.Log}, nil); err != nil {
		t.Fatal(err)
	}
}

// told is a hook that counts the dead letters that it is told of.
type told struct{ of *tally }

func (h told) Deliver(_ context.Context, d *hooks.Delivery) error {
	h.of.add(d.ID.String())
	return nil
}

// Every operation of a program, by two callers at once and beside two workers that run, retry
// and bury jobs and call a hook, where the default is a level that these were not written for: no
// conflict reaches a caller, and nothing is done twice.
func TestIsolation_everyOperationSideBySide_atEachDefault(t *testing.T) {
	t.Parallel()
	for _, level := range []pgx.TxIsoLevel{pgx.RepeatableRead, pgx.Serializable} {
		t.Run(string(level), func(t *testing.T) {
			t.Parallel()
			pool := strictPool(t, level)
			s := &strict{pool: pool, client: newClient(t, pool), queue: testclient.Queue(t, pool)}
			var err error
			if s.store, err = hooks.NewStore(pool, hooks.StoreConfig{}); err != nil {
				t.Fatal(err)
			}
			s.fill(t)
			for range strictCallers {
				d, err := hooks.NewDispatcher(pool, hooks.Config{})
				if err != nil {
					t.Fatal(err)
				}
				if err := d.Register(t.Context(), "told", told{&s.hooked}, hooks.RegisterOptions{}); err != nil {
					t.Fatal(err)
				}
				s.declarers = append(s.declarers, d)
				start(t, pool, s.registry(), engine.WorkerConfig{Services: []engine.BackgroundService{d}})
			}
			s.callAll(t)
			s.expectOnce(t)
		})
	}
}

// registry has the handlers: 'ok' and 'letter' succeed, 'again' at its second attempt, and 'once' dies.
func (s *strict) registry() *engine.Registry {
	type args struct {
		N    string
		Edit int
	}
	reg := engine.NewRegistry()
	ok := func(_ context.Context, a args) error { s.ran.add(a.N); return nil }
	engine.Handle(reg, "ok", ok)
	engine.Handle(reg, "letter", ok)
	engine.Handle(reg, "free", func(context.Context, args) error { return nil })
	engine.Handle(reg, "once", func(_ context.Context, a args) error { s.ran.add(a.N); return engine.Permanent(errors.New("no")) })
	engine.Handle(reg, "again", func(_ context.Context, a args) error {
		if s.tried.add(a.N) == 1 {
			return errors.New("once more")
		}
		s.ran.add(a.N)
		return nil
	}, engine.Retry(engine.RetryFunc(func(int, error) time.Duration { return time.Millisecond })))
	return reg
}

// callAll runs each operation by each caller, all at once.
func (s *strict) callAll(t *testing.T) {
	t.Helper()
	var group errgroup.Group
	for _, operations := range []map[string]func(context.Context, int, int) error{s.clientOperations(), s.queueOperations(), s.hookOperations()} {
		for name, do := range operations {
			for caller := range strictCallers {
				group.Go(func() error {
					for round := range strictRounds {
						if err := do(t.Context(), caller, round); err != nil {
							t.Errorf("%s: %v", name, err)
						}
					}
					return nil
				})
			}
		}
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
}

// expectOnce waits for what has to be done, and fails where something was done twice.
func (s *strict) expectOnce(t *testing.T) {
	t.Helper()
	const (
		both = strictRounds * strictCallers
		runs = 4*both + strictRounds // one, many, dies, tx; the letters' replays
	)
	eventually.Count(t, "jobs that ran", runs, s.ran.len)
	eventually.Count(t, "dead letters that the hook was told of", both+strictRounds, s.hooked.len)
	s.ran.expect(t, "runs", runs, 1)
	s.hooked.expect(t, "deliveries", both+strictRounds, 1)
	s.moved.expect(t, "moves", strictRounds, 1)
	s.replayed.expect(t, "replays", strictRounds, 1)
	s.deleted.expect(t, "deletions", s.deleted.len(), 1)
	if n := s.swept.Load(); n != strictBulk {
		t.Errorf("%d of %d dead letters were counted as deleted", n, strictBulk)
	}
	if n := s.imported.Load(); n != strictBulk {
		t.Errorf("%d of %d dead letters were counted as imported", n, strictBulk)
	}
	for what, query := range map[string]string{
		"unique jobs twice":      `select count(*) - count(distinct args) from soniq_jobs where job_name = 'unique'`,
		"imported letters twice": `select count(*) - count(distinct id) from soniq_dead_letter_jobs where job_name = 'imported'`,
		"letters without a tag":  `select count(*) from soniq_dead_letter_jobs where job_name = 'letter' and not (tags ? 'caller0' and tags ? 'caller1')`,
	} {
		if n := testkit.Value[int64](t, s.pool, query); n != 0 {
			t.Errorf("%s: %d", what, n)
		}
	}
}
