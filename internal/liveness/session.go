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

// Session is the listener's connection, with the lock that it holds.
type Session struct {
	logger *slog.Logger
	worker uuid.UUID
	// wakeDetector makes the watch look soon.
	wakeDetector func()
	// changed is readable when the worker's row must be written at once.
	changed chan struct{}

	mu    sync.Mutex
	count int
	lock  *lock
}

// lock is an advisory lock that a connection of the listener holds.
type lock struct {
	key   int64
	pid   uint32
	since time.Time
	// visible: a look through the pool saw that this connection holds it. Behind a
	// pooler, or in another database, no look ever does.
	visible bool
}

const (
	backendSQL  = `select pg_backend_pid()`
	takeLockSQL = `select pg_try_advisory_lock($1)`
)

// Up tries to take the lock on a new connection of the listener. Without the lock
// the worker still has its heartbeat, and the listener goes on.
func (s *Session) Up(ctx context.Context, conn *pgx.Conn) error {
	s.mu.Lock()
	s.count++
	l := &lock{key: lockKey(s.worker, s.count), pid: conn.PgConn().PID()}
	s.mu.Unlock()
	var pid uint32
	var taken bool
	// Simple protocol: a pooler may not know prepared statements.
	err := conn.QueryRow(ctx, backendSQL, pgx.QueryExecModeSimpleProtocol).Scan(&pid)
	if err == nil && pid == l.pid {
		err = conn.QueryRow(ctx, takeLockSQL, pgx.QueryExecModeSimpleProtocol, l.key).Scan(&taken)
	}
	switch {
	case err != nil && conn.IsClosed():
		return err
	case pid != l.pid && err == nil:
		// A pooler ends its sessions when it likes.
		s.logger.Info("a pooler is between the listener and the server: only its heartbeat shows a crash of this worker",
			"after", DeadAfter.String())
		return nil
	case !taken:
		s.logger.Info("can't take the worker's lock: only its heartbeat shows a crash of this worker",
			"after", DeadAfter.String(), "error", err)
		return nil
	}
	l.since = time.Now()
	s.mu.Lock()
	s.lock = l
	s.mu.Unlock()
	s.wakeDetector()
	return nil
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

// lockKey is for one session of a worker: the server may keep the lock of a session
// that was cut off for long after its client has gone.
func lockKey(worker uuid.UUID, session int) int64 {
	sum := sha256.Sum256(fmt.Appendf(nil, "soniq.worker.v1/%s/%d", worker, session))
	return int64(binary.BigEndian.Uint64(sum[:]))
}
