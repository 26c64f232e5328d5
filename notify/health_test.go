package notify_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/internal/eventually"
	"soniq/internal/testdb"
	"soniq/notify"
)

// hole is a switch: connections dialled through it fall silent when it is on,
// both ways and without a word, as through a firewall that forgot them.
type hole struct {
	on    atomic.Bool
	syncs atomic.Int32
}

func (h *hole) into(cfg notify.Config) notify.Config {
	cfg.ConnConfig = cfg.ConnConfig.Copy()
	dial := cfg.ConnConfig.DialFunc
	cfg.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &holeConn{conn, h}, nil
	}
	return cfg
}

type holeConn struct {
	net.Conn
	hole *hole
}

func (c *holeConn) Write(p []byte) (int, error) {
	if bytes.Equal(p, []byte{'S', 0, 0, 0, 4}) {
		c.hole.syncs.Add(1)
	}
	if c.hole.on.Load() {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

func (c *holeConn) Read(p []byte) (int, error) {
	for {
		n, err := c.Conn.Read(p)
		if err != nil || !c.hole.on.Load() {
			return n, err
		}
	}
}

// through probes through pool.
func through(pool *pgxpool.Pool) func(context.Context, string, string) error {
	return func(ctx context.Context, channel, payload string) error {
		_, err := pool.Exec(ctx, `select pg_notify($1, $2)`, channel, payload)
		return err
	}
}

// healthOf records the calls of OnHealth.
func healthOf(cfg *notify.Config) chan bool {
	health := make(chan bool, 100)
	cfg.OnHealth = func(healthy bool) { health <- healthy }
	return health
}

func expectHealth(t *testing.T, health <-chan bool, want bool) {
	t.Helper()
	select {
	case got := <-health:
		if got != want {
			t.Fatalf("the listener says healthy: %t, want %t", got, want)
		}
	case <-time.After(patience):
		t.Fatalf("the listener did not say healthy: %t within %s", want, patience)
	}
}

// listenPaced is listen for a listener with shorter times.
func listenPaced(t *testing.T, cfg notify.Config, r notify.Handler, ping, answer, probe, reprobe time.Duration) *notify.Listener {
	t.Helper()
	l, _ := listen(t, cfg, map[string]notify.Handler{notify.NewJob: r}, func(l *notify.Listener) {
		l.Pace(ping, answer, probe, reprobe)
	})
	return l
}

func TestListener_connectionFallsSilent_isCutAndReplaced(t *testing.T) {
	t.Parallel()
	if d := notify.NoticedWithin(); d > 15*time.Second {
		t.Errorf("a silent connection is noticed after %s, want 15 s", d)
	}
	pool := testdb.New(t)
	var hole hole
	var log journal
	cfg := hole.into(config(pool))
	cfg.Logger = log.logger()
	cfg.MaxBackoff = 100 * time.Millisecond
	health := healthOf(&cfg)
	r := newRecorder()
	l := listenPaced(t, cfg, r, 50*time.Millisecond, 300*time.Millisecond, 0, 0)
	r.expect(t, connected)
	expectHealth(t, health, true)
	eventually.True(t, "some pings", func() bool { return hole.syncs.Load() >= 3 })
	if !l.Healthy() {
		t.Error("pings that are answered made it unhealthy")
	}

	hole.on.Store(true)
	expectHealth(t, health, false)
	hole.on.Store(false)
	expectHealth(t, health, true)
	r.expect(t, connected)
	exec(t, pool, `select pg_notify('soniq_new_job', 'later')`)
	r.expect(t, "later")
	if n := len(log.lines("level=WARN", "does not answer")); n != 1 {
		t.Errorf("%d warnings that name the cause, want 1:\n%s", n, &log)
	}
}

// What it reads proves that the connection lives: no ping is sent meanwhile.
func TestListener_traffic_sparesPingAndProbe(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	var hole hole
	var probes atomic.Int32
	cfg := hole.into(config(pool))
	cfg.Probe = func(ctx context.Context, channel, payload string) error {
		probes.Add(1)
		return through(pool)(ctx, channel, payload)
	}
	health := healthOf(&cfg)
	r := newRecorder()
	// Longer than a notification takes on a busy machine.
	const pause = 3 * time.Second
	listenPaced(t, cfg, r, pause, pause, pause, pause)
	r.expect(t, connected)
	expectHealth(t, health, true)
	for begun := time.Now(); time.Since(begun) < 2*pause; {
		exec(t, pool, `select pg_notify('soniq_new_job', 'x'), pg_sleep(0.05)`)
		r.expect(t, "x")
	}
	if p, s := probes.Load(), hole.syncs.Load(); p != 1 || s != 0 {
		t.Errorf("%d probes and %d pings, want the first probe alone", p, s)
	}
}

func TestListener_probeNeverArrives_warnsOnceAndRecovers(t *testing.T) {
	t.Parallel()
	pool, elsewhere := testdb.New(t), testdb.New(t)
	var wrong atomic.Bool
	wrong.Store(true)
	var log journal
	cfg := config(pool)
	cfg.Logger = log.logger()
	var probes atomic.Int32
	cfg.Probe = func(ctx context.Context, channel, payload string) error {
		probes.Add(1)
		if wrong.Load() {
			// As behind a pooler: accepted, and never delivered.
			return through(elsewhere)(ctx, channel, payload)
		}
		return through(pool)(ctx, channel, payload)
	}
	health := healthOf(&cfg)
	r := newRecorder()
	l := listenPaced(t, cfg, r, 0, 100*time.Millisecond, time.Minute, 10*time.Millisecond)
	r.expect(t, connected)
	eventually.True(t, "three probes", func() bool { return probes.Load() > 3 })
	if l.Healthy() || !l.Connected() {
		t.Errorf("healthy: %t, connected: %t", l.Healthy(), l.Connected())
	}
	if n := listeners(t, pool); n != 1 {
		t.Errorf("%d sessions: one that never delivered is kept", n)
	}
	wrong.Store(false)
	expectHealth(t, health, true)
	if n, m := len(log.lines("level=WARN")), len(log.lines("level=WARN", "pooler")); n != 1 || m != 1 {
		t.Errorf("%d warnings, %d of them name the cause, want one:\n%s", n, m, &log)
	}
	if n := len(log.lines("level=INFO", "notifications arrive")); n != 1 {
		t.Errorf("the recovery was logged %d times:\n%s", n, &log)
	}
}

// A connection that delivered and no longer does is replaced.
func TestListener_notificationsStop_connectionIsReplaced(t *testing.T) {
	t.Parallel()
	pool, elsewhere := testdb.New(t), testdb.New(t)
	var wrong atomic.Bool
	cfg := config(pool)
	cfg.MaxBackoff = 100 * time.Millisecond
	cfg.Probe = func(ctx context.Context, channel, payload string) error {
		if wrong.CompareAndSwap(true, false) {
			return through(elsewhere)(ctx, channel, payload)
		}
		return through(pool)(ctx, channel, payload)
	}
	health := healthOf(&cfg)
	r := newRecorder()
	listenPaced(t, cfg, r, 0, time.Second, 20*time.Millisecond, 10*time.Millisecond)
	r.expect(t, connected)
	expectHealth(t, health, true)
	wrong.Store(true)
	expectHealth(t, health, false)
	expectHealth(t, health, true)
	r.expect(t, connected)
}

// The pool may be in use: that says nothing of the listener's connection.
func TestListener_probeCantBeSent_isNoVerdict(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	var broken atomic.Bool
	var failures atomic.Int32
	var log journal
	cfg := config(pool)
	cfg.Logger = log.logger()
	cfg.Probe = func(ctx context.Context, channel, payload string) error {
		if broken.Load() {
			failures.Add(1)
			return errors.New("all connections are in use")
		}
		return through(pool)(ctx, channel, payload)
	}
	health := healthOf(&cfg)
	r := newRecorder()
	l := listenPaced(t, cfg, r, 0, time.Second, 10*time.Millisecond, 10*time.Millisecond)
	r.expect(t, connected)
	expectHealth(t, health, true)
	broken.Store(true)
	eventually.True(t, "some probes that could not be sent", func() bool { return failures.Load() > 3 })
	if !l.Healthy() || len(log.lines("level=WARN")) != 0 {
		t.Errorf("healthy: %t\n%s", l.Healthy(), &log)
	}
}

// A handler that takes its time keeps the answer from being read.
func TestListener_slowHandler_isNotTakenForDead(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	var hole hole
	cfg := hole.into(config(pool))
	health := healthOf(&cfg)
	entered, leave := make(chan struct{}), make(chan struct{})
	recorded := newRecorder()
	slow := funcs{connected: recorded.Connected, notify: func(_ context.Context, p string) {
		if p == "slow" {
			close(entered)
			<-leave
		}
		recorded <- p
	}}
	listenPaced(t, cfg, slow, 20*time.Millisecond, 50*time.Millisecond, 0, 0)
	recorded.expect(t, connected)
	expectHealth(t, health, true)
	exec(t, pool, `select pg_notify('soniq_new_job', 'slow')`)
	<-entered
	before := hole.syncs.Load()
	eventually.True(t, "pings that nobody reads the answers of", func() bool { return hole.syncs.Load() >= before+3 })
	close(leave)
	recorded.expect(t, "slow")
	exec(t, pool, `select pg_notify('soniq_new_job', 'later')`)
	recorded.expect(t, "later")
	if len(health) != 0 {
		t.Error("the connection was given up")
	}
}
