package hooks

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
)

// slots bounds what one dispatcher has under way, over all hooks, and shares it
// out. A hook gets a turn, which has a seat for each delivery that it sends at
// once. Hooks wait for turns in three queues, by how long their last delivery
// took:
//
//	quick ----+
//	unknown --+--> seats (max) ---> a delivery longer than patience:
//	slow -----+    at most half         its hook is slow from then on, and
//	               for slow ones        it keeps its seat only as a slow one
//
// So hooks that hang have half of the seats at most, one each, and the others
// go on with the rest. Where those that hang came first and took all, a request
// that is over its time is broken off when somebody waits for its seat: its
// delivery is not charged, and is sent again when its hook's turn as a slow one
// comes.
type slots struct {
	max, slowMax, slowMin int
	patience              time.Duration
	ended                 func() // called after each turn

	mu       sync.Mutex
	used     int // seats
	slowUsed int // of them those of slow hooks
	leaving  int // of them those whose deliveries were broken off
	picks    int
	waiting  [3][]*turn // by pace
	turns    map[uuid.UUID]*turn
	sending  []*sending // the oldest first
	paces    map[uuid.UUID]pace
	closed   bool
	idle     chan struct{} // closed while there are no turns
}

type pace int

const (
	quick pace = iota
	unknown
	slow
)

const (
	// defaultInFlight is Config.MaxInFlight's default: with the connection of a
	// name look-up beside each it stays far below the 256 descriptors that some
	// systems allow.
	defaultInFlight = 32
	// defaultPatience is longer than a healthy endpoint takes.
	defaultPatience = time.Second
	// maxPaces bounds how many hooks are remembered.
	maxPaces = 10_000
)

// errYield ends a request that is over its time while others wait.
var errYield = errors.New("others wait, and this took too long")

// newSlots has size seats; 0 is the default.
func newSlots(size int, ended func()) *slots {
	if size <= 0 {
		size = defaultInFlight
	}
	idle := make(chan struct{})
	close(idle)
	return &slots{
		max: size, slowMax: max(1, size/2), slowMin: max(1, size/8), patience: defaultPatience, ended: ended,
		turns: map[uuid.UUID]*turn{}, paces: map[uuid.UUID]pace{}, idle: idle,
	}
}

// A turn is one hook's: it waits, or its lane runs.
type turn struct {
	s     *slots
	hook  uuid.UUID
	pace  pace
	run   func(*turn)
	seats int
	// leaving says that the last seat's delivery was broken off: the turn ends.
	leaving bool
}

// A sending is one delivery under way.
type sending struct {
	since    time.Time
	slow     bool // counts among the slow ones
	yields   bool // may be broken off
	yielding bool // is being
	cancel   context.CancelCauseFunc
}

// busy reports whether the hook waits for its turn or has it.
func (s *slots) busy(hook uuid.UUID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.turns[hook] != nil
}

// submit has run called, in a goroutine of its own, once it is the hook's turn.
// The turn ends when run returns. failing says that the hook's last deliveries
// failed. A hook that has a turn already gets no other.
func (s *slots) submit(hook uuid.UUID, failing bool, run func(*turn)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.turns[hook] != nil {
		return
	}
	p, known := s.paces[hook]
	switch {
	case known:
	case failing:
		p = slow
	default:
		p = unknown
	}
	t := &turn{s: s, hook: hook, pace: p, run: run}
	if len(s.turns) == 0 {
		s.idle = make(chan struct{})
	}
	s.turns[hook] = t
	s.waiting[p] = append(s.waiting[p], t)
	s.step()
}

// step starts what may start, and makes room. The caller holds mu.
func (s *slots) step() {
	for s.used < s.max {
		t := s.next()
		if t == nil {
			return
		}
		s.used++
		t.seats = 1
		if t.pace == slow {
			s.slowUsed++
		}
		go func() {
			defer s.ended() // once the hook may have another turn
			defer t.end()
			t.run(t)
		}()
	}
	// As many as wait, less the seats that are about to be free.
	wanted := len(s.waiting[quick]) + len(s.waiting[unknown]) - s.leaving
	for _, d := range s.sending {
		switch {
		case wanted <= 0:
			return
		case d.slow || d.yielding || time.Since(d.since) < s.patience:
		case s.slowUsed < s.slowMax:
			d.slow = true
			s.slowUsed++
		case d.yields:
			d.yielding = true
			d.cancel(errYield)
			s.leaving++
			wanted--
		}
	}
}

// next takes who is to start out of its queue.
func (s *slots) next() *turn {
	s.picks++
	order := []pace{quick, unknown, slow}
	if s.picks%4 == 0 {
		order = []pace{unknown, quick, slow}
	}
	if s.slowUsed < s.slowMin {
		order = []pace{slow, order[0], order[1]}
	}
	for _, p := range order {
		if len(s.waiting[p]) == 0 || p == slow && s.slowUsed >= s.slowMax {
			continue
		}
		t := s.waiting[p][0]
		s.waiting[p] = slices.Delete(s.waiting[p], 0, 1)
		return t
	}
	return nil
}

// others reports whether another hook waits for a seat.
func (s *slots) others() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.waiting[quick])+len(s.waiting[unknown])+len(s.waiting[slow]) > 0
}

// close lets nobody else begin, and returns when all turns have ended.
func (s *slots) close() {
	s.mu.Lock()
	s.closed = true
	for p := range s.waiting {
		for _, t := range s.waiting[p] {
			s.forget(t)
		}
		s.waiting[p] = nil
	}
	idle := s.idle
	s.mu.Unlock()
	<-idle
}

// drained is closed when there is no turn, at least for a moment.
func (s *slots) drained() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.idle
}

func (s *slots) forget(t *turn) {
	delete(s.turns, t.hook)
	if len(s.turns) == 0 {
		close(s.idle)
	}
}

// widen gets up to n seats in all for the turn, as far as nobody waits for
// them, and returns how many it has. A slow hook has one.
func (t *turn) widen(n int) int {
	s := t.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if t.pace != slow && s.paces[t.hook] != slow && len(s.waiting[quick])+len(s.waiting[unknown]) == 0 {
		more := max(0, min(n-t.seats, s.max-s.used))
		t.seats += more
		s.used += more
	}
	return t.seats
}

// narrow gives back the seats beyond n, but for one.
func (t *turn) narrow(n int) {
	s := t.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if back := t.seats - max(n, 1); back > 0 {
		t.seats -= back
		s.used -= back
		s.step()
	}
}

// begin says that a delivery is being sent from one of the turn's seats; yields
// that it may be broken off for others. The context ends with ctx, or then with
// errYield as its cause. end gives the seat back, unless it is the last, which
// the turn keeps for the next batch.
func (t *turn) begin(ctx context.Context, yields bool) (_ context.Context, end func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	s := t.s
	d := &sending{since: time.Now(), slow: t.pace == slow, yields: yields, cancel: cancel}
	s.mu.Lock()
	s.sending = append(s.sending, d)
	s.mu.Unlock()
	// Whoever waits then may have the seat.
	timer := time.AfterFunc(s.patience, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.step()
	})
	return ctx, func() {
		timer.Stop()
		cancel(nil)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.sending = slices.DeleteFunc(s.sending, func(other *sending) bool { return other == d })
		if len(s.paces) >= maxPaces {
			clear(s.paces)
		}
		s.paces[t.hook] = quick
		if time.Since(d.since) >= s.patience {
			s.paces[t.hook] = slow
		}
		if d.slow && t.pace != slow {
			s.slowUsed--
		}
		if t.seats > 1 {
			t.seats--
			s.used--
			if d.yielding {
				s.leaving--
			}
		} else {
			t.leaving = d.yielding
		}
		s.step()
	}
}

func (t *turn) end() {
	s := t.s
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used -= t.seats
	t.seats = 0
	if t.pace == slow {
		s.slowUsed--
	}
	if t.leaving {
		s.leaving--
	}
	s.forget(t)
	s.step()
}
