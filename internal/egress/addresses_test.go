package egress

import (
	"math/rand/v2"
	"net/netip"
	"testing"
)

// Each block that is not public, by its first and last address and the
// neighbours of both. Neighbours that belong to another block say so.
func TestIsPublic_bordersOfEveryBlock(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		prefix        string
		before, after bool // whether the neighbours are public
	}{
		{"0.0.0.0/8", false, true},
		{"10.0.0.0/8", true, true},
		{"100.64.0.0/10", true, true},
		{"100.100.100.200/32", false, false},
		{"127.0.0.0/8", true, true},
		{"168.63.129.16/32", true, true},
		{"169.254.0.0/16", true, true},
		{"169.254.169.254/32", false, false},
		{"172.16.0.0/12", true, true},
		{"192.0.0.0/24", true, true},
		{"192.0.0.8/32", false, false},
		{"192.0.0.170/31", false, false},
		{"192.0.2.0/24", true, true},
		{"192.31.196.0/24", true, true},
		{"192.52.193.0/24", true, true},
		{"192.88.99.0/24", true, true},
		{"192.168.0.0/16", true, true},
		{"192.175.48.0/24", true, true},
		{"198.18.0.0/15", true, true},
		{"198.51.100.0/24", true, true},
		{"203.0.113.0/24", true, true},
		{"224.0.0.0/4", true, false},
		{"240.0.0.0/4", false, false},
		{"255.255.255.255/32", false, false},

		{"::/128", false, false},
		{"::1/128", false, false},
		{"::/96", false, false},
		{"::ffff:0:0:0/96", false, false},
		{"64:ff9b:1::/48", false, false},
		{"100::/64", false, false},
		{"100:0:0:1::/64", false, false},
		{"::/3", false, true},
		{"2001::/32", true, false},
		{"2001::/23", true, true},
		{"2001:1::1/128", false, false},
		{"2001:1::3/128", false, false},
		{"2001:2::/48", false, false},
		{"2001:3::/32", false, false},
		{"2001:4:112::/48", false, false},
		{"2001:10::/28", false, false},
		{"2001:20::/28", false, false},
		{"2001:30::/28", false, false},
		{"2001:db8::/32", true, true},
		{"2002::/16", true, true},
		{"2620:4f:8000::/48", true, true},
		{"3fff::/20", true, true},
		{"4000::/3", true, false},
		{"5f00::/16", false, false},
		{"fc00::/7", false, false},
		{"fd00:ec2::254/128", false, false},
		{"fd20:ce::254/128", false, false},
		{"fe80::/10", false, false},
		{"fec0::/10", false, false},
		{"ff00::/8", false, false},
	} {
		p := netip.MustParsePrefix(c.prefix)
		first, last := p.Addr(), lastOf(p)
		for _, addr := range []netip.Addr{first, last} {
			if isPublic(addr) {
				t.Errorf("%s of %s is taken for public", addr, p)
			}
		}
		if before := first.Prev(); before.IsValid() && isPublic(before) != c.before {
			t.Errorf("%s, before %s: public is %v", before, p, !c.before)
		}
		if after := last.Next(); after.IsValid() && isPublic(after) != c.after {
			t.Errorf("%s, after %s: public is %v", after, p, !c.after)
		}
	}
}

func lastOf(p netip.Prefix) netip.Addr {
	raw := p.Addr().AsSlice()
	for bit := p.Bits(); bit < len(raw)*8; bit++ {
		raw[bit/8] |= 0x80 >> (bit % 8)
	}
	addr, _ := netip.AddrFromSlice(raw)
	return addr
}

func TestIsPublic_someAddresses(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"1.1.1.1": true, "93.184.216.34": true, "223.255.255.255": true,
		"2606:2800:220:1::1": true, "2000::": true, "3ffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff": true, "2a00:1450::1": true,
		// Mapped and translated: judged by what is inside.
		"::ffff:93.184.216.34": true, "64:ff9b::5db8:d822": true,
		"::ffff:127.0.0.1": false, "::ffff:169.254.169.254": false, "64:ff9b::7f00:1": false, "64:ff9b::a9fe:a9fe": false, "64:ff9b::a83f:8110": false,
		// A public address inside doesn't help where the block is refused.
		"::93.184.216.34": false, "::ffff:0:5db8:d822": false, "64:ff9b:1::5db8:d822": false,
		"2002:5db8:d822::1": false, "2001:0:5db8:d822::1": false,
		// A zone is of this machine.
		"fe80::1%eth0": false, "2606:2800:220:1::1%eth0": false,
	} {
		if got := isPublic(netip.MustParseAddr(text)); got != want {
			t.Errorf("%s: public is %v, want %v", text, got, want)
		}
	}
	if isPublic(netip.Addr{}) {
		t.Error("no address is taken for public")
	}
}

// What is public is global unicast, of neither family special by netip's own
// judgement, the same when it is mapped or translated, and no network that is
// wholly public has an address that isn't.
func TestIsPublic_properties(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	check := func(addr netip.Addr) {
		t.Helper()
		public := isPublic(addr)
		bare := addr.Unmap()
		if public && (!bare.IsGlobalUnicast() || bare.IsPrivate() || bare.IsLoopback() || bare.IsLinkLocalUnicast() || bare.IsMulticast()) {
			t.Fatalf("%s is taken for public", addr)
		}
		if bare.Is4() {
			raw := bare.As4()
			inside := translated.Addr().As16()
			copy(inside[12:], raw[:])
			mapped := netip.AddrFrom16(bare.As16())
			if isPublic(mapped) != public || isPublic(netip.AddrFrom16(inside)) != public {
				t.Fatalf("%s is judged in another way inside of IPv6", addr)
			}
		} else if public && !globalUnicast.Contains(addr) && !translated.Contains(addr) {
			t.Fatalf("%s is outside of %s", addr, globalUnicast)
		}
		p, err := bare.Prefix(r.IntN(bare.BitLen() + 1))
		if err != nil {
			t.Fatal(err)
		}
		if AllPublic(p) && (!isPublic(bare) || !isPublic(p.Addr()) || !isPublic(lastOf(p))) {
			t.Fatalf("%s is taken for wholly public", p)
		}
	}
	for range 200_000 {
		var raw [16]byte
		for i := range raw {
			raw[i] = byte(r.Uint32())
		}
		check(netip.AddrFrom4([4]byte(raw[:4])))
		check(netip.AddrFrom16(raw))
		raw[0] = 0x20 | raw[0]&0x1f // inside of 2000::/3
		check(netip.AddrFrom16(raw))
		copy(raw[:12], translated.Addr().AsSlice())
		check(netip.AddrFrom16(raw))
	}
}

// No network that is wholly public is wider than what is between two blocks.
func TestAllPublic_networks(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"93.184.216.0/24": true, "8.0.0.0/7": true, "0.0.0.0/0": false, "128.0.0.0/1": false, "168.63.129.0/24": false, "10.1.0.0/16": false,
		"2606:2800::/32": true, "::/0": false, "2000::/3": false, "2001:db8:1::/48": false, "fd00::/8": false, "64:ff9b::/96": false,
	} {
		if got := AllPublic(netip.MustParsePrefix(text)); got != want {
			t.Errorf("%s: wholly public is %v, want %v", text, got, want)
		}
	}
}
