package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"soniq/internal/fetch"
	"soniq/internal/liveness"
	"soniq/internal/pause"
	"soniq/internal/pg"
	"soniq/notify"
)

// cancelsSQL finds the running jobs whose cancellation was requested. The token keeps
// a request from ending a later run. Parameters: $1 ids, $2 tokens.
const cancelsSQL = `
select j.id, j.claim_token
from unnest($1::uuid[], $2::bigint[]) as running (id, token)
join public.soniq_jobs j on j.id = running.id
where j.claim_token = running.token
  and j.status = 'processing'
  and j.cancel_requested_at is not null`

// cancelWatch cancels the contexts of jobs whose cancellation was requested. The
// request is in the job's row. A notification wakes the watch, and it looks with each
// heartbeat too, in case the notification was lost.
type cancelWatch struct {
	*notify.Wakeups
	pool     *pg.Pool
	worker   uuid.UUID
	logger   *slog.Logger
	inflight *inflight
	// grace is how long a handler may go on after that; then it is abandoned.
	grace   time.Duration
	abandon func(ctx context.Context, e *execution)
	// wakeDetector makes the failure detector look soon: another worker has started.
	wakeDetector func()
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
	if control.Joined != uuid.Nil && control.Joined != c.worker {
		c.wakeDetector()
	}
	if control.Cancel != uuid.Nil && c.inflight.hears(control.Cancel) {
		c.Set()
	}
}

// run looks for requests until ctx ends, which is after the last job.
func (c *cancelWatch) run(ctx context.Context) error {
	for {
		// Cleared before the look, never after.
		c.Clear()
		wait := liveness.BeatInterval
		lookCtx, stop := context.WithTimeout(ctx, fetch.Timeout)
		err := c.look(lookCtx)
		stop()
		if err != nil && ctx.Err() == nil {
			// The fetcher and the heartbeat report a database that is away.
			c.logger.Debug("can't look for requests to cancel; trying again", "error", err)
			wait = time.Second
		}
		pause.Until(ctx, wait, c.C(), nil)
		if ctx.Err() != nil {
			return nil
		}
	}
}

// look cancels the running jobs whose cancellation was requested.
func (c *cancelWatch) look(ctx context.Context) error {
	ids, tokens := c.inflight.claims()
	if len(ids) == 0 {
		return nil
	}
	var requested []claimed
	err := c.pool.Beside(ctx, liveness.PoolPatience, func(ctx context.Context, db pg.Session) (err error) {
		rows, _ := db.Query(ctx, cancelsSQL, ids, tokens)
		requested, err = pgx.CollectRows(rows, pgx.RowToStructByPos[claimed])
		return err
	})
	if err != nil {
		return fmt.Errorf("look for requests to cancel: %w", err)
	}
	for _, e := range c.inflight.cancel(requested) {
		time.AfterFunc(c.grace, func() { c.abandon(e.ctx, e) })
	}
	return nil
}

// claimed is a job under one claim.
type claimed struct {
	ID    uuid.UUID
	Token int64
}
