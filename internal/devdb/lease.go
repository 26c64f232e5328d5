package devdb

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"soniq/internal/pause"
	"soniq/internal/pg"
)

// Lease is one user's hold on a shared server. The server runs as long as
// anyone holds it.
type Lease struct {
	cluster *cluster
	url     string
	pid     int // the server's

	mu    sync.Mutex
	users *fileLock // nil once closed
	pipe  *os.File
}

// Acquire joins the shared server of o.Dir and o.Name, or starts it, and makes
// its data folder the first time. It returns when the server answers. Many
// processes may call it at once: one of them starts the server.
//
// The end of ctx ends the waiting only; the server lives until the last lease
// is closed or its process has ended, however it did.
func Acquire(ctx context.Context, o Options) (*Lease, error) {
	c, err := o.shared()
	if err != nil {
		return nil, err
	}
	lease, err := acquire(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("start %s database: %w", c.name, err)
	}
	return lease, nil
}

func acquire(ctx context.Context, c *cluster) (_ *Lease, err error) {
	if err := c.prepare(); err != nil {
		return nil, err
	}
	start, err := lockFile(ctx, c.startPath(), exclusive)
	if err != nil {
		return nil, err
	}
	defer start.release()
	users, err := lockFile(ctx, c.usersPath(), sharedUse)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			users.release()
		}
	}()

	pipe, err := c.join(ctx)
	if err != nil {
		return nil, err
	}
	url, err := c.url(c.port(), database)
	if err != nil {
		_ = pipe.Close()
		return nil, err
	}
	pid, err := c.postmaster()
	if err != nil {
		_ = pipe.Close()
		return nil, err
	}
	return &Lease{cluster: c, url: url, pid: pid, users: users, pipe: pipe}, nil
}

// join takes hold of the running server, or of a new one.
func (c *cluster) join(ctx context.Context) (*os.File, error) {
	pipe, err := openPipe(ctx, c.pipePath(), c.answersDir())
	if err == nil {
		err := c.ensureRunning(ctx)
		if err == nil {
			return pipe, nil
		}
		_ = pipe.Close()
		if !errors.Is(err, errServerDied) {
			return nil, err
		}
		// The server has crashed, and its watchdog waits for its holders.
	} else if !errors.Is(err, errNoWatchdog) {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	// Without a watchdog, a server is on its way out, or has lost the watchdog
	// to a kill and would never end.
	if err := c.shutDown(ctx); err != nil {
		return nil, err
	}
	c.log.Debug("starting the server", "folder", c.base)
	return c.start(ctx)
}

// ensureRunning waits until the server answers, should it be recovering, or
// returns errServerDied.
func (c *cluster) ensureRunning(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout,
		fmt.Errorf("no answer after %s; its log is %s", startTimeout, c.logPath()))
	defer cancel()
	for {
		err := c.ensureDatabase(ctx, c.port())
		var refusal *pgconn.PgError
		if err == nil || errors.As(err, &refusal) && refusal.Code != pg.CannotConnectNow {
			// Refused or not, it runs: it may have no connection left for us.
			return nil
		}
		if refusal == nil {
			pid, err := c.postmaster()
			if err != nil {
				return err
			}
			if pid == 0 {
				return errServerDied
			}
		}
		if err := pause.For(ctx, 10*time.Millisecond); err != nil {
			return fmt.Errorf("join server in %s: %w", c.dataDir(), err)
		}
	}
}

// URL connects to the database 'soniq' as its owner, a superuser. It holds the
// password: it is not for logs.
func (l *Lease) URL() string { return l.url }

// Dir is the folder with everything of the server, its log included.
func (l *Lease) Dir() string { return l.cluster.base }

// Held reports whether the lease still keeps a server alive. It doesn't once
// [Stop], [Reset] or a crash has ended the server: one that is started anew by
// others knows nothing of this lease.
func (l *Lease) Held() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.users == nil {
		return false
	}
	pid, err := l.cluster.postmaster()
	return err != nil || pid == l.pid // not knowing is no reason to give up
}

// Close lets go of the server. The last one out waits until it is shut down.
// Further calls do nothing.
func (l *Lease) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.users == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	// Nobody may start the server while it stops. Without the lock the
	// watchdog does the same; only the waiting is lost.
	start, err := lockFile(ctx, l.cluster.startPath(), exclusive)
	if err == nil {
		defer start.release()
	}
	pid, pidErr := l.cluster.postmaster()
	l.users.release()
	l.users = nil
	if closeErr := l.pipe.Close(); closeErr != nil {
		return fmt.Errorf("close %s database: %w", l.cluster.name, closeErr)
	}
	if err := errors.Join(err, pidErr); err != nil {
		return fmt.Errorf("close %s database: %w", l.cluster.name, err)
	}

	everyone, err := tryLockFile(l.cluster.usersPath(), exclusive)
	if errors.Is(err, errLocked) {
		return nil // not the last
	}
	if err != nil {
		return fmt.Errorf("close %s database: %w", l.cluster.name, err)
	}
	defer everyone.release()
	if err := l.cluster.waitGone(ctx, pid); err != nil {
		return fmt.Errorf("close %s database: %w", l.cluster.name, err)
	}
	return nil
}
