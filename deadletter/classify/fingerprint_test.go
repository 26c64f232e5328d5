package classify

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestNormalise_putsPlaceholdersForWhatDiffers(t *testing.T) {
	t.Parallel()
	tests := []struct{ in, want string }{
		{"connection refused", "connection refused"},
		{"", ""},
		{"\n first \n second", "first"},
		{"a\t b\u00a0c", "a b c"},
		{"order 42 not found", "order <n> not found"},
		{"order42 has -1,234.50 left", "order<n> has <n> left"},
		{"job 550e8400-e29b-41d4-a716-446655440000 gone", "job <uuid> gone"},
		{"job_550E8400-E29B-41D4-A716-446655440000 gone", "job_<uuid> gone"},
		{"commit deadbeef12 missing", "commit <n> missing"},
		{"commit 12345678 missing", "commit <n> missing"},
		{"pointer 0xc000012340", "pointer <n>"},
		{`column "user_42" does not exist`, "column <s> does not exist"},
		{`unclosed "` + strings.Repeat("x ", 2000), "unclosed <s>"},
		{"key `a b` and 'c d'", "key <s> and <s>"},
		{"can't open, don't ask", "can't open, don't ask"},
		{"mail to jane.doe+x@mail.example.com bounced", "mail to <email> bounced"},
		{"read tcp 10.0.0.1:53412->10.0.0.2:5432: reset", "read tcp <ip>-><ip>: reset"},
		{"dial tcp [::1]:5432: refused", "dial tcp <ip>: refused"},
		{"dial fe80::1: refused", "dial <ip>: refused"},
		{"std::error in a::b", "std::error in a::b"},
		{"version 1.2.3", "version <n>"},
		{"open /var/lib/app/42.json: no such file", "open <path>: no such file"},
		{`open C:\Temp\x.txt: denied`, "open <path>: denied"},
		{"and/or", "and/or"},
		{"at 2026-11-23T10:15:00.123456Z it broke", "at <time> it broke"},
		{"at 2026-11-23 10:15:00+02:00 it broke", "at <time> it broke"},
		{"at 2026-11-23 10:15:00.5 +0000 UTC it broke", "at <time> it broke"},
		{"timed out after 1m30.5s", "timed out after <n>"},
		{"timed out after 300ms", "timed out after <n>"},
		{"charge ch_3MmlLrLkdIwHu7ix0snN0B15 failed", "charge ch_<n> failed"},
		{"ulid 01ARZ3NDEKTSV4RRFFQ69G5FAV", "ulid <n>"},
		{"internationalisationsupport", "internationalisationsupport"},
		{strings.Repeat("é", 300), strings.Repeat("é", 200)},
		{"bad \xff\x00 bytes", "bad \uFFFD\uFFFD bytes"},
	}
	for _, tt := range tests {
		if got := normalise(tt.in); got != tt.want {
			t.Errorf("%.60q: %q, want %q", tt.in, got, tt.want)
		}
	}
}

type grouped struct{ group, text string }

func (g grouped) Error() string       { return g.text }
func (g grouped) Fingerprint() string { return g.group }

func TestDecide_fingerprintGroupsEqualFailures(t *testing.T) {
	t.Parallel()
	of := func(a Attempt) string { return Decide(a).Fingerprint }
	stack := func(function string, line int) string {
		return fmt.Sprintf("goroutine 7 [running]:\nruntime/debug.Stack()\n\t/go/stack.go:26 +0x5e\n"+
			"engine.run.func1()\n\t/engine/run.go:%d +0x1d\npanic({0x1?, 0x2?})\n\t/go/panic.go:785 +0x132\n"+
			"runtime.goPanicIndex(0x5, 0x3)\n\t/go/panic.go:115 +0x74\n%s({0xc%08x, 0x3}, 0x5)\n\t/app/x.go:%d +0x1d\n"+
			"created by main.main in goroutine 1\n\t/app/main.go:10 +0x2\n", line, function, line, line)
	}
	base := Attempt{JobName: "emails.send", Attempt: 1, MaxAttempts: 3, Err: errors.New("user 42: mailbox full")}

	same := []struct {
		name string
		a, b Attempt
	}{
		{"another id", base, Attempt{JobName: "emails.send", Err: errors.New("user 1042: mailbox full")}},
		{"another attempt", base, Attempt{JobName: "emails.send", Attempt: 3, MaxAttempts: 3, Err: base.Err}},
		{"another second line", base, Attempt{JobName: "emails.send", Err: errors.New("user 7: mailbox full\ntrace 99")}},
		{
			"an override",
			Attempt{JobName: "x", Err: fmt.Errorf("a: %w", grouped{"quota", "one text"})},
			Attempt{JobName: "x", Err: grouped{"quota", "another"}, Kind: KindPanic},
		},
		{
			"a panic from another line",
			Attempt{JobName: "x", Kind: KindPanic, Message: "index out of range [5] with length 3", Stack: stack("main.cut", 12)},
			Attempt{JobName: "x", Kind: KindPanic, Message: "index out of range [9] with length 4", Stack: stack("main.cut", 99)},
		},
	}
	for _, tt := range same {
		if a, b := of(tt.a), of(tt.b); a != b {
			t.Errorf("%s: %s and %s", tt.name, a, b)
		}
	}

	differ := []struct {
		name string
		a, b Attempt
	}{
		{"another job", base, Attempt{JobName: "emails.read", Err: base.Err}},
		{"another text", base, Attempt{JobName: "emails.send", Err: errors.New("user 42: mailbox gone")}},
		{"another kind", base, Attempt{JobName: "emails.send", Err: base.Err, Kind: KindPanic}},
		{"another override", Attempt{Err: grouped{"quota", "x"}}, Attempt{Err: grouped{"limit", "x"}}},
		{
			"a panic elsewhere",
			Attempt{JobName: "x", Kind: KindPanic, Message: "boom", Stack: stack("main.cut", 12)},
			Attempt{JobName: "x", Kind: KindPanic, Message: "boom", Stack: stack("main.paste", 12)},
		},
	}
	for _, tt := range differ {
		if a, b := of(tt.a), of(tt.b); a == b {
			t.Errorf("%s: both are %s", tt.name, a)
		}
	}
	if !regexp.MustCompile(`^[0-9a-f]{16}$`).MatchString(of(base)) {
		t.Errorf("fingerprint %q", of(base))
	}
}

// The value is in databases: a change of it splits every group, and needs a new
// fingerprintVersion.
func TestDecide_fingerprintStaysTheSame(t *testing.T) {
	t.Parallel()
	got := Decide(Attempt{JobName: "emails.send", Err: errors.New("user 42: mailbox full")}).Fingerprint
	if want := "76f8250184450b71"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestDecide_hugeMessageIsQuick(t *testing.T) {
	t.Parallel()
	for name, unit := range map[string]string{
		"digits": "1234567890", "quotes": `"`, "spaces": " ", "paths": " /a/b", "colons": "a:",
		"at signs": "a@", "invalid": "\xff", "zeroes": "\x00", "lines": "\n",
	} {
		// The best of some tries, as other tests use the machine too.
		best := func(size int) time.Duration {
			err := errors.New(strings.Repeat(unit, size/len(unit)))
			best := time.Hour
			for range 7 {
				start := time.Now()
				Decide(Attempt{JobName: "x", Err: err})
				best = min(best, time.Since(start))
			}
			return best
		}
		// One pass over the whole takes 160 times as long for the longer one.
		if short, long := best(64<<10), best(10<<20); long > 30*short {
			t.Errorf("%s: 64 KiB take %s, 10 MiB %s", name, short, long)
		}
	}
}

func TestFrames_areTheInnermostCallsBelowThePanic(t *testing.T) {
	t.Parallel()
	stack := `goroutine 7 [running]:
runtime/debug.Stack()
	/go/src/runtime/debug/stack.go:26 +0x5e
soniq/engine.(*job).run.func1()
	/engine/run.go:10 +0x1d
panic({0x5?, 0x6?})
	/go/src/runtime/panic.go:785 +0x132
example.com/app.(*Cart[...]).total(...)
	/app/cart.go:31
example.com/app.checkout.func1.2({0x1, 0x2}, 0x3)
	/app/checkout.go:77 +0x44
main.handle()
	/app/main.go:5 +0x10
main.main()
	/app/main.go:1 +0x10
`
	want := []string{"example.com/app.(*Cart[...]).total", "example.com/app.checkout.func1.2", "main.handle"}
	if got := frames(stack); strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := frames("no stack at all\n(\n"); len(got) != 0 {
		t.Errorf("of no stack: %q", got)
	}
}
