package deadletter

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// maxRevealed is how many of a list's dead letters get a record each; of a
// longer list the operation alone tells.
const maxRevealed = 1000

// Reveal records that somebody is shown the secrets of these dead letters, or
// jobs: one record each, with the action ActionReveal and the actor of As. Show
// nothing before it has returned nil.
func (q *Queue) Reveal(ctx context.Context, ids ...uuid.UUID) error {
	if err := q.record(ctx, q.pool, ids, ActionReveal, nil); err != nil {
		return fmt.Errorf("record who sees secrets: %w", err)
	}
	return nil
}

// RevealList is Reveal for a list: one operation with what picked it, a JSON
// object, and a record for each of the ids that belongs to it, if they are no
// more than a thousand. An empty list is not recorded.
func (q *Queue) RevealList(ctx context.Context, picked json.RawMessage, ids []uuid.UUID) error {
	if len(ids) == 0 {
		return nil
	}
	n := int64(len(ids))
	op := Operation{Action: ActionReveal, State: OperationDone, Filter: picked, Total: n, Done: n}
	err := pgx.BeginFunc(ctx, q.pool, func(tx pgx.Tx) error {
		if err := q.beginOperation(ctx, tx, &op, Filter{}, nil); err != nil || len(ids) > maxRevealed {
			return err
		}
		_, err := tx.Exec(ctx, recordPartSQL, ids, ActionReveal, q.by.actor, q.by.because, op.ID)
		return err
	})
	if err != nil {
		return fmt.Errorf("record who sees secrets: %w", err)
	}
	return nil
}

// $1 the dead letters, $2 the action, $3 who, $4 why, $5 the operation.
const recordPartSQL = `
insert into public.soniq_dead_letter_audit (dead_letter_id, operation_id, action, actor, because)
select unnest($1::uuid[]), $5::uuid, $2, nullif($3, ''), nullif($4, '')`
