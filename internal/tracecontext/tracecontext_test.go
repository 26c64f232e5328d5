package tracecontext

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

const (
	parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	zeros  = "00000000000000000000000000000000"
)

func TestNew_headers_areReadOrIgnored(t *testing.T) {
	t.Parallel()
	for _, try := range []struct{ parent, state, want string }{
		{parent, "", parent},
		{parent, "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7", parent + " congo=t61rcWkgMzE,rojo=00f067aa0ba902b7"},
		{parent, "1tenant@system=a b", parent + " 1tenant@system=a b"},
		{parent, " a=1 , ,b=2", parent + "  a=1 , ,b=2"},
		{parent, strings.Repeat("a", 255) + "=" + strings.Repeat("b", 256), parent + " " + strings.Repeat("a", 255) + "=" + strings.Repeat("b", 256)},
		// A bad tracestate leaves the traceparent.
		{parent, "a=1,a=2", parent},
		{parent, "nothing", parent},
		{parent, "A=1", parent},
		{parent, "=1", parent},
		{parent, "a=", parent},
		{parent, "1a=1", parent},
		{parent, "a=1=2", parent},
		{parent, "a=\x1b[31m", parent},
		{parent, "a=é", parent},
		{parent, ",", parent},
		{parent, strings.Repeat("a", 257) + "=1", parent},
		{parent, strings.Repeat("a=1,", 200), parent},
		{parent, "a=" + strings.Repeat("b", 511), parent},
		{parent, manyMembers(33), parent},
		{parent, manyMembers(32), parent + " " + manyMembers(32)},
		// A later version of the same length, and flags that have no meaning yet.
		{"cc" + parent[2:], "", "cc" + parent[2:]},
		{parent[:53] + "ff", "", parent[:53] + "ff"},
		// A bad traceparent is nothing.
		{"", "a=1", ""},
		{"ff" + parent[2:], "a=1", ""},
		{strings.ToUpper(parent), "", ""},
		{parent + "-extra", "", ""},
		{parent[:54], "", ""},
		{"00-" + zeros + "-00f067aa0ba902b7-01", "", ""},
		{"00-4bf92f3577b34da6a3ce929d0e0e4736-" + zeros[:16] + "-01", "", ""},
		{strings.ReplaceAll(parent, "-", "_"), "", ""},
		{strings.Repeat("x", 1<<20), "", ""},
		{parent[:53] + "0\n", "", ""},
	} {
		c := New(try.parent, try.state)
		if got := c.String(); got != try.want {
			t.Errorf("%.80q and %.80q are %.80q, want %.80q", try.parent, try.state, got, try.want)
		}
		if c.IsZero() != (try.want == "") {
			t.Errorf("%.80q: zero is %t", try.parent, c.IsZero())
		}
	}
}

func manyMembers(n int) string {
	var members []string
	for i := range n {
		members = append(members, fmt.Sprintf("k%d=1", i))
	}
	return strings.Join(members, ",")
}

func TestParse_column_isWhatStringWrote(t *testing.T) {
	t.Parallel()
	for _, c := range []Context{{}, New(parent, ""), New(parent, "a=1,b=2"), New(parent, "a="+strings.Repeat("b", 256)+",c="+strings.Repeat("d", 251))} {
		if got := Parse(c.String()); got != c {
			t.Errorf("%q is read as %q", c, got)
		}
		raw, err := json.Marshal(c)
		var back Context
		if err != nil || json.Unmarshal(raw, &back) != nil || back != c {
			t.Errorf("as JSON %s is %q, %v", raw, back, err)
		}
		if len(c.String()) > MaxBytes {
			t.Errorf("%d bytes", len(c.String()))
		}
	}
	for text, want := range map[string]string{
		parent + ",a=1": "", parent + "\ta=1": "", " " + parent: "", "null": "", parent + " ": parent,
		parent + " " + strings.Repeat("x", 500): parent, parent + " " + strings.Repeat("x", 513): "", "{}": "",
	} {
		if got := Parse(text).String(); got != want {
			t.Errorf("%.80q is read as %q, want %q", text, got, want)
		}
	}
}

// Not parallel: it counts allocations.
func TestContext_parts_areThoseOfTheHeader(t *testing.T) {
	c := New(parent, "a=1")
	if c.TraceID() != "4bf92f3577b34da6a3ce929d0e0e4736" || c.SpanID() != "00f067aa0ba902b7" || c.Parent() != parent || c.State() != "a=1" || !c.Sampled() {
		t.Errorf("%q, %q, %q, %q, %t", c.TraceID(), c.SpanID(), c.Parent(), c.State(), c.Sampled())
	}
	if New(parent[:53]+"00", "").Sampled() || New(parent[:53]+"02", "").Sampled() || !New(parent[:53]+"03", "").Sampled() {
		t.Error("the flag is read wrongly")
	}
	var none Context
	if none.TraceID() != "" || none.SpanID() != "" || none.Parent() != "" || none.Sampled() {
		t.Error("none has parts")
	}
	if n := testing.AllocsPerRun(100, func() { _ = Parse(""); _ = Parse(parent) }); n != 0 {
		t.Errorf("reading it allocates %v times", n)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(parent + " a=1")
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		c := Parse(text)
		if s := c.String(); len(s) > MaxBytes || Parse(s) != c || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' && r != '\t' || r > '~' }) {
			t.Errorf("%q is read as %q", text, s)
		}
	})
}
