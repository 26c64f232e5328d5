package egress

import "net/netip"

// A block is a range of addresses that does not belong to the public internet.
type block struct {
	prefix netip.Prefix
	name   string
}

// special are the blocks that a request must not reach unless they are allowed.
// Sources, as of 2025-10-09:
//
//   - IANA IPv4 Special-Purpose Address Registry (RFC 6890, RFC 8190)
//   - IANA IPv6 Special-Purpose Address Registry (RFC 6890, RFC 8190)
//   - IANA IPv4 Multicast Address Space Registry
//   - addresses at which clouds serve their machines; no registry has them
//
// Every entry of the two special-purpose registries is here, even those that are
// globally reachable: no endpoint of a hook is an AMT relay or an AS112 sink. The one
// exception is 64:ff9b::/96; see isPublic.
var special = []block{
	{netip.MustParsePrefix("0.0.0.0/8"), "this network"},
	{netip.MustParsePrefix("10.0.0.0/8"), "private use"},
	{netip.MustParsePrefix("100.64.0.0/10"), "shared address space"},
	{netip.MustParsePrefix("127.0.0.0/8"), "loopback"},
	{netip.MustParsePrefix("169.254.0.0/16"), "link local; metadata of clouds at .169.254"},
	{netip.MustParsePrefix("172.16.0.0/12"), "private use"},
	{netip.MustParsePrefix("192.0.0.0/24"), "IETF protocol assignments, with all that is assigned in it"},
	{netip.MustParsePrefix("192.0.2.0/24"), "documentation (TEST-NET-1)"},
	{netip.MustParsePrefix("192.31.196.0/24"), "AS112-v4"},
	{netip.MustParsePrefix("192.52.193.0/24"), "AMT"},
	{netip.MustParsePrefix("192.88.99.0/24"), "deprecated 6to4 relay anycast"},
	{netip.MustParsePrefix("192.168.0.0/16"), "private use"},
	{netip.MustParsePrefix("192.175.48.0/24"), "direct delegation AS112 service"},
	{netip.MustParsePrefix("198.18.0.0/15"), "benchmarking"},
	{netip.MustParsePrefix("198.51.100.0/24"), "documentation (TEST-NET-2)"},
	{netip.MustParsePrefix("203.0.113.0/24"), "documentation (TEST-NET-3)"},
	{netip.MustParsePrefix("224.0.0.0/4"), "multicast"},
	{netip.MustParsePrefix("240.0.0.0/4"), "reserved, and limited broadcast"},

	{netip.MustParsePrefix("168.63.129.16/32"), "Azure: the host of a virtual machine"},

	// Of IPv6 everything outside 2000::/3 is refused without a table.
	{netip.MustParsePrefix("2001::/23"), "IETF protocol assignments: Teredo, benchmarking, AMT, AS112-v6, ORCHID, DRIP and more"},
	{netip.MustParsePrefix("2001:db8::/32"), "documentation"},
	{netip.MustParsePrefix("2002::/16"), "6to4"},
	{netip.MustParsePrefix("2620:4f:8000::/48"), "direct delegation AS112 service"},
	{netip.MustParsePrefix("3fff::/20"), "documentation"},
}

var (
	// globalUnicast is what IANA allocates as global unicast.
	globalUnicast = netip.MustParsePrefix("2000::/3")
	// translated is the well-known prefix by which a machine without IPv4 reaches IPv4
	// (RFC 6052). The address inside counts.
	translated = netip.MustParsePrefix("64:ff9b::/96")
)

// isPublic reports whether addr is on the public internet. An IPv4 address inside an
// IPv6 address counts as itself where every system agrees on its meaning: mapped, and
// translated by the well-known prefix. Elsewhere it is refused: compatible, 6to4,
// Teredo, local translation.
func isPublic(addr netip.Addr) bool {
	if addr.Zone() != "" {
		return false
	}
	addr = addr.Unmap()
	if translated.Contains(addr) {
		raw := addr.As16()
		addr = netip.AddrFrom4([4]byte(raw[12:]))
	}
	if !addr.IsValid() || addr.Is6() && !globalUnicast.Contains(addr) {
		return false
	}
	for _, b := range special {
		if b.prefix.Contains(addr) {
			return false
		}
	}
	return true
}

// AllPublic reports whether every address of p is public.
func AllPublic(p netip.Prefix) bool {
	if p.Addr().Is6() && !(globalUnicast.Contains(p.Addr()) && p.Bits() >= globalUnicast.Bits()) {
		return false
	}
	for _, b := range special {
		if b.prefix.Overlaps(p) {
			return false
		}
	}
	return true
}
