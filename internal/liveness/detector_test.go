package liveness

import (
	"testing"
	"time"
)

// witness is a detector without a database.
type witness struct {
	detector Detector
	own      *lock
}

// reconnect begins a session of the witness's own.
func (w *witness) reconnect(now time.Time) {
	w.detector.timing = RealTiming
	w.own = &lock{since: now}
}

// looks judges one peer. Without its own lock in sight, the witness knows nothing of
// locks.
func (w *witness) looks(p Peer, ownLock bool, contact time.Duration, now time.Time) (dead bool) {
	own := w.own
	if !ownLock {
		own = nil
	}
	w.detector.timing = RealTiming
	return len(w.detector.judge([]Peer{p}, own, contact, moment{now, now})) > 0
}

// scene is a peer and a witness whose clock is the test's.
type scene struct {
	t       *testing.T
	witness witness
	peer    Peer
	now     time.Time
	contact time.Duration
	beats   bool
}

func newScene(t *testing.T, ours bool) *scene {
	t.Helper()
	s := &scene{t: t, now: time.Unix(1e9, 0), beats: true}
	s.peer = Peer{Ours: ours, Held: true, Busy: true, Heartbeat: s.now}
	s.witness.reconnect(s.now)
	return s
}

// newWatched is a scene whose peer holds a lock that the witness has seen for a while.
func newWatched(t *testing.T) *scene {
	t.Helper()
	s := newScene(t, true)
	s.advertise()
	s.lives(20*time.Second, true)
	return s
}

func (s *scene) advertise() { s.peer.LockKey = new(int64(7)) }

// passes lets time go on, with a look each half second, and returns after how
// long the peer was declared dead; negative if it wasn't.
func (s *scene) passes(d time.Duration, ownLock bool) time.Duration {
	const step = 500 * time.Millisecond
	for passed := step; passed <= d; passed += step {
		s.now, s.contact = s.now.Add(step), s.contact+step
		if s.beats && s.now.Sub(s.peer.Heartbeat) >= 10*time.Second {
			s.peer.Heartbeat = s.now
		}
		if s.witness.looks(s.peer, ownLock, s.contact, s.now) {
			return passed
		}
	}
	return -1
}

func (s *scene) lives(d time.Duration, ownLock bool) {
	s.t.Helper()
	if after := s.passes(d, ownLock); after >= 0 {
		s.t.Fatalf("declared dead after %s", after)
	}
}

func (s *scene) dies(ownLock bool, from, to time.Duration) {
	s.t.Helper()
	if after := s.passes(to, ownLock); after < from {
		s.t.Fatalf("declared dead after %s, want from %s to %s", after, from, to)
	}
}

func (s *scene) crash() { s.peer.Held, s.beats = false, false }

// crashAfterBeat crashes at the worst moment: the peer has just beaten.
func (s *scene) crashAfterBeat() {
	s.peer.Heartbeat = s.now
	s.crash()
}

func TestDetector_lockLostBeforeItsEyes_isDeadIn3Seconds(t *testing.T) {
	t.Parallel()
	s := newWatched(t)
	s.crashAfterBeat()
	s.dies(true, 2*time.Second, 2500*time.Millisecond)
}

func TestDetector_youngSession_waits(t *testing.T) {
	t.Parallel()
	s := newScene(t, true)
	s.advertise()
	s.lives(4*time.Second, true)
	s.crash()
	s.dies(true, 5500*time.Millisecond, 6500*time.Millisecond)
}

func TestDetector_lockItNeverSaw_onlyTheHeartbeatCounts(t *testing.T) {
	t.Parallel()
	s := newScene(t, true)
	s.advertise()
	s.crash()
	s.dies(true, 30*time.Second, 31*time.Second)
}

// A restart takes every lock, the observer's too.
func TestDetector_ownLockGone_onlyTheHeartbeatCounts(t *testing.T) {
	t.Parallel()
	s := newWatched(t)
	s.crashAfterBeat()
	s.dies(false, 30*time.Second, 31*time.Second)
}

// What an earlier session saw tells nothing of this one.
func TestDetector_reconnected_forgetsWhatItSaw(t *testing.T) {
	t.Parallel()
	s := newWatched(t)
	s.crashAfterBeat()
	s.witness.reconnect(s.now)
	s.dies(true, 30*time.Second, 31*time.Second)
}

// A connection can break without its worker: that beats at once, and takes the
// advertisement back.
func TestDetector_lockLostButHeartbeat_lives(t *testing.T) {
	t.Parallel()
	s := newScene(t, true)
	s.advertise()
	s.lives(25*time.Second, true)
	s.peer.Held = false
	s.lives(time.Second, true)
	s.peer.Heartbeat, s.peer.LockKey = s.now, nil
	s.lives(time.Minute, true)
	// It has a new lock, and loses that one with its life.
	s.peer.LockKey, s.peer.Held = new(int64(8)), true
	s.lives(time.Second, true)
	s.crashAfterBeat()
	s.dies(true, 2*time.Second, 2500*time.Millisecond)
}

func TestDetector_noLock_theHeartbeatCounts(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		ours  bool
		limit time.Duration
	}{
		"ours":     {true, 30 * time.Second},
		"Python's": {false, 300 * time.Second},
	} {
		s := newScene(t, tt.ours)
		s.peer.Held = false
		s.lives(10*time.Minute, true)
		s.crashAfterBeat()
		t.Log(name)
		s.dies(true, tt.limit, tt.limit+time.Second)
	}
}

// Heartbeats are old because the database was away, for everybody.
func TestDetector_databaseJustBack_waitsForTheOthers(t *testing.T) {
	t.Parallel()
	s := newScene(t, true)
	s.lives(20*time.Second, true)
	s.now, s.contact = s.now.Add(time.Hour), 0
	s.witness.reconnect(s.now)
	s.beats = false
	s.lives(9*time.Second, true)
	s.dies(true, 500*time.Millisecond, time.Second)
}
