package feed

import (
	"context"
	"log/slog"
	"testing"
)

func TestLive_tellsASlowSubscriberWhatItMissed(t *testing.T) {
	t.Parallel()
	s := NewLive[int](slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()

	s.Connected(ctx)
	for range maxPending + 7 {
		s.Push(1)
	}
	events, connects := 0, 0
	s.Deliver(ctx, func(context.Context) {
		connects++
		if connects == 2 {
			cancel()
		}
	}, func(context.Context, int) { events++ })

	// The first connect takes a place among the pending.
	if events != maxPending-1 || connects != 2 {
		t.Errorf("%d events, %d calls of OnConnect", events, connects)
	}
}
