package engine

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/internal/pg"
)

// The statements whose plans are tested.
const (
	ClaimSQL   = claimSQL
	ClaimOnSQL = claimOnSQL
	NextDueSQL = nextDueSQL

	ClaimCrowdSQL   = claimCrowdSQL
	ClaimLanesSQL   = claimLanesSQL
	NextDueCrowdSQL = nextDueCrowdSQL

	LookSQL   = lookSQL
	DeadSQL   = deadJobsSQL
	StraysSQL = straysSQL

	DeclareSQL  = declareSQL
	WithdrawSQL = withdrawSQL
)

// The steps of a worker that is about to sleep.
const (
	HungerDeclared    = hungerDeclared
	HungerListed      = hungerListed
	HungerOutstanding = hungerOutstanding
	HungerEnded       = hungerEnded
	HungerProved      = hungerProved
	HungerWithdrawn   = hungerWithdrawn
)

// HungerStep is one of them.
type HungerStep = hungerStep

// RecoverOrphans is a look and a turn of the chore, by one who has been in
// contact for long.
func (w *Worker) RecoverOrphans(ctx context.Context) error {
	timing := w.timing
	timing.trust = 0
	_, err := w.look(ctx, &observer{timing: timing})
	return errors.Join(err, w.recoverStrays(ctx))
}

// Timing is what tests shorten; zero leaves the real one.
type Timing struct {
	Beat, Trust, Dead time.Duration
	Sated             time.Duration
	// Reached is called by the fetcher at each step.
	Reached func(HungerStep)
}

// SetTiming must be called before Run.
func (w *Worker) SetTiming(t Timing) {
	w.timing = timing{
		beat:  cmp.Or(t.Beat, realTiming.beat),
		trust: cmp.Or(t.Trust, realTiming.trust),
		dead:  cmp.Or(t.Dead, realTiming.dead),
	}
	w.hunger.sated = cmp.Or(t.Sated, satedAfter)
	w.hunger.reached = t.Reached
}

// Advertises reports whether others are told of the worker's lock.
func (w *Worker) Advertises() bool {
	key, _ := w.presence.advertised()
	return key != nil
}

// Stir is what a notification does to the watch.
func (w *Worker) Stir() { w.presence.stir() }

// Peer is a worker as an observer sees it.
type Peer = peer

// Bury is what an observer does to a worker that it found dead.
func (w *Worker) Bury(ctx context.Context, p Peer) error { return w.bury(ctx, w.pool, p) }

// Witness is an observer without a database.
type Witness struct {
	observer observer
	session  *lockSession
}

// Reconnect begins a session of the witness's own.
func (w *Witness) Reconnect(now time.Time) {
	w.observer.timing = realTiming
	w.session = &lockSession{since: now}
}

// Looks judges one peer. Without its own lock in sight, the witness knows
// nothing of locks.
func (w *Witness) Looks(p Peer, ownLock bool, contact time.Duration, now time.Time) (dead bool) {
	session := w.session
	if !ownLock {
		session = nil
	}
	w.observer.timing = realTiming
	return len(w.observer.judge([]peer{p}, session, contact, now)) > 0
}

// Prune is a turn of the chore.
func (w *Worker) Prune(ctx context.Context) error { return w.prune(ctx) }

// BuryUnknown is a turn of the chore.
func (w *Worker) BuryUnknown(ctx context.Context) error { return w.buryUnknown(ctx) }

// Cancels hears requests to cancel.
func (w *Worker) Cancels() *cancelWatch { return w.cancels }

// BeginClaim is the beginning of a claim; it returns its end.
func (w *Worker) BeginClaim() func() { return w.cancels.claim() }

// LookForCancels is what a worker does with each heartbeat.
func (w *Worker) LookForCancels(ctx context.Context) error { return w.cancels.look(ctx) }

// Beat is a heartbeat, with the names.
func (w *Worker) Beat(ctx context.Context) error { return w.renew(ctx, true, poolPatience) }

// Hears reports whether the worker relies on notifications.
func (w *Worker) Hears() bool { return !w.deaf.Load() }

// WatchDead is a turn of the chore.
func (w *Worker) WatchDead(ctx context.Context) error { return w.watchDead(ctx) }

// Retain is a pass, if it is the worker's turn.
func (w *Worker) Retain(ctx context.Context) error { return w.retainOnce(ctx) }

// Claims is the claiming side of a worker.
type Claims struct{ c claims }

// NewClaims is that of a worker without limits.
func NewClaims(pool *pgxpool.Pool) *Claims {
	return &Claims{claims{pool: pool, worker: uuid.Must(uuid.NewV7()), limits: map[string]int{}, attemptLimit: 1000}}
}

// Take claims up to n jobs.
func (c *Claims) Take(ctx context.Context, queues, names []string, n int) ([]*Job, error) {
	taken, err := c.c.take(ctx, 1, ask{queues, names}, n)
	return taken.jobs, err
}

// Stay puts off the next whole claim for a long time, or has it come next, and
// tells whether there is a place to go on at.
func (c *Claims) Stay(long bool) bool {
	if c.c.at == nil {
		return false
	}
	if c.c.at.until = time.Now(); long {
		c.c.at.until = time.Now().Add(time.Hour)
	}
	return true
}

// Crowded says whether whole claims are dear, and sets it.
func (c *Claims) Crowded(yes bool) { c.c.crowded = yes }

// LookAhead is what follows a claim that came back short. unsure says that the
// claim did not see everything.
func (c *Claims) LookAhead(ctx context.Context, queues, names []string) (crowded, unsure bool, err error) {
	next, err := c.c.untilNext(ctx, ask{queues, names})
	return c.c.crowded, next.unsure, err
}

// StayDear is Stay while whole claims are dear.
func (c *Claims) StayDear(long bool) {
	for _, s := range c.c.spots {
		if s.until = time.Now(); long {
			s.until = time.Now().Add(time.Hour)
		}
	}
}

// Most is what a claim after one that timed out is bounded to; 0 is no bound.
func (c *Claims) Most() int { return c.c.most }

// ProvedBy follows a fetch after which nobody is left who could have kept silent,
// and tells whether the worker then relies on notifications.
func ProvedBy(ctx context.Context, whole bool) (bool, error) {
	h := newHunger(nil, uuid.Nil, nil, []string{"q"})
	h.doubt()
	h.seen = 1
	h.rows["q"].declared = true
	h.proof = hungerProof{doubts: 1, ended: true}
	_, err := h.short(ctx, []string{"q"}, time.Minute, whole)
	return h.proof.proved, err
}

// MaintenanceLock is the lock of all who delete old rows.
const MaintenanceLock = pg.MaintenanceLock

// Expire is a turn of the chore.
func (w *Worker) Expire(ctx context.Context) error { return w.expire(ctx) }
