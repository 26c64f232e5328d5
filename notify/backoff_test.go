package notify

import (
	"testing"
	"time"
)

func TestBackoff_failures_ceilingDoublesUpToMax(t *testing.T) {
	t.Parallel()
	b := backoff{min: 100 * time.Millisecond, max: 30 * time.Second}
	want := 100 * time.Millisecond
	for i := range 200 { // far past where doubling would overflow
		if got := b.ceiling(); got != want {
			t.Fatalf("ceiling after %d failures = %s, want %s", i, got, want)
		}
		if wait := b.next(0); wait < 0 || wait > want {
			t.Fatalf("wait %d = %s, want between 0 and %s", i, wait, want)
		}
		want = min(2*want, b.max)
	}
}

func TestBackoff_sameFailures_waitsAreSpread(t *testing.T) {
	t.Parallel()
	var low, high int
	for range 1000 {
		b := backoff{min: time.Second, max: time.Second}
		if b.next(0) < time.Second/2 {
			low++
		} else {
			high++
		}
	}
	// A fair coin misses these bounds once in 10^20 runs.
	if low < 350 || high < 350 {
		t.Fatalf("of 1,000 waits %d were in the lower half and %d in the upper: not spread", low, high)
	}
}

func TestBackoff_healthyConnectionLost_startsAnew(t *testing.T) {
	t.Parallel()
	b := backoff{min: 100 * time.Millisecond, max: 30 * time.Second, failures: 6}
	b.next(healthyAfter - 1)
	if b.failures != 7 {
		t.Fatalf("failures after a short-lived connection = %d, want 7", b.failures)
	}
	b.next(healthyAfter)
	if b.failures != 1 {
		t.Fatalf("failures after a healthy connection = %d, want 1", b.failures)
	}
}
