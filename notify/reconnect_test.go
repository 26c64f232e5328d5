package notify_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"soniq/internal/eventually"
	"soniq/internal/testdb"
	"soniq/notify"
)

func TestListener_reconnects_afterBackendKilled(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	r := newRecorder()
	l, _ := listen(t, config(pool), map[string]notify.Handler{notify.NewJob: r})
	r.expect(t, connected)

	for range 3 {
		exec(t, pool, killListeners)
		r.expect(t, connected) // first of all, so that the backlog is read
		eventually.True(t, "Connected() is true", l.Connected)
		exec(t, pool, `select pg_notify('soniq_new_job', 'later')`)
		r.expect(t, "later")
	}
	if n := listeners(t, pool); n != 1 {
		t.Errorf("%d listener sessions, want 1", n)
	}
}

func TestListener_recovers_afterServerKilledAndRestarted(t *testing.T) {
	t.Parallel()
	server := testdb.StartServer(t)
	r := newRecorder()
	var log journal
	cfg := elsewhere(t, server.URL())
	cfg.Logger = log.logger()
	cfg.MaxBackoff = 500 * time.Millisecond
	l, _ := listen(t, cfg, map[string]notify.Handler{notify.NewJob: r})
	r.expect(t, connected)

	if err := server.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually.True(t, "Connected() is false while the server is down", func() bool { return !l.Connected() })
	eventually.True(t, "it goes on trying", func() bool { return len(log.lines("level=DEBUG", "still has no connection")) >= 3 })
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.expect(t, connected)
	conn := connect(t, server.URL())
	if _, err := conn.Exec(t.Context(), `select pg_notify('soniq_new_job', 'after')`); err != nil {
		t.Fatal(err)
	}
	r.expect(t, "after")
}

// What is announced while nobody listens is gone: Connected must come after
// it, so that the one who then reads the table finds it.
func TestListener_jobCommittedWhileAway_seenByTheBacklogRead(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	cfg := config(pool)
	cfg.ConnConfig = cfg.ConnConfig.Copy()
	dial := cfg.ConnConfig.DialFunc
	var dials atomic.Int32
	lost, reopen := make(chan struct{}), make(chan struct{})
	cfg.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if dials.Add(1) == 2 {
			close(lost)
			select {
			case <-reopen:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		return dial(ctx, network, addr)
	}
	notified, backlog := newRecorder(), newRecorder()
	listen(t, cfg, map[string]notify.Handler{notify.NewJob: funcs{
		connected: func(ctx context.Context) {
			var n int
			err := pool.QueryRow(ctx, `select count(*) from soniq_jobs where status = 'queued'`).Scan(&n)
			backlog <- fmt.Sprint(n, err)
		},
		notify: notified.Notify,
	}})
	backlog.expect(t, "0 <nil>")

	exec(t, pool, killListeners)
	<-lost
	exec(t, pool, `insert into soniq_jobs (id, job_name, args) values (gen_random_uuid(), 'emails.send', '{}')`)
	close(reopen)
	backlog.expect(t, "1 <nil>") // the job that was not announced
	exec(t, pool, `select pg_notify('soniq_new_job', 'later')`)
	notified.expect(t, "later") // and not "default": that one was lost, as this test means it to be
}

func TestListener_listenNeverAnswered_givesUpAndDialsAgain(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	cfg := config(pool)
	cfg.ConnConfig = cfg.ConnConfig.Copy()
	cfg.ConnConfig.ConnectTimeout = 500 * time.Millisecond
	dial := cfg.ConnConfig.DialFunc
	var swallowed atomic.Bool
	cfg.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &deafConn{Conn: conn, swallowed: &swallowed}, nil
	}
	r := newRecorder()
	listen(t, cfg, map[string]notify.Handler{notify.NewJob: r})

	r.expect(t, connected)
	if !swallowed.Load() {
		t.Fatal("no LISTEN was swallowed: this test shows nothing")
	}
	exec(t, pool, `select pg_notify('soniq_new_job', 'emails')`)
	r.expect(t, "emails")
}

// deafConn loses the first LISTEN that is sent through any of its kind.
type deafConn struct {
	net.Conn
	swallowed *atomic.Bool
}

func (c *deafConn) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte("listen ")) && c.swallowed.CompareAndSwap(false, true) {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

func TestListener_longOutage_loggedOnceAndOnceOnRecovery(t *testing.T) {
	t.Parallel()
	const password = "hunter2-correct-horse"
	pool := testdb.New(t)
	var log journal
	cfg := config(pool)
	cfg.ConnConfig = cfg.ConnConfig.Copy()
	if cfg.ConnConfig.Password == "" {
		cfg.ConnConfig.Password = password
	}
	secret := cfg.ConnConfig.Password
	cfg.Logger = log.logger()
	cfg.MinBackoff = time.Millisecond
	cfg.MaxBackoff = 10 * time.Millisecond
	dial := cfg.ConnConfig.DialFunc
	var down atomic.Bool
	var refused atomic.Int32
	cfg.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if down.Load() {
			refused.Add(1)
			return nil, errors.New("no route to " + addr)
		}
		return dial(ctx, network, addr)
	}
	r := newRecorder()
	_, stop := listen(t, cfg, map[string]notify.Handler{notify.NewJob: r})
	r.expect(t, connected)
	if n := len(log.lines("level=WARN")) + len(log.lines("level=INFO")); n != 0 {
		t.Fatalf("%d log lines about a connection that came up at once, want none above debug:\n%s", n, &log)
	}

	for outage := 1; outage <= 2; outage++ {
		down.Store(true)
		before := refused.Load()
		exec(t, pool, killListeners)
		eventually.True(t, "ten attempts failed", func() bool { return refused.Load() >= before+10 })
		down.Store(false)
		r.expect(t, connected)
		if n := len(log.lines("level=WARN", "lost its connection", "error=")); n != outage {
			t.Errorf("%d warnings after %d outages:\n%s", n, outage, &log)
		}
		if n := len(log.lines("level=INFO", "connected again", "away=", "attempts=")); n != outage {
			t.Errorf("%d recoveries logged after %d outages:\n%s", n, outage, &log)
		}
	}
	stop()
	if n := len(log.lines("level=WARN")) + len(log.lines("level=ERROR")); n != 2 {
		t.Errorf("%d warnings and errors after two outages and a clean stop, want 2:\n%s", n, &log)
	}
	if strings.Contains(log.String(), secret) {
		t.Errorf("the log has the password:\n%s", &log)
	}
}

// pgx writes connection errors that name the user, the database and the
// address. This is to notice when it starts to write more.
func TestListener_wrongPassword_notInTheLog(t *testing.T) {
	t.Parallel()
	const password = "hunter2-correct-horse"
	refusing := fakeServer(t, func(conn net.Conn) {
		_, _ = conn.Read(make([]byte, 1024))
		_, _ = conn.Write(errorResponse("FATAL", "28P01", `password authentication failed for user "app"`))
	})
	var log journal
	cfg := elsewhere(t, "postgres://app:"+password+"@"+refusing+"/shop?sslmode=disable")
	cfg.Logger = log.logger()
	cfg.MaxBackoff = 100 * time.Millisecond
	listen(t, cfg, map[string]notify.Handler{notify.NewJob: newRecorder()})

	eventually.True(t, "the refusal is logged", func() bool {
		return len(log.lines("level=WARN", "can't connect", "password authentication failed", "28P01")) == 1
	})
	eventually.True(t, "it goes on trying", func() bool { return len(log.lines("level=DEBUG", "28P01")) > 0 })
	if strings.Contains(log.String(), password) {
		t.Errorf("the log has the password:\n%s", &log)
	}
}
