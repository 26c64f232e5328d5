package devdb

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
)

// Server is a private server: its maker alone uses it, and may kill it. It
// ends with its maker's process at the latest.
type Server struct {
	cluster *cluster
	url     string

	mu   sync.Mutex
	pipe *os.File // nil while it doesn't run
}

// Start runs a server of the caller's own, in o.Dir or in a temporary folder
// that [Server.Stop] removes. The caller must Stop it.
func Start(ctx context.Context, o Options) (*Server, error) {
	s, err := startServer(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("start private database: %w", err)
	}
	return s, nil
}

func startServer(ctx context.Context, o Options) (_ *Server, err error) {
	c := &cluster{name: "private", fast: o.Fast, binaries: o.Binaries, log: o.logger(), scratch: o.Dir == ""}
	if c.base, err = filepath.Abs(o.Dir); err != nil {
		return nil, err
	}
	if c.scratch {
		if c.base, err = os.MkdirTemp(o.Parent, "soniq-postgres-"); err != nil {
			return nil, err
		}
		defer func() {
			if err != nil {
				err = errors.Join(err, os.RemoveAll(c.base))
			}
		}()
	}
	if err := c.prepare(); err != nil {
		return nil, err
	}
	s := &Server{cluster: c}
	start, err := lockFile(ctx, c.startPath(), exclusive)
	if err != nil {
		return nil, err
	}
	defer start.release()
	if s.pipe, err = c.join(ctx); err != nil {
		return nil, err
	}
	if s.url, err = c.url(c.port(), database); err != nil {
		_ = s.pipe.Close()
		return nil, err
	}
	return s, nil
}

// URL connects to the database 'soniq' as its owner, a superuser. It stays the
// same over a Restart. It holds the password: it is not for logs.
func (s *Server) URL() string { return s.url }

// Dir is the folder with everything of the server, its log included.
func (s *Server) Dir() string { return s.cluster.base }

// Stop shuts the server down, which cuts its connections, and removes a
// temporary folder. It does nothing to a server that was stopped.
func (s *Server) Stop(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.letGo(false); err != nil {
		return fmt.Errorf("stop private database: %w", err)
	}
	if err := s.cluster.shutDown(ctx); err != nil {
		return fmt.Errorf("stop private database: %w", err)
	}
	if s.cluster.scratch {
		// The watchdog may be at it too.
		if err := removeAll(ctx, s.cluster.base); err != nil {
			return fmt.Errorf("stop private database: %w", err)
		}
	}
	return nil
}

// Kill ends the server at once, as a crash would; its data stays for
// [Server.Restart].
func (s *Server) Kill(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.cluster.kill(ctx); err != nil {
		return fmt.Errorf("kill private database: %w", err)
	}
	if err := s.letGo(true); err != nil {
		return fmt.Errorf("kill private database: %w", err)
	}
	return nil
}

// Restart starts the server again, after a Kill or instead of one (it is then
// shut down in good order first), on the same data and port. It returns when
// the server answers.
func (s *Server) Restart(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.restart(ctx); err != nil {
		return fmt.Errorf("restart private database: %w", err)
	}
	return nil
}

func (s *Server) restart(ctx context.Context) error {
	port := s.cluster.port()
	if err := s.cluster.shutDown(ctx); err != nil {
		return err
	}
	if err := s.letGo(true); err != nil {
		return err
	}
	pipe, err := s.cluster.start(ctx)
	if err != nil {
		return err
	}
	s.pipe = pipe
	if now := s.cluster.port(); now != port {
		return fmt.Errorf("port %d has been taken by another program", port)
	}
	return nil
}

// letGo closes the pipe; the watchdog ends, and with it the server if it still
// runs. keep tells it to leave the folder.
func (s *Server) letGo(keep bool) error {
	if s.pipe == nil {
		return nil
	}
	if keep {
		if _, err := s.pipe.WriteString(keepLine); err != nil && !hungUp(s.pipe) {
			return err
		}
	}
	err := s.pipe.Close()
	s.pipe = nil
	return err
}
