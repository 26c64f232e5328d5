// Package health says whether a worker, or a dispatcher of hooks, lives and whether it is
// ready, and answers probes.
//
// Live is a process that should not be restarted: one that is busy, one that drains, and one
// whose database is away, which a restart would not bring back. Ready is a worker that takes
// jobs. A worker is not ready before it has started, as soon as it is told to stop, and while
// its database has not answered for some seconds.
//
// A probe asks nothing of the database: a worker notes what its heartbeats and claims saw, and
// a dispatcher what its readings of the outbox did.
package health

import (
	"fmt"
	"sync"
	"time"

	"soniq/internal/liveness"
)

const (
	// silence is after how long without a heartbeat the database counts as away. A beat
	// that is on time is 10 s old.
	silence = liveness.BeatInterval + 5*time.Second
	// failing is for how long claims must have failed in a row. One that failed for a
	// moment is tried again before.
	failing = 5 * time.Second
	// unread is after how long without a reading of the outbox the database counts as away:
	// a dispatcher that nothing wakes reads it once a minute.
	unread = 75 * time.Second
)

// still is for how long the loop of the heartbeats may be silent. It tries each one for
// BeatInterval at most, also while the database is away. The loop of a dispatcher may sleep
// for a minute, and stillReading is for that one.
const (
	still        = 3 * liveness.BeatInterval
	stillReading = 3 * time.Minute
)

// Verdict is the answer of one check.
type Verdict string

// The verdicts.
const (
	OK   Verdict = "ok"
	Fail Verdict = "failed"
	// Warn is of a check that is no reason to take a worker away.
	Warn Verdict = "warning"
)

// Check is what one check found.
type Check struct {
	Name    string  `json:"name"`
	Verdict Verdict `json:"status"`
	// Detail says why, for people; it may be empty.
	Detail string `json:"detail,omitempty"`
}

// Report is what a probe is told.
type Report struct {
	Live  bool `json:"live"`
	Ready bool `json:"ready"`
	// Beating: heartbeats are written, or at least tried, as long as the worker runs. A
	// process in which they are not hangs.
	Beating bool `json:"beating"`
	// Checks are those of readiness, in a fixed order.
	Checks []Check `json:"checks"`
}

// failed are the names of the checks that failed.
func (r Report) failed() (names []string) {
	for _, c := range r.Checks {
		if c.Verdict == Fail {
			names = append(names, c.Name)
		}
	}
	return names
}

// State is what a worker notes for its probes. The zero value is that of a worker that has
// not started. Its methods may be called from several goroutines.
type State struct {
	// Schema is the version of the tables that the program was built for.
	Schema string
	// Missing says what the database lacks of the tables, if anything. Nil is the same as
	// a function that returns nothing.
	Missing func() string
	// Dispatcher makes it the state of a dispatcher: a reading of the outbox that worked is its
	// heartbeat, and each reading is a claim.
	Dispatcher bool

	mu       sync.Mutex
	started  bool
	stopping bool
	ended    bool
	failure  bool
	// beat is the last heartbeat that was written, tried the last that was tried, and failed
	// the first of the claims that failed in a row: times of the monotonic clock.
	beat, tried, failed time.Time
	heard               bool
	now                 func() time.Time
}

// Beat notes that the worker's heartbeat was written. The first means that it has started.
func (s *State) Beat() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.started, s.beat, s.tried = true, s.clock(), s.clock()
}

// Tried notes that the worker's heartbeat was tried.
func (s *State) Tried() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tried = s.clock()
}

// Claimed notes how a claim went.
func (s *State) Claimed(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err == nil:
		s.failed = time.Time{}
	case s.failed.IsZero():
		s.failed = s.clock()
	}
}

// Listening notes whether notifications arrive.
func (s *State) Listening(healthy bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.heard = healthy
}

// Stopping notes that the worker was told to stop.
func (s *State) Stopping() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopping = true
}

// Ended notes that the worker has ended, and why.
func (s *State) Ended(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended, s.failure = true, err != nil
}

// SetClock makes now the clock, for tests.
func (s *State) SetClock(now func() time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = now
}

func (s *State) clock() time.Time {
	if s.now != nil {
		return s.now()
	}
	return time.Now()
}

// Report is what a probe is told now.
func (s *State) Report() Report {
	missing := ""
	if s.Missing != nil {
		missing = s.Missing()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r := Report{
		// A worker that failed in a program that goes on is helped by a restart.
		Live:   !s.failure,
		Checks: []Check{s.worker(), s.draining(), s.database(), s.claims(), s.listener(), s.schema(missing)},
	}
	r.Beating = s.started && !s.ended && s.clock().Sub(s.tried) < s.words().still
	r.Ready = r.Live && len(r.failed()) == 0
	return r
}

// words are what a program's checks say where worker and dispatcher differ.
type words struct {
	program, claims                    string
	silence, still                     time.Duration
	draining, beat, silent, fail, deaf string
}

var (
	workerWords = words{
		program: "worker", claims: "claims", silence: silence, still: still,
		draining: "it was told to stop; running jobs go on, and no other begins",
		beat:     "the last heartbeat was written %s ago",
		silent:   "no heartbeat could be written for %s",
		fail:     "jobs can't be claimed since %s; the log says why",
		deaf:     "notifications don't arrive; the worker looks for jobs every second",
	}
	dispatcherWords = words{
		program: "dispatcher", claims: "outbox", silence: unread, still: stillReading,
		draining: "it was told to stop; what is being sent goes on for 3 s at most",
		beat:     "the outbox was last read %s ago",
		silent:   "the outbox could not be read for %s",
		fail:     "the outbox can't be read since %s; the log says why",
		deaf:     "notifications don't arrive; the dispatcher looks at the outbox every 2 s",
	}
)

func (s *State) words() words {
	if s.Dispatcher {
		return dispatcherWords
	}
	return workerWords
}

func (s *State) worker() Check {
	name := s.words().program
	switch {
	case s.failure:
		return Check{name, Fail, "it has ended with an error, which its log has"}
	case s.ended:
		return Check{name, Fail, "it has ended"}
	case !s.started:
		return Check{name, Fail, "it has not started yet"}
	}
	return Check{name, OK, ""}
}

func (s *State) draining() Check {
	if s.stopping && !s.ended {
		return Check{"draining", Fail, s.words().draining}
	}
	return Check{"draining", OK, ""}
}

func (s *State) database() Check {
	if !s.started || s.ended {
		return Check{"database", OK, "not asked"}
	}
	w := s.words()
	ago := s.clock().Sub(s.beat).Truncate(time.Second)
	if ago >= w.silence {
		return Check{"database", Fail, fmt.Sprintf(w.silent, ago)}
	}
	return Check{"database", OK, fmt.Sprintf(w.beat, ago)}
}

func (s *State) claims() Check {
	w := s.words()
	if s.failed.IsZero() || s.stopping {
		return Check{w.claims, OK, ""}
	}
	since := s.clock().Sub(s.failed).Truncate(time.Second)
	if since >= failing {
		return Check{w.claims, Fail, fmt.Sprintf(w.fail, since)}
	}
	return Check{w.claims, OK, "the last one failed, and is tried again"}
}

func (s *State) listener() Check {
	if !s.heard && s.started && !s.ended {
		// Behind a pooler that is for ever, and the program works.
		return Check{"listener", Warn, s.words().deaf}
	}
	return Check{"listener", OK, ""}
}

func (s *State) schema(missing string) Check {
	if missing != "" {
		return Check{"schema", Fail, missing}
	}
	return Check{"schema", OK, s.Schema}
}
