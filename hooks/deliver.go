package hooks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/google/uuid"

	"soniq/internal/command"
	"soniq/internal/limiter"
	"soniq/internal/tracecontext"
)

const (
	// hookTimeout bounds a delivery, whatever the hook does.
	hookTimeout = 30 * time.Second
	// abandonAfter is how long a hook may take to return after its context has ended.
	abandonAfter = 4 * time.Second
	// markTimeout bounds the statements that write down a result.
	markTimeout = 10 * time.Second
	// breakerAfter is the number of failures in a row after which a hook gets a pause.
	breakerAfter = 5
)

// schedule has the wait after each failed attempt, from Standard Webhooks. After one
// more attempt the delivery has failed.
var schedule = []time.Duration{
	5 * time.Second, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 5 * time.Hour,
	10 * time.Hour, 14 * time.Hour, 20 * time.Hour, 24 * time.Hour,
}

// backoff is the wait after an attempt, varied by up to a fifth.
func backoff(attempt int) time.Duration {
	wait := schedule[min(max(attempt, 1), len(schedule))-1]
	return time.Duration(float64(wait) * (0.8 + 0.4*rand.Float64()))
}

// result is what a delivery says about its hook. The zero value says nothing: the
// delivery was not made.
type result struct {
	sent, failed bool
	// final: it is not tried again.
	final bool
	// pause is how long the receiver asks not to be called. throttled: that is all it
	// asks. gone: it takes no more deliveries.
	pause           time.Duration
	throttled, gone bool
}

// send delivers, and marks the rows with the result. How long the database takes for the
// mark says nothing of the hook.
func (d *Dispatcher) send(ctx context.Context, s *limiter.Sender, h dueHook, hook opened, lease uuid.UUID, ids []uuid.UUID, delivery *Delivery) (r result, err error) {
	sending, end := s.Begin(ctx, hook.preemptible)
	began := time.Now()
	traced := d.traceStart(sending, delivery)
	failure := deliver(traced, hook, delivery)
	defer func() { d.traceEnd(traced, delivery, r, began, failure) }()
	trace := func(attrs ...any) []any { return tracecontext.Attrs(delivery.TraceContext.TraceID(), attrs...) }
	brokenOff := sending.Err() != nil
	end()
	var refused *AnswerError
	if failure != nil && (brokenOff || errors.As(failure, &refused) && refused.stopped && d.stops(ctx)) {
		// We have ended it: at shutdown, or for another hook. Or whoever stops us has.
		return result{}, d.release(ctx, lease, ids)
	}
	// What was sent is marked, even if ctx ends now.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), markTimeout)
	defer cancel()
	if failure == nil {
		n, err := d.outbox.delivered(ctx, h.ID, lease, ids, delivery)
		if err == nil && n < int64(len(ids)) {
			d.log.Warn("a hook delivery took longer than its lease; it may arrive twice, with the same id", trace("hook", h.Name, "delivery", delivery.ID)...)
		}
		return result{sent: err == nil}, err
	}
	r = result{failed: true}
	final := delivery.Attempt > len(schedule)
	if errors.As(failure, &refused) {
		delivery.Status = cmp.Or(delivery.Status, refused.Status)
		r.pause, r.gone = refused.RetryAfter, refused.Gone
		r.throttled = refused.Status == http.StatusTooManyRequests && r.pause > 0
		final = final || refused.Useless
	}
	wait := max(r.pause, backoff(delivery.Attempt))
	if r.throttled {
		// It said when, and the attempt is not charged.
		wait, final = r.pause, false
	}
	r.final = final
	n, err := d.outbox.failed(ctx, lease, ids, delivery, failure.Error(), final, wait, r.throttled)
	if err != nil {
		return result{}, err
	}
	if n == 0 {
		// Whoever has the lease now says how it ended, and what that says about the hook.
		d.log.Warn("a hook delivery failed after the end of its lease; it is another dispatcher's now, or was removed", trace("hook", h.Name, "delivery", delivery.ID, "error", failure)...)
		return result{}, nil
	}
	level := slog.LevelWarn
	if final {
		level = slog.LevelError
	}
	d.log.Log(ctx, level, "a hook delivery failed", trace("hook", h.Name, "delivery", delivery.ID, "attempt", delivery.Attempt,
		"error", failure, "retry_in", wait.Round(time.Millisecond).String(), "final", final)...)
	return r, nil
}

// stops reports whether the dispatcher was told to stop, or is within a moment.
func (d *Dispatcher) stops(ctx context.Context) bool {
	late := time.NewTimer(command.StopPatience)
	defer late.Stop()
	select {
	case <-d.stopping:
		return true
	case <-ctx.Done():
		return true
	case <-late.C:
		return false
	}
}

// Stopping tells the dispatcher that its process stops: Run's context will end. A worker
// calls it before it waits for its jobs. Where a signal has ended a hook's command, it may
// have been the one that stops the process; then the delivery is not charged.
func (d *Dispatcher) Stopping() {
	d.stopOnce.Do(func() {
		d.probes.Stopping()
		close(d.stopping)
	})
}

// recordFailure records what deliveries that were made at once say about their hook.
// However many failed, that is one failure. A receiver that asks for a pause has not
// failed.
func (d *Dispatcher) recordFailure(ctx context.Context, h dueHook, results ...result) error {
	var pause time.Duration
	bad, gone, counts := false, false, false
	for _, r := range results {
		pause = max(pause, r.pause)
		bad = bad || r.failed
		gone = gone || r.gone
		counts = counts || r.failed && !r.throttled
	}
	if !bad {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), markTimeout)
	defer cancel()
	failures, disabled, err := d.outbox.recordFailure(ctx, h.ID, pause, gone, counts)
	switch {
	case err != nil:
		return err
	case disabled != "":
		d.log.Error("the hook is disabled; 'soniq hooks enable' sends its deliveries", "hook", h.Name, "reason", disabled)
	case failures == breakerAfter && counts:
		d.log.Warn("the hook has failed five times in a row; nothing is sent to it for a while", "hook", h.Name)
	}
	return nil
}

// deliver calls the hook. Its error and answer come back without the secrets that the
// hook is known to hold.
func deliver(ctx context.Context, hook opened, d *Delivery) error {
	err := deliverRaw(ctx, hook.Hook, d)
	d.Answer = clean(hook.known, d.Answer)
	return cleanError(hook.known, err)
}

// deliverRaw calls the hook in a goroutine of its own. A hook that panics has failed.
// One that ignores the end of its context is abandoned.
func deliverRaw(ctx context.Context, hook Hook, d *Delivery) error {
	ctx, cancel := context.WithTimeoutCause(ctx, hookTimeout, fmt.Errorf("the hook took longer than %s", hookTimeout))
	defer cancel()
	theirs := *d // an abandoned hook writes to its own copy
	done := make(chan error, 1)
	go func() {
		returned := false
		defer func() {
			if r := recover(); r != nil {
				done <- fmt.Errorf("the hook panicked: %v", r)
			} else if !returned {
				done <- errors.New("the hook ended its goroutine")
			}
		}()
		err := hook.Deliver(ctx, &theirs)
		returned = true
		done <- err
	}()
	select {
	case err := <-done:
		d.Status, d.Answer = theirs.Status, theirs.Answer
		return err
	case <-ctx.Done():
		// It may be about to return.
		select {
		case err := <-done:
			d.Status, d.Answer = theirs.Status, theirs.Answer
			return err
		case <-time.After(abandonAfter):
			return context.Cause(ctx)
		}
	}
}
