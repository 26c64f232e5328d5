package main

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// A link passes connections on to an address, until it is frozen: then what is connected stays
// so and hears nothing, and what connects is not answered. That is how a network that
// drops all packets looks to both ends, except that the kernel here still answers keepalives.
type link struct {
	listener net.Listener
	target   string

	mu     sync.Mutex
	thawed chan struct{} // closed while traffic flows
}

func newLink(target string) (*link, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	l := &link{listener: listener, target: target, thawed: make(chan struct{})}
	close(l.thawed)
	return l, nil
}

func (l *link) addr() string { return l.listener.Addr().String() }

func (l *link) freeze() {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.thawed:
		l.thawed = make(chan struct{})
	default: // it is frozen
	}
}

func (l *link) thaw() {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.thawed:
	default:
		close(l.thawed)
	}
}

// flowing waits until the link is not frozen.
func (l *link) flowing(ctx context.Context) bool {
	l.mu.Lock()
	thawed := l.thawed
	l.mu.Unlock()
	select {
	case <-thawed:
		return true
	case <-ctx.Done():
		return false
	}
}

// run accepts connections until ctx ends.
func (l *link) run(ctx context.Context) error {
	var passing sync.WaitGroup
	defer passing.Wait()
	defer context.AfterFunc(ctx, func() { _ = l.listener.Close() })()
	for l.flowing(ctx) {
		conn, err := l.listener.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		passing.Go(func() { l.pass(ctx, conn) })
	}
	return nil
}

// pass copies in both directions until one end closes.
func (l *link) pass(ctx context.Context, near net.Conn) {
	defer near.Close()
	if !l.flowing(ctx) {
		return
	}
	far, err := net.DialTimeout("tcp", l.target, time.Second)
	if err != nil {
		return
	}
	defer far.Close()
	defer context.AfterFunc(ctx, func() { _, _ = near.Close(), far.Close() })()
	var group errgroup.Group
	group.Go(func() error { return l.copy(ctx, far, near) })
	group.Go(func() error { return l.copy(ctx, near, far) })
	_ = group.Wait()
}

// copy passes on what one end says. When that end has nothing more to say, or is gone, so
// is the other.
func (l *link) copy(ctx context.Context, to, from net.Conn) error {
	defer to.Close()
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if !l.flowing(ctx) {
			return ctx.Err()
		}
		if n > 0 {
			if _, err := to.Write(buffer[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
