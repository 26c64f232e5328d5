package deadletter

import (
	"context"
	"log/slog"
	"testing"
)

func TestSubscription_tellsASlowSubscriberWhatItMissed(t *testing.T) {
	t.Parallel()
	s := &subscription{log: slog.New(slog.DiscardHandler), wake: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()

	s.Connected(ctx)
	for range maxPending + 7 {
		s.push(announcement{event: &Event{}})
	}
	events, connects := 0, 0
	s.deliver(ctx, func(context.Context) {
		connects++
		if connects == 2 {
			cancel()
		}
	}, func(context.Context, Event) { events++ })

	// The first connect takes a place among the pending.
	if events != maxPending-1 || connects != 2 {
		t.Errorf("%d events, %d calls of OnConnect", events, connects)
	}
}
