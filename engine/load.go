package engine

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/google/uuid"

	"soniq/deadletter/classify"
	"soniq/internal/jobargs"
)

// heavyBytes is the size in the row from which moving a dead letter takes so long that
// the outcomes of other jobs would wait.
const heavyBytes = 1 << 20

// loadMiddle reads the medium arguments of a claim's jobs (see package jobargs).
func (w *Worker) loadMiddle(ctx context.Context, token int64, jobs []*Job) {
	var ids []uuid.UUID
	missing := map[uuid.UUID]*Job{}
	for _, job := range jobs {
		if len(job.Args) > w.loader.Limit() {
			job.Args = nil
		} else if job.Args == nil {
			ids = append(ids, job.ID)
			missing[job.ID] = job
		}
	}
	if len(ids) == 0 {
		return
	}
	w.loader.LoadMiddle(ctx, token, ids, func(id uuid.UUID, args json.RawMessage, held *jobargs.Held) {
		missing[id].Args, missing[id].held = args, held
	})
}

// weigh reads the size of arguments that the claim did not return. It may fail: the
// size only decides which settler moves the dead letter.
func (e *execution) weigh(ctx context.Context) {
	if e.job.Args == nil && e.loader != nil {
		e.job.stored = e.loader.Weigh(ctx, e.job.ID)
	}
}

// prepare reads the arguments that the claim did not return. ok is false if it can't,
// and o is then the outcome of the attempt.
func (e *execution) prepare(ctx context.Context) (o Outcome, ok bool) {
	if e.job.Args != nil || e.loader == nil {
		return Outcome{}, true
	}
	loaded, err := e.loader.Load(ctx, e.job.ID, e.job.token)
	e.job.stored = loaded.Stored
	var invalid *jobargs.InvalidError
	switch {
	case err == nil:
		e.job.Args, e.job.held = loaded.Args, loaded.Held
		e.started = time.Now()
		return Outcome{}, true
	case errors.As(err, &invalid):
		return e.fail(classify.KindDecode, invalid.Err, "", ""), false
	case errors.Is(context.Cause(ctx), ErrCancelled):
		return e.cancelled(classify.ReadTree(ErrCancelled)), false
	case ctx.Err() != nil, errors.Is(err, jobargs.ErrNoClaim):
		return Outcome{Kind: OutcomeReleased}, false
	}
	return e.fail(classify.KindError, err, "", ""), false
}
