package feed

import (
	"context"
	"log/slog"
	"sync"
)

// maxPending bounds the events that wait for a slow subscriber: about 25 MB, at 400
// bytes each. Beyond that, reading the table is cheaper.
const maxPending = 1 << 16

// A Live queues events between the listener, which must not block, and a slow
// subscriber.
type Live[E any] struct {
	log  *slog.Logger
	wake chan struct{}

	mu      sync.Mutex
	pending []announcement[E]
	dropped int
}

// NewLive returns one that logs events which it must drop.
func NewLive[E any](log *slog.Logger) *Live[E] {
	return &Live[E]{log: log, wake: make(chan struct{}, 1)}
}

// Push queues an event.
func (s *Live[E]) Push(e E) { s.push(announcement[E]{event: &e}) }

// An announcement is an event or, without one, a reconnect.
type announcement[E any] struct {
	event *E
}

// Connected queues a reconnect.
func (s *Live[E]) Connected(context.Context) {
	s.push(announcement[E]{})
}

func (s *Live[E]) push(a announcement[E]) {
	s.mu.Lock()
	if len(s.pending) < maxPending {
		s.pending = append(s.pending, a)
	} else {
		s.dropped++
	}
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// take returns what was pushed since the last call.
func (s *Live[E]) take() (pending []announcement[E], dropped int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	pending, dropped = s.pending, s.dropped
	s.pending, s.dropped = nil, 0
	return pending, dropped
}

// Deliver calls the subscriber until ctx ends.
func (s *Live[E]) Deliver(ctx context.Context, onConnect func(context.Context), fn func(context.Context, E)) {
	if onConnect == nil {
		onConnect = func(context.Context) {}
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		}
		pending, dropped := s.take()
		for _, a := range pending {
			if ctx.Err() != nil {
				return
			}
			if a.event == nil {
				onConnect(ctx)
			} else {
				fn(ctx, *a.event)
			}
		}
		if dropped > 0 && ctx.Err() == nil {
			s.log.WarnContext(ctx, "dropped dead-letter notifications: the subscriber is too slow", "dropped", dropped)
			onConnect(ctx)
		}
	}
}
