package deadletter

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"soniq/internal/pause"
)

// A Retention is a rule about how long dead letters are kept. Of a list of them
// the first whose filter picks a dead letter decides about it, so that an
// exception stands before the rule.
type Retention struct {
	// Filter picks dead letters. The zero value picks all of them. It must not
	// have a Limit.
	Filter Filter
	// Keep is how long they are kept from their death on. Default 0, which is
	// for ever.
	Keep time.Duration
}

// ValidateRetention returns an error that names the first rule which makes no
// sense.
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

const (
	// retainBatch is how many rows a batch of Retain deletes: some 20 ms of
	// locks, on behalf of nobody who waits.
	retainBatch = 1000
	// retainPause is the least time between two of them.
	retainPause = 10 * time.Millisecond
	// lockInterval is the longest time between two tries to take the lock.
	lockInterval = 10 * time.Second
)

// Retain deletes what the rules don't keep any longer, and returns how many
// that were. It is for a process that does so now and then: it goes in small
// batches with a pause after each as long as the batch itself, waits for no
// lock, and leaves what is being replayed.
//
// Each batch holds lock, an advisory lock of the transaction, so that of several
// processes one is at work. A row that the database refuses to delete is left, and
// the error tells of it once the others, of every rule, are gone. While somebody else has it, Retain tries again, up to
// every 10 s, until ctx ends. 0 is no lock.
func (q *Queue) Retain(ctx context.Context, rules []Retention, lock int64) (int64, error) {
	deleted, err := q.retain(ctx, rules, lock)
	if err != nil {
		return deleted, fmt.Errorf("keep dead letters for as long as the rules say: %w", err)
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
		c := cleanup{
			q: q, where: retentionWhere(rules, i, cutoff), filter: f, size: retainBatch, lock: lock, pause: pauseAsLong,
		}
		err := c.run(ctx)
		deleted += c.op.Done
		if err != nil {
			errs = append(errs, fmt.Errorf("rule %d: %w", i+1, err))
		}
		if err != nil && len(c.refused.ids) == 0 {
			break
		}
	}
	return deleted, errors.Join(errs...)
}

// retentionWhere is what rule i deletes: what is old and what no rule before it
// picks.
func retentionWhere(rules []Retention, i int, cutoff time.Time) *where {
	w := rules[i].Filter.where()
	w.old(cutoff)
	for _, before := range rules[:i] {
		other := &where{params: w.params}
		before.Filter.addTo(other)
		w.params = other.params
		// A condition that is null, on a text that is null, picks nothing.
		w.and("(" + strings.Join(other.conditions, " and ") + ") is not true")
	}
	return w
}

func pauseAsLong(ctx context.Context, took time.Duration) error {
	return pause.For(ctx, max(took, retainPause))
}
