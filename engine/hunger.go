package engine

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// NOTIFY is rationed: a commit that notifies takes a lock of the whole server,
// so the triggers on soniq_jobs notify a queue only if a worker that serves it
// has a row in soniq_hunger. A worker declares its hunger when a fetch comes
// back short, and withdraws it once fetches have been full for a second: then
// it looks again and again by itself, and need not be told.
//
// Between the two is a gap. A producer may have asked 'is anybody hungry?',
// heard no, and be slow to commit: nobody is told of its job, and no fetch sees
// it yet. So a worker that has declared its hunger does not sleep before it has
// proved that there is no such producer left. In this order:
//
//  1. LISTEN is committed.
//  2. The hunger is committed.
//  3. It lists the transactions that hold the lock of a writer on soniq_jobs.
//  4. It goes on fetching, at a pace, until each of these has ended.
//  5. It fetches once more, and looks at all that is due.
//  6. It sleeps, and relies on NOTIFY.
//
// Take any job of its queues that is committed without a notification. Its
// transaction read hunger before 2 was committed, or it would have read it and
// notified. It read it by a trigger, which runs after the statement that made
// the job, and that statement took the writer's lock, which a transaction keeps
// until it ends. So at 3 either it had ended, and then 5 sees the job; or it is
// on the list, and then 4 waits for its end, and 5 sees the job. A job that is
// committed with a notification is committed before 1, and then 5 sees it; or
// after, and then the notification wakes the worker or keeps it from sleeping.
//
// What that rests on, each with its test in hunger_test.go:
//
//   - The trigger reads hunger as it is when it reads, and not as it was in an
//     older snapshot. In read committed it does, being VOLATILE. A transaction
//     that is stricter notifies always.
//   - The list is of locks, and not of transaction ids: pg_current_snapshot()
//     does not know a transaction that got its id after the last one that has
//     ended. A lock is given up after the commit can be seen.
//   - A prepared transaction keeps its locks and has no process; one that is
//     prepared after 3 may change its virtual id. So transactions are known by
//     that and by their ids. Each that matters had one at 3: it had written.
//   - A declaration outlives whatever was sent before it. A withdrawal that the
//     network held up must not arrive after the next declaration and undo it:
//     it carries the epoch up to which it counts.
//
// 1 comes anew with each connection of the listener, and 2 with each row of the
// worker in soniq_workers that was not there, marked as stopped, or silent (see
// registerSQL): then the whole order is gone through again. A worker that was
// taken for dead learns it with its next heartbeat, and no earlier.
//
// Without a listener, or where its notifications don't arrive, there is nothing
// to rely on: the worker polls (see fetchOnce). A queue that is at its bound
// here is not asked for and not waited for; the end of one of its jobs is what
// wakes the worker, and then it declares itself again. A queue that is paused is
// waited for like any other, and its resumption always notifies.
type hunger struct {
	pool   *pgxpool.Pool
	worker uuid.UUID
	logger *slog.Logger
	// sated is for how long fetches must be full before hunger is withdrawn.
	sated time.Duration
	// reached is told of each step, for tests. Default none.
	reached func(hungerStep)

	// doubts counts the listener's connections and the registrations before
	// which the worker's hunger may not have counted: what was proved before is
	// void. Zero: nothing is listened to yet.
	doubts atomic.Int64
	// tenure is that of the worker's row; zero until it is registered.
	tenure atomic.Int64

	// The rest is the fetcher's alone. Rows are by key (see hungerKey).
	rows  map[string]*hungerRow
	epoch int64
	// seen are the doubts after which rows was put right.
	seen  int64
	proof hungerProof
}

// hungerRow is what is known of a row in soniq_hunger.
type hungerRow struct {
	// written: it may be there. declared: it is, since this epoch.
	written, declared bool
	// since is when its queue was last found full or at its bound, with
	// nothing else found since; zero if it was found short.
	since time.Time
	// patience is the next withdrawal's, and withdrawn when the last one was.
	patience  time.Duration
	withdrawn time.Time
}

// hungerProof is how far the worker has come in the order.
type hungerProof struct {
	doubts  int64
	writers map[string]struct{}
	pace    time.Duration
	// ended: all writers have. proved: a fetch has been made since.
	ended, proved bool
}

// hungerStep is a step of the order, as tests know it.
type hungerStep string

const (
	hungerDeclared    hungerStep = "declared"
	hungerListed      hungerStep = "listed"
	hungerOutstanding hungerStep = "outstanding"
	hungerEnded       hungerStep = "ended"
	hungerProved      hungerStep = "proved"
	hungerWithdrawn   hungerStep = "withdrawn"
)

const (
	// satedAfter is how long fetches are full before hunger is withdrawn.
	satedAfter = time.Second
	// A worker at the edge, hungry in one second and not in the next, writes
	// ever less often: with each withdrawal it waits twice as long before the
	// next, up to satedMost times as long, until it has not withdrawn for calm.
	// An old snapshot keeps each of its rows in the way of every INSERT, and
	// this makes that a few dozen an hour.
	satedMost = 64
	calm      = 10 * time.Minute
	// withdrawTimeout is short: the fetcher waits, and it would only save work.
	withdrawTimeout = 2 * time.Second
)

func newHunger(pool *pgxpool.Pool, worker uuid.UUID, logger *slog.Logger, queues []string) *hunger {
	h := &hunger{pool: pool, worker: worker, logger: logger, sated: satedAfter, rows: map[string]*hungerRow{}}
	for _, queue := range queues {
		// The worker's registration writes them.
		h.rows[hungerKey(queue)] = &hungerRow{written: true}
	}
	return h
}

// hungerKey is a queue as soniq_hunger has it: one whose name is too long for
// the index counts as any.
func hungerKey(queue string) string {
	if len(queue) > 1000 {
		return ""
	}
	return queue
}

// doubt voids what was proved. The caller wakes the fetcher.
func (h *hunger) doubt() { h.doubts.Add(1) }

// registered notes the tenure of the worker's row, and reports whether it is
// another one than before.
func (h *hunger) registered(tenure int64) (doubtful bool) {
	known := h.tenure.Swap(tenure)
	return known != 0 && known != tenure
}

func (h *hunger) reach(step hungerStep) {
	if h.reached != nil {
		h.reached(step)
	}
}

// short follows a fetch that found no more jobs in these queues, after which the
// worker would sleep for wait. It returns how long it may sleep; 0: fetch again.
// One that was not whole, because it did not look at all that is due in them,
// proves nothing: the worker will look at the rest by itself, after wait.
func (h *hunger) short(ctx context.Context, queues []string, wait time.Duration, whole bool) (time.Duration, error) {
	wanted := make([]string, len(queues))
	for i, queue := range queues {
		wanted[i] = hungerKey(queue)
	}
	slices.Sort(wanted)
	wanted = slices.Compact(wanted)

	// Read before anything is written: what changes later is seen at the next
	// fetch, for which whoever changes it wakes us.
	doubts := h.doubts.Load()
	if doubts != h.seen {
		h.seen = doubts
		for _, row := range h.rows {
			row.written, row.declared = true, false
		}
	}
	if until := h.withdrawLate(ctx, wanted); until >= 0 {
		wait = min(wait, until)
	}
	if doubts == 0 || len(wanted) == 0 {
		return wait, nil
	}
	undeclared := func(key string) bool { return !h.rows[key].declared }
	switch p := &h.proof; {
	case p.doubts != doubts || slices.ContainsFunc(wanted, undeclared):
		if err := h.declare(ctx, wanted); err != nil {
			return 0, err
		}
		h.reach(hungerDeclared)
		writers, err := h.listWriters(ctx)
		if err != nil {
			return 0, err
		}
		*p = hungerProof{doubts: doubts, writers: writers, ended: len(writers) == 0}
		h.reach(hungerListed)
		return 0, nil
	case p.proved:
		return wait, nil
	case p.ended && !whole:
		return wait, nil
	case p.ended:
		// The fetch that we follow began after the last of them had ended.
		p.proved = true
		h.reach(hungerProved)
		return wait, nil
	default:
		h.reach(hungerOutstanding)
		writers, err := h.listWriters(ctx)
		if err != nil {
			return 0, err
		}
		if !overlap(p.writers, writers) {
			p.ended = true
			h.reach(hungerEnded)
			return 0, nil
		}
		p.pace = min(max(p.pace*2, 25*time.Millisecond), time.Second)
		return min(wait, p.pace), nil
	}
}

// full follows a fetch that was full, or that there was no slot for. It returns
// in how much time it wants to be called again, negative if it doesn't.
func (h *hunger) full(ctx context.Context) time.Duration { return h.withdrawLate(ctx, nil) }

// withdrawLate withdraws the hunger for queues that have not been wanted for
// long enough, and returns the time until the next of them; negative: none.
func (h *hunger) withdrawLate(ctx context.Context, wanted []string) (next time.Duration) {
	now := time.Now()
	next = -1
	var late []string
	for key, row := range h.rows {
		if _, ok := slices.BinarySearch(wanted, key); ok || !row.written {
			row.since = time.Time{}
			continue
		}
		if row.since.IsZero() {
			row.since = now
			row.patience = h.nextPatience(row, now)
		}
		switch left := row.patience - now.Sub(row.since); {
		case left <= 0:
			late = append(late, key)
		case next < 0 || left < next:
			next = left
		}
	}
	if len(late) > 0 {
		h.withdraw(ctx, late)
	}
	return next
}

func (h *hunger) nextPatience(row *hungerRow, now time.Time) time.Duration {
	if row.withdrawn.IsZero() || now.Sub(row.withdrawn) > calm {
		return h.sated
	}
	return min(2*row.patience, satedMost*h.sated)
}

// Parameters: $1 worker, $2 queues, $3 the epoch.
const declareSQL = `
insert into public.soniq_hunger as h (queue, worker_id, epoch)
select q.queue, $1, $3
from unnest($2::text[]) as q (queue)
order by q.queue
on conflict (queue, worker_id) do update
set epoch = excluded.epoch
where h.epoch < excluded.epoch`

func (h *hunger) declare(ctx context.Context, keys []string) error {
	ctx, cancel := context.WithTimeout(ctx, claimTimeout)
	defer cancel()
	h.epoch++
	for _, key := range keys {
		h.rows[key].written = true // also if we don't hear of it
	}
	if _, err := h.pool.Exec(ctx, declareSQL, h.worker, keys, h.epoch); err != nil {
		return fmt.Errorf("declare hunger: %w", err)
	}
	for _, key := range keys {
		h.rows[key].declared = true
	}
	return nil
}

// Parameters: as declareSQL's.
const withdrawSQL = `
delete from public.soniq_hunger
where worker_id = $1
  and queue = any ($2::text[])
  and epoch <= $3`

// withdraw may fail: that costs notifications, and is tried again.
func (h *hunger) withdraw(ctx context.Context, keys []string) {
	ctx, cancel := context.WithTimeout(ctx, withdrawTimeout)
	defer cancel()
	now := time.Now()
	for _, key := range keys {
		// First: it may be gone whatever we hear.
		h.rows[key].declared = false
	}
	_, err := h.pool.Exec(ctx, withdrawSQL, h.worker, keys, h.epoch)
	for _, key := range keys {
		row := h.rows[key]
		row.since, row.withdrawn, row.written = time.Time{}, now, err != nil
	}
	if err != nil {
		h.logger.Debug("can't withdraw hunger; trying again later", "error", err)
		return
	}
	h.reach(hungerWithdrawn)
}

// leave withdraws all of it, once the fetcher has ended.
func (h *hunger) leave(ctx context.Context) {
	var keys []string
	for key, row := range h.rows {
		if row.written {
			keys = append(keys, key)
		}
	}
	if len(keys) > 0 {
		h.withdraw(ctx, keys)
	}
}

// writersSQL lists who may have made a job that is not committed: the virtual
// ids and the ids of the transactions that hold the lock of a writer on
// soniq_jobs. Of one pg_locks, read once: it is read under all of its locks.
const writersSQL = `
with held as materialized (
  select l.locktype, l.relation, l.database, l.virtualtransaction, l.pid, l.transactionid
  from pg_locks l
  where l.granted
    and (l.locktype = 'relation' and l.mode = 'RowExclusiveLock' or l.locktype = 'transactionid')
), writer as (
  select h.virtualtransaction, h.pid
  from held h
  where h.locktype = 'relation'
    and h.relation = 'public.soniq_jobs'::regclass
    and h.database = (select d.oid from pg_database d where d.datname = current_database())
)
select 'virtual ' || w.virtualtransaction
from writer w
union
select 'id ' || h.transactionid
from writer w
join held h on h.locktype = 'transactionid'
  and h.virtualtransaction = w.virtualtransaction
  and h.pid is not distinct from w.pid`

func (h *hunger) listWriters(ctx context.Context) (map[string]struct{}, error) {
	ctx, cancel := context.WithTimeout(ctx, claimTimeout)
	defer cancel()
	rows, _ := h.pool.Query(ctx, writersSQL)
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("list the writers of jobs: %w", err)
	}
	writers := make(map[string]struct{}, len(names))
	for _, name := range names {
		writers[name] = struct{}{}
	}
	return writers, nil
}

// overlap reports whether a and b have something in common.
func overlap(a, b map[string]struct{}) bool {
	for name := range a {
		if _, ok := b[name]; ok {
			return true
		}
	}
	return false
}
