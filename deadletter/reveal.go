package deadletter

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"soniq/internal/pg"
)

// maxRevealed is how many dead letters of a list get a record each. A longer list
// has its operation only.
const maxRevealed = 1000

// Reveal records that the actor of [Queue.As] is shown the secrets of these dead
// letters, or jobs: one record each. Show them only after it has returned nil.
//
// Errors: those of the database.
func (q *Queue) Reveal(ctx context.Context, ids ...uuid.UUID) error {
	if err := q.record(ctx, q.pool, ids, ActionReveal, nil); err != nil {
		return fmt.Errorf("record who sees secrets: %w", err)
	}
	return nil
}

// RevealList is [Queue.Reveal] for a list: one operation, and a record for each id
// if they are at most 1,000. picked is a JSON object that says what the list is. An
// empty list is not recorded.
//
// Errors: those of the database.
func (q *Queue) RevealList(ctx context.Context, picked json.RawMessage, ids []uuid.UUID) error {
	if len(ids) == 0 {
		return nil
	}
	n := int64(len(ids))
	op := Operation{Action: ActionReveal, State: OperationDone, Filter: picked, Total: n, Done: n}
	err := pg.InTx(ctx, q.pool, func(tx pgx.Tx) error {
		if err := q.beginOperation(ctx, tx, &op, Filter{}, nil); err != nil || len(ids) > maxRevealed {
			return err
		}
		_, err := tx.Exec(ctx, recordPartSQL, ids, string(ActionReveal), q.by.actor, q.by.comment, op.ID)
		return err
	})
	if err != nil {
		return fmt.Errorf("record who sees secrets: %w", err)
	}
	return nil
}

// $1 the dead letters, $2 the action, $3 the actor, $4 the comment, $5 the
// operation.
const recordPartSQL = `
insert into public.soniq_dead_letter_audit (dead_letter_id, operation_id, action, actor, comment, because)
select unnest($1::uuid[]), $5::uuid, $2, nullif($3, ''), nullif($4, ''), nullif($4, '')`
