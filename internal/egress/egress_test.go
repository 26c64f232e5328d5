package egress

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"testing"
)

func TestGuard_addresses(t *testing.T) {
	t.Parallel()
	allowed, err := ParseNetworks([]string{"10.1.0.0/16", "fd00::1"})
	if err != nil {
		t.Fatal(err)
	}
	g := guard{allowed}
	for text, want := range map[string]bool{
		"93.184.216.34": true, "2606:2800:220:1::1": true, "10.1.2.3": true, "fd00::1": true, "::ffff:10.1.2.3": true,
		"127.0.0.1": false, "::1": false, "10.2.0.1": false, "172.16.0.1": false, "192.168.1.1": false, "169.254.169.254": false,
		"::ffff:127.0.0.1": false, "::ffff:169.254.169.254": false, "0.0.0.0": false, "::": false, "100.64.0.1": false,
		"224.0.0.1": false, "255.255.255.255": false, "fe80::1": false, "fd00::2": false, "ff02::1": false,
		"64:ff9b::7f00:1": false, "2002:7f00:1::": false, "198.18.0.1": false, "240.0.0.1": false,
	} {
		if err := g.check(netip.MustParseAddr(text)); (err == nil) != want {
			t.Errorf("%s: %v, allowed should be %v", text, err, want)
		}
	}
}

// The guard sees the address that is dialled and no name, so an answer that
// changes after a check gains nothing: there is no check before the dial.
func TestGuard_nameThatResolvesToThisMachine_isRefused(t *testing.T) {
	t.Parallel()
	transport := NewTransport(nil, nil)
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://localhost:9/", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := transport.RoundTrip(req)
	if err == nil {
		_ = resp.Body.Close()
	}
	if !errors.Is(err, ErrBlocked) {
		t.Errorf("got %v", err)
	}
}
