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

// A connection can be up in name only, and a listener, which only waits, would
// not notice. Two checks find it out:
//
//	ping   does the server answer?        each 10 s, on the connection itself
//	probe  do notifications arrive here?  on each new connection, then each 60 s
//
// The ping is the protocol's Sync message, to which a server that is at rest
// says ReadyForQuery. It is no statement: the one who waits for notifications
// passes over the answer, and the server has next to nothing to do. It finds
// half-open connections, and proxies that swallow what they are sent.
//
// The probe is a notification to a channel of the listener's own, sent by
// another way (Config.Probe). It finds a pooler in transaction mode, which
// accepts LISTEN and never delivers, and a connection that leads to another
// database than the one that is worked on. Each is a NOTIFY, which costs the
// whole database a little, so none is sent while notifications come anyhow.
type timing struct {
	ping, answer, probe, reprobe time.Duration
}

// A peer that doesn't answer is noticed within ping + answer. reprobe is the
// pace while notifications don't arrive.
var realTiming = timing{
	ping: 10 * time.Second, answer: 5 * time.Second, probe: time.Minute, reprobe: 10 * time.Second,
}

// syncMessage is the Sync message of the protocol.
var syncMessage = []byte{'S', 0, 0, 0, 4}

// health is what is known of a listener's connection. The session says when
// there is one, its readers what came, and watch judges.
type health struct {
	log      *slog.Logger
	probe    func(ctx context.Context, channel, payload string) error // the user's, or nil
	onHealth func(healthy bool)                                       // the user's, or nil
	timing   timing
	channel  string // of the probes
	answers  chan string
	changed  chan struct{} // readable when the connection is another one
	// busy counts the handlers that run: nothing is read meanwhile.
	busy atomic.Int32

	mu      sync.Mutex
	conn    net.Conn // nil: there is none
	call    *call    // conn without TLS; nil where it isn't ours
	proven  bool     // a probe has arrived on conn
	heardAt time.Time
	cut     error // why conn was hung up
	healthy bool
	warned  bool
	sent    int
}

func newHealth(l *Listener) *health {
	return &health{
		log: l.cfg.Logger, probe: l.cfg.Probe, onHealth: l.cfg.OnHealth, timing: l.timing,
		channel: "soniq_probe_" + rand.Text(), answers: make(chan string, 1), changed: make(chan struct{}, 1),
	}
}

// Connected and Notify are those of the probes' channel.
func (h *health) Connected(context.Context) {}

func (h *health) Notify(_ context.Context, payload string) {
	select {
	case <-h.answers: // one that nobody waits for any more
	default:
	}
	select {
	case h.answers <- payload:
	default:
	}
}

// up says that the listener listens on conn.
func (h *health) up(conn net.Conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.conn, h.call, h.proven, h.heardAt = conn, callOf(conn), false, time.Now()
	h.judge()
	h.signal()
}

// down says that there is no connection any more, and returns why it was cut,
// if it was.
func (h *health) down() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	cut := h.cut
	h.conn, h.call, h.proven, h.cut = nil, nil, false, nil
	h.judge()
	h.signal()
	return cut
}

// arrived says that some notification came.
func (h *health) arrived() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.heardAt = time.Now()
}

func (h *health) isHealthy() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.healthy
}

// judge tells the user of a change. It is called under mu, so that what is
// told is in order.
func (h *health) judge() {
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

func (h *health) current() (conn net.Conn, call *call, proven bool, heardAt time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.conn, h.call, h.proven, h.heardAt
}

// watch checks the connection until ctx ends.
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

// check makes the check that is due, if one is, and returns when to come back.
func (h *health) check(ctx context.Context) time.Duration {
	conn, call, proven, heardAt := h.current()
	if conn == nil {
		return time.Hour // or sooner, when there is one
	}
	probing := time.Duration(0)
	if h.probe != nil {
		if proven {
			probing = time.Until(heardAt.Add(h.timing.probe))
		}
		if probing <= 0 {
			h.roundTrip(ctx, conn)
			if _, _, proven, _ = h.current(); !proven {
				return h.timing.reprobe
			}
			probing = h.timing.probe
		}
		// A fleet that was started at once should not probe at once for ever.
		probing += time.Duration(mathrand.Float64() * 0.1 * float64(h.timing.probe))
	}
	pinging := time.Hour
	if call != nil {
		if pinging = time.Until(call.lastRead().Add(h.timing.ping)); pinging <= 0 {
			h.ping(ctx, conn, call)
			pinging = h.timing.ping
		}
	}
	if h.probe == nil {
		return pinging
	}
	return min(pinging, probing)
}

// errNoAnswer is why a connection is cut; errNoNotification too.
var (
	errNoAnswer       = errors.New("the server does not answer on it")
	errNoNotification = errors.New("notifications no longer arrive on it")
)

// ping asks the server for a sign of life, and cuts a connection that gives
// none.
func (h *health) ping(ctx context.Context, conn net.Conn, call *call) {
	read := call.read() // of what is read from here on
	late := time.AfterFunc(h.timing.answer, func() {
		// Nothing is read while a handler runs: that is no proof.
		if h.busy.Load() == 0 && !call.readSince(read) {
			h.hangUp(conn, errNoAnswer)
		}
	})
	defer late.Stop()
	// A write that fails shows up where the connection is read.
	_, _ = conn.Write(syncMessage)
	timeout := time.NewTimer(h.timing.answer + time.Second)
	defer timeout.Stop()
	select {
	case <-ctx.Done():
	case <-call.heard(read):
	case <-timeout.C:
	}
}

// roundTrip sends a notification and waits for it.
func (h *health) roundTrip(ctx context.Context, conn net.Conn) {
	ctx, cancel := context.WithTimeout(ctx, h.timing.answer)
	defer cancel()
	h.sent++
	payload := strconv.Itoa(h.sent)
	if err := h.probe(ctx, h.channel, payload); err != nil {
		// That is about the other way, and tells nothing of this one.
		h.log.DebugContext(ctx, "can't send a notification to see whether it arrives", "error", err)
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
	h.judge()
}

// missed judges a connection on which a probe has not arrived. One that
// delivered before is cut: the next may do better. One that never did is
// kept, since another would be no better.
func (h *health) missed(conn net.Conn) {
	h.mu.Lock()
	was, proven := h.conn, h.proven
	if was != conn {
		h.mu.Unlock()
		return
	}
	if !proven && !h.warned {
		h.warned = true
		h.log.Warn("notifications don't arrive on the listener's connection, though it was allowed to LISTEN: " +
			"a pooler in transaction mode is in between, or it leads to another database; " +
			"until they do, new jobs are found by polling (listen on a direct connection)")
	}
	h.mu.Unlock()
	if proven {
		h.hangUp(conn, errNoNotification)
	}
}

// hangUp cuts the connection, which its reader then sees as lost.
func (h *health) hangUp(conn net.Conn, why error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.conn != conn {
		return
	}
	h.cut = fmt.Errorf("cut the connection: %w", why)
	if h.call != nil {
		conn = h.call.Conn // without TLS's goodbye, which may block
	}
	_ = conn.Close()
}

// callOf returns the call under conn, or nil.
func callOf(conn net.Conn) *call {
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	c, _ := conn.(*call)
	return c
}
