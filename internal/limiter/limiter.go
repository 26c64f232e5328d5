// Package limiter bounds the deliveries that a dispatcher of hooks has under way, and
// shares the slots out among its hooks.
package limiter

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
)

// A Limiter bounds the deliveries that one dispatcher has under way, over all hooks. A
// hook with something due gets a sender, which has a slot for each delivery under way.
// Senders wait for their first slot in four queues, by what the hook's last delivery
// showed:
//
//	quick ----+
//	unknown --+--> slots (max) ---> a delivery takes longer than patience:
//	late -----+    at most half         it needs a slot for slow ones from then
//	stuck ----+    for these two        on, and its hook is late, or stuck
//
// A hook is late if its delivery came to an end after more than patience. It is stuck if
// that took ten times as long, or if nothing is known of it but that it took too long.
// Those that are stuck have three quarters of the slots for slow ones, one each. So hooks
// that hang hold up neither the quick nor the late.
//
// If hooks that hang came first and took all slots, their requests are preempted when
// others wait: broken off without being charged, and sent again when the hook gets a slot
// for slow ones.
type Limiter struct {
	// Patience is longer than a healthy receiver takes. Default 1 s.
	Patience time.Duration

	max, slowMax, stuckMax int
	ended                  func() // called after each sender

	mu        sync.Mutex
	used      int        // slots
	slow      [paces]int // slots of hooks that are late or stuck
	preempted int        // slots whose deliveries are being broken off
	picks     int
	waiting   [paces][]*Sender // by pace
	senders   map[uuid.UUID]*Sender
	sending   []*sending // the oldest first
	paces     map[uuid.UUID]pace
	closed    bool
	idle      chan struct{} // closed while there are no senders
}

// pace is what a hook's last delivery showed.
type pace int

const (
	quick pace = iota
	unknown
	late
	stuck
	paces
)

// slow reports whether a delivery of this pace needs a slot for slow ones.
func (p pace) slow() bool { return p == late || p == stuck }

// worse is the pace of a hook that took too long, as far as one can tell.
func (p pace) worse() pace {
	if p == quick || p == late {
		return late
	}
	return stuck
}

const (
	// defaultInFlight is the default of Config.MaxInFlight. A delivery needs two file
	// descriptors, one for its name lookup; some systems allow 256.
	defaultInFlight = 32
	// defaultPatience is longer than a healthy receiver takes.
	defaultPatience = time.Second
	// stuckAfter times patience is longer than a receiver takes that is well but slow.
	stuckAfter = 10
	// maxPaces bounds how many hooks' paces are kept.
	maxPaces = 10_000
)

// ErrPreempted is the cause of a delivery's context that was broken off for another
// hook.
var ErrPreempted = errors.New("other hooks wait, and this delivery took too long")

// New returns a limiter of size slots; 0 is the default. ended is called after each sender.
func New(size int, ended func()) *Limiter {
	if size <= 0 {
		size = defaultInFlight
	}
	slowMax := max(1, size/2)
	idle := make(chan struct{})
	close(idle)
	return &Limiter{
		Patience: defaultPatience, max: size, slowMax: slowMax, stuckMax: slowMax - slowMax/4, ended: ended,
		senders: map[uuid.UUID]*Sender{}, paces: map[uuid.UUID]pace{}, idle: idle,
	}
}

// A Sender sends the deliveries of one hook. It waits for its first slot, or runs.
type Sender struct {
	l     *Limiter
	hook  uuid.UUID
	pace  pace
	run   func(*Sender)
	slots int
	// preempted: the delivery of the last slot was broken off, so the sender ends.
	preempted bool
}

// A sending is one delivery under way.
type sending struct {
	since       time.Time
	slot        pace // late or stuck if it has a slot for these
	preemptible bool
	preempted   bool // is being broken off
	cancel      context.CancelCauseFunc
}

// Busy reports whether the hook has a sender.
func (l *Limiter) Busy(hook uuid.UUID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.senders[hook] != nil
}

// Submit gives the hook a sender, unless it has one. run is called in a goroutine of
// its own once the sender has a slot. The sender ends when run returns. failing: the
// hook's last deliveries failed.
func (l *Limiter) Submit(hook uuid.UUID, failing bool, run func(*Sender)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.senders[hook] != nil {
		return
	}
	p, known := l.paces[hook]
	switch {
	case known:
	case failing:
		p = stuck
	default:
		p = unknown
	}
	s := &Sender{l: l, hook: hook, pace: p, run: run}
	if len(l.senders) == 0 {
		l.idle = make(chan struct{})
	}
	l.senders[hook] = s
	l.waiting[p] = append(l.waiting[p], s)
	l.step()
}

// step starts the senders that may start, and preempts deliveries for others. The
// caller holds mu.
func (l *Limiter) step() {
	for l.used < l.max {
		s := l.next()
		if s == nil {
			return
		}
		l.used++
		s.slots = 1
		l.take(s.pace)
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
		case d.slot.slow() || d.preempted || time.Since(d.since) < l.Patience:
		case l.has(d.slot.worse()):
			d.slot = d.slot.worse()
			l.take(d.slot)
		case d.preemptible:
			d.preempted = true
			d.cancel(ErrPreempted)
			l.preempted++
			wanted--
		}
	}
}

// has reports whether a slot for slow hooks of pace p is left.
func (l *Limiter) has(p pace) bool {
	return l.slow[late]+l.slow[stuck] < l.slowMax && (p != stuck || l.slow[stuck] < l.stuckMax)
}

// take and giveBack count a slot, if it is one for slow hooks.
func (l *Limiter) take(p pace) {
	if p.slow() {
		l.slow[p]++
	}
}

func (l *Limiter) giveBack(p pace) {
	if p.slow() {
		l.slow[p]--
	}
}

// next takes the sender that is to start next out of its queue. No queue starves another.
func (l *Limiter) next() *Sender {
	order := []pace{quick, unknown, late, stuck}
	switch {
	case l.slow[stuck] < l.max/16 || l.picks%16 == 1:
		order = []pace{stuck, quick, unknown, late}
	case l.slow[late] < l.max/16 || l.picks%8 == 2:
		order = []pace{late, quick, unknown, stuck}
	case l.picks%4 == 0:
		order = []pace{unknown, quick, late, stuck}
	}
	for _, p := range order {
		if len(l.waiting[p]) == 0 || p.slow() && !l.has(p) {
			continue
		}
		s := l.waiting[p][0]
		l.waiting[p] = slices.Delete(l.waiting[p], 0, 1)
		l.picks++
		return s
	}
	return nil
}

// Contended reports whether another hook waits for a slot.
func (l *Limiter) Contended() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.ContainsFunc(l.waiting[:], func(queue []*Sender) bool { return len(queue) > 0 })
}

// Close starts no more senders, and returns when all have ended.
func (l *Limiter) Close() {
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

// Drained is closed once there is no sender, at least for a moment.
func (l *Limiter) Drained() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.idle
}

func (l *Limiter) forget(s *Sender) {
	delete(l.senders, s.hook)
	if len(l.senders) == 0 {
		close(l.idle)
	}
}

// Grow gets up to n slots in all, as far as no other hook waits for them. It returns
// how many the sender has. A hook that is late or stuck has one.
func (s *Sender) Grow(n int) int {
	l := s.l
	l.mu.Lock()
	defer l.mu.Unlock()
	if !s.pace.slow() && !l.paces[s.hook].slow() && len(l.waiting[quick])+len(l.waiting[unknown]) == 0 {
		more := max(0, min(n-s.slots, l.max-l.used))
		s.slots += more
		l.used += more
	}
	return s.slots
}

// Shrink gives back the slots beyond n, but keeps one.
func (s *Sender) Shrink(n int) {
	l := s.l
	l.mu.Lock()
	defer l.mu.Unlock()
	if back := s.slots - max(n, 1); back > 0 {
		s.slots -= back
		l.used -= back
		l.step()
	}
}

// Begin begins a delivery in one of the sender's slots. The context that it returns
// ends with ctx, or with ErrPreempted as its cause if the delivery is preemptible. end
// gives the slot back, unless it is the sender's last one.
func (s *Sender) Begin(ctx context.Context, preemptible bool) (_ context.Context, end func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	l := s.l
	d := &sending{since: time.Now(), slot: s.pace, preemptible: preemptible, cancel: cancel}
	l.mu.Lock()
	l.sending = append(l.sending, d)
	l.mu.Unlock()
	// A sender that waits then may get the slot.
	timer := time.AfterFunc(l.Patience, func() {
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
		l.paces[s.hook] = l.paceOf(s, d)
		if !s.pace.slow() {
			l.giveBack(d.slot)
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

// paceOf is what a delivery that has ended showed.
func (l *Limiter) paceOf(s *Sender, d *sending) pace {
	switch took := time.Since(d.since); {
	case d.preempted:
		return s.pace.worse()
	case took >= stuckAfter*l.Patience:
		return stuck
	case took >= l.Patience:
		return late
	default:
		return quick
	}
}

func (s *Sender) end() {
	l := s.l
	l.mu.Lock()
	defer l.mu.Unlock()
	l.used -= s.slots
	s.slots = 0
	l.giveBack(s.pace)
	if s.preempted {
		l.preempted--
	}
	l.forget(s)
	l.step()
}
