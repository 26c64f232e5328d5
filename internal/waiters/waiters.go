// Package waiters lets a worker sleep without losing a wake-up, while NOTIFY is
// sent only to those who wait. It is an eventcount: prepare, recheck, park.
//
// A commit that notifies takes a lock of the whole server. So the triggers on
// soniq_jobs notify a queue only if a worker that serves it has a row in
// soniq_waiters, the table of the waiters. A worker declares that it waits when a
// fetch comes back short. It withdraws when fetches have been full for a second:
// then it fetches again and again, and needs no notification. It also withdraws
// while so many jobs are announced that its crew polls (package hub).
//
// Between the two is a gap. A producer may have read that nobody waits and be
// slow to commit: nobody is notified of its job, and no fetch sees it yet. So a
// worker that has declared itself does not sleep before it has proved that no such
// producer is left. It does this in order:
//
//  1. prepare: LISTEN is committed.
//  2. prepare: the worker's row among the waiters is committed.
//  3. prepare: it lists the transactions that hold a writer's lock on soniq_jobs.
//  4. recheck: it fetches, at a pace, until each of these has ended.
//  5. recheck: it fetches once more, and looks at all that is due.
//  6. park: it sleeps, and relies on NOTIFY.
//
// Take any job of its queues that is committed without a notification. Its
// transaction read the waiters before 2 was committed; otherwise it would have
// notified. It read them in a trigger, which runs after the statement that made the
// job. That statement took the writer's lock, and a transaction keeps this lock
// until it ends. So at 3 there are two cases. The transaction had ended: then 5 sees
// the job. Or it is on the list: then 4 waits for its end, and 5 sees the job. A job
// that is committed with a notification is committed before 1, and then 5 sees it;
// or after 1, and then the notification wakes the worker or keeps it awake.
//
// The tests that fail if a step is left out, or comes before the one above it, are in
// engine/waiters_test.go:
//
//	1  TestWaiters_listenerReconnects_declaresItselfAnew
//	2  TestWaiters_producerBetweenListAndDeclaration_hasNoPlace,
//	   TestWaiters_producerGetsItsIDLate_isWaitedFor
//	3  TestWaiters_producerStillOpen_isWaitedFor, TestWaiters_producerGetsItsIDLate_isWaitedFor
//	4  TestWaiters_producerStillOpen_isWaitedFor, TestWaiters_listedProducerEnds_lastFetchFindsItsJob
//	5  TestWaiters_producerEndsBeforeTheList_lastFetchFindsItsJob,
//	   TestWaiters_listedProducerEnds_lastFetchFindsItsJob, and for 'all that is due'
//	   TestWaiters_fetchThatWasNotWhole_provesNothing in this package
//	6  TestWaiters_producersAndSleepers_noWakeIsLost: all of them, in any order
//
// This rests on five facts:
//
//   - The trigger reads the waiters as they are at that moment, not as an older
//     snapshot has them. At read committed it does, because it is VOLATILE
//     (soniq.TestWaiters_declaredDuringAnInsert_isSeen). A stricter transaction always
//     notifies (TestWaiters_stricterIsolation_wakes), and so does one that can't read
//     them (soniq.TestWaiters_cantBeRead_isTakenForGranted).
//   - The list has locks, not transaction ids. pg_current_snapshot() doesn't know a
//     transaction that got its id after the last one that ended
//     (TestWaiters_producerGetsItsIDLate_isWaitedFor). A lock is released after the
//     commit is visible.
//   - A prepared transaction keeps its locks and has no process. One that is
//     prepared after 3 may change its virtual id. So a transaction is known by its
//     virtual id and by its id. Each one that matters had an id at 3: it had
//     written (TestWaiters_preparedTransaction_isWaitedFor).
//   - A late withdrawal must not undo the next declaration. It carries the epoch up
//     to which it counts (TestWaiters_lateWithdrawal_sparesWhatWasDeclaredSince).
//   - A row counts while its worker does. 2 is repeated with each new incarnation of
//     the worker's row in soniq_workers: the row was not there, was marked as stopped,
//     or was silent for too long (TestWaiters_workerDidNotCount_looksWhenItKnows,
//     TestWaiters_buriedWhileItBeats_declaresItselfAnew). A worker that others declared
//     dead learns this with its next heartbeat, and no earlier.
//
// 1 is repeated with each connection of the listener. With each repetition the whole
// order is gone through again.
//
// Without a listener, or where notifications don't arrive, the worker polls. It does
// not wait for a queue at its concurrency limit: the end of a job wakes it, and then
// it declares itself again (TestWaiters_queueAtItsBound_isNotWaitedFor). It waits for a
// paused queue as for any other, and a resumed queue is always notified
// (TestWaiters_pausedQueue_isWaitedFor).
//
// The proof goes on in package hub, from the notification to the worker that runs the
// job. The one that is woken here stands for all of its process there.
package waiters

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"soniq/internal/pg"
)

// Waiter is one worker's side of the protocol. Invalidate and Registered may be
// called by any goroutine; everything else is the fetcher's alone.
type Waiter struct {
	// WithdrawAfter is how long fetches must be full before the worker withdraws.
	WithdrawAfter time.Duration
	// Reached is called at each step, for tests. Default none.
	Reached func(Step)

	pool   *pg.Pool
	worker uuid.UUID
	logger *slog.Logger

	// generation counts the connections of the listener and the incarnations of the
	// worker's row. What an earlier generation proved is void. Zero: nothing is
	// listened to yet.
	generation atomic.Int64
	// incarnation is that of the worker's row; zero until it is registered.
	incarnation atomic.Int64

	// rows are by key (see keyOf).
	rows  map[string]*row
	epoch int64
	// seen is the generation for which rows was last put right.
	seen  int64
	proof proof
}

// row is what is known of a row in soniq_waiters.
type row struct {
	// written: it may be there. declared: it is, since this epoch.
	written, declared bool
	// since is when a fetch last found its queue full or at its limit, with nothing
	// else found since; zero if it was found short.
	since time.Time
	// patience is the next withdrawal's; withdrawn is when the last one was made.
	patience  time.Duration
	withdrawn time.Time
}

// proof is how far the worker has come in the order.
type proof struct {
	generation int64
	writers    map[string]struct{}
	pace       time.Duration
	// ended: all writers have. proved: a fetch was made after that.
	ended, proved bool
}

// Step is a step of the order, as tests know it.
type Step string

// The steps.
const (
	Declared    Step = "declared"
	Listed      Step = "listed"
	Outstanding Step = "outstanding"
	Ended       Step = "ended"
	Proved      Step = "proved"
	Withdrawn   Step = "withdrawn"
)

const (
	// WithdrawAfter is the default of [Waiter.WithdrawAfter].
	WithdrawAfter = time.Second
	// A worker at the edge, which waits in one second and not in the next, writes
	// ever less often. Each withdrawal doubles the time before the next one, up to
	// withdrawMost times WithdrawAfter, until none was made for calmAfter. An old
	// snapshot keeps dead versions of the row that every INSERT scans; this makes
	// them a few dozen an hour.
	withdrawMost = 64
	calmAfter    = 10 * time.Minute
	// withdrawTimeout is short: the fetcher waits, and a withdrawal only saves work.
	withdrawTimeout = 2 * time.Second
	// statementTimeout is when a connection that doesn't answer is given up.
	statementTimeout = 10 * time.Second
)

// New returns the waiter of a worker that serves these queues. Its registration in
// soniq_workers writes its rows.
func New(pool *pg.Pool, worker uuid.UUID, logger *slog.Logger, queues []string) *Waiter {
	w := &Waiter{pool: pool, worker: worker, logger: logger, WithdrawAfter: WithdrawAfter, rows: map[string]*row{}}
	for _, queue := range queues {
		w.rows[keyOf(queue)] = &row{written: true}
	}
	return w
}

// keyOf is a queue as soniq_waiters has it. A queue whose name is too long for the
// index is the empty key, which stands for all queues.
func keyOf(queue string) string {
	if len(queue) > 1000 {
		return ""
	}
	return queue
}

// Invalidate voids what was proved. Wake the fetcher after it.
func (w *Waiter) Invalidate() { w.generation.Add(1) }

// Registered notes the incarnation of the worker's row. It reports whether that is
// another one than before: then call Invalidate.
func (w *Waiter) Registered(incarnation int64) (changed bool) {
	known := w.incarnation.Swap(incarnation)
	return known != 0 && known != incarnation
}

func (w *Waiter) reach(step Step) {
	if w.Reached != nil {
		w.Reached(step)
	}
}

// Park follows a fetch that found no more jobs in these queues, after which the
// worker would sleep for wait. It returns how long the worker may sleep; 0 means
// fetch again. A fetch that was not whole did not look at everything that is due:
// it proves nothing, and the worker looks at the rest by itself after wait. If the crew
// polls, the worker withdraws and may sleep: it is called when it must look.
//
// Errors: those of the database.
func (w *Waiter) Park(ctx context.Context, queues []string, wait time.Duration, whole, polls bool) (time.Duration, error) {
	wanted := make([]string, len(queues))
	for i, queue := range queues {
		wanted[i] = keyOf(queue)
	}
	slices.Sort(wanted)
	wanted = slices.Compact(wanted)

	// Read before anything is written. What changes later is seen at the next fetch:
	// whoever changes it wakes the fetcher.
	generation := w.generation.Load()
	if generation != w.seen {
		w.seen = generation
		for _, row := range w.rows {
			row.written, row.declared = true, false
		}
	}
	if polls {
		w.WithdrawAll(ctx)
		return wait, nil
	}
	if until := w.withdrawLate(ctx, wanted); until >= 0 {
		wait = min(wait, until)
	}
	if generation == 0 || len(wanted) == 0 {
		return wait, nil
	}
	undeclared := func(key string) bool { return !w.rows[key].declared }
	if w.proof.generation != generation || slices.ContainsFunc(wanted, undeclared) {
		return 0, w.prepare(ctx, generation, wanted)
	}
	return w.recheck(ctx, wait, whole)
}

// prepare does steps 2 and 3.
func (w *Waiter) prepare(ctx context.Context, generation int64, wanted []string) error {
	if err := w.declare(ctx, wanted); err != nil {
		return err
	}
	w.reach(Declared)
	writers, err := w.listWriters(ctx)
	if err != nil {
		return err
	}
	w.proof = proof{generation: generation, writers: writers, ended: len(writers) == 0}
	w.reach(Listed)
	return nil
}

// recheck does steps 4 and 5, after a fetch, and returns how long to sleep.
func (w *Waiter) recheck(ctx context.Context, wait time.Duration, whole bool) (time.Duration, error) {
	p := &w.proof
	switch {
	case p.proved, p.ended && !whole:
		return wait, nil
	case p.ended:
		// The fetch that came before began after the last writer had ended.
		p.proved = true
		w.reach(Proved)
		return wait, nil
	}
	w.reach(Outstanding)
	writers, err := w.listWriters(ctx)
	if err != nil {
		return 0, err
	}
	if !overlap(p.writers, writers) {
		p.ended = true
		w.reach(Ended)
		return 0, nil
	}
	p.pace = min(max(p.pace*2, 25*time.Millisecond), time.Second)
	return min(wait, p.pace), nil
}

// Full follows a fetch that was full, or that there was no slot for. It returns the
// delay until the next call; negative means none.
func (w *Waiter) Full(ctx context.Context) time.Duration { return w.withdrawLate(ctx, nil) }

// withdrawLate withdraws from the queues that were not wanted for long enough. It
// returns the time until the next of them; negative means none.
func (w *Waiter) withdrawLate(ctx context.Context, wanted []string) (next time.Duration) {
	now := time.Now()
	next = -1
	var late []string
	for key, row := range w.rows {
		if _, ok := slices.BinarySearch(wanted, key); ok || !row.written {
			row.since = time.Time{}
			continue
		}
		if row.since.IsZero() {
			row.since = now
			row.patience = w.nextPatience(row, now)
		}
		switch left := row.patience - now.Sub(row.since); {
		case left <= 0:
			late = append(late, key)
		case next < 0 || left < next:
			next = left
		}
	}
	if len(late) > 0 {
		w.withdraw(ctx, late)
	}
	return next
}

func (w *Waiter) nextPatience(row *row, now time.Time) time.Duration {
	if row.withdrawn.IsZero() || now.Sub(row.withdrawn) > calmAfter {
		return w.WithdrawAfter
	}
	return min(2*row.patience, withdrawMost*w.WithdrawAfter)
}

// DeclareSQL adds a worker to the waiters. Parameters: $1 worker, $2 queues, $3 the
// epoch.
const DeclareSQL = `
insert into public.soniq_waiters as h (queue, worker_id, epoch)
select q.queue, $1, $3
from unnest($2::text[]) as q (queue)
order by q.queue
on conflict (queue, worker_id) do update
set epoch = excluded.epoch
where h.epoch < excluded.epoch`

func (w *Waiter) declare(ctx context.Context, keys []string) error {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	w.epoch++
	for _, key := range keys {
		w.rows[key].written = true // even if the answer is lost
	}
	if _, err := w.pool.Exec(ctx, DeclareSQL, w.worker, keys, w.epoch); err != nil {
		return fmt.Errorf("declare that the worker waits: %w", err)
	}
	for _, key := range keys {
		w.rows[key].declared = true
	}
	return nil
}

// WithdrawSQL takes a worker off the waiters. Parameters: those of [DeclareSQL].
const WithdrawSQL = `
delete from public.soniq_waiters
where worker_id = $1
  and queue = any ($2::text[])
  and epoch <= $3`

// withdraw may fail. That only costs notifications, and it is tried again.
func (w *Waiter) withdraw(ctx context.Context, keys []string) {
	ctx, cancel := context.WithTimeout(ctx, withdrawTimeout)
	defer cancel()
	now := time.Now()
	for _, key := range keys {
		// First: the row may be gone whatever the answer is.
		w.rows[key].declared = false
	}
	_, err := w.pool.Exec(ctx, WithdrawSQL, w.worker, keys, w.epoch)
	for _, key := range keys {
		row := w.rows[key]
		row.since, row.withdrawn, row.written = time.Time{}, now, err != nil
	}
	if err != nil {
		w.logger.Debug("can't withdraw from the waiters; trying again later", "error", err)
		return
	}
	w.reach(Withdrawn)
}

// WithdrawAll withdraws from all queues. Others call it after the fetcher has ended.
func (w *Waiter) WithdrawAll(ctx context.Context) {
	var keys []string
	for key, row := range w.rows {
		if row.written {
			keys = append(keys, key)
		}
	}
	if len(keys) > 0 {
		w.withdraw(ctx, keys)
	}
}

// writersSQL lists the transactions that may have made a job and not committed it:
// the virtual ids and the ids of those that hold a writer's lock on soniq_jobs.
// pg_locks is read once: one read sees all its locks at the same moment.
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

func (w *Waiter) listWriters(ctx context.Context) (map[string]struct{}, error) {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	rows, _ := w.pool.Query(ctx, writersSQL)
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
