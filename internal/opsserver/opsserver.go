// Package opsserver serves what operators ask a running process: metrics and health. Several
// handlers may share one address.
//
// The addresses are the operator's: an address without a host is this machine alone, because
// nothing here asks who is asking. What is served is plain text over HTTP, for GET and HEAD.
//
// A process binds the addresses before it starts what it reports on, and serves until that
// has stopped, so that a drain can be seen:
//
//	ops := opsserver.New(logger)
//	ops.Handle("9090", "/metrics", metrics) // error: a mistake in the address
//	stop, err := ops.Start(ctx)             // error: an address that can't be bound
//	defer stop()
package opsserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// Bounds of one server. A probe is answered in milliseconds, a scrape within seconds.
const (
	headerTimeout  = 5 * time.Second
	readTimeout    = 10 * time.Second
	writeTimeout   = 60 * time.Second
	idleTimeout    = 30 * time.Second
	maxHeaderBytes = 16 << 10
	// maxConnections is far more than scrapers and probes need. Without a limit, whoever
	// reaches the address could use up the file descriptors that jobs need.
	maxConnections = 128
	// stopTimeout is how long requests under way may go on at the end.
	stopTimeout = 2 * time.Second
)

// Servers are the addresses that a process serves, and what it serves there.
type Servers struct {
	logger *slog.Logger
	sites  []*site
}

// site is one address.
type site struct {
	address Address
	mux     *http.ServeMux
	paths   []string
	bound   net.Listener
}

// New returns servers without an address. A nil logger is [slog.Default].
func New(logger *slog.Logger) *Servers {
	if logger == nil {
		logger = slog.Default()
	}
	return &Servers{logger: logger}
}

// Handle serves path on an address, as [ParseAddress] reads it, by h. Equal addresses are one
// server. It must be called before [Servers.Start].
//
// Errors: those of [ParseAddress]; that the address has that path already.
func (s *Servers) Handle(addr, path string, h http.Handler) error {
	address, err := ParseAddress(addr)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(s.sites, func(other *site) bool { return other.address == address })
	if i < 0 {
		i = len(s.sites)
		s.sites = append(s.sites, &site{address: address, mux: http.NewServeMux()})
	}
	at := s.sites[i]
	if slices.Contains(at.paths, path) {
		return fmt.Errorf("%s serves %s already", address, path)
	}
	at.paths = append(at.paths, path)
	// Other methods are answered with 405.
	at.mux.Handle("GET "+path, h)
	return nil
}

// Start binds all addresses and serves them until stop is called, or ctx ends. stop lets
// requests under way end, for 2 s at most, and waits until the addresses are free.
//
// Errors: the first address that can't be bound; then none is.
func (s *Servers) Start(ctx context.Context) (stop func(), err error) {
	for i, at := range s.sites {
		if at.bound, err = at.address.listen(ctx); err != nil {
			for _, other := range s.sites[:i] {
				err = errors.Join(err, other.bound.Close())
			}
			return nil, err
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	var serving errgroup.Group
	for _, at := range s.sites {
		s.logger.Info("serving "+strings.Join(at.paths, ", "), "address", at.address.of(at.bound))
		serving.Go(func() error { return s.serve(ctx, at) })
	}
	return func() {
		cancel()
		// The loggers have said what there was to say.
		_ = serving.Wait()
	}, nil
}

// serve serves one address until ctx ends.
func (s *Servers) serve(ctx context.Context, at *site) error {
	server := &http.Server{
		Handler:           headers(at.mux),
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(s.logger.Handler(), slog.LevelWarn),
		// A request under way outlives ctx, until the server gives it up.
		BaseContext: func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(limit(at.bound, maxConnections)) }()
	select {
	case err := <-ended:
		s.logger.Error("nothing is served any more", "address", at.address.String(), "error", err)
		return err
	case <-ctx.Done():
	}
	patience, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	if err := server.Shutdown(patience); err != nil {
		_ = server.Close() // there is nobody left to tell
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// headers says what holds for every answer.
func headers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		next.ServeHTTP(w, r)
	})
}

// Bound returns where the servers listen, once they are started: 'host:port', or
// 'unix:/path'.
func (s *Servers) Bound() (addresses []string) {
	for _, at := range s.sites {
		if at.bound != nil {
			addresses = append(addresses, at.address.of(at.bound))
		}
	}
	return addresses
}
