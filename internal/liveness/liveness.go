// Package liveness says that a worker lives, and finds out which others don't.
//
// The connection that the workers of a process listen on holds a session advisory lock,
// which ends with the process. Each worker's row in soniq_workers advertises the lock
// beside the heartbeat. The parts:
//
//	Session    knows the lock on the present connection of the listener
//	Heartbeat  writes the row, and the lock that it advertises
//	Watch      sees that the own lock is visible, and looks at the other workers
//	Detector   decides from these looks who is dead
//
// Only Heartbeat writes the row, so a lock that was taken back stays taken back.
// What Watch finds dead is recovered by Config.Recover.
package liveness

import (
	"context"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"soniq/internal/pg"
)

// Config is what the parts need to know of their worker.
type Config struct {
	Pool   *pg.Pool
	Logger *slog.Logger
	// Worker, Version, Queues and Concurrency are written to its row.
	Worker      uuid.UUID
	Version     string
	Queues      []string
	Concurrency int
	// Names are the job names that it handles, and ArgsTypes the Go types of their
	// arguments.
	Names, ArgsTypes []string
	// Busy reports whether it runs jobs.
	Busy func() bool
	// Leads reports whether this worker is the one that watches the others for its
	// process. The rest look at them rarely. Default: it is.
	Leads func() bool
	// Crew is equal for workers of which each can run what the others can. It is written
	// to the row.
	Crew string
	// Saw is called with what each look saw of the other workers. Default none.
	Saw func([]Peer)
	// Registered is called with the incarnation of the row each time it was written.
	Registered func(incarnation int64)
	// Tried is called after each heartbeat, also after one that could not be written. Default
	// none.
	Tried func()
	// Clock takes in the database's time of each heartbeat. Stepped is called when it was
	// set, with by how much.
	Clock   *pg.Clock
	Stepped func(step time.Duration)
	// Recover frees the jobs of a dead worker whose last heartbeat was this one.
	Recover func(ctx context.Context, db pg.Session, worker uuid.UUID, heartbeat time.Time) error
}

// Parts are the parts of one worker.
type Parts struct {
	Session   *Session
	Heartbeat *Heartbeat
	Watch     *Watch
	// Timing is shared by the parts. Tests change it before they run.
	Timing *Timing
}

// New returns the parts of a worker.
func New(config Config) Parts {
	timing := RealTiming
	contact := &contact{}
	session := &Session{changed: make(chan struct{}, 1)}
	watch := &Watch{
		config: config, session: session, contact: contact, timing: &timing, woken: make(chan struct{}, 1),
	}
	session.wakeDetector = watch.Wake
	return Parts{
		Session: session,
		Heartbeat: &Heartbeat{
			config: config, session: session, contact: contact, timing: &timing, beaten: beaten{others: make(chan struct{}, 1)},
		},
		Watch:  watch,
		Timing: &timing,
	}
}

// Timing has the constants that tests shorten.
type Timing struct {
	// Beat is the time between two heartbeats.
	Beat time.Duration
	// Trust is how long the worker's own session must have been up before it believes
	// that a lock was lost, and how long the database must have answered before it
	// believes a silence. A restart of the server takes every lock at once, and the
	// others may need a moment to be back.
	Trust time.Duration
	// Dead is the silence after which a Go worker is dead.
	Dead time.Duration
	// SilentSince says since when a peer has been silent that is seen for the first
	// time. Default: since then, whatever its heartbeat says. Tests age peers by it.
	SilentSince func(Peer) time.Time
}

// RealTiming is the timing of workers that are not under test.
var RealTiming = Timing{Beat: BeatInterval, Trust: 10 * time.Second, Dead: DeadAfter}

const (
	// BeatInterval is the time between two heartbeats.
	BeatInterval = 10 * time.Second
	// NamesEvery is how many heartbeats pass between two refreshes of the job names
	// in soniq_task_registry.
	NamesEvery = 3
	// DeadAfter is the silence after which a Go worker is dead: three missed
	// heartbeats.
	DeadAfter = 30 * time.Second
	// PythonDeadAfter is that of a Python worker, by its own default.
	PythonDeadAfter = 300 * time.Second

	// PoolPatience is how long a heartbeat or a look waits for the pool.
	// urgentPatience is that of a heartbeat without which the worker would be declared
	// dead. The urgent one may have to wait for the other, so both together are
	// shorter than lockMissing.
	PoolPatience   = time.Second
	urgentPatience = 200 * time.Millisecond
)

// LiveSQL is whether the worker w of a statement seems to live, to a program that looks
// once: its lock is held, or its heartbeat is no older than go for a Go worker, and python
// for another one. A heartbeat from the future is of a clock that was set back since. Who
// watches for longer compares no times at all; see [Detector].
func LiveSQL(w, goAge, pythonAge string) string {
	age := "case when " + w + ".version like 'go/%' then " + goAge + "::interval else " + pythonAge + "::interval end"
	return `(
    ` + w + `.last_heartbeat between now() - ` + age + ` and now() + ` + age + `
    or coalesce(` + w + `.lock_key in (
      select (l.classid::bigint << 32) | l.objid::bigint
      from pg_locks l
      where l.locktype = 'advisory'
        and l.objsubid = 1
        and l.granted
        and l.database = (select d.oid from pg_database d where d.datname = current_database())
    ), false)
  )`
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
