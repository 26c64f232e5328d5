package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"soniq/deadletter"
	"soniq/notify"
)

// cancelsSQL finds those of the running jobs that someone wants cancelled. The
// token keeps a request from ending a later run. Parameters: ids, tokens.
const cancelsSQL = `
select j.id, j.claim_token
from unnest($1::uuid[], $2::bigint[]) as running (id, token)
join public.soniq_jobs j on j.id = running.id
where j.claim_token = running.token
  and j.status = 'processing'
  and j.cancel_requested_at is not null`

// cancelWatch cancels the contexts of jobs whose cancellation was requested.
// The request is in the job's row; a notification says when to look there, and
// the worker looks with each heartbeat in case that it was lost.
type cancelWatch struct {
	*notify.Wakeups
	worker *Worker
	// claiming counts the claims under way: a job that they will bring can be
	// cancelled before it is running. heard says that one might have been.
	// Both are guarded by Worker.mu.
	claiming int
	heard    bool
}

// Notify implements [notify.Handler] for notify.Control.
func (c *cancelWatch) Notify(_ context.Context, payload string) {
	var control struct {
		Cancel uuid.UUID `json:"cancel"`
		Joined uuid.UUID `json:"joined"`
	}
	if json.Unmarshal([]byte(payload), &control) != nil {
		return
	}
	if control.Joined != uuid.Nil && control.Joined != c.worker.id {
		c.worker.presence.stir()
	}
	if control.Cancel == uuid.Nil {
		return
	}
	c.worker.mu.Lock()
	defer c.worker.mu.Unlock()
	for job := range c.worker.running {
		if job.ID == control.Cancel {
			c.Set()
			return
		}
	}
	c.heard = c.heard || c.claiming > 0
}

// claim counts a claim that begins, and the function it returns its end, when
// its jobs are running.
func (c *cancelWatch) claim() (ended func()) {
	c.worker.mu.Lock()
	defer c.worker.mu.Unlock()
	c.claiming++
	return func() {
		c.worker.mu.Lock()
		defer c.worker.mu.Unlock()
		c.claiming--
		if c.heard {
			c.heard = false
			c.Set()
		}
	}
}

// run looks for requests until ctx ends, which is after the last job.
func (c *cancelWatch) run(ctx context.Context) error {
	for {
		// Cleared before the look, never after.
		c.Clear()
		pause := heartbeatInterval
		lookCtx, stop := context.WithTimeout(ctx, claimTimeout)
		err := c.look(lookCtx)
		stop()
		if err != nil && ctx.Err() == nil {
			// The fetcher and the heartbeat tell of a database that is away.
			c.worker.logger.Debug("can't look for requests to cancel; trying again", "error", err)
			pause = time.Second
		}
		sleep(ctx, pause, c.C(), nil)
		if ctx.Err() != nil {
			return nil
		}
	}
}

// look cancels the running jobs whose cancellation was requested.
func (c *cancelWatch) look(ctx context.Context) error {
	w := c.worker
	w.mu.Lock()
	ids, tokens := make([]uuid.UUID, 0, len(w.running)), make([]int64, 0, len(w.running))
	for job := range w.running {
		ids, tokens = append(ids, job.ID), append(tokens, job.token)
	}
	w.mu.Unlock()
	if len(ids) == 0 {
		return nil
	}
	requested, err := c.requested(ctx, ids, tokens)
	if err != nil {
		return fmt.Errorf("look for requests to cancel: %w", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range requested {
		for job, e := range w.running {
			if job.ID == r.ID && job.token == r.Token && e.ctx.Err() == nil {
				e.cancel(ErrCancelled)
				time.AfterFunc(w.config.CancelGrace, func() { w.leave(e.ctx, e) })
			}
		}
	}
	return nil
}

// claimed is a job under one claim.
type claimed struct {
	ID    uuid.UUID
	Token int64
}

// requested asks the database.
func (c *cancelWatch) requested(ctx context.Context, ids []uuid.UUID, tokens []int64) (found []claimed, err error) {
	err = c.worker.borrow(ctx, poolPatience, func(ctx context.Context, db session) (err error) {
		rows, _ := db.Query(ctx, cancelsSQL, ids, tokens)
		found, err = pgx.CollectRows(rows, pgx.RowToStructByPos[claimed])
		return err
	})
	return found, err
}

// cancelled is the outcome of an attempt whose context ended by request. What
// the handler said beyond that is kept.
func (e *execution) cancelled(err error) Outcome {
	message := ErrCancelled.Error()
	if err != context.Canceled && err != ErrCancelled { //nolint:errorlint // a wrapped one says more, and is kept
		verdict := deadletter.Classify(deadletter.Attempt{
			JobName: e.job.Name, Attempt: e.job.Attempts, MaxAttempts: e.job.MaxAttempts,
			Kind: deadletter.KindError, Err: err,
		})
		message = verdict.Message
		if !wraps(err, ErrCancelled) {
			message = deadletter.Storable(ErrCancelled.Error()+"; the handler returned: "+message, deadletter.MaxErrorBytes)
		}
	}
	return Outcome{Kind: OutcomeCancelled, Verdict: deadletter.Verdict{Message: message}}
}

// wraps is [errors.Is] for errors whose methods may panic.
func wraps(err, target error) (is bool) {
	defer func() {
		if recover() != nil {
			is = false
		}
	}()
	return errors.Is(err, target)
}
