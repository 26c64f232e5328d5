package settle

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"soniq/deadletter/classify"
	"soniq/internal/tracecontext"
)

// report calls Settled with each outcome. An outcome that matched no row was lost:
// others had declared the worker dead. Two cases are no loss, and the row shows them:
// its handler completed the job, or an earlier try was committed and its answer lost.
func (s *Writer) report(ctx context.Context, group []Outcome, written []uuid.UUID, ambiguous bool) {
	wrote := make(map[uuid.UUID]bool, len(written))
	for _, id := range written {
		wrote[id] = true
	}
	var unclear []Outcome
	for _, o := range group {
		if !wrote[o.ID] && (ambiguous || o.unsure || o.Completed) {
			unclear = append(unclear, o)
		}
	}
	traces, err := s.readBack(ctx, unclear)
	if err != nil {
		s.Logger.Warn("can't tell which outcomes were written before the connection broke, or by their handlers", "error", err)
	}
	for _, o := range group {
		unsure := ambiguous || o.unsure
		trace, found := traces[o.ID]
		switch {
		case wrote[o.ID]:
		case found && o.Completed && trace.Done:
			o.Kind, o.Delay, o.Verdict = Done, 0, classify.Verdict{}
		case unsure && trace.Requested && s.wayOf(o) == writeRequeue:
			o.Kind, o.Delay = Cancelled, 0
		case !unsure || found && !trace.of(o.Kind):
			s.Logger.Warn("lost the claim of a job; its outcome was not written",
				tracecontext.Attrs(o.Trace, "job", o.ID, "job_name", o.Name, "attempt", o.Attempts, "outcome", string(o.Kind))...)
			o.Kind = Lost
		}
		s.Settled(ctx, o)
	}
}

// readBackSQL finds what is left of jobs that are no longer under our claims. The rows
// of done and cancelled jobs keep the token. That of a dead letter has its last attempt.
// A job that was queued again keeps nothing. Parameters: $1 the worker, $2 to $4 the
// claims.
const readBackSQL = `
select d.id,
  coalesce(j.status = 'done' and j.claim_token = d.token, false),
  coalesce(j.status = 'cancelled' and j.claim_token = d.token, false),
  coalesce(j.status = 'cancelled' and j.claim_token is null and j.cancel_requested_at is not null, false),
  coalesce(l.worker_id = $1 and l.attempts = d.attempts, false),
  j.id is null and l.id is null
from unnest($2::uuid[], $3::int[], $4::bigint[]) as d (id, attempts, token)
left join public.soniq_jobs j on j.id = d.id
left join public.soniq_dead_letter_jobs l on l.id = d.id`

// trace is what a job's rows show of an outcome. Requested is a job that was cancelled
// when it was queued again. Gone is one without a row.
type trace struct {
	ID                                     uuid.UUID
	Done, Cancelled, Requested, Dead, Gone bool
}

// of reports whether an outcome of this kind may have left the trace.
func (t trace) of(kind Kind) bool {
	switch kind {
	case Done:
		return t.Done || t.Gone
	case Cancelled:
		return t.Cancelled || t.Gone
	case DeadLetter:
		return t.Dead || t.Gone
	}
	return true
}

func (s *Writer) readBack(ctx context.Context, outcomes []Outcome) (map[uuid.UUID]trace, error) {
	if len(outcomes) == 0 {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	ids, attempts, tokens := columns(outcomes)
	rows, _ := s.Pool.Query(ctx, readBackSQL, s.Worker, ids, attempts, tokens)
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[trace])
	traces := make(map[uuid.UUID]trace, len(found))
	for _, t := range found {
		traces[t.ID] = t
	}
	return traces, err
}
