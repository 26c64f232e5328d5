// Package unit reads sizes and ages as people write them: 16MiB, 7d.
package unit

import (
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

// ParseAge is [time.ParseDuration] with days and weeks: 7d, 2w.
//
// Errors: those of [time.ParseDuration].
func ParseAge(text string) (time.Duration, error) {
	day := 24 * time.Hour
	for suffix, unit := range map[string]time.Duration{"d": day, "w": 7 * day} {
		if digits, ok := strings.CutSuffix(text, suffix); ok {
			// A century of weeks is far within a Duration.
			if n, err := strconv.ParseUint(digits, 10, 12); err == nil {
				return time.Duration(n) * unit, nil
			}
		}
	}
	return time.ParseDuration(text)
}
