package classify

import (
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"regexp"
	"strings"

	"soniq/internal/pg"
)

const (
	// fingerprintVersion goes into the hash, so that a later way to make
	// fingerprints can't meet this one's by chance.
	fingerprintVersion = "v1"
	// rawBytes is how much of a message is normalised. It bounds the work on
	// a message of any length, and is more than normalisedRunes even where
	// most of it shrinks to placeholders.
	rawBytes = 1 << 10
	// normalisedRunes is how much of the outcome counts: the end of a long
	// message is often a dump of the input.
	normalisedRunes = 200
	// stackFrames is how many calls of a panic's stack count: enough to tell
	// two panics of one message apart, few enough to stay the same when a
	// caller changes.
	stackFrames = 3
)

// fingerprint hashes what two failures with one cause have in common. own is what an
// error's method Fingerprint() string returns, and replaces all but the job's name.
func fingerprint(a Attempt, v Verdict, own string) string {
	parts := []string{fingerprintVersion, a.JobName}
	if own != "" {
		parts = append(parts, "own", own)
	} else {
		parts = append(parts, string(v.Kind), v.Type, v.Code, normalise(v.Message))
		if v.Kind == KindPanic {
			parts = append(parts, frames(a.Stack)...)
		}
	}
	sum := sha256.Sum256([]byte(strings.Join(parts, "|")))
	return hex.EncodeToString(sum[:8])
}

// The order matters: each pattern sees what the ones before it left. Numbers
// and hexadecimal ids share a placeholder because some ids have only digits.
// They are compiled once and never change.
var (
	quotedText = regexp.MustCompile("\"[^\"]*(?:\"|$)|`[^`]*(?:`|$)")
	// An apostrophe inside a word is none.
	apostrophes = regexp.MustCompile(`(^|[\s(\[{=:,])'[^']*'`)
	timestamps  = regexp.MustCompile(`\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?: ?(?:[Zz]\b|[+-]\d\d:?(?:\d\d)?))?(?: [A-Z]{3,4}\b)?(?: m=[+-]\d+\.\d+)?`)
	uuids       = regexp.MustCompile(`(?i)[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}`)
	emails      = regexp.MustCompile(`[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+`)
	// Candidates only: netip says which of them are addresses.
	ipPorts = regexp.MustCompile(`\[[0-9A-Fa-f:.]+(?:%\w+)?\](?::\d+)?|\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b`)
	ipv6s   = regexp.MustCompile(`[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*`)
	paths   = regexp.MustCompile(`(^|[\s(\[{=:,<>])(?:~?/|\.{1,2}/|[A-Za-z]:\\)[^\s:,;)\]}]+`)
	// Alphanumeric ids: ULIDs, object keys, tokens.
	longTokens = regexp.MustCompile(`[A-Za-z0-9]{20,}`)
	hexIDs     = regexp.MustCompile(`0[xX][0-9a-fA-F]+|[0-9a-fA-F]{8,}`)
	durations  = regexp.MustCompile(`(?:\d+(?:\.\d+)?(?:ns|us|µs|μs|ms|s|m|h))+\b`)
	numbers    = regexp.MustCompile(`-?\d+(?:[.,]\d+)*`)
)

// normalise puts placeholders for what differs between two runs of the same
// failure, and keeps only the first line.
func normalise(message string) string {
	s := strings.TrimSpace(pg.CleanText(pg.HeadText(message, 4*rawBytes)))
	s, _, _ = strings.Cut(s, "\n")
	s = pg.HeadText(s, rawBytes)

	s = quotedText.ReplaceAllString(s, "<s>")
	s = apostrophes.ReplaceAllString(s, "${1}<s>")
	s = timestamps.ReplaceAllString(s, "<time>")
	s = uuids.ReplaceAllString(s, "<uuid>")
	s = emails.ReplaceAllString(s, "<email>")
	s = ipPorts.ReplaceAllStringFunc(s, address)
	s = ipv6s.ReplaceAllStringFunc(s, address)
	s = paths.ReplaceAllString(s, "${1}<path>")
	s = longTokens.ReplaceAllStringFunc(s, token)
	s = hexIDs.ReplaceAllString(s, "<n>")
	s = durations.ReplaceAllString(s, "<n>")
	s = numbers.ReplaceAllString(s, "<n>")

	s = strings.Join(strings.Fields(s), " ")
	runes := 0
	for i := range s {
		if runes == normalisedRunes {
			return s[:i]
		}
		runes++
	}
	return s
}

// address returns a placeholder if s is an IP address with or without a port.
func address(s string) string {
	// "std::error" holds "d::", which is an address too.
	if !strings.ContainsAny(s, "0123456789") {
		return s
	}
	if _, err := netip.ParseAddrPort(s); err == nil {
		return "<ip>"
	}
	// A colon behind an address is the sentence's.
	bare := strings.TrimSuffix(s, ":")
	if strings.HasSuffix(s, "::") {
		bare = s
	}
	rest := s[len(bare):]
	if _, err := netip.ParseAddr(strings.Trim(bare, "[]")); err == nil {
		return "<ip>" + rest
	}
	return s
}

// token returns a placeholder if s has digits among its letters, as ids have
// and words don't.
func token(s string) string {
	digits := 0
	for i := range len(s) {
		if '0' <= s[i] && s[i] <= '9' {
			digits++
		}
	}
	if digits < 2 {
		return s
	}
	return "<n>"
}

// frames returns the innermost functions of a panic's stack that aren't the
// runtime's. Lines and arguments are left out: both change without the cause.
func frames(stack string) []string {
	// A stack is 100 bytes a line or so; recursion can make it endless.
	lines := strings.Split(pg.HeadText(stack, 64<<10), "\n")
	// What stands above the last panic is the code that recovers.
	for i := len(lines) - 1; i >= 0; i-- {
		if strings.HasPrefix(lines[i], "panic(") {
			lines = lines[i+1:]
			break
		}
	}
	var found []string
	for _, line := range lines {
		name, isCall := function(line)
		if !isCall {
			continue
		}
		found = append(found, name)
		if len(found) == stackFrames {
			break
		}
	}
	return found
}

// function returns the name in a stack's line, "main.run(0x1, ...)", unless
// the line is something else or the function is the runtime's.
func function(line string) (name string, ok bool) {
	if line == "" || line[0] == '\t' || strings.HasPrefix(line, "goroutine ") || strings.HasPrefix(line, "created by ") {
		return "", false
	}
	end := strings.LastIndexByte(line, '(')
	if end <= 0 {
		return "", false
	}
	name = line[:end]
	if name == "panic" || strings.HasPrefix(name, "runtime.") || strings.HasPrefix(name, "runtime/") {
		return "", false
	}
	return name, true
}
