// Package eventually is how tests wait for what has no signal of its own.
package eventually

import (
	"testing"
	"time"
)

const (
	// patience is much longer than anything takes, also on a machine that runs
	// other tests: only a failure waits for it to pass.
	patience = time.Minute
	interval = 10 * time.Millisecond
)

// True waits until ok returns true, and fails the test after a minute. what
// tells of it then.
func True(t testing.TB, what string, ok func() bool) {
	t.Helper()
	timeout := time.After(patience)
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("waited %s for %s", patience, what)
		}
	}
}

// Count waits until count returns want, and fails the test where it has stood
// still for a minute: how long a thousand of something take says nothing on a
// busy machine.
func Count(t testing.TB, what string, want int, count func() int) {
	t.Helper()
	tick := time.NewTicker(interval)
	defer tick.Stop()
	last, since := count(), time.Now()
	for last != want {
		<-tick.C
		if n := count(); n != last {
			last, since = n, time.Now()
		} else if time.Since(since) > patience {
			t.Fatalf("%s: %d of %d, and nothing more for %s", what, last, want, patience)
		}
	}
}
