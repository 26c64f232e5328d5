package workerflags

import (
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// The watchdog is fed while the heart beats, and not a moment longer: a worker that hangs
// is restarted.
func TestSystemd_watchdog_isFedWhileTheHeartBeats(t *testing.T) {
	t.Parallel()
	var beats atomic.Bool
	said, asked, stopping, done := make(chan string, 1000), make(chan struct{}), make(chan struct{}), make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		(&speaker{
			watchdog: 3 * time.Millisecond,
			say:      func(state string) { said <- state },
			beats: func() bool {
				<-asked
				return beats.Load()
			},
		}).run(stopping, done)
	}()
	ask := func(n int) {
		for range n {
			asked <- struct{}{}
		}
	}
	heard := func() (all []string) {
		for len(said) > 0 {
			all = append(all, <-said)
		}
		return all
	}
	ask(3)
	if got := heard(); len(got) > 0 {
		t.Errorf("before the first heartbeat: %q", got)
	}
	beats.Store(true)
	ask(4) // the answers to the first three are said by then
	got := heard()
	if len(got) < 4 || got[0] != daemon.SdNotifyReady || slices.Index(got[1:], daemon.SdNotifyReady) >= 0 || got[3] != daemon.SdNotifyWatchdog {
		t.Errorf("while it beats: %q", got)
	}
	beats.Store(false)
	ask(2) // the first may still be of the time before
	heard()
	ask(5)
	if got := heard(); len(got) > 0 {
		t.Errorf("while it does not beat: %q", got)
	}
	close(stopping)
	beats.Store(true)
	close(asked)
	if got := <-said; got != daemon.SdNotifyStopping && got != daemon.SdNotifyWatchdog {
		t.Errorf("while it stops: %q", got)
	}
	close(done)
	for {
		select {
		case <-said:
		case <-ended:
			return
		}
	}
}
