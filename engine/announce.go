package engine

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"soniq/deadletter/classify"
)

// announce tells of each outcome. One that matched no row was lost, after the
// job's worker was taken for dead, unless the row tells that its handler
// completed the job, or that an earlier try of ours was committed unseen.
func (s *settler) announce(ctx context.Context, group []Outcome, written []uuid.UUID, ambiguous bool) {
	wrote := make(map[uuid.UUID]bool, len(written))
	for _, id := range written {
		wrote[id] = true
	}
	var unclear []Outcome
	for _, o := range group {
		if !wrote[o.Job.ID] && (ambiguous || o.wasAside || o.completed) {
			unclear = append(unclear, o)
		}
	}
	traces, err := s.readBack(ctx, unclear)
	if err != nil {
		s.logger.Warn("can't tell which outcomes were written before the connection broke, or by their handlers", "error", err)
	}
	for _, o := range group {
		unsure := ambiguous || o.wasAside
		left, found := traces[o.Job.ID]
		switch {
		case wrote[o.Job.ID]:
		case found && o.completed && left.Done:
			o.Kind, o.Delay, o.Verdict = OutcomeDone, 0, classify.Verdict{}
		case unsure && left.Requested && s.writerOf(o) == writeRequeue:
			o.Kind, o.Delay = OutcomeCancelled, 0
		case !unsure || found && !left.of(o.Kind):
			s.logger.Warn("lost the claim of a job; its outcome was not written",
				"job", o.Job.ID, "name", o.Job.Name, "attempt", o.Job.Attempts, "outcome", string(o.Kind))
			o.Kind = OutcomeLost
		}
		s.settled(ctx, o)
	}
}

// readBackSQL finds what is left of jobs that are no longer under our claims.
// Parameters: $1 the worker, $2 to $4 the claims. The rows of done and
// cancelled jobs keep the token; that of a dead letter has its last attempt; a
// job that was queued again keeps nothing.
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

// trace is what a job's rows tell of an outcome. Requested is a job that was
// cancelled when it was queued again, Gone one without a row.
type trace struct {
	ID                                     uuid.UUID
	Done, Cancelled, Requested, Dead, Gone bool
}

// of reports whether an outcome of this kind may have left the trace.
func (t trace) of(kind OutcomeKind) bool {
	switch kind {
	case OutcomeDone:
		return t.Done || t.Gone
	case OutcomeCancelled:
		return t.Cancelled || t.Gone
	case OutcomeDeadLetter:
		return t.Dead || t.Gone
	}
	return true
}

func (s *settler) readBack(ctx context.Context, outcomes []Outcome) (map[uuid.UUID]trace, error) {
	if len(outcomes) == 0 {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	ids, attempts, tokens := make([]uuid.UUID, len(outcomes)), make([]int32, len(outcomes)), make([]int64, len(outcomes))
	for i, o := range outcomes {
		ids[i], attempts[i], tokens[i] = o.Job.ID, int32(o.Job.Attempts), o.Job.token
	}
	rows, _ := s.pool.Query(ctx, readBackSQL, s.worker, ids, attempts, tokens)
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[trace])
	traces := make(map[uuid.UUID]trace, len(found))
	for _, t := range found {
		traces[t.ID] = t
	}
	return traces, err
}
