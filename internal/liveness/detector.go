package liveness

import (
	"time"

	"github.com/google/uuid"
)

// How much time others are given. A worker that dies right after its heartbeat, and
// right after a look, is found by the last look before lockSilence + lookInterval =
// 2.5 s.
const (
	// lookInterval is the time between two looks while a worker with a lock holds
	// jobs.
	lookInterval = 500 * time.Millisecond
	// unlockedLookInterval is that while one of ours holds jobs without a lock, and
	// after an error. restInterval is that while nobody holds any.
	unlockedLookInterval = 5 * time.Second
	restInterval         = 30 * time.Second
	// restAfter is how long nobody must have been busy before that.
	restAfter = 3 * time.Second

	// lockSilence is how old the heartbeat of a worker without its lock must be.
	lockSilence = 2 * time.Second
	// lockMissing is how long the lock must be gone. A live worker whose connection
	// broke beats at once, and one that didn't notice sees it within a lookInterval.
	lockMissing = 1500 * time.Millisecond
)

// Peer is another worker as one look saw it.
type Peer struct {
	ID uuid.UUID
	// Ours is whether it is a Go worker.
	Ours      bool
	LockKey   *int64
	Heartbeat time.Time
	// Silence is the heartbeat's age, by the database's clock, in seconds.
	Silence float64
	// Held is whether somebody holds its lock. Busy is whether it holds processing
	// jobs.
	Held, Busy bool
}

func (p *Peer) silence() time.Duration { return time.Duration(p.Silence * float64(time.Second)) }

// Detector is the failure detector: it decides from one look after the other who is
// dead.
type Detector struct {
	timing Timing
	// lock is the observing worker's own. What was seen under another one is void.
	lock *lock
	// sights has each lock that was seen held, and since when it is missing: zero
	// while it is held.
	sights map[int64]time.Time
	// busyAt is when a peer with a lock was last seen holding jobs.
	busyAt time.Time
}

// NewDetector returns a detector that has seen nothing yet.
func NewDetector(timing Timing) *Detector { return &Detector{timing: timing} }

// judge returns the peers that are dead. own is the observing worker's lock if this
// very look saw it held; nil means that the server may have been restarted, and then
// locks tell nothing. contact is how long the database has answered without a gap.
func (d *Detector) judge(peers []Peer, own *lock, contact time.Duration, now time.Time) (dead []Peer) {
	if own != d.lock {
		d.lock, d.sights = own, nil
	}
	sights := make(map[int64]time.Time, len(peers))
	for _, p := range peers {
		limit := PythonDeadAfter
		if p.Ours {
			limit = d.timing.Dead
		}
		if d.lostLock(&p, sights, now) || contact >= d.timing.Trust && p.silence() > limit {
			dead = append(dead, p)
		}
	}
	d.sights = sights
	return dead
}

// lostLock reports whether p lost its lock while this session watched, and has been
// silent since. It notes in next what it sees now.
func (d *Detector) lostLock(p *Peer, next map[int64]time.Time, now time.Time) bool {
	if d.lock == nil || p.LockKey == nil {
		return false
	}
	missing, seen := d.sights[*p.LockKey]
	switch {
	case p.Held:
		next[*p.LockKey] = time.Time{}
		return false
	case !seen:
		return false
	case missing.IsZero():
		missing = now
	}
	next[*p.LockKey] = missing
	return now.Sub(d.lock.since) >= d.timing.Trust &&
		now.Sub(missing) >= lockMissing &&
		p.silence() > lockSilence
}

// pace is the time to the next look. A worker that runs jobs looks for itself too:
// that others still see it. One that was busy just now may be busy again, and nobody
// is notified of jobs that a worker finds by itself.
func (d *Detector) pace(peers []Peer, contact time.Duration, watched bool) time.Duration {
	next := restInterval
	if time.Since(d.busyAt) < restAfter || watched && len(peers) > 0 {
		next = lookInterval
	}
	for _, p := range peers {
		switch {
		case p.Busy && p.LockKey != nil:
			next = min(next, lookInterval)
			d.busyAt = time.Now()
		case p.Busy && (p.Ours || contact < d.timing.Trust):
			next = min(next, unlockedLookInterval)
		}
	}
	return next
}
