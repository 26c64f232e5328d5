package notify

import (
	"context"
	"sync"
)

// Wakeups is a [Handler] that keeps one bit: there may be work. It is no queue of
// notifications: a burst of them is one wake-up, none is dropped because a buffer is
// full, and Notify never blocks.
//
// The waiting goroutine clears the bit before it looks for work, never after:
//
//	for {
//		w.Clear()
//		jobs := fetch()
//		if len(jobs) == 0 {
//			<-w.C() // or a timer, or the end of the context
//		}
//	}
//
// fetch may not see a job that is committed while it runs. Its notification sets the
// bit. A Clear after fetch would clear that bit, and the job would wait for the next
// poll. A Clear before fetch only clears bits of jobs that fetch sees.
//
// Any goroutine may call the methods at any time. Only one goroutine should wait.
type Wakeups struct {
	queues map[string]struct{} // nil: all

	// mu orders Set and Clear. The channel alone is not enough: a Set that finds it
	// full synchronizes with nothing, so what was written before that Set might not be
	// seen after the Clear that empties the channel.
	mu    sync.Mutex
	dirty chan struct{}
}

var _ Handler = (*Wakeups)(nil)

// NewWakeups returns a Wakeups for these queues, or for all queues if there are none. Its
// bit is clear until the first Connected.
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

// C returns a channel that is readable while the bit is set. The receive clears the bit.
// Call Clear all the same before looking for work.
func (w *Wakeups) C() <-chan struct{} { return w.dirty }

// Clear clears the bit. It never blocks.
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

// Connected sets the bit: jobs may have been added before the LISTEN.
func (w *Wakeups) Connected(context.Context) { w.Set() }

// Notify sets the bit if payload is one of the queues, or empty.
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
