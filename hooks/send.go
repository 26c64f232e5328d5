package hooks

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"soniq/internal/limiter"
	"soniq/internal/pause"
)

const (
	// leaseTime is longer than a delivery may take, so that no other dispatcher
	// begins meanwhile.
	leaseTime = 60 * time.Second
	// senderWidth is how many deliveries of one hook a dispatcher has under way.
	senderWidth = 8
)

// run sends what one hook has due. It ends when nothing is left, or when other hooks
// wait for a slot.
func (d *Dispatcher) run(ctx context.Context, s *limiter.Sender, h dueHook) {
	hook, err := d.open(h)
	defer hook.close()
	if err != nil {
		// The deliveries fail with this error, which 'hooks deliveries' shows.
		hook = opened{Hook: broken{err}}
	} else if h.Unavailable != "" {
		if err := d.outbox.recordUnavailable(ctx, h.ID, ""); err != nil && ctx.Err() == nil {
			d.log.Debug("recording that a hook no longer waits failed", "hook", h.Name, "error", err)
		}
	}
	for more := true; more && ctx.Err() == nil; more = more && !d.limiter.Contended() {
		if hook.digest.rows > 0 {
			more, err = d.sendDigest(ctx, s, h, hook)
		} else {
			more, err = d.sendEach(ctx, s, h, hook)
		}
		if err != nil {
			if ctx.Err() == nil {
				d.log.Warn("reading or marking hook deliveries failed; they are sent again", "hook", h.Name, "error", err)
				_ = pause.For(ctx, time.Second) // not d.sleep, which takes Run's wake-ups
			}
			return
		}
	}
}

// broken is a hook that can't be made.
type broken struct{ err error }

func (b broken) Deliver(context.Context, *Delivery) error { return b.err }

// sendEach sends a batch, each event by itself. more: others may be due.
func (d *Dispatcher) sendEach(ctx context.Context, s *limiter.Sender, h dueHook, hook opened) (more bool, err error) {
	lease := uuid.New()
	width := senderWidth
	if h.Failures > 0 {
		width = 1 // it may still fail
	}
	width = s.Grow(width)
	rows, err := d.outbox.claim(ctx, h, lease, width, leaseTime, 0)
	if err != nil || len(rows) == 0 {
		return false, err
	}
	s.Shrink(len(rows))
	var group errgroup.Group
	results := make([]result, len(rows))
	for i, row := range rows {
		group.Go(func() error {
			e, err := d.outbox.event(ctx, row)
			if err != nil {
				return errors.Join(err, d.release(ctx, lease, []uuid.UUID{row.ID}))
			}
			delivery := &Delivery{
				ID: row.ID, Hook: h.Name, Attempt: row.Attempts, Event: e,
				Groups: []Group{{Event: e, Count: 1, First: e.At, Last: e.At}},
			}
			results[i], err = d.send(ctx, s, h, hook, lease, []uuid.UUID{row.ID}, delivery)
			return err
		})
	}
	err = group.Wait()
	// After a failure the next pass looks whether the hook may be sent to.
	sent := !slices.ContainsFunc(results, func(r result) bool { return !r.sent })
	return sent && len(rows) == width, errors.Join(err, d.recordFailure(ctx, h, results...))
}

// release gives up the lease of rows that were not sent, even if ctx has ended.
func (d *Dispatcher) release(ctx context.Context, lease uuid.UUID, ids []uuid.UUID) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	return d.outbox.release(ctx, lease, ids)
}
