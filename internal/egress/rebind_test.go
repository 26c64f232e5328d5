package egress

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"
)

// nameServer answers questions for IPv4 addresses with answers, one after the
// other, the last for ever. For IPv6 it has none.
func nameServer(t *testing.T, answers ...netip.Addr) (resolver *net.Resolver, asked *atomic.Int32) {
	t.Helper()
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	asked = &atomic.Int32{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return // closed
			}
			if n < 12 {
				continue
			}
			// The question ends four bytes after its name's empty label.
			end := 12
			for end < n && buf[end] != 0 {
				end += 1 + int(buf[end])
			}
			if end += 5; end > n {
				continue
			}
			reply := append([]byte{buf[0], buf[1], 0x85, 0x80, 0, 1, 0, 0, 0, 0, 0, 0}, buf[12:end]...)
			if binary.BigEndian.Uint16(buf[end-4:]) == 1 { // A
				i := min(int(asked.Add(1)), len(answers)) - 1
				address := answers[i].As4()
				reply[7] = 1
				// The name of the question, A, IN, no time to live, 4 bytes.
				reply = append(reply, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4)
				reply = append(reply, address[:]...)
			}
			_, _ = conn.WriteTo(reply, from)
		}
	}()
	t.Cleanup(func() {
		_ = conn.Close()
		<-done
	})
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp4", conn.LocalAddr().String())
	}}, asked
}

// Whoever owns the name can answer a check with one address and the dial with
// another.
func TestGuard_answerChangesAfterACheck_isRefused(t *testing.T) {
	t.Parallel()
	var reached atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Add(1) }))
	defer server.Close()
	_, port, err := net.SplitHostPort(server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	resolver, asked := nameServer(t, netip.MustParseAddr("93.184.216.34"), netip.MustParseAddr("127.0.0.1"))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	post := func(allow ...string) error {
		allowed, err := ParseNetworks(allow)
		if err != nil {
			t.Fatal(err)
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://rebind.test.:"+port+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		transport := NewTransport(allowed, resolver)
		resp, err := transport.RoundTrip(req)
		if err == nil {
			_ = resp.Body.Close()
		}
		return err
	}
	checked, err := resolver.LookupNetIP(ctx, "ip4", "rebind.test.")
	if err != nil || len(checked) != 1 || (guard{}).check(checked[0]) != nil {
		t.Fatalf("the check finds %v, %v", checked, err)
	}
	if err := post(); !errors.Is(err, ErrBlocked) {
		t.Errorf("%v", err)
	}
	if n := reached.Load(); n != 0 {
		t.Errorf("%d requests came through", n)
	}
	if asked.Load() < 2 {
		t.Error("the dial has not asked again")
	}
	// It is the address that was refused, and nothing else.
	if err := post("127.0.0.1"); err != nil || reached.Load() != 1 {
		t.Errorf("allowed: %v, %d requests", err, reached.Load())
	}
}
