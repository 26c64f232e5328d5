package liveness

import (
	"time"

	"github.com/google/uuid"
)

// How much time others are given. A worker that dies right after a look is found by
// the last look before lookInterval + lockMissing + lookInterval = 3 s.
const (
	// lookInterval is the time between two looks while a worker with a lock holds
	// jobs.
	lookInterval = 500 * time.Millisecond
	// unlockedLookInterval is that while one of ours holds jobs without a lock, and
	// after an error. restInterval is that while nobody holds any.
	unlockedLookInterval = 5 * time.Second
	restInterval         = 30 * time.Second
	// followInterval is that of a worker for which another one of its process looks.
	followInterval = 5 * time.Minute
	// restAfter is how long nobody must have been busy before that.
	restAfter = 3 * time.Second

	// lockMissing is how long the lock must be gone without a heartbeat. A live worker
	// whose connection broke beats at once, and one that didn't notice sees it within a
	// lookInterval.
	lockMissing = 2 * time.Second
	// slowLook is a look so slow that the others may not have come to write a heartbeat
	// either.
	slowLook = time.Second
)

// Peer is another worker as one look saw it.
type Peer struct {
	ID uuid.UUID
	// Ours is whether it is a Go worker.
	Ours    bool
	LockKey *int64
	// Heartbeat is by the database's clock, which may be set. It is only ever compared
	// for being another one than before.
	Heartbeat time.Time
	// Crew is Config.Crew of a Go worker, '' where it wrote none.
	Crew string
	// Silent is for how long the observer has seen no heartbeat.
	Silent time.Duration
	// Held is whether somebody holds its lock. Busy is whether it holds processing
	// jobs.
	Held, Busy bool
}

// moment is when a look began and ended, by the observer's monotonic clock. What it saw
// was so at some time between the two. A state has lasted at least from the end of the
// look that saw it first to the beginning of the last one.
type moment struct{ began, ended time.Time }

// sighting is what an observer knows of a peer.
type sighting struct {
	heartbeat time.Time
	// silent is since when the heartbeat has been this one.
	silent time.Time
	// key is the lock that was seen held under the observer's present lock, nil if none
	// was. missing is since when it is not held; zero while it is.
	key     *int64
	missing time.Time
}

// Detector is the failure detector: it decides from one look after the other who is
// dead. It compares no clock of one machine with that of another, nor two times of a
// clock that somebody may set: a database's clock that is set forward by a minute
// makes every heartbeat look old.
type Detector struct {
	timing Timing
	// lock is the observing worker's own. What was seen of locks under another one is
	// void.
	lock *lock
	seen map[uuid.UUID]*sighting
	// busyAt is when a peer with a lock was last seen holding jobs.
	busyAt time.Time
}

// NewDetector returns a detector that has seen nothing yet.
func NewDetector(timing Timing) *Detector { return &Detector{timing: timing} }

// judge returns the peers that are dead. own is the observing worker's lock if this
// very look saw it held; nil means that the server may have been restarted, and then
// locks tell nothing. contact is how long the database has answered without a gap.
func (d *Detector) judge(peers []Peer, own *lock, contact time.Duration, at moment) (dead []Peer) {
	forget := own != d.lock
	d.lock = own
	seen := make(map[uuid.UUID]*sighting, len(peers))
	for _, p := range peers {
		s := d.seen[p.ID]
		if s == nil {
			s = &sighting{heartbeat: p.Heartbeat, silent: at.ended}
			if d.timing.SilentSince != nil {
				s.silent = d.timing.SilentSince(p)
			}
		}
		if forget {
			s.key = nil
		}
		seen[p.ID] = s
		limit := PythonDeadAfter
		if p.Ours {
			limit = d.timing.Dead
		}
		s.note(&p, own != nil, at)
		if d.lostLock(s, at) || contact >= d.timing.Trust && at.began.Sub(s.silent) > limit {
			dead = append(dead, p)
		}
	}
	d.seen = seen
	return dead
}

// note takes in what a look saw of p. locks: it could see locks.
func (s *sighting) note(p *Peer, locks bool, at moment) {
	beaten := !p.Heartbeat.Equal(s.heartbeat)
	if beaten {
		s.heartbeat, s.silent = p.Heartbeat, at.ended
	}
	switch {
	case !locks || p.LockKey == nil:
		s.key = nil
	case p.Held:
		s.key, s.missing = p.LockKey, time.Time{}
	case s.key == nil || *s.key != *p.LockKey:
		// Who never saw it held can't say that it was lost.
		s.key = nil
	case s.missing.IsZero() || beaten || at.ended.Sub(at.began) > slowLook:
		s.missing = at.ended
	}
}

// lostLock reports whether a peer lost its lock while this session watched, and has
// been silent since.
func (d *Detector) lostLock(s *sighting, at moment) bool {
	return s.key != nil && !s.missing.IsZero() &&
		at.ended.Sub(d.lock.since) >= d.timing.Trust &&
		at.began.Sub(s.missing) >= lockMissing
}

// silence is for how long the peer has not beaten, as far as was seen.
func (d *Detector) silence(peer uuid.UUID, at time.Time) time.Duration {
	if s := d.seen[peer]; s != nil {
		return at.Sub(s.silent)
	}
	return 0
}

// excuse begins anew with a peer that seemed dead: it can't beat while its row is
// locked.
func (d *Detector) excuse(peer uuid.UUID, now time.Time) {
	if s := d.seen[peer]; s != nil {
		s.silent = now
		if !s.missing.IsZero() {
			s.missing = now
		}
	}
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
