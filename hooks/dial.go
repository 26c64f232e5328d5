package hooks

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"
)

const (
	connectTimeout = 10 * time.Second
	// sendTimeout bounds a whole request: within Standard Webhooks' 15 to 30 s.
	sendTimeout = 20 * time.Second
	// maxAnswer is how much of an answer is read and kept.
	maxAnswer = 2 << 10
)

// errBlocked ends a dial to an address that a hook must not reach.
var errBlocked = errors.New("is not a public address; allow it with --allow")

// special are the networks that are not the public internet, beside those that
// netip knows: who can have a request sent there reaches what only this machine
// or its neighbours should.
var special = networks(
	"0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15",
	"198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4",
	"100::/64", "2001::/23", "2001:db8::/32", "2002::/16", "64:ff9b::/96", "64:ff9b:1::/48", "fec0::/10", "5f00::/16",
)

func networks(texts ...string) (prefixes []netip.Prefix) {
	for _, text := range texts {
		prefixes = append(prefixes, netip.MustParsePrefix(text))
	}
	return prefixes
}

// guard decides, by the address that is dialled, where a request may go. It is
// asked after the name was resolved: a name that resolves to something else a
// moment later gains nothing.
type guard struct{ allowed []netip.Prefix }

func newGuard(allow []string) (guard, error) {
	var g guard
	for _, text := range allow {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			addr, addrErr := netip.ParseAddr(text)
			if addrErr != nil {
				return g, fmt.Errorf("%q is neither an address nor a network such as 10.0.0.0/8", text)
			}
			prefix = netip.PrefixFrom(addr, addr.BitLen())
		}
		g.allowed = append(g.allowed, prefix.Masked())
	}
	return g, nil
}

// control is for net.Dialer.
func (g guard) control(_, address string, _ syscall.RawConn) error {
	target, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("dial %s: %w", address, errBlocked)
	}
	return g.check(target.Addr())
}

func (g guard) check(addr netip.Addr) error {
	addr = addr.Unmap().WithZone("")
	for _, p := range g.allowed {
		if p.Contains(addr) {
			return nil
		}
	}
	public := addr.IsGlobalUnicast() && !addr.IsPrivate()
	for _, p := range special {
		public = public && !p.Contains(addr)
	}
	if !public {
		return fmt.Errorf("%s %w", addr, errBlocked)
	}
	return nil
}

// newTransport goes to public addresses and those of g. It asks no proxy: a
// proxy would resolve the name itself. Names are looked up by resolver; nil is
// the machine's.
func newTransport(g guard, resolver *net.Resolver) *http.Transport {
	return &http.Transport{
		DialContext:            (&net.Dialer{Timeout: connectTimeout, Control: g.control, Resolver: resolver}).DialContext,
		TLSHandshakeTimeout:    connectTimeout,
		DisableKeepAlives:      true,
		MaxResponseHeaderBytes: 32 << 10,
		ForceAttemptHTTP2:      true,
	}
}

// Resolve is text, or, if it is 'env:NAME', what that variable holds. The error
// names the variable only.
func Resolve(text string) (string, error) {
	name, ok := strings.CutPrefix(text, "env:")
	if !ok {
		return text, nil
	}
	value := os.Getenv(name)
	if value == "" {
		return "", &notSetError{name}
	}
	return value, nil
}

// notSetError is about a variable that may be set where another dispatcher
// runs.
type notSetError struct{ name string }

func (e *notSetError) Error() string { return "the variable " + e.name + " is not set" }

// ParseURL checks where a hook is to send to. Its errors show nothing of it.
func ParseURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return nil, errors.New("the URL can't be read")
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, errors.New("the URL must begin with https:// or http://")
	case u.Hostname() == "":
		return nil, errors.New("the URL has no host")
	case u.User != nil:
		return nil, errors.New("the URL must not hold a user name or password; use a header")
	}
	return u, nil
}
