package notify

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// A connection can look open and be dead. A listener only waits, so it would not
// notice. Two checks do:
//
//	ping   does the server answer?        each 10 s, on the connection itself
//	probe  do notifications arrive here?  on each new connection, then each 60 s
//
// The ping is the protocol's Sync message, which an idle server answers with
// ReadyForQuery. It is no statement: WaitForNotification skips the answer, and the
// server has next to nothing to do. It finds half-open connections, and proxies that
// drop what they are sent.
//
// The probe is a notification on a channel of the listener's own, sent on another
// connection (Config.Probe). It finds a pooler in transaction mode, which accepts LISTEN
// and never delivers, and a connection to another database than the program's. Each
// probe is a NOTIFY, which costs the whole database a little, so none is sent while
// other notifications arrive.

// timing is how often the checks are made, and how long they wait.
type timing struct {
	ping, answer, probe, reprobe time.Duration
}

// A server that doesn't answer is noticed within ping + answer. reprobe is the time
// between probes while notifications don't arrive.
var realTiming = timing{
	ping: 10 * time.Second, answer: 5 * time.Second, probe: time.Minute, reprobe: 10 * time.Second,
}

// syncMessage is the Sync message of the protocol.
var syncMessage = []byte{'S', 0, 0, 0, 4}

// health is what is known about a listener's connection. The session calls up, down and
// arrived. watch makes the checks.
type health struct {
	log      *slog.Logger
	probe    func(ctx context.Context, channel, payload string) error // the user's, or nil
	onHealth func(healthy bool)                                       // the user's, or nil
	// meanwhile is what the warning says of the time until notifications arrive.
	meanwhile string
	timing    timing
	channel   string // of the probes
	answers   chan string
	changed   chan struct{} // readable when there is another connection, or none
	// busy counts the handlers that run. Nothing is read meanwhile.
	busy atomic.Int32

	mu       sync.Mutex
	conn     net.Conn     // nil: there is none
	tracked  *trackedConn // conn without TLS; nil if the dialer has not made it
	proven   bool         // a probe has arrived on conn
	notified time.Time    // when a notification last arrived
	closed   error        // why conn was closed
	healthy  bool
	warned   bool
	sent     int
}

func newHealth(l *Listener) *health {
	return &health{
		log: l.cfg.Logger, meanwhile: l.cfg.Meanwhile, probe: l.cfg.Probe, onHealth: l.cfg.OnHealth, timing: l.timing,
		channel: "soniq_probe_" + rand.Text(), answers: make(chan string, 1), changed: make(chan struct{}, 1),
	}
}

// Connected and Notify are those of the probes' channel.
func (h *health) Connected(context.Context) {}

func (h *health) Notify(_ context.Context, payload string) {
	select {
	case <-h.answers: // of an earlier probe
	default:
	}
	select {
	case h.answers <- payload:
	default:
	}
}

// up: the listener listens on conn.
func (h *health) up(conn net.Conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.conn, h.tracked, h.proven, h.notified = conn, trackedOf(conn), false, time.Now()
	h.update()
	h.signal()
}

// down: the connection is gone. It returns why health closed it, if it did.
func (h *health) down() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	reason := h.closed
	h.conn, h.tracked, h.proven, h.closed = nil, nil, false, nil
	h.update()
	h.signal()
	return reason
}

// arrived: a notification has come.
func (h *health) arrived() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.notified = time.Now()
}

func (h *health) isHealthy() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.healthy
}

// update calls OnHealth if the health has changed. The caller holds mu, which keeps the
// calls in order.
func (h *health) update() {
	healthy := h.conn != nil && (h.probe == nil || h.proven)
	if healthy == h.healthy {
		return
	}
	h.healthy = healthy
	if h.onHealth != nil {
		h.onHealth(healthy)
	}
}

func (h *health) signal() {
	select {
	case h.changed <- struct{}{}:
	default:
	}
}

func (h *health) current() (conn net.Conn, tracked *trackedConn, proven bool, notified time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.conn, h.tracked, h.proven, h.notified
}

// watch makes the checks until ctx ends.
func (h *health) watch(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.changed:
		case <-timer.C:
		}
		timer.Reset(h.check(ctx))
	}
}

// check makes the checks that are due, and returns the delay until the next call.
func (h *health) check(ctx context.Context) time.Duration {
	conn, tracked, proven, notified := h.current()
	if conn == nil {
		return time.Hour // changed ends the wait
	}
	probing := time.Duration(0)
	if h.probe != nil {
		if proven {
			probing = time.Until(notified.Add(h.timing.probe))
		}
		if probing <= 0 {
			h.roundTrip(ctx, conn)
			if _, _, proven, _ = h.current(); !proven {
				return h.timing.reprobe
			}
			probing = h.timing.probe
		}
		// Programs that were started together must not probe together for ever.
		probing += time.Duration(mathrand.Float64() * 0.1 * float64(h.timing.probe))
	}
	pinging := time.Hour
	if tracked != nil {
		if pinging = time.Until(tracked.lastRead().Add(h.timing.ping)); pinging <= 0 {
			h.ping(ctx, conn, tracked)
			pinging = h.timing.ping
		}
	}
	if h.probe == nil {
		return pinging
	}
	return min(pinging, probing)
}

// Why health closes a connection.
var (
	errNoAnswer       = errors.New("the server does not answer on it")
	errNoNotification = errors.New("notifications no longer arrive on it")
)

// ping sends Sync, and closes the connection if the server doesn't answer.
func (h *health) ping(ctx context.Context, conn net.Conn, tracked *trackedConn) {
	count := tracked.readCount()
	late := time.AfterFunc(h.timing.answer, func() {
		// Nothing is read while a handler runs, so that proves nothing.
		if h.busy.Load() == 0 && !tracked.hasReadAfter(count) {
			h.close(conn, errNoAnswer)
		}
	})
	defer late.Stop()
	// If the write fails, so does the read of the connection.
	_, _ = conn.Write(syncMessage)
	timeout := time.NewTimer(h.timing.answer + time.Second)
	defer timeout.Stop()
	select {
	case <-ctx.Done():
	case <-tracked.readAfter(count):
	case <-timeout.C:
	}
}

// roundTrip sends a probe and waits for it.
func (h *health) roundTrip(ctx context.Context, conn net.Conn) {
	ctx, cancel := context.WithTimeout(ctx, h.timing.answer)
	defer cancel()
	h.sent++
	payload := strconv.Itoa(h.sent)
	if err := h.probe(ctx, h.channel, payload); err != nil {
		// That is a failure of the other connection.
		h.log.DebugContext(ctx, "sending a probe notification failed", "error", err)
		return
	}
	timer := time.NewTimer(h.timing.answer)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			if h.busy.Load() == 0 {
				h.missed(conn)
			}
			return
		case answer := <-h.answers:
			if answer == payload {
				h.proved(conn)
				return
			}
		}
	}
}

func (h *health) proved(conn net.Conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.conn != conn {
		return
	}
	h.proven = true
	if h.warned {
		h.warned = false
		h.log.Info("notifications arrive on the listener's connection")
	}
	h.update()
}

// missed handles a probe that has not arrived. A connection that delivered before is
// closed: the next one may deliver again. One that never delivered is kept, as another
// would not deliver either.
func (h *health) missed(conn net.Conn) {
	h.mu.Lock()
	current, proven := h.conn, h.proven
	h.mu.Unlock()
	switch {
	case current != conn:
	case proven:
		h.close(conn, errNoNotification)
	default:
		h.warn()
	}
}

// warn tells once that nothing arrives.
func (h *health) warn() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.warned {
		return
	}
	h.warned = true
	h.log.Warn("notifications don't arrive on the listener's connection: " +
		"a pooler in transaction mode is in between, or the connection leads to another database; " + h.meanwhile)
}

// close closes the connection. Its reader then finds it lost.
func (h *health) close(conn net.Conn, reason error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.conn != conn {
		return
	}
	h.closed = fmt.Errorf("close the connection: %w", reason)
	if h.tracked != nil {
		conn = h.tracked.Conn // a close of TLS sends an alert, which may block
	}
	_ = conn.Close()
}

// trackedOf returns the connection of our dialer under conn, or nil.
func trackedOf(conn net.Conn) *trackedConn {
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	c, _ := conn.(*trackedConn)
	return c
}
