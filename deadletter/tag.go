package deadletter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"soniq/internal/jsondoc"
	"soniq/internal/pg"
)

// $1 the dead letter.
const lockTagsSQL = `
select tags
from public.soniq_dead_letter_jobs
where id = $1
for update`

// $1 the dead letter, $2 its tags.
const setTagsSQL = `
update public.soniq_dead_letter_jobs
set tags = $2::jsonb
where id = $1`

var errNoTags = errors.New("no tag is given")

// Tag sets tags of a dead letter and keeps its others. A tag with an empty value is
// removed. Stored tags that are not a JSON object are replaced. Concurrent calls
// keep each other's tags.
//
// Errors: [ErrNotFound]; a key or value that can't be stored; those of the
// database.
func (q *Queue) Tag(ctx context.Context, id uuid.UUID, tags map[string]string) error {
	err := pg.InTxWith(ctx, q.pool, readCommitted, func(tx pgx.Tx) error {
		return q.tag(ctx, tx, id, tags)
	})
	if err != nil {
		return fmt.Errorf("tag dead letter %s: %w", id, err)
	}
	return nil
}

func (q *Queue) tag(ctx context.Context, tx pgx.Tx, id uuid.UUID, tags map[string]string) error {
	if len(tags) == 0 {
		return errNoTags
	}
	var stored json.RawMessage
	err := tx.QueryRow(ctx, lockTagsSQL, id).Scan(&stored)
	if errors.Is(err, pgx.ErrNoRows) {
		return ErrNotFound
	}
	if err != nil {
		return err
	}
	all := map[string]json.RawMessage{}
	if json.Unmarshal(jsondoc.Inner(stored), &all) != nil || all == nil {
		all = map[string]json.RawMessage{}
	}
	for key, value := range tags {
		if key == "" || !acceptable(key) || !acceptable(value) {
			return fmt.Errorf("tag %q: empty, not valid UTF-8, or with a NUL byte in it", key)
		}
		if value == "" {
			delete(all, key)
			continue
		}
		if all[key], err = json.Marshal(value); err != nil {
			return err
		}
	}
	text, err := json.Marshal(all)
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, setTagsSQL, id, string(text)); err != nil {
		return err
	}
	detail, err := json.Marshal(map[string]any{"tags": tags})
	if err != nil {
		return err
	}
	return q.record(ctx, tx, []uuid.UUID{id}, ActionTag, new(string(Redact(detail))))
}
