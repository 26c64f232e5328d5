package hooks

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
)

// limiter bounds the deliveries that one dispatcher has under way, over all hooks, and
// shares them out. A hook with something due gets a sender, which has a slot for each
// delivery under way. Senders wait for their first slot in three queues, by how long
// the hook's last delivery took:
//
//	quick ----+
//	unknown --+--> slots (max) ---> a delivery takes longer than patience:
//	slow -----+    at most half         its hook is slow from then on, and the
//	               for slow hooks       delivery needs a slot for slow ones
//
// So hooks that hang have at most half of the slots, one each, and the others go on
// with the rest. If hooks that hang came first and took all slots, their requests are
// preempted when others wait: broken off without being charged, and sent again when
// the hook gets a slot for slow ones.
type limiter struct {
	max, slowMax, slowMin int
	patience              time.Duration
	ended                 func() // called after each sender

	mu        sync.Mutex
	used      int // slots
	slowUsed  int // slots of slow hooks
	preempted int // slots whose deliveries are being broken off
	picks     int
	waiting   [3][]*sender // by pace
	senders   map[uuid.UUID]*sender
	sending   []*sending // the oldest first
	paces     map[uuid.UUID]pace
	closed    bool
	idle      chan struct{} // closed while there are no senders
}

// pace is how long a hook's last delivery took.
type pace int

const (
	quick pace = iota
	unknown
	slow
)

const (
	// defaultInFlight is the default of Config.MaxInFlight. A delivery needs two file
	// descriptors, one for its name lookup; some systems allow 256.
	defaultInFlight = 32
	// defaultPatience is longer than a healthy receiver takes.
	defaultPatience = time.Second
	// maxPaces bounds how many hooks' paces are kept.
	maxPaces = 10_000
)

// errPreempted is the cause of a delivery's context that was broken off for another
// hook.
var errPreempted = errors.New("other hooks wait, and this delivery took too long")

// newLimiter has size slots; 0 is the default. ended is called after each sender.
func newLimiter(size int, ended func()) *limiter {
	if size <= 0 {
		size = defaultInFlight
	}
	idle := make(chan struct{})
	close(idle)
	return &limiter{
		max: size, slowMax: max(1, size/2), slowMin: max(1, size/8), patience: defaultPatience, ended: ended,
		senders: map[uuid.UUID]*sender{}, paces: map[uuid.UUID]pace{}, idle: idle,
	}
}

// A sender sends the deliveries of one hook. It waits for its first slot, or runs.
type sender struct {
	l     *limiter
	hook  uuid.UUID
	pace  pace
	run   func(*sender)
	slots int
	// preempted: the delivery of the last slot was broken off, so the sender ends.
	preempted bool
}

// A sending is one delivery under way.
type sending struct {
	since       time.Time
	slow        bool // has a slot for slow hooks
	preemptible bool
	preempted   bool // is being broken off
	cancel      context.CancelCauseFunc
}

// busy reports whether the hook has a sender.
func (l *limiter) busy(hook uuid.UUID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.senders[hook] != nil
}

// submit gives the hook a sender, unless it has one. run is called in a goroutine of
// its own once the sender has a slot. The sender ends when run returns. failing: the
// hook's last deliveries failed.
func (l *limiter) submit(hook uuid.UUID, failing bool, run func(*sender)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.senders[hook] != nil {
		return
	}
	p, known := l.paces[hook]
	switch {
	case known:
	case failing:
		p = slow
	default:
		p = unknown
	}
	s := &sender{l: l, hook: hook, pace: p, run: run}
	if len(l.senders) == 0 {
		l.idle = make(chan struct{})
	}
	l.senders[hook] = s
	l.waiting[p] = append(l.waiting[p], s)
	l.step()
}

// step starts the senders that may start, and preempts deliveries for others. The
// caller holds mu.
func (l *limiter) step() {
	for l.used < l.max {
		s := l.next()
		if s == nil {
			return
		}
		l.used++
		s.slots = 1
		if s.pace == slow {
			l.slowUsed++
		}
		go func() {
			defer l.ended() // the hook may have another sender from here on
			defer s.end()
			s.run(s)
		}()
	}
	// As many as wait, less the slots that are about to be free.
	wanted := len(l.waiting[quick]) + len(l.waiting[unknown]) - l.preempted
	for _, d := range l.sending {
		switch {
		case wanted <= 0:
			return
		case d.slow || d.preempted || time.Since(d.since) < l.patience:
		case l.slowUsed < l.slowMax:
			d.slow = true
			l.slowUsed++
		case d.preemptible:
			d.preempted = true
			d.cancel(errPreempted)
			l.preempted++
			wanted--
		}
	}
}

// next takes the sender that is to start next out of its queue.
func (l *limiter) next() *sender {
	l.picks++
	order := []pace{quick, unknown, slow}
	if l.picks%4 == 0 {
		order = []pace{unknown, quick, slow}
	}
	if l.slowUsed < l.slowMin {
		order = []pace{slow, order[0], order[1]}
	}
	for _, p := range order {
		if len(l.waiting[p]) == 0 || p == slow && l.slowUsed >= l.slowMax {
			continue
		}
		s := l.waiting[p][0]
		l.waiting[p] = slices.Delete(l.waiting[p], 0, 1)
		return s
	}
	return nil
}

// contended reports whether another hook waits for a slot.
func (l *limiter) contended() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.waiting[quick])+len(l.waiting[unknown])+len(l.waiting[slow]) > 0
}

// close starts no more senders, and returns when all have ended.
func (l *limiter) close() {
	l.mu.Lock()
	l.closed = true
	for p := range l.waiting {
		for _, s := range l.waiting[p] {
			l.forget(s)
		}
		l.waiting[p] = nil
	}
	idle := l.idle
	l.mu.Unlock()
	<-idle
}

// drained is closed once there is no sender, at least for a moment.
func (l *limiter) drained() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.idle
}

func (l *limiter) forget(s *sender) {
	delete(l.senders, s.hook)
	if len(l.senders) == 0 {
		close(l.idle)
	}
}

// grow gets up to n slots in all, as far as no other hook waits for them. It returns
// how many the sender has. A slow hook has one.
func (s *sender) grow(n int) int {
	l := s.l
	l.mu.Lock()
	defer l.mu.Unlock()
	if s.pace != slow && l.paces[s.hook] != slow && len(l.waiting[quick])+len(l.waiting[unknown]) == 0 {
		more := max(0, min(n-s.slots, l.max-l.used))
		s.slots += more
		l.used += more
	}
	return s.slots
}

// shrink gives back the slots beyond n, but keeps one.
func (s *sender) shrink(n int) {
	l := s.l
	l.mu.Lock()
	defer l.mu.Unlock()
	if back := s.slots - max(n, 1); back > 0 {
		s.slots -= back
		l.used -= back
		l.step()
	}
}

// begin begins a delivery in one of the sender's slots. The context that it returns
// ends with ctx, or with errPreempted as its cause if the delivery is preemptible. end
// gives the slot back, unless it is the sender's last one.
func (s *sender) begin(ctx context.Context, preemptible bool) (_ context.Context, end func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	l := s.l
	d := &sending{since: time.Now(), slow: s.pace == slow, preemptible: preemptible, cancel: cancel}
	l.mu.Lock()
	l.sending = append(l.sending, d)
	l.mu.Unlock()
	// A sender that waits then may get the slot.
	timer := time.AfterFunc(l.patience, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.step()
	})
	return ctx, func() {
		timer.Stop()
		cancel(nil)
		l.mu.Lock()
		defer l.mu.Unlock()
		l.sending = slices.DeleteFunc(l.sending, func(other *sending) bool { return other == d })
		if len(l.paces) >= maxPaces {
			clear(l.paces)
		}
		l.paces[s.hook] = quick
		if time.Since(d.since) >= l.patience {
			l.paces[s.hook] = slow
		}
		if d.slow && s.pace != slow {
			l.slowUsed--
		}
		if s.slots > 1 {
			s.slots--
			l.used--
			if d.preempted {
				l.preempted--
			}
		} else {
			s.preempted = d.preempted
		}
		l.step()
	}
}

func (s *sender) end() {
	l := s.l
	l.mu.Lock()
	defer l.mu.Unlock()
	l.used -= s.slots
	s.slots = 0
	if s.pace == slow {
		l.slowUsed--
	}
	if s.preempted {
		l.preempted--
	}
	l.forget(s)
	l.step()
}
