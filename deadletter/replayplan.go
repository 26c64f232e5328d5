package deadletter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"soniq/internal/byindex"
	"soniq/internal/pg"
	"soniq/internal/replaysql"
)

// A ReplayPlan is what [Queue.ReplayAll] would do now. All are numbers of dead
// letters.
type ReplayPlan struct {
	// Picked would be taken: Replay of them replayed, and Duplicates left dead,
	// because an equal unique job is queued or is made of an older one of them.
	Picked     int64 `json:"picked"`
	Replay     int64 `json:"replay"`
	Duplicates int64 `json:"duplicates"`
	// Replaying have a replay under way. This and what follows match the filter,
	// whatever its Limit, and are not taken.
	Replaying int64 `json:"replaying"`
	// Resolved have a replay that succeeded.
	Resolved int64 `json:"resolved"`
	// Superseded have a younger dead letter or replay of the same work: their replay
	// died, or what they are a replay of was replayed again.
	Superseded int64 `json:"superseded"`
	// OutcomeUnknown were replayed by a program that doesn't record the outcome.
	OutcomeUnknown int64 `json:"outcome_unknown"`
	// Exhausted have reached MaxReplays.
	Exhausted int64 `json:"exhausted"`
	// LongQueue have a queue whose name was shortened, since it is over 2,000 bytes. Only a
	// replay into another queue takes them, by ReplayOptions.Queue.
	LongQueue int64 `json:"long_queue"`
}

// PlanReplay returns what [Queue.ReplayAll] would do with the same filter and
// options, if nobody else changes anything meanwhile. It changes nothing.
//
// Errors: those of [Queue.ReplayAll], but for [*StoppedError] and
// [ErrFilterEmpty].
func (q *Queue) PlanReplay(ctx context.Context, f Filter, o ReplayOptions) (ReplayPlan, error) {
	p, err := q.planReplay(ctx, f, replayer{o, q.by})
	if err != nil {
		return ReplayPlan{}, fmt.Errorf("plan replay: %w", err)
	}
	return p, nil
}

func (q *Queue) planReplay(ctx context.Context, f Filter, r replayer) (p ReplayPlan, err error) {
	if p.Picked, err = q.replayCount(ctx, f, r); err != nil {
		return p, err
	}
	if p.Duplicates, err = q.duplicates(ctx, f, r); err != nil {
		return p, err
	}
	p.Replay = p.Picked - p.Duplicates
	w := whereOf(f)
	exhausted := "false"
	if r.options.MaxReplays > 0 {
		exhausted = w.exhausted(r.options.MaxReplays)
	}
	long := "false"
	if r.options.Queue == "" {
		long = replaysql.LongQueue
	}
	sql := fmt.Sprintf(replaysql.LeftOut, "("+replaysql.Superseded+" or "+replaysql.Overtaken+")", replaysql.OutcomeUnknown, exhausted, long, w.SQL())
	err = byindex.UnhurriedRow(ctx, q.pool, sql, w.Params(),
		&p.Replaying, &p.Resolved, &p.Superseded, &p.OutcomeUnknown, &p.Exhausted, &p.LongQueue)
	return p, err
}

// ReplayList returns the first n dead letters that [Queue.ReplayAll] would take,
// the oldest first, but no more than the filter's Limit.
//
// Errors: a wrong filter; those of the database.
func (q *Queue) ReplayList(ctx context.Context, f Filter, o ReplayOptions, n int) ([]Job, error) {
	if err := f.Validate(); err != nil {
		return nil, fmt.Errorf("list dead letters to replay: %w", err)
	}
	if f.Limit > 0 {
		n = min(n, f.Limit)
	}
	w := replayer{o, q.by}.replayable(f)
	end := w.SQL() + oldestFirst + w.Limit(n)
	jobs, err := q.readBounded(ctx, pg.ListedBytes, w.Params(), func(r reading) string { return r.selectJobs() + end })
	if err != nil {
		return nil, fmt.Errorf("list dead letters to replay: %w", err)
	}
	return jobs, nil
}

// ReplayCount returns how many dead letters [Queue.ReplayAll] would take. It is
// [ReplayPlan].Picked at less cost: duplicates of queued jobs count.
//
// Errors: those of [Queue.PlanReplay].
func (q *Queue) ReplayCount(ctx context.Context, f Filter, o ReplayOptions) (int64, error) {
	n, err := q.replayCount(ctx, f, replayer{o, q.by})
	if err != nil {
		return 0, fmt.Errorf("count dead letters to replay: %w", err)
	}
	return n, nil
}

func (q *Queue) replayCount(ctx context.Context, f Filter, r replayer) (int64, error) {
	if err := q.checkReplay(ctx, f, r); err != nil {
		return 0, err
	}
	return q.count(ctx, r.replayable(f), f.Limit)
}

// checkReplay returns why a bulk replay would not begin: a wrong filter or option, or a
// row that is picked and has no attempts left, or no place for an edit.
func (q *Queue) checkReplay(ctx context.Context, f Filter, r replayer) error {
	if err := f.Validate(); err != nil {
		return err
	}
	if err := r.options.validateAll(); err != nil {
		return err
	}
	if r.options.edits() {
		if err := q.checkEdits(ctx, f, r); err != nil {
			return err
		}
	}
	if r.options.KeepAttempts {
		return q.checkAllAttempts(ctx, f, r)
	}
	return nil
}

// The places are those of the query that picks the rows and of the new maximum,
// where 0 is the row's own.
const noAttemptsLeftSQL = `
select p.id, p.attempts, p.max_attempts
from (%s) p
where p.attempts >= coalesce(nullif(%s::bigint, 0), p.max_attempts)
limit 1`

// checkAllAttempts returns an *AttemptsError if a row that is picked has no
// attempts left.
func (q *Queue) checkAllAttempts(ctx context.Context, f Filter, r replayer) error {
	w := r.replayable(f)
	picked := selectReplayable + w.SQL() + oldestFirst + w.Limit(f.Limit)
	sql := fmt.Sprintf(noAttemptsLeftSQL, picked, w.Param(r.options.MaxAttempts))
	var (
		id                    uuid.UUID
		attempts, maxAttempts int
	)
	err := byindex.UnhurriedRow(ctx, q.pool, sql, w.Params(), &id, &attempts, &maxAttempts)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	return r.options.checkAttempts(id, attempts, maxAttempts)
}

// checkEdits returns the *EditError of the first row that is picked and whose
// arguments have no place for an edit.
func (q *Queue) checkEdits(ctx context.Context, f Filter, r replayer) error {
	w := r.replayable(f)
	picked := w.clone()
	rows, err := byindex.Unhurried(ctx, q.pool, "select d.id, d.args\nfrom public.soniq_dead_letter_jobs d"+picked.SQL()+oldestFirst+picked.Limit(f.Limit), picked.Params()...)
	if err != nil {
		return err
	}
	defer rows.Close()
	var (
		id   uuid.UUID
		args json.RawMessage
	)
	n := 0
	_, err = pgx.ForEachRow(rows, []any{&id, &args}, func() error {
		n++
		_, _, err := r.newArgs(id, args)
		return err
	})
	return q.named(ctx, w, n, err)
}

// A uniqueKey is what one of the unique indexes holds: a job's name and the hash
// of its arguments, or a dedup key and no hash.
type uniqueKey struct{ name, hash string }

// uniqueRow is a row of uniqueRowsSQL: the keys that its job would take, and
// whether a queued job has one of them.
type uniqueRow struct {
	keys   []uniqueKey
	queued bool
}

// duplicates counts the picked rows that would not be inserted. A row that is
// refused for one of its keys doesn't take the other, so they are gone through in
// their order.
func (q *Queue) duplicates(ctx context.Context, f Filter, r replayer) (n int64, err error) {
	all, err := q.uniqueRows(ctx, f, r)
	taken := map[uniqueKey]bool{}
	for _, row := range all {
		if row.queued || slices.ContainsFunc(row.keys, func(k uniqueKey) bool { return taken[k] }) {
			n++
			continue
		}
		for _, k := range row.keys {
			taken[k] = true
		}
	}
	return n, err
}

func (q *Queue) uniqueRows(ctx context.Context, f Filter, r replayer) (all []uniqueRow, err error) {
	w := r.replayable(f)
	// Arguments are long, and only edits need them.
	args := "null::jsonb as args"
	if r.options.edits() {
		args = "d.args"
	}
	picked := "select d.id, d.moved_to_dead_letter_at, d.job_name, d.args_hash, d.unique_job, d.dedup_key, " + args +
		"\nfrom public.soniq_dead_letter_jobs d" + w.SQL() + oldestFirst + w.Limit(f.Limit)
	rows, err := byindex.Unhurried(ctx, q.pool, fmt.Sprintf(replaysql.UniqueRows, picked), w.Params()...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var (
		id                uuid.UUID
		name, hash, dedup *string
		stored            json.RawMessage
		equal, same       bool
		// The rows with other arguments, and the keys of these.
		edited        []int
		names, hashes []string
	)
	_, err = pgx.ForEachRow(rows, []any{&id, &name, &hash, &dedup, &stored, &equal, &same}, func() error {
		row := uniqueRow{queued: same}
		if name != nil && hash != nil {
			_, newHash, err := r.newArgs(id, stored)
			if err != nil {
				return err
			}
			if newHash == nil {
				row.queued = row.queued || equal
			} else {
				hash, edited = newHash, append(edited, len(all))
				names, hashes = append(names, *name), append(hashes, *hash)
			}
			row.keys = append(row.keys, uniqueKey{*name, *hash})
		}
		if dedup != nil {
			row.keys = append(row.keys, uniqueKey{name: *dedup})
		}
		all = append(all, row)
		return nil
	})
	if err != nil || len(edited) == 0 {
		return all, err
	}
	queued, err := q.queuedEqual(ctx, names, hashes)
	for _, position := range queued {
		all[edited[position-1]].queued = true
	}
	return all, err
}

func (q *Queue) queuedEqual(ctx context.Context, names, hashes []string) ([]int64, error) {
	rows, err := byindex.Unhurried(ctx, q.pool, replaysql.QueuedEqual, names, hashes)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[int64])
}
