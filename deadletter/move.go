package deadletter

import (
	"context"

	"github.com/google/uuid"

	"soniq/deadletter/classify"
	"soniq/internal/deadwrite"
)

// MoveQueued moves queued jobs to the dead letters, with the reason
// [classify.ManualMove]. Their error is message, at most classify.MaxErrorBytes of it. If
// it is empty, a job keeps its last error. The history names the author of [Queue.As].
//
// It returns the ids that it moved, in the order of ids. A job that is not among them
// doesn't exist, is no longer queued, or was locked.
//
// Errors: those of the database. Nothing is moved then.
func (q *Queue) MoveQueued(ctx context.Context, ids []uuid.UUID, message string) (moved []uuid.UUID, err error) {
	return deadwrite.MoveByHand(ctx, q.pool, ids, classify.Verdict{
		Reason: classify.ManualMove, DecidedBy: classify.ByOperator, Message: message,
	}, q.by.actor, q.by.comment)
}
