package engine

import (
	"testing"
	"time"
)

func TestExponential_doublesUpToMax(t *testing.T) {
	t.Parallel()
	exact := Exponential{Base: time.Second, Max: 10 * time.Second, NoJitter: true}
	for attempt, want := range map[int]time.Duration{
		-1: time.Second, 0: time.Second, 1: time.Second, 2: 2 * time.Second, 4: 8 * time.Second, 5: 10 * time.Second, 5000: 10 * time.Second,
	} {
		if got := exact.Delay(attempt, nil); got != want {
			t.Errorf("attempt %d: %s, want %s", attempt, got, want)
		}
	}
}

func TestExponential_jitterStaysBetweenHalfAndAll(t *testing.T) {
	t.Parallel()
	seen := map[time.Duration]bool{}
	for range 1000 {
		d := Exponential{}.Delay(3, nil)
		if d < 2*time.Second || d > 4*time.Second {
			t.Fatalf("third delay is %s, want 2 s to 4 s", d)
		}
		seen[d] = true
	}
	if len(seen) < 900 {
		t.Errorf("only %d different delays in 1000", len(seen))
	}
}

func TestDelays_lastEntryServesTheRest(t *testing.T) {
	t.Parallel()
	list := Delays{time.Second, time.Minute}
	for attempt, want := range map[int]time.Duration{0: time.Second, 1: time.Second, 2: time.Minute, 9: time.Minute} {
		if got := list.Delay(attempt, nil); got != want {
			t.Errorf("attempt %d: %s, want %s", attempt, got, want)
		}
	}
	if got := (Delays{}).Delay(1, nil); got != 0 {
		t.Errorf("empty list: %s, want 0", got)
	}
}
