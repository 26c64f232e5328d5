package notify_test

import (
	"context"
	"net"
	"sync/atomic"
	"testing"

	"soniq/internal/testdb"
	"soniq/internal/testkit"
	"soniq/notify"
)

// PgBouncer 1.18 ends if who sent such a request is gone before it is passed on.
func TestListener_losesItsConnection_sendsNoCancelRequest(t *testing.T) {
	t.Parallel()
	url := testdb.NewURL(t)
	proxy := testkit.StartProxy(t, url)
	cfg := elsewhere(t, proxy.Through(t, url))
	var dials atomic.Int32
	dial := cfg.ConnConfig.DialFunc
	cfg.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		dials.Add(1)
		return dial(ctx, network, addr)
	}
	r := newRecorder()
	_, stop := listen(t, cfg, map[string]notify.Handler{"c": r})
	r.expect(t, connected)
	proxy.Cut()
	r.expect(t, connected)
	stop()
	if n := dials.Load(); n != 2 {
		t.Errorf("a listener that lost its connection once dialled %d times", n)
	}
}
