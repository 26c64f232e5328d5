package notify

import "time"

// Pace shortens a listener's checks for tests; zero leaves the real time. It
// must be called before Run.
func (l *Listener) Pace(ping, answer, probe, reprobe time.Duration) {
	for _, t := range []struct {
		value  time.Duration
		target *time.Duration
	}{{ping, &l.timing.ping}, {answer, &l.timing.answer}, {probe, &l.timing.probe}, {reprobe, &l.timing.reprobe}} {
		if t.value != 0 {
			*t.target = t.value
		}
	}
}

// NoticedWithin is how long a connection may be dead before it is given up.
func NoticedWithin() time.Duration { return realTiming.ping + realTiming.answer }
