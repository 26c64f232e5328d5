package limiter

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"soniq/internal/eventually"
)

// hang is a delivery that lasts until it is broken off or let go.
func hang(s *Limiter, preemptible bool, let <-chan struct{}, preempted *atomic.Int32) func(*Sender) {
	return func(t *Sender) {
		ctx, end := t.Begin(context.Background(), preemptible)
		defer end()
		select {
		case <-ctx.Done():
			if errors.Is(context.Cause(ctx), ErrPreempted) {
				preempted.Add(1)
			}
		case <-let:
		}
	}
}

func TestLimiter_hooksThatHang_leaveHalfToTheOthers(t *testing.T) {
	t.Parallel()
	s := New(8, func() {})
	s.Patience = 10 * time.Millisecond
	let := make(chan struct{})
	var preempted atomic.Int32
	var hanging []uuid.UUID
	for range 50 {
		id := uuid.New()
		hanging = append(hanging, id)
		s.Submit(id, false, hang(s, true, let, &preempted))
	}
	var most atomic.Int32
	quick := func() {
		ran, id := make(chan struct{}), uuid.New()
		s.Submit(id, false, func(t *Sender) {
			_, end := t.Begin(context.Background(), true)
			end()
			close(ran)
		})
		s.mu.Lock()
		most.Store(max(most.Load(), int32(s.used)))
		s.mu.Unlock()
		<-ran
		// Else the next one waits for its slot.
		eventually.True(t, "its sender to end", func() bool { return !s.Busy(id) })
	}
	quick()
	// Those that hang have shown that they do, and wait for a slow one's slot.
	eventually.True(t, "as many broken off as had to make room", func() bool { return preempted.Load() == 43 })
	for _, id := range hanging {
		s.Submit(id, false, hang(s, true, let, &preempted))
	}
	for range 20 {
		quick()
	}
	// Three have their share, four a slot that nobody else wants.
	s.mu.Lock()
	used, slowUsed := s.used, s.slow[stuck]
	s.mu.Unlock()
	if used != 7 || slowUsed != 3 || most.Load() > 8 || preempted.Load() != 43 {
		t.Errorf("%d slots in use, %d by slow ones, %d at most; %d broken off", used, slowUsed, most.Load(), preempted.Load())
	}
	close(let)
	s.Close()
	if s.used != 0 || s.slow[stuck] != 0 || s.preempted != 0 || len(s.senders) != 0 || len(s.sending) != 0 {
		t.Errorf("left: %d slots, %d slow, %d senders, %d deliveries", s.used, s.slow[stuck], len(s.senders), len(s.sending))
	}
}

// What a person's own code or command does is never broken off.
func TestLimiter_commandOverItsTime_isNotPreempted(t *testing.T) {
	t.Parallel()
	s := New(2, func() {})
	s.Patience = time.Millisecond
	let := make(chan struct{})
	var preempted atomic.Int32
	s.Submit(uuid.New(), false, hang(s, false, let, &preempted))
	s.Submit(uuid.New(), false, hang(s, false, let, &preempted))
	ran := make(chan struct{})
	s.Submit(uuid.New(), false, func(*Sender) { close(ran) })
	eventually.True(t, "one to count as slow", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.slow[stuck] == 1
	})
	select {
	case <-ran:
		t.Error("there was a slot")
	default:
	}
	close(let)
	<-ran
	s.Close()
	if preempted.Load() != 0 {
		t.Error("a command was broken off")
	}
}

// Whatever the order of things, no slot is lost or made, and every sender runs.
func TestLimiter_anyOrder_keepsItsBounds(t *testing.T) {
	t.Parallel()
	for size := 1; size <= 5; size++ {
		s := New(size, func() {})
		s.Patience = 200 * time.Microsecond
		var running, most, ran atomic.Int32
		var group sync.WaitGroup
		for i := range 40 {
			group.Go(func() {
				id := uuid.New()
				for round := range 5 {
					done := make(chan struct{})
					s.Submit(id, i%5 == 0, func(t *Sender) {
						defer close(done)
						n := t.Grow(3)
						t.Shrink(max(1, n-round%2))
						var each sync.WaitGroup
						for range t.slots {
							each.Go(func() {
								ctx, end := t.Begin(context.Background(), i%2 == 0)
								defer end()
								n := running.Add(1)
								defer running.Add(-1)
								for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
								}
								wait := time.NewTimer(time.Duration(i%4) * 150 * time.Microsecond)
								defer wait.Stop()
								select {
								case <-ctx.Done():
								case <-wait.C:
								}
							})
						}
						each.Wait()
						ran.Add(1)
					})
					<-done
					eventually.True(t, "the sender to end", func() bool { return !s.Busy(id) })
				}
			})
		}
		group.Wait()
		s.Close()
		if most.Load() > int32(size) || ran.Load() != 200 || s.used != 0 || s.slow[stuck] != 0 || s.preempted != 0 {
			t.Errorf("size %d: %d at once, %d senders, %d and %d slots left", size, most.Load(), ran.Load(), s.used, s.slow[stuck])
		}
	}
}

// A hook whose receiver is slow, but answers, doesn't wait for those that hang: neither
// one that always takes longer than the limiter's patience, nor one that did so once, as
// all do on a busy machine.
func TestLimiter_hookIsLate_isNotHeldUpByThoseThatHang(t *testing.T) {
	t.Parallel()
	s := New(32, func() {})
	s.Patience = 5 * time.Millisecond
	let := make(chan struct{})
	lateHook, onceHook := uuid.New(), uuid.New()
	send := func(hook uuid.UUID, takes time.Duration) {
		t.Helper()
		ran := make(chan pace, 1)
		s.Submit(hook, false, func(sender *Sender) {
			// As if it had taken that long.
			_, end := sender.Begin(context.Background(), false)
			s.mu.Lock()
			s.sending[len(s.sending)-1].since = time.Now().Add(-takes)
			s.mu.Unlock()
			end()
			ran <- sender.pace
		})
		select {
		case <-ran:
		case <-time.After(time.Minute):
			t.Fatal("it waits for those that hang")
		}
		eventually.True(t, "the sender to end", func() bool { return !s.Busy(hook) })
	}
	send(lateHook, 2*s.Patience)
	send(onceHook, 2*s.Patience)
	var preempted atomic.Int32
	for range 300 {
		s.Submit(uuid.New(), true, hang(s, true, let, &preempted))
	}
	for range 40 {
		send(lateHook, 2*s.Patience)
		send(onceHook, 0)
	}
	s.mu.Lock()
	if s.slow[stuck] != 12 || s.slow[late] != 0 || s.used != 12 || len(s.waiting[stuck]) != 288 {
		t.Errorf("%d stuck, %d late, %d of all, %d wait", s.slow[stuck], s.slow[late], s.used, len(s.waiting[stuck]))
	}
	s.mu.Unlock()
	close(let)
	s.Close()
}

// What a delivery shows of its hook.
func TestLimiter_paceOf(t *testing.T) {
	t.Parallel()
	s := New(1, func() {})
	for _, c := range []struct {
		before    pace
		took      time.Duration
		preempted bool
		want      pace
	}{
		{stuck, s.Patience / 2, false, quick},
		{quick, s.Patience + time.Millisecond, false, late},
		{stuck, s.Patience + time.Millisecond, false, late},
		{quick, stuckAfter * s.Patience, false, stuck},
		{unknown, s.Patience, true, stuck},
		{stuck, s.Patience, true, stuck},
		{quick, s.Patience, true, late},
		{late, s.Patience, true, late},
	} {
		d := &sending{since: time.Now().Add(-c.took), preempted: c.preempted}
		if got := s.paceOf(&Sender{pace: c.before}, d); got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
	}
}
