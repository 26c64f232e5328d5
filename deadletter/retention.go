package deadletter

import (
	"context"
	"errors"
	"fmt"
	"time"

	"soniq/internal/audit"
	"soniq/internal/pg"
	"soniq/internal/sweep"
)

// A Retention is a rule for how long dead letters are kept. In a list of rules, the
// first whose filter picks a dead letter decides, so exceptions come first.
type Retention struct {
	// Filter picks dead letters. It must not have a Limit. The zero value picks all.
	Filter Filter
	// Keep is how long they are kept after their death. Default 0: forever.
	Keep time.Duration
}

// ValidateRetention returns an error that names the first wrong rule.
//
// Errors: those of [Filter.Validate], and others of a wrong rule.
func ValidateRetention(rules []Retention) error {
	for i, r := range rules {
		err := r.Filter.Validate()
		switch {
		case err != nil:
		case r.Keep < 0:
			err = fmt.Errorf("keep: %s is negative", r.Keep)
		case r.Filter.Limit != 0:
			err = errors.New("filter: Limit: a rule has none")
		case r.Filter.State == StateReplaying && r.Keep > 0:
			err = errKeepsReplayed
		case !r.Filter.narrow() && i < len(rules)-1:
			err = errors.New("it picks every dead letter, so the rules after it decide nothing")
		}
		if err != nil {
			return fmt.Errorf("rule %d: %w", i+1, err)
		}
	}
	return nil
}

// retainBatch is how many rows a batch of ApplyRetention deletes: about 20 ms of
// locks.
const retainBatch = 1000

// MaintenanceOptions are the options of [Queue.ApplyRetention] and
// [Queue.PruneHistory]. The zero value works.
type MaintenanceOptions struct {
	// Lock is the key of an advisory lock, which each batch holds until its
	// transaction ends: of several processes one works at a time. Default 0: no
	// lock.
	Lock int64
}

// ApplyRetention deletes the dead letters that the rules don't keep, and returns how
// many. It is for a process that calls it from time to time: it deletes in small
// batches, pauses after each for as long as the batch took, and leaves rows that are
// locked or being replayed.
//
// While another process has the lock, it tries again until ctx ends, at least every
// 10 s. A row that the database refuses to delete doesn't keep others from being
// deleted, whatever their rule; the error at the end names it.
//
// Each rule that deletes something is an [Operation].
//
// Errors: those of [ValidateRetention]; the context's; those of the database.
func (q *Queue) ApplyRetention(ctx context.Context, rules []Retention, o MaintenanceOptions) (int64, error) {
	deleted, err := q.retain(ctx, rules, o.Lock)
	if err != nil {
		return deleted, fmt.Errorf("apply retention: %w", err)
	}
	return deleted, nil
}

func (q *Queue) retain(ctx context.Context, rules []Retention, lock int64) (deleted int64, err error) {
	if err := ValidateRetention(rules); err != nil {
		return 0, err
	}
	var errs []error
	for i, r := range rules {
		if r.Keep == 0 {
			continue
		}
		var cutoff time.Time
		if err := q.pool.QueryRow(ctx, cutoffSQL, r.Keep.Seconds()).Scan(&cutoff); err != nil {
			return deleted, errors.Join(append(errs, err)...)
		}
		f := r.Filter
		if f.To.IsZero() || cutoff.Before(f.To) {
			f.To = cutoff
		}
		o := sweep.Oldest{Where: retentionWhere(rules, i, cutoff).Where, Batch: retainBatch, Lock: lock, Pauses: true}
		n, err := q.deleteOldest(ctx, f, &o)
		deleted += n
		if err != nil {
			errs = append(errs, fmt.Errorf("rule %d: %w", i+1, err))
		}
		if err != nil && !o.Refused() {
			break
		}
	}
	return deleted, errors.Join(errs...)
}

// retentionWhere picks what rule i deletes: what is old and no rule before it picks.
func retentionWhere(rules []Retention, i int, cutoff time.Time) *where {
	w := whereOf(rules[i].Filter)
	w.old(cutoff)
	for _, before := range rules[:i] {
		w.AndNot(func(other *pg.Where) {
			picked := where{*other}
			picked.filter(before.Filter)
			*other = picked.Where
		})
	}
	return w
}

const (
	// HistoryKept is how long the history is kept: records and operations.
	HistoryKept = audit.Kept
	// ResumableFor is how long a bulk replay that was stopped, or whose process was
	// killed, can be resumed.
	ResumableFor = audit.ResumableFor
)

// PruneHistory deletes records and operations older than [HistoryKept]. It gives up
// replays that nobody resumed for [ResumableFor], with the rows that they had picked.
// It takes the secrets out of what 0.1.0 recorded of replays that are done.
//
// It does so in small batches with pauses. If another process has the lock for more
// than 2 s, it leaves the rest to the next call. A row that the database refuses to
// delete is left, and the error says so.
//
// Errors: the context's; those of the database.
func (q *Queue) PruneHistory(ctx context.Context, o MaintenanceOptions) error {
	if err := audit.Prune(ctx, q.pool, o.Lock); err != nil {
		return fmt.Errorf("prune history: %w", err)
	}
	return nil
}
