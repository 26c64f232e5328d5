// Package egress keeps HTTP requests that somebody else chose from reaching this
// machine and its neighbours. Only public addresses are dialled, and those that are
// allowed:
//
//	name --> resolver --> address --> guard --> dial
//
// The guard sees the address that is dialled. A check of the name before would be worth
// nothing: the name can resolve to another address a moment later.
package egress

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"
)

// connectTimeout bounds a TCP connect, and a TLS handshake.
const connectTimeout = 10 * time.Second

// ErrBlocked ends a dial to an address that is neither public nor allowed.
var ErrBlocked = errors.New("is not a public address; allow it with --allow of the hook")

// ParseNetworks reads addresses and networks such as 10.0.0.0/8.
//
// Errors: the first text that is neither.
func ParseNetworks(texts []string) ([]netip.Prefix, error) {
	var networks []netip.Prefix
	for _, text := range texts {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			addr, addrErr := netip.ParseAddr(text)
			if addrErr != nil || addr.Zone() != "" {
				return nil, fmt.Errorf("%q is neither an address nor a network such as 10.0.0.0/8", text)
			}
			prefix = netip.PrefixFrom(addr, addr.BitLen())
		}
		// Addresses of IPv4 mapped into IPv6 are dialled as IPv4.
		if prefix.Addr().Is4In6() && prefix.Bits() >= 96 {
			prefix = netip.PrefixFrom(prefix.Addr().Unmap(), prefix.Bits()-96)
		}
		networks = append(networks, prefix.Masked())
	}
	return networks, nil
}

// NewTransport returns a transport that dials public addresses and those of allowed. It
// uses no proxy, which would resolve the name itself. resolver looks names up; nil is
// the machine's.
//
// Errors of its requests: [ErrBlocked] is wrapped.
func NewTransport(allowed []netip.Prefix, resolver *net.Resolver) *http.Transport {
	g := guard{allowed}
	return &http.Transport{
		DialContext:            (&net.Dialer{Timeout: connectTimeout, Control: g.control, Resolver: resolver}).DialContext,
		TLSHandshakeTimeout:    connectTimeout,
		DisableKeepAlives:      true,
		DisableCompression:     true, // an answer could inflate to more than is read
		MaxResponseHeaderBytes: 32 << 10,
		ForceAttemptHTTP2:      true,
	}
}

// guard decides where a request may go.
type guard struct{ allowed []netip.Prefix }

// control is a Control of net.Dialer.
func (g guard) control(_, address string, _ syscall.RawConn) error {
	target, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("dial %s: %w", address, ErrBlocked)
	}
	return g.check(target.Addr())
}

func (g guard) check(addr netip.Addr) error {
	// A zone only names a network interface of this machine.
	bare := addr.Unmap().WithZone("")
	for _, p := range g.allowed {
		if p.Contains(bare) {
			return nil
		}
	}
	if !isPublic(addr) {
		return fmt.Errorf("%s %w", bare, ErrBlocked)
	}
	return nil
}
