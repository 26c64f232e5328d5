package workerflags

import (
	"context"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"soniq/internal/cli/app"
	"soniq/internal/health"
)

// SystemdVariables are what systemd tells the service's own process. They are not for the
// commands of jobs, which would speak for the worker.
var SystemdVariables = []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"}

// systemdLook is how often the program is asked how it is, until it has started.
const systemdLook = 100 * time.Millisecond

// TellSystemd tells systemd that a worker, or a dispatcher, is ready, that it stops once ctx has ended, and,
// where the unit has a watchdog, that its heart beats. It does nothing where systemd has not
// asked for it. The function that it returns ends that, and waits for it.
func TellSystemd(ctx context.Context, a *app.App, program http.Handler) (end func()) {
	if os.Getenv("NOTIFY_SOCKET") == "" {
		return func() {}
	}
	done := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() { runSystemd(ctx, a, program, done) })
	return func() {
		close(done)
		running.Wait()
	}
}

func runSystemd(ctx context.Context, a *app.App, program http.Handler, done <-chan struct{}) {
	watchdog, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		a.Log.Warn("the watchdog of systemd is not fed: its variables can't be read", "error", err)
	}
	(&speaker{
		watchdog: watchdog,
		say: func(state string) {
			if _, err := daemon.SdNotify(false, state); err != nil {
				a.Log.Warn("can't tell systemd how the program is", "state", state, "error", err)
			}
		},
		beats: func() bool {
			r, err := health.Ask(program)
			if err != nil {
				a.Log.Error("can't tell systemd how the program is", "error", err)
			}
			return r.Beating
		},
	}).run(ctx.Done(), done)
}

// speaker tells systemd how a program is.
type speaker struct {
	// watchdog is within which time systemd wants to hear; 0 for never.
	watchdog time.Duration
	say      func(state string)
	beats    func() bool
}

// run speaks until done.
func (s *speaker) run(stopping, done <-chan struct{}) {
	look := time.NewTicker(systemdLook)
	defer look.Stop()
	ready := false
	for {
		select {
		case <-done:
			return
		case <-stopping:
			s.say(daemon.SdNotifyStopping)
			stopping = nil
			continue
		case <-look.C:
		}
		beats := s.beats()
		if beats && !ready {
			ready = true
			s.say(daemon.SdNotifyReady)
			if s.watchdog == 0 {
				look.Stop()
				continue
			}
			// A third of the time leaves room for two that are late.
			look.Reset(max(s.watchdog/3, time.Millisecond))
		}
		if beats {
			s.say(daemon.SdNotifyWatchdog)
		}
	}
}
