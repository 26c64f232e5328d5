package engine

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"soniq/internal/settle"
)

type executionKey struct{}

// CompleteTx makes the handler's job done in tx, with a result as [HandleResult] takes
// it, or nil. The job is done once tx commits, together with the rest of tx. Use it
// where a job whose work is committed must not run again, even if its worker dies a
// moment later. ctx is the handler's context; tx is on the database of the worker.
//
// If tx commits, the job stays done, whatever the handler returns. If tx is rolled
// back, what the handler returns decides as always: return an error.
//
// Errors: [ErrClaimLost] if another worker has the job by now; an [*ArgumentError] for a
// result that can't be stored; one for a ctx that is not a handler's; else those of
// the database. After [ErrClaimLost] and those of the database roll tx back.
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
	tag, err := e.schema.Tx(tx).Exec(ctx, settle.DoneSQL, e.worker,
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
