package engine

import (
	"time"

	"github.com/google/uuid"
)

// How long others are given. A worker that died right after its heartbeat, and
// right after a look, is found by the last look before
// lockSilence + lookInterval = 2.5 s.
const (
	// lookInterval is the pace while someone holds jobs and a lock.
	lookInterval = 500 * time.Millisecond
	// unlockedLookInterval is the pace while one of ours holds jobs without a
	// lock, and after trouble; restInterval while nobody holds any.
	unlockedLookInterval = 5 * time.Second
	restInterval         = 30 * time.Second
	// restAfter is how long nobody must have been busy before that.
	restAfter = 3 * time.Second

	// trustAfter is for how long the observer's own session must have been up
	// before it believes that a lock was lost, and how long the database must
	// have answered it before it believes in silence: a restart of the server
	// takes every lock at once, and the others may need a moment to be back.
	trustAfter = 10 * time.Second
	// lockSilence is how old the heartbeat of a worker without its lock must
	// be.
	lockSilence = 2 * time.Second
	// lockMissing is how long the lock must be gone: a live worker whose
	// connection broke beats at once, and one that didn't notice sees it within
	// a lookInterval.
	lockMissing = 1500 * time.Millisecond
)

// timing is the constants that tests shorten.
type timing struct {
	beat, trust, dead time.Duration
}

var realTiming = timing{beat: heartbeatInterval, trust: trustAfter, dead: workerDeadAfter}

// peer is another worker as one look saw it.
type peer struct {
	ID uuid.UUID
	// Ours is whether it is a Go worker.
	Ours      bool
	LockKey   *int64
	Heartbeat time.Time
	// Silence is the heartbeat's age, by the database's clock, in seconds.
	Silence float64
	// Held is whether somebody holds its lock, Busy whether it holds
	// processing jobs.
	Held, Busy bool
}

func (p *peer) silence() time.Duration { return time.Duration(p.Silence * float64(time.Second)) }

// observer decides who is dead, from one look after the other.
type observer struct {
	timing timing
	// session is the observer's own; what it saw counts for this one alone.
	session *lockSession
	// sights has, for each lock that was seen held, since when it is missing:
	// zero while it is held.
	sights map[int64]time.Time
	// busyAt is when a peer with a lock was last seen holding jobs.
	busyAt time.Time
}

// judge returns those peers that are dead. session is the observer's own if it
// holds its lock in this very look, else nil: then the server may have been
// restarted, and locks tell nothing. contact is how long the database has
// answered without a gap.
func (o *observer) judge(peers []peer, session *lockSession, contact time.Duration, now time.Time) (dead []peer) {
	if session != o.session {
		o.session, o.sights = session, nil
	}
	sights := make(map[int64]time.Time, len(peers))
	for _, p := range peers {
		limit := pythonDeadAfter
		if p.Ours {
			limit = o.timing.dead
		}
		if o.lostLock(&p, sights, now) || contact >= o.timing.trust && p.silence() > limit {
			dead = append(dead, p)
		}
	}
	o.sights = sights
	return dead
}

// lostLock reports whether p lost its lock before the eyes of this session,
// and has been silent since. It notes in next what it sees now.
func (o *observer) lostLock(p *peer, next map[int64]time.Time, now time.Time) bool {
	if o.session == nil || p.LockKey == nil {
		return false
	}
	missing, seen := o.sights[*p.LockKey]
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
	return now.Sub(o.session.since) >= o.timing.trust &&
		now.Sub(missing) >= lockMissing &&
		p.silence() > lockSilence
}
