package deadletter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"soniq/internal/argshash"
	"soniq/internal/audit"
	"soniq/internal/jsondoc"
	"soniq/internal/pg"
	"soniq/internal/replaysql"
)

const (
	// replayBatch is how many jobs one statement makes. It bounds a statement's
	// parameters.
	replayBatch = 10_000
	// editedBatch is how many jobs with other arguments one statement makes. Their
	// arguments pass through this process, and each may be of any size.
	editedBatch = 50
	// duplicateTries is how often a replay is tried again if the equal job that
	// stood in its way has left the queue before it could be named.
	duplicateTries = 10
)

// A replayer makes jobs of dead letters, in a transaction that it is given.
type replayer struct {
	options ReplayOptions
	by      author
}

// atOnce is how many of n replays one statement makes.
func (r replayer) atOnce(n int) int {
	if r.options.edits() {
		return min(n, editedBatch)
	}
	return n
}

// makeJobs makes the jobs, in the order of the dead letters, and records who did
// it. operation is the one that it is part of, or nil. It returns those that it
// made, in the same order.
func (r replayer) makeJobs(ctx context.Context, tx pgx.Tx, ids []uuid.UUID, operation *uuid.UUID) ([]Replayed, error) {
	fresh, err := freshIDs(len(ids))
	if err != nil {
		return nil, err
	}
	args, hashes, details, err := r.otherArgs(ctx, tx, ids)
	if err != nil {
		return nil, err
	}
	rows, err := tx.Query(ctx, replaysql.Make, append(r.params(operation).Params(), ids, fresh, args, hashes, details)...)
	if err != nil {
		return nil, err
	}
	jobs := make(map[uuid.UUID]uuid.UUID, len(ids))
	var from, to uuid.UUID
	_, err = pgx.ForEachRow(rows, []any{&from, &to}, func() error {
		jobs[from] = to
		return nil
	})
	if err != nil {
		return nil, err
	}
	made := make([]Replayed, 0, len(jobs))
	for _, id := range ids {
		if job, ok := jobs[id]; ok {
			made = append(made, Replayed{From: id, To: job})
		}
	}
	return made, nil
}

// freshIDs are the ids of n new jobs, in their order.
func freshIDs(n int) ([]uuid.UUID, error) {
	fresh := make([]uuid.UUID, n)
	for i := range fresh {
		id, err := uuid.NewV7()
		if err != nil {
			return nil, err
		}
		fresh[i] = id
	}
	return fresh, nil
}

func (r replayer) params(operation *uuid.UUID) replaysql.Options {
	o := r.options
	return replaysql.Options{
		KeepAttempts: o.KeepAttempts, MaxAttempts: o.MaxAttempts, Priority: o.Priority, Queue: o.Queue, Delay: o.Delay,
		Operation: operation, Actor: r.by.actor, Comment: r.by.comment,
	}
}

// newArgs returns the new job's arguments and their hash, for a dead letter with
// these arguments. Both are nil if they are the same.
func (r replayer) newArgs(id uuid.UUID, args json.RawMessage) (edited, hash *string, err error) {
	if !r.options.edits() {
		return nil, nil, nil
	}
	from := args
	if r.options.Args != nil {
		from = r.options.Args
	}
	to, err := EditArgs(from, r.options.Edits)
	var misfit *EditError
	if errors.As(err, &misfit) {
		misfit.ID = id
	}
	if err != nil || jsondoc.Equal(to, args) {
		return nil, nil, err
	}
	sum, err := argshash.Sum(to)
	if err != nil {
		return nil, nil, err
	}
	return new(string(to)), &sum, nil
}

const replayArgsSQL = `
select d.id, d.args
from public.soniq_dead_letter_jobs d
where d.id = any($1)`

// otherArgs returns the other arguments of each dead letter, their hash, and the
// detail of its record. They are nil for one that keeps its arguments.
func (r replayer) otherArgs(ctx context.Context, db pg.Querier, ids []uuid.UUID) (args, hashes, details []*string, err error) {
	args, hashes, details = make([]*string, len(ids)), make([]*string, len(ids)), make([]*string, len(ids))
	if !r.options.edits() {
		return args, hashes, details, nil
	}
	positions := make(map[uuid.UUID]int, len(ids))
	for i, id := range ids {
		positions[id] = i
	}
	rows, err := db.Query(ctx, replayArgsSQL, ids)
	if err != nil {
		return nil, nil, nil, err
	}
	var (
		id     uuid.UUID
		stored json.RawMessage
	)
	_, err = pgx.ForEachRow(rows, []any{&id, &stored}, func() (err error) {
		i := positions[id]
		if args[i], hashes[i], err = r.newArgs(id, stored); err != nil || args[i] == nil {
			return err
		}
		detail, err := audit.Detail(stored, json.RawMessage(*args[i]))
		details[i] = &detail
		return err
	})
	return args, hashes, details, err
}

// refusal reads the dead letter by sql, one of the two statements above, and
// returns why it can't be replayed. It doesn't look for duplicates.
func (r replayer) refusal(ctx context.Context, db pg.Querier, sql string, id uuid.UUID) error {
	var (
		state                 string
		replayJobID           *uuid.UUID
		attempts, maxAttempts int
		replays               int
	)
	err := db.QueryRow(ctx, sql, id).Scan(&state, &replayJobID, &attempts, &maxAttempts, &replays)
	if errors.Is(err, pgx.ErrNoRows) {
		return ErrNotFound
	}
	if err != nil {
		return err
	}
	o := r.options
	if state != string(StateDead) && !o.Force {
		return &StateError{ID: id, State: State(state), ReplayJobID: replayJobID}
	}
	if o.MaxReplays > 0 && replays >= o.MaxReplays && !o.Force {
		return &ReplaysError{ID: id, Replays: replays, MaxReplays: o.MaxReplays}
	}
	return o.checkAttempts(id, attempts, maxAttempts)
}

// duplicate returns a *DuplicateError if a job that is equal to the dead letter is
// queued.
func (r replayer) duplicate(ctx context.Context, db pg.Querier, id uuid.UUID) error {
	_, hashes, _, err := r.otherArgs(ctx, db, []uuid.UUID{id})
	if err != nil {
		return err
	}
	var queued uuid.UUID
	err = db.QueryRow(ctx, replaysql.Duplicate, id, hashes[0]).Scan(&queued)
	if err == nil {
		return &DuplicateError{ID: queued}
	}
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	return err
}

// one replays a single dead letter.
func (r replayer) one(ctx context.Context, tx pgx.Tx, id uuid.UUID) (uuid.UUID, error) {
	if err := r.refusal(ctx, tx, replaysql.LockState, id); err != nil {
		return uuid.Nil, err
	}
	for range duplicateTries {
		made, err := r.makeJobs(ctx, tx, []uuid.UUID{id}, nil)
		if err != nil {
			return uuid.Nil, err
		}
		if len(made) == 1 {
			return made[0].To, nil
		}
		if err := r.duplicate(ctx, tx, id); err != nil {
			return uuid.Nil, err
		}
	}
	return uuid.Nil, fmt.Errorf("an equal job came and left the queue %d times meanwhile", duplicateTries)
}

// isQueueTooLong reports whether the name of the job's queue doesn't fit into an
// index. The same SQLSTATE from enlargeStringInfo is about a value over 1 GiB.
func isQueueTooLong(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && pgErr.Code == pg.ProgramLimitExceeded && pgErr.Routine != "enlargeStringInfo"
}

// replayable returns the conditions of what a bulk replay takes of a filter. Its
// preview has the same.
//
// A dead letter whose replay died has a younger dead letter with the newer error:
// that is the one to replay.
func (r replayer) replayable(f Filter) *where {
	w := whereOf(f)
	r.andReplayable(w)
	return w
}

func (r replayer) andReplayable(w *where) {
	w.And(replaysql.Dead)
	w.And(replaysql.OutcomeUnknown + " is not true")
	w.And("not " + replaysql.Superseded)
	w.And("not " + replaysql.Overtaken)
	if r.options.Queue == "" {
		w.And("not " + replaysql.LongQueue)
	}
	if r.options.MaxReplays > 0 {
		w.And("not " + w.exhausted(r.options.MaxReplays))
	}
}

// exhausted: the row was replayed most times or more. Hardly any row is itself a
// replay, and only those pay for the recursion.
func (w *where) exhausted(most int) string {
	n := w.Param(min(most, math.MaxInt32)) // the columns are integers
	return `(case
    when d.replay_of is null then coalesce(d.resurrection_count, 0)
    else ` + replaysql.ReplaysOf("d.id") + `
  end >= ` + n + `)`
}

const selectReplayable = "select d.id, d.attempts, d.max_attempts\nfrom public.soniq_dead_letter_jobs d"

// lockReplayable locks the rows of w, up to the limit, and returns their ids, the oldest
// first. All lock in this order, so that two at the same time don't deadlock. An
// error of check ends it.
func lockReplayable(
	ctx context.Context, tx pgx.Tx, w *where, limit int, check func(id uuid.UUID, attempts, maxAttempts int) error,
) ([]uuid.UUID, error) {
	rows, err := tx.Query(ctx, selectReplayable+w.SQL()+oldestFirst+w.Limit(limit)+"\nfor update of d", w.Params()...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var (
		ids                   []uuid.UUID
		id                    uuid.UUID
		attempts, maxAttempts int
	)
	_, err = pgx.ForEachRow(rows, []any{&id, &attempts, &maxAttempts}, func() error {
		ids = append(ids, id)
		return check(id, attempts, maxAttempts)
	})
	return ids, err
}
