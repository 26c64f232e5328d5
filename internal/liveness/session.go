package liveness

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Session is the listener's connection to one worker, with the lock that it holds.
type Session struct {
	// wakeDetector makes the watch look soon.
	wakeDetector func()
	// changed is readable when the worker's row must be written at once.
	changed chan struct{}

	mu   sync.Mutex
	lock *lock
}

// lock is what one worker knows of a lock.
type lock struct {
	Lock
	// visible: a look through the pool saw that this connection holds it. Behind a
	// pooler, or in another database, no look ever does.
	visible bool
}

const (
	backendSQL  = `select pg_backend_pid()`
	takeLockSQL = `select pg_try_advisory_lock($1)`
)

// Lock is an advisory lock that a connection of a listener holds, which several workers
// of a process may share: it shows that the process lives.
type Lock struct {
	key   int64
	pid   uint32
	since time.Time
	// together are the heartbeats of the workers that share it.
	together *together
}

// Key is what others see the lock by.
func (l *Lock) Key() int64 { return l.key }

// TakeLock tries to take a lock on a new connection of a listener. owner and count make
// its key. It returns nil if there is none: the workers still have their heartbeats, and
// the listener goes on.
//
// Errors: the connection is lost.
func TakeLock(ctx context.Context, conn *pgx.Conn, owner uuid.UUID, count int, logger *slog.Logger) (*Lock, error) {
	l := &Lock{key: lockKey(owner, count), pid: conn.PgConn().PID()}
	var pid uint32
	var taken bool
	// Simple protocol: a pooler may not know prepared statements.
	err := conn.QueryRow(ctx, backendSQL, pgx.QueryExecModeSimpleProtocol).Scan(&pid)
	if err == nil && pid == l.pid {
		err = conn.QueryRow(ctx, takeLockSQL, pgx.QueryExecModeSimpleProtocol, l.key).Scan(&taken)
	}
	switch {
	case err != nil && conn.IsClosed():
		return nil, err
	case pid != l.pid && err == nil:
		// A pooler ends its sessions when it likes.
		logger.Info("a pooler is between the listener and the server: only its heartbeat shows a crash of this worker",
			"after", DeadAfter.String())
		return nil, nil
	case !taken:
		logger.Info("can't take the worker's lock: only its heartbeat shows a crash of this worker",
			"after", DeadAfter.String(), "error", err)
		return nil, nil
	}
	l.since, l.together = time.Now(), &together{}
	return l, nil
}

// Up notes that the listener's new connection holds the lock.
func (s *Session) Up(l *Lock) {
	s.mu.Lock()
	s.lock = &lock{Lock: *l}
	s.mu.Unlock()
	s.wakeDetector()
}

// Down has the lock taken out of the worker's row at once. Others see that it is
// gone, and would declare the worker dead.
func (s *Session) Down() {
	s.mu.Lock()
	s.lock = nil
	s.mu.Unlock()
	signal(s.changed)
}

// Advertises reports whether the worker's row names the lock.
func (s *Session) Advertises() bool {
	key, _ := s.advertised()
	return key != nil
}

// advertised is what the worker's row says: NULLs unless others can see the lock.
func (s *Session) advertised() (key *int64, pid *int32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lock == nil || !s.lock.visible {
		return nil, nil
	}
	return &s.lock.key, new(int32(s.lock.pid))
}

// group are the heartbeats of the workers whose rows name the same lock; nil if this one's names none.
func (s *Session) group() *together {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lock == nil || !s.lock.visible {
		return nil
	}
	return s.lock.together
}

// current is the lock, nil if there is none.
func (s *Session) current() *lock {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lock
}

// saw notes whether a look saw that this session holds lock l. If it didn't, the
// lock tells others nothing, whatever this end of the connection believes.
func (s *Session) saw(l *lock, held bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case l == nil || l != s.lock || held && l.visible:
		return
	case held:
		l.visible = true
	default:
		s.lock = nil
	}
	signal(s.changed)
}

// lockKey is for one connection of an owner: the server may keep the lock of a session
// that was cut off for long after its client has gone.
func lockKey(owner uuid.UUID, connection int) int64 {
	sum := sha256.Sum256(fmt.Appendf(nil, "soniq.worker.v1/%s/%d", owner, connection))
	return int64(binary.BigEndian.Uint64(sum[:]))
}
