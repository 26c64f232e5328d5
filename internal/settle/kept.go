package settle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"soniq/deadletter/classify"
	"soniq/internal/pg"
)

// Kept is an outcome that the database refuses, as a table of its own keeps it in case
// that its worker ends before it is written. It counts only under its claim.
type Kept struct {
	Token    int64            `json:"token"`
	Kind     Kind             `json:"kind"`
	Verdict  classify.Verdict `json:"verdict"`
	Duration time.Duration    `json:"duration"`
	Result   json.RawMessage  `json:"result,omitempty"`
	Replay   bool             `json:"replay,omitempty"`
}

// keepSQL keeps an outcome. Parameters: $1 and $2 the claim, $3 the outcome.
const keepSQL = `
insert into public.soniq_kept_outcomes (job_id, token, outcome)
values ($1, $2, $3::text::jsonb)
on conflict (job_id, token) do nothing`

// errKept is why a kept outcome was not written.
var errKept = errors.New("its worker ended before it was written")

// keepPatience limits the statement.
const keepPatience = time.Second

// keep keeps what becomes of a job whose outcome is refused. This may be refused too. A job that would run again anyway needs none.
func (s *Writer) keep(ctx context.Context, o Outcome) bool {
	if o.Kind != Done && o.Kind != DeadLetter && o.Kind != Cancelled {
		return true
	}
	text, err := json.Marshal(Kept{Token: o.Token, Kind: o.Kind, Verdict: o.Verdict, Duration: o.Duration, Result: o.Result, Replay: o.Replay})
	if err != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, keepPatience)
	defer cancel()
	_, err = s.Pool.Exec(ctx, keepSQL, o.ID, o.Token, string(text))
	return err == nil
}

// KeptSQL finds the outcomes that are kept for claims. Parameters: $1 the jobs, $2 the
// tokens.
const KeptSQL = `
select k.job_id, k.outcome
from public.soniq_kept_outcomes k
join unnest($1::uuid[], $2::bigint[]) d (id, token) on k.job_id = d.id and k.token = d.token`

// Keeps reads a kept outcome, and reports whether it counts under this claim.
func Keeps(kept json.RawMessage, token int64) (k Kept, ok bool) {
	if kept == nil || json.Unmarshal(kept, &k) != nil || k.Token != token {
		return k, false
	}
	dead := k.Kind == DeadLetter && k.Verdict.Reason != ""
	return k, dead || k.Kind == Done || k.Kind == Cancelled
}

// WriteKept writes the outcome that a dead worker has left. Parameters are the worker's id
// and the claim. It reports whether the job was still under it.
//
// Errors: that the database still refuses it.
func WriteKept(ctx context.Context, pool *pg.Pool, logger *slog.Logger, ttl time.Duration, worker uuid.UUID, o Outcome, k Kept) (written bool, err error) {
	o.Kind, o.Token, o.Verdict, o.Duration, o.Result, o.Replay = k.Kind, k.Token, k.Verdict, k.Duration, k.Result, k.Replay
	w := Writer{
		Pool: pool, Logger: logger, Worker: worker, TTL: ttl,
		Settled: func(_ context.Context, settled Outcome) { written = settled.Kind == o.Kind },
	}
	if err := w.writeOne(ctx, o, errKept, firstPatience); err != nil {
		return false, fmt.Errorf("write the outcome of a dead worker: %w", err)
	}
	return written, nil
}
