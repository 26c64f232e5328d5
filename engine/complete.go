package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
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
	tag, err := tx.Exec(ctx, settleDoneSQL, e.worker,
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

// completedSQL finds the jobs that were done under a claim. Parameters: ids,
// tokens.
const completedSQL = `
select j.id
from unnest($1::uuid[], $2::bigint[]) as d (id, token)
join soniq_jobs j on j.id = d.id
where j.status = 'done'
  and j.claim_token = d.token`

// completed returns those of the jobs without a row to write to that their
// handlers have made done themselves.
func completed(ctx context.Context, pool *pgxpool.Pool, outcomes []Outcome, written []uuid.UUID) (ids []uuid.UUID, err error) {
	var tokens []int64
	for _, o := range outcomes {
		if o.completed {
			ids, tokens = append(ids, o.Job.ID), append(tokens, o.Job.token)
		}
	}
	if len(ids) == 0 || len(written) == len(outcomes) {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	rows, _ := pool.Query(ctx, completedSQL, ids, tokens)
	return pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
}
