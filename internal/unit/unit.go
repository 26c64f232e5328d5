// Package unit reads sizes, durations and times as people write them: 16MiB, 7d,
// 2006-01-02 15:04 UTC.
package unit

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// sizeUnits are the units of a size, the longest suffix first.
var sizeUnits = []struct {
	suffix string
	bytes  float64
}{
	{"KiB", 1 << 10},
	{"MiB", 1 << 20},
	{"GiB", 1 << 30},
	{"kB", 1e3},
	{"KB", 1e3},
	{"MB", 1e6},
	{"GB", 1e9},
	{"B", 1},
	{"", 1},
}

// maxSize is far beyond any machine's memory.
const maxSize = 1 << 50

// ParseSize reads a number of bytes such as 65536, 16MiB or 1.5GB.
//
// Errors: one that begins with 'must be' and names examples; no caller decides by it.
func ParseSize(text string) (int64, error) {
	for _, u := range sizeUnits {
		number, ok := strings.CutSuffix(text, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
		if bytes := n * u.bytes; err == nil && bytes >= 1 && bytes <= maxSize && bytes == math.Trunc(bytes) && !strings.ContainsAny(number, "xXeEpP_") {
			return int64(bytes), nil
		}
		break
	}
	return 0, fmt.Errorf("must be a size such as 65536, 512KiB, 16MiB or 1GB, not %q", text)
}

// ParseDuration reads a duration of numbers with units, such as 90s, 1h30m, 7d or
// 1w2d. The units are those of [time.ParseDuration], d for 24 hours and w for 7 days.
// Only 0 needs no unit.
//
// Errors: one that completes a sentence which begins with the name of what is read;
// no caller decides by it.
func ParseDuration(text string) (time.Duration, error) {
	rest, negative := strings.CutPrefix(text, "-")
	if !negative {
		rest = strings.TrimPrefix(rest, "+")
	}
	if rest == "0" {
		return 0, nil
	}
	wrong := fmt.Errorf("must be a duration such as 90s, 10m, 2h or 7d, not %q", text)
	var sum time.Duration
	for first := true; first || rest != ""; first = false {
		number := rest[:len(rest)-len(strings.TrimLeft(rest, "0123456789."))]
		rest = rest[len(number):]
		unit := rest[:len(rest)-len(strings.TrimLeftFunc(rest, func(r rune) bool { return r != '.' && (r < '0' || r > '9') }))]
		rest = rest[len(unit):]
		if unit == "" && first && rest == "" && strings.Trim(number, "0123456789") == "" && number != "" {
			return 0, fmt.Errorf("%s has no unit: write %[1]ss, %[1]sm, %[1]sh or %[1]sd", text)
		}
		d, err := parsePart(number, unit)
		if err != nil || d > math.MaxInt64-sum {
			return 0, wrong
		}
		sum += d
	}
	if negative {
		return -sum, nil
	}
	return sum, nil
}

// parsePart reads one number with its unit. It is not negative.
func parsePart(number, unit string) (time.Duration, error) {
	days := time.Duration(1)
	switch unit {
	case "w":
		days = 7
	case "d":
	default:
		return time.ParseDuration(number + unit)
	}
	// Hours are what Go knows; the multiple is checked.
	d, err := time.ParseDuration(number + "h")
	if err == nil && d > math.MaxInt64/(24*days) {
		err = errors.New("too long")
	}
	return d * 24 * days, err
}
