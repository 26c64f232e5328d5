package deadletter

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"soniq/internal/jsondoc"
	"soniq/internal/pg"
)

// The history has no secrets of the arguments that replays were given: it is kept
// for a year, and more people may read it than the queue. Only a replay that can
// still be resumed has them as they are.

// maxChangedPaths bounds the list of changed paths in a record.
const maxChangedPaths = 100

// replayDetail is the detail of a replay with other arguments.
type replayDetail struct {
	Args json.RawMessage `json:"args"`
	// Changed are the paths at which they differ from the dead letter's. Without
	// them a changed secret would not be seen.
	Changed []string `json:"changed"`
}

// argsDetail is the detail of a replay that was given args in place of from.
func argsDetail(from, args json.RawMessage) (*string, error) {
	d := replayDetail{Args: Redact(args), Changed: []string{}}
	changes := CompareArgs(from, args)
	for _, c := range changes[:min(len(changes), maxChangedPaths)] {
		d.Changed = append(d.Changed, RedactText(c.Path))
	}
	text, err := json.Marshal(d)
	if err != nil {
		return nil, err
	}
	return new(string(text)), nil
}

// Changes returns what a replay with other arguments changed, for people to read:
// secrets are "[redacted]" before and after. args are the dead letter's. It returns
// nil for any other record.
func (r Record) Changes(args json.RawMessage) []ArgsChange {
	var d replayDetail
	if r.Action != ActionReplay || json.Unmarshal(r.Detail, &d) != nil || d.Args == nil {
		return nil
	}
	changes := CompareArgs(Redact(args), Redact(d.Args))
	told := make(map[string]bool, len(changes))
	for _, c := range changes {
		told[c.Path] = true
	}
	hidden := json.RawMessage(`"` + Redacted + `"`)
	for _, path := range d.Changed {
		if !told[path] {
			changes = append(changes, ArgsChange{Path: path, Old: hidden, New: hidden})
		}
	}
	return changes
}

// redacted returns the order as it is kept once the replay is done.
func (o replayOrder) redacted() replayOrder {
	o.Redacted = true
	o.Options.Args = Redact(o.Options.Args)
	edits := make([]ArgsEdit, len(o.Options.Edits))
	for i, e := range o.Options.Edits {
		edits[i] = ArgsEdit(jsondoc.Edit(e).Redacted())
	}
	o.Options.Edits = edits
	o.Options.Queue = RedactText(o.Options.Queue)
	return o
}

// $1 the operation, $2 its options.
const blankOptionsSQL = `
update public.soniq_dead_letter_operations
set options = $2::jsonb
where id = $1`

// blank replaces the stored order by one without secrets.
func (o replayOrder) blank(ctx context.Context, db pg.Querier, operation uuid.UUID) error {
	text, err := json.Marshal(o.redacted())
	if err != nil {
		return err
	}
	_, err = db.Exec(ctx, blankOptionsSQL, operation, string(text))
	return err
}

// The rows that 0.1.0 wrote, or still writes. The condition is that of an index. $1
// the lock, $2 the batch.
const rawDetailsSQL = pg.Leader + `
select r.id, r.detail -> 'args', coalesce(d.args, 'null')
from public.soniq_dead_letter_audit r
left join public.soniq_dead_letter_jobs d on d.id = r.dead_letter_id
where ` + pg.IsLeader + `
  and r.detail ? 'args'
  and not r.detail ? 'changed'
order by r.id
limit $2
for update of r skip locked`

// $1 the records, $2 their details.
const mendDetailsSQL = `
update public.soniq_dead_letter_audit r
set detail = u.detail::jsonb
from unnest($1::bigint[], $2::text[]) as u (id, detail)
where r.id = u.id`

// $1 the lock, $2 the batch.
const rawOptionsSQL = pg.Leader + `
select o.id, o.options
from public.soniq_dead_letter_operations o
where ` + pg.IsLeader + `
  and o.state = 'done'
  and o.options is not null
  and not o.options ? 'redacted'
order by o.id
limit $2
for update of o skip locked`

const (
	// mendBatch is small: a row can hold a megabyte of arguments.
	mendBatch = 50
	// mendBatches bounds one call. The next call continues.
	mendBatches = 200
)

// mend takes the secrets out of what 0.1.0 recorded, in batches that hold the lock.
func (q *Queue) mend(ctx context.Context, lock int64) error {
	for _, step := range []func(context.Context, pgx.Tx, int64) (int, error){mendDetails, mendOptions} {
		for range mendBatches {
			var n int
			err := pgx.BeginTxFunc(ctx, q.pool, readCommitted, func(tx pgx.Tx) (err error) {
				n, err = step(ctx, tx, lock)
				return err
			})
			if err != nil {
				return fmt.Errorf("take secrets out of the history: %w", err)
			}
			if n < mendBatch {
				break
			}
		}
	}
	return nil
}

func mendDetails(ctx context.Context, tx pgx.Tx, lock int64) (int, error) {
	rows, err := tx.Query(ctx, rawDetailsSQL, lock, mendBatch)
	if err != nil {
		return 0, err
	}
	var (
		ids        []int64
		details    []*string
		id         int64
		args, from json.RawMessage
	)
	_, err = pgx.ForEachRow(rows, []any{&id, &args, &from}, func() error {
		if string(from) == "null" {
			from = args // the dead letter is deleted: what was changed is not known
		}
		detail, err := argsDetail(from, args)
		ids, details = append(ids, id), append(details, detail)
		return err
	})
	if err != nil || len(ids) == 0 {
		return 0, err
	}
	_, err = tx.Exec(ctx, mendDetailsSQL, ids, details)
	return len(ids), err
}

func mendOptions(ctx context.Context, tx pgx.Tx, lock int64) (int, error) {
	rows, err := tx.Query(ctx, rawOptionsSQL, lock, mendBatch)
	if err != nil {
		return 0, err
	}
	type raw struct {
		ID      uuid.UUID
		Options []byte
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[raw])
	if err != nil {
		return 0, err
	}
	for _, r := range all {
		var order replayOrder
		if json.Unmarshal(r.Options, &order) != nil {
			order = replayOrder{} // unreadable
		}
		if err := order.blank(ctx, tx, r.ID); err != nil {
			return 0, err
		}
	}
	return len(all), nil
}
