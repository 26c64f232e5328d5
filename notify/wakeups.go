package notify

import (
	"context"
	"sync"
)

// Wakeups is a [Handler] that remembers one thing: that there may be work. It
// is a bit and not a queue of notifications, so a burst of them costs one
// wake-up, none is dropped for want of room, and Notify never blocks.
//
// The one who waits takes the bit before looking, never after:
//
//	for {
//		w.Clear()
//		jobs := fetch()
//		if len(jobs) == 0 {
//			<-w.C() // or a timer, or the end of the context
//		}
//	}
//
// A job that is committed while fetch runs may be missing from what fetch
// sees, and its notification sets the bit. A Clear after the fetch would wipe
// out that bit and the job would wait for the next poll. A Clear before it can
// only wipe out bits whose jobs fetch is about to see.
//
// All methods may be called at the same time by any goroutine; there should be
// one who waits.
type Wakeups struct {
	queues map[string]struct{} // nil: all

	// mu orders Set and Clear. The channel alone would not do: a Set that
	// finds it full takes no lock, so nothing would order what was written
	// before that Set and what is read after the Clear that empties it.
	mu    sync.Mutex
	dirty chan struct{}
}

var _ Handler = (*Wakeups)(nil)

// NewWakeups returns a Wakeups for the given queues; without any, for all. It
// starts with the bit clear: the first Connected sets it.
func NewWakeups(queues ...string) *Wakeups {
	w := &Wakeups{dirty: make(chan struct{}, 1)}
	if len(queues) > 0 {
		w.queues = make(map[string]struct{}, len(queues))
		for _, q := range queues {
			w.queues[q] = struct{}{}
		}
	}
	return w
}

// C returns a channel that can be received from while the bit is set. The
// receive takes the bit; call Clear all the same before looking for work.
func (w *Wakeups) C() <-chan struct{} { return w.dirty }

// Clear takes the bit. It never blocks.
func (w *Wakeups) Clear() {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case <-w.dirty:
	default:
	}
}

// Set sets the bit. It never blocks.
func (w *Wakeups) Set() {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case w.dirty <- struct{}{}:
	default:
	}
}

// Connected sets the bit: jobs may have come while nobody listened.
func (w *Wakeups) Connected(context.Context) { w.Set() }

// Notify sets the bit if payload names one of the queues, or none at all.
func (w *Wakeups) Notify(_ context.Context, payload string) {
	if w.serves(payload) {
		w.Set()
	}
}

func (w *Wakeups) serves(queue string) bool {
	if queue == "" || w.queues == nil {
		return true
	}
	_, ok := w.queues[queue]
	return ok
}
