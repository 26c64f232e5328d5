package engine

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

type executionKey struct{}

// CompleteTx makes the job that ctx belongs to done inside tx, with a result
// as [HandleResult] takes it or nil: it is done if and when tx commits,
// together with all else that tx does. Use it where a job whose work is
// committed must not run again because its worker died a moment later. ctx is
// the handler's, and tx is on the database of its worker.
//
// Whatever the handler returns once tx has committed, the job stays done. If tx
// is rolled back, what it returns counts as always: return an error.
//
// The error is [ErrClaimLost] if the job has gone to someone else meanwhile:
// then tx must be rolled back. It is an [*ArgumentError] for a result that
// can't be stored.
func CompleteTx(ctx context.Context, tx pgx.Tx, result any) error {
	e, ok := ctx.Value(executionKey{}).(*execution)
	if !ok || e.worker == uuid.Nil {
		return errors.New("complete job: the context is not that of a handler which a worker runs")
	}
	raw, err := encodeResult(result)
	if err != nil {
		return fmt.Errorf("complete job: %w", &ArgumentError{"result", err.Error()})
	}
	var text *string
	if raw != nil {
		text = new(string(raw))
	}
	tag, err := e.schema.Tx(tx).Exec(ctx, settleDoneSQL, e.worker,
		[]uuid.UUID{e.job.ID}, []int32{int32(e.job.Attempts)}, []int64{e.job.token}, []*string{text}, e.ttl)
	if err != nil {
		return fmt.Errorf("complete job: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return fmt.Errorf("complete job: %w", ErrClaimLost)
	}
	e.completed.Store(true)
	return nil
}
