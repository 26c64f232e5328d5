package hooks

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"syscall"
	"time"
)

// connectTimeout bounds a TCP connect, and a TLS handshake.
const connectTimeout = 10 * time.Second

// errBlocked ends a dial to an address that the hook must not reach.
var errBlocked = errors.New("is not a public address; allow it with --allow of the hook")

// guard decides where a request may go, by the address that is dialled. At that point
// the name is resolved, so a name that resolves to something else a moment later gains
// nothing.
type guard struct{ allowed []netip.Prefix }

// ParseNetworks reads addresses and networks such as 10.0.0.0/8, for [Config].Allow.
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

func newGuard(allow []string) (guard, error) {
	networks, err := ParseNetworks(allow)
	return guard{networks}, err
}

// control is a Control of net.Dialer.
func (g guard) control(_, address string, _ syscall.RawConn) error {
	target, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("dial %s: %w", address, errBlocked)
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
		return fmt.Errorf("%s %w", bare, errBlocked)
	}
	return nil
}

// newTransport connects to public addresses and those of g. It uses no proxy, which
// would resolve the name itself. resolver looks names up; nil is the machine's.
func newTransport(g guard, resolver *net.Resolver) *http.Transport {
	return &http.Transport{
		DialContext:            (&net.Dialer{Timeout: connectTimeout, Control: g.control, Resolver: resolver}).DialContext,
		TLSHandshakeTimeout:    connectTimeout,
		DisableKeepAlives:      true,
		DisableCompression:     true, // an answer could inflate to more than is read
		MaxResponseHeaderBytes: 32 << 10,
		ForceAttemptHTTP2:      true,
	}
}

// ParseURL reads the URL of a hook.
//
// Errors: for a person to read. They show nothing of the URL.
func ParseURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return nil, errors.New("the URL can't be read")
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, errors.New("the URL must begin with https:// or http://")
	case u.Hostname() == "":
		return nil, errors.New("the URL has no host")
	case !validPort(u.Port()):
		return nil, errors.New("the URL's port must be from 1 to 65535")
	case u.User != nil:
		return nil, errors.New("the URL must not hold a user name or password; use a header")
	}
	return u, nil
}

// validPort reports whether text is a port, or none.
func validPort(text string) bool {
	port, err := strconv.ParseUint(text, 10, 16)
	return text == "" || err == nil && port > 0
}
