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
	w.own = &lock{Lock: Lock{since: now}}
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
	// beaten is when the peer has beaten last, and ahead by how much the database's clock,
	// which writes that down, is ahead.
	beaten time.Time
	ahead  time.Duration
}

func newScene(t *testing.T, ours bool) *scene {
	t.Helper()
	s := &scene{t: t, now: time.Unix(1e9, 0), beats: true}
	s.peer = Peer{Ours: ours, Held: true, Busy: true, Heartbeat: s.now}
	s.beaten = s.now
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

func (s *scene) beat() { s.beaten, s.peer.Heartbeat = s.now, s.now.Add(s.ahead) }

func (s *scene) advertise() { s.peer.LockKey = new(int64(7)) }

// passes lets time go on, with a look each half second, and returns after how
// long the peer was declared dead; negative if it wasn't.
func (s *scene) passes(d time.Duration, ownLock bool) time.Duration {
	const step = 500 * time.Millisecond
	for passed := step; passed <= d; passed += step {
		s.now, s.contact = s.now.Add(step), s.contact+step
		if s.beats && s.now.Sub(s.beaten) >= 10*time.Second {
			s.beat()
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
	s.beat()
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
	s.beat()
	s.peer.LockKey = nil
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

// A step of the database's clock makes heartbeats look old, or from the future.
func TestDetector_databasesClockSteps_onlyTheDeadDie(t *testing.T) {
	t.Parallel()
	for _, step := range []time.Duration{time.Second, 45 * time.Second, time.Hour} {
		for _, step := range []time.Duration{step, -step} {
			for name, scene := range map[string]*scene{
				"with a lock": newWatched(t), "without": newScene(t, true), "Python's": newScene(t, false),
			} {
				t.Log(step, name)
				s := scene
				if s.peer.LockKey == nil {
					s.lives(20*time.Second, true)
				}
				s.ahead += step
				s.lives(time.Minute, true)
				s.ahead -= step
				s.lives(time.Minute, true)
				s.crashAfterBeat()
				s.ahead += step
				switch {
				case s.peer.LockKey != nil:
					s.dies(true, 2*time.Second, 2500*time.Millisecond)
				case s.peer.Ours:
					s.dies(true, 30*time.Second, 31*time.Second)
				default:
					s.dies(true, 300*time.Second, 301*time.Second)
				}
			}
		}
	}
}

// Who has just begun to watch takes nobody's word for how long others were silent.
func TestDetector_begins_watchesForTheWholePeriod(t *testing.T) {
	t.Parallel()
	for ours, limit := range map[bool]time.Duration{true: 30 * time.Second, false: 300 * time.Second} {
		s := newScene(t, ours)
		s.crash()
		s.now, s.contact = s.now.Add(time.Hour), time.Hour
		s.dies(true, limit, limit+time.Second)
	}
}

// While its row is locked a worker can't beat.
func TestDetector_excused_beginsAnew(t *testing.T) {
	t.Parallel()
	s := newWatched(t)
	s.crash()
	s.dies(true, 2*time.Second, 2500*time.Millisecond)
	s.witness.detector.excuse(s.peer.ID, s.now)
	s.lives(1500*time.Millisecond, true)
	s.beat()
	s.peer.Held = true
	s.lives(25*time.Second, true)
	s.dies(true, 5*time.Second, 6*time.Second)
	s.witness.detector.excuse(s.peer.ID, s.now)
	s.dies(true, 30*time.Second, 31*time.Second)
}

// A look that took long may have held up the others' heartbeats too.
func TestDetector_slowLook_beginsAnewWithTheLock(t *testing.T) {
	t.Parallel()
	s := newWatched(t)
	s.crash()
	s.lives(1500*time.Millisecond, true)
	began := s.now
	s.now = s.now.Add(2 * time.Second)
	if dead := s.witness.detector.judge([]Peer{s.peer}, s.witness.own, s.contact, moment{began, s.now}); len(dead) > 0 {
		t.Error("declared dead by a slow look")
	}
	s.dies(true, 2*time.Second, 2500*time.Millisecond)
}
