package notify

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// A listener writes nothing, so a peer that is gone without a word (a pulled
// cable, a firewall that forgot the connection) would look like a quiet one
// until the kernel's own keepalive, two hours by default. These notice it
// within deadAfter.
const (
	keepAliveIdle     = 10 * time.Second
	keepAliveInterval = 5 * time.Second
	keepAliveCount    = 3

	// deadAfter bounds the wait for an answer to what we did send, which
	// keepalive doesn't probe: TCP_USER_TIMEOUT, where there is one.
	deadAfter = keepAliveIdle + keepAliveCount*keepAliveInterval
)

// line dials the server's connections and can hang up on all of them. pgx
// closes a broken connection in a goroutine of its own that may take 15
// seconds, during which it dials once more to send a cancel request. Through
// line these end when the listener does, and it can wait for them.
type line struct {
	dial   pgconn.DialFunc
	ctx    context.Context // the line's life, not a call's
	cancel context.CancelFunc

	mu   sync.Mutex // orders the calls' Add and HangUp's Wait
	down bool
	open sync.WaitGroup
}

var errHungUp = errors.New("dial: the listener has stopped")

func newLine(dial pgconn.DialFunc) *line {
	l := &line{dial: dial}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	return l
}

// Dial is a pgconn.DialFunc. It asks the dialer that it was made with, which
// may be the user's own, and adds what notices a dead peer.
func (l *line) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	l.mu.Lock()
	if l.down {
		l.mu.Unlock()
		return nil, errHungUp
	}
	l.open.Add(1)
	l.mu.Unlock()

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(l.ctx, cancel)()

	conn, err := l.dial(ctx, network, addr)
	if err != nil {
		l.open.Done()
		return nil, err
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		watchPeer(tcp)
	}
	call := &call{Conn: conn, ended: l.open.Done, ear: make(chan struct{})}
	call.stop = context.AfterFunc(l.ctx, func() { _ = conn.Close() })
	return call, nil
}

// HangUp cuts every connection, waits until pgx has let go of each, and lets
// no other be dialled.
func (l *line) HangUp() {
	l.mu.Lock()
	l.down = true
	l.mu.Unlock()
	l.cancel()
	l.open.Wait()
}

// call is one connection of a line.
type call struct {
	net.Conn
	stop  func() bool
	once  sync.Once
	ended func()

	mu    sync.Mutex
	reads int           // that brought something
	at    time.Time     // of the last one; zero before the first
	ear   chan struct{} // closed at the next one
}

// Read notes that the peer has given a sign of life.
func (c *call) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.mu.Lock()
		c.reads++
		c.at = time.Now()
		close(c.ear)
		c.ear = make(chan struct{})
		c.mu.Unlock()
	}
	return n, err
}

func (c *call) lastRead() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

// read returns how many reads there were, for heard and readSince.
func (c *call) read() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reads
}

func (c *call) readSince(reads int) bool { return c.read() != reads }

// heard returns a channel that is closed once there were more reads.
func (c *call) heard(reads int) <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reads != reads {
		closed := make(chan struct{})
		close(closed)
		return closed
	}
	return c.ear
}

// Close is called by pgx when it has no more use for the connection.
func (c *call) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() {
		c.stop()
		c.ended()
	})
	return err
}

// watchPeer is best effort: a kernel that refuses an option leaves us with its
// own times.
func watchPeer(conn *net.TCPConn) {
	_ = conn.SetKeepAliveConfig(net.KeepAliveConfig{
		Enable:   true,
		Idle:     keepAliveIdle,
		Interval: keepAliveInterval,
		Count:    keepAliveCount,
	})
	setUserTimeout(conn, deadAfter)
}

// goodbye ends a wait at once when its context ends, and leaves a second to
// tell the server that we go. pgx's own handler cuts both ways, so that a
// clean stop would look to the server like a client that died.
type goodbye struct{ conn net.Conn }

func (g goodbye) HandleCancel(context.Context) {
	now := time.Now()
	_ = g.conn.SetReadDeadline(now)
	_ = g.conn.SetWriteDeadline(now.Add(time.Second))
}

func (g goodbye) HandleUnwatchAfterCancel() { _ = g.conn.SetDeadline(time.Time{}) }
