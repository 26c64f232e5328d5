package unit_test

import (
	"strings"
	"testing"
	"time"

	"soniq/internal/unit"
)

// An accepted age has the length that was written: no product overflows.
func FuzzAge(f *testing.F) {
	for _, s := range []string{"0d", "7d", "4095d", "4096d", "4095w", "1.5h", "-1d", "d", "w", "+1d", "0x1d", "1d1h", "9223372036854775807ns", "1h30m"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := unit.ParseDuration(s)
		if err != nil {
			return
		}
		digits, length := strings.TrimRight(s, "dw"), strings.TrimLeft(s, "0123456789")
		if (length == "d" || length == "w") && digits != "" && (d < 0 || d%(24*time.Hour) != 0) {
			t.Fatalf("%q is %s", s, d)
		}
		if again, err := unit.ParseDuration(d.String()); err != nil || again != d {
			t.Fatalf("%q is %s, and that %s, %v", s, d, again, err)
		}
	})
}
