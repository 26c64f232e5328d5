package notify_test

import (
	"context"
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"soniq/internal/testdb"
	"soniq/notify"
)

func TestListener_deadPeer_noticedByTheKernelIn25Seconds(t *testing.T) {
	t.Parallel()
	cfg := config(testdb.New(t))
	cfg.ConnConfig = cfg.ConnConfig.Copy()
	dial := cfg.ConnConfig.DialFunc
	dialled := make(chan net.Conn, 10)
	cfg.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		dialled <- conn
		return conn, err
	}
	r := newRecorder()
	listen(t, cfg, map[string]notify.Handler{notify.NewJob: r})
	r.expect(t, connected)

	tcp, ok := (<-dialled).(*net.TCPConn)
	if !ok {
		t.Fatal("the test server is not reached through TCP")
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range []struct {
		name               string
		level, opt, expect int
	}{
		{"SO_KEEPALIVE", unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{"TCP_KEEPIDLE", unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 10},
		{"TCP_KEEPINTVL", unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 5},
		{"TCP_KEEPCNT", unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 3},
		{"TCP_USER_TIMEOUT", unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 25_000},
	} {
		var got int
		var optErr error
		err := raw.Control(func(fd uintptr) { got, optErr = unix.GetsockoptInt(int(fd), o.level, o.opt) })
		if err != nil || optErr != nil {
			t.Fatal(err, optErr)
		}
		if got != o.expect {
			t.Errorf("%s = %d, want %d", o.name, got, o.expect)
		}
	}
}
