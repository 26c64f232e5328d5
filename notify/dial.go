package notify

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// A listener writes nothing. If the server vanishes without closing the connection (a
// pulled cable, a firewall that dropped its state), the connection looks idle until the
// kernel's own keepalive, which takes two hours by default. These times notice it
// within deadAfter.
const (
	keepAliveIdle     = 10 * time.Second
	keepAliveInterval = 5 * time.Second
	keepAliveCount    = 3

	// deadAfter bounds the wait for the acknowledgement of what we sent, which
	// keepalive doesn't probe: TCP_USER_TIMEOUT, where there is one.
	deadAfter = keepAliveIdle + keepAliveCount*keepAliveInterval
)

// dialer dials the server and can close all its connections. pgx closes a broken
// connection in a goroutine of its own, which may take 15 seconds. closeAll ends that and
// waits for it.
//
// pgx would dial once more then, to send a cancel request. It is not let: nothing runs on
// a connection that listens, and old poolers don't bear it.
type dialer struct {
	dial   pgconn.DialFunc
	ctx    context.Context // ends with closeAll
	cancel context.CancelFunc

	mu     sync.Mutex // orders open.Add and open.Wait
	closed bool
	open   sync.WaitGroup
}

var (
	errClosed   = errors.New("dial: the listener has stopped")
	errNoCancel = errors.New("dial: a listener sends no cancel requests")
)

type connectingKey struct{}

// connecting marks a context in which connections are made. Cancel requests have one of
// pgx's own.
func connecting(ctx context.Context) context.Context {
	return context.WithValue(ctx, connectingKey{}, true)
}

func newDialer(dial pgconn.DialFunc) *dialer {
	d := &dialer{dial: dial}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	return d
}

// DialContext is a pgconn.DialFunc. It uses the dial function that the dialer was made
// with, which may be the user's, and sets the times that notice a dead server.
func (d *dialer) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	if ctx.Value(connectingKey{}) == nil {
		return nil, errNoCancel
	}
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return nil, errClosed
	}
	d.open.Add(1)
	d.mu.Unlock()

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(d.ctx, cancel)()

	conn, err := d.dial(ctx, network, addr)
	if err != nil {
		d.open.Done()
		return nil, err
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		setKeepAlive(tcp)
	}
	tracked := &trackedConn{Conn: conn, onClose: d.open.Done, readSignal: make(chan struct{})}
	tracked.stop = context.AfterFunc(d.ctx, func() { _ = conn.Close() })
	return tracked, nil
}

// closeAll closes every connection, waits until pgx has let go of each, and lets no
// other be dialled.
func (d *dialer) closeAll() {
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	d.cancel()
	d.open.Wait()
}

// trackedConn is a connection of a dialer that counts its reads.
type trackedConn struct {
	net.Conn
	stop    func() bool
	once    sync.Once
	onClose func()

	mu         sync.Mutex
	reads      int           // those that returned data
	lastReadAt time.Time     // zero before the first read
	readSignal chan struct{} // closed at the next read
}

// Read counts a read that returns data: the server is alive.
func (c *trackedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.mu.Lock()
		c.reads++
		c.lastReadAt = time.Now()
		close(c.readSignal)
		c.readSignal = make(chan struct{})
		c.mu.Unlock()
	}
	return n, err
}

func (c *trackedConn) lastRead() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lastReadAt
}

// readCount returns the number of reads, for readAfter and hasReadAfter.
func (c *trackedConn) readCount() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reads
}

// hasReadAfter reports whether there were more than count reads.
func (c *trackedConn) hasReadAfter(count int) bool { return c.readCount() != count }

// readAfter returns a channel that is closed once there were more than count reads.
func (c *trackedConn) readAfter(count int) <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reads != count {
		closed := make(chan struct{})
		close(closed)
		return closed
	}
	return c.readSignal
}

// Close is called by pgx when it has no more use for the connection.
func (c *trackedConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() {
		c.stop()
		c.onClose()
	})
	return err
}

// setKeepAlive is best effort. If the kernel refuses an option, its own times apply.
func setKeepAlive(conn *net.TCPConn) {
	_ = conn.SetKeepAliveConfig(net.KeepAliveConfig{
		Enable:   true,
		Idle:     keepAliveIdle,
		Interval: keepAliveInterval,
		Count:    keepAliveCount,
	})
	setUserTimeout(conn, deadAfter)
}

// terminating ends a read at once when its context ends, and leaves a second to send
// Terminate. pgx's own handler cuts reads and writes, so that to the server a clean
// stop would look like a client that died.
type terminating struct{ conn net.Conn }

func (t terminating) HandleCancel(context.Context) {
	now := time.Now()
	_ = t.conn.SetReadDeadline(now)
	_ = t.conn.SetWriteDeadline(now.Add(time.Second))
}

func (t terminating) HandleUnwatchAfterCancel() { _ = t.conn.SetDeadline(time.Time{}) }
