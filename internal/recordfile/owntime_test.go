package recordfile

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// The short way to read our own times reads what the long one does, and nothing else.
func TestOwnTime_anyText_isWhatParseTimeReads(t *testing.T) {
	t.Parallel()
	texts := []string{
		"2026-05-04T03:02:01.123456Z", "2024-02-29T00:00:00.000000Z", "2023-02-29T00:00:00.000000Z", "2026-13-01T00:00:00.000000Z",
		"2026-00-10T00:00:00.000000Z", "2026-01-00T00:00:00.000000Z", "2026-01-01T24:00:00.000000Z", "2026-01-01T00:60:00.000000Z",
		"2026-01-01T00:00:60.000000Z", "0001-01-01T00:00:00.000000Z", "0000-12-31T00:00:00.000000Z", "9999-12-31T23:59:59.000000Z",
		"9999-12-31T23:59:59.000001Z", "2026-01-01 00:00:00.000000Z", "2026-01-01T00:00:00.00000aZ", "+026-01-01T00:00:00.000000Z", "", "Z",
	}
	digits := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // any will do
	for range 2000 {
		texts = append(texts, fmt.Sprintf("%04d-%02d-%02dT%02d:%02d:%02d.%06dZ", digits.IntN(10_000), digits.IntN(14), digits.IntN(33),
			digits.IntN(25), digits.IntN(61), digits.IntN(61), digits.IntN(1_000_000)))
	}
	short := 0
	for _, text := range texts {
		own, ok := ownTime([]byte(text))
		if !ok {
			continue
		}
		short++
		if w, err := parseTime(text); err != nil || w.exact != "" || !w.nearest.Equal(own) {
			t.Errorf("%s: %s, but %+v, %v", text, own, w, err)
		}
	}
	if short < 1000 {
		t.Errorf("only %d of %d were read the short way", short, len(texts))
	}
}
