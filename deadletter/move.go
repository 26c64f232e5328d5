package deadletter

import (
	"context"

	"github.com/google/uuid"

	"soniq/deadletter/classify"
	"soniq/internal/deadwrite"
)

// MoveQueued moves jobs that wait in the queue to the dead letters, with the reason
// classify.ManualMove. message is the error that they get, at most
// classify.MaxErrorBytes of it; where it is empty, a job keeps its last error.
//
// It returns the ids that it moved, in the order of ids. A job that is missing among
// them is gone, no longer queued, or locked at this moment.
//
// Errors: those of the database. Nothing is moved then.
func (q *Queue) MoveQueued(ctx context.Context, ids []uuid.UUID, message string) (moved []uuid.UUID, err error) {
	return deadwrite.MoveQueued(ctx, q.pool, ids, classify.Verdict{
		Reason: classify.ManualMove, DecidedBy: classify.ByOperator, Message: message,
	})
}
