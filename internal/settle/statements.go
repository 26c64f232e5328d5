package settle

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"soniq/internal/byindex"
	"soniq/internal/deadwrite"
	"soniq/internal/history"
	"soniq/internal/pg"
)

// fence is true for a row j that is still under the claim d of the worker $1. The
// statements below, and deadwrite.Move, write outcomes; a row that doesn't match belongs
// to another worker by now. Parameters $2 to $4: ids, attempts, tokens.
//
// The rows must be read by their ids, whatever the planner believes. Its statistics are
// mostly from a time when no job was processing. So it would take
// idx_soniq_jobs_processing for empty and read all of it, with a dead entry for each job
// that ran since the last vacuum: 'is true' hides the condition from it. And it would
// read the whole table rather than 500 rows of 50,000: arrays from a sub-select count as
// ten, so it doesn't. Ten jobs or 500 then take the same time each.
const fence = `where j.id = d.id
  and (j.status = 'processing' and j.worker_id = $1) is true
  and j.attempts = d.attempts
  and j.claim_token = d.token`

// DoneSQL makes jobs done. Parameters: $1 to $4 the claims, $5 the results, $6 how long
// the rows are kept.
const DoneSQL = `
update public.soniq_jobs j
set status = 'done',
  result = d.result::jsonb,
  expires_at = now() + $6::interval,
  updated_at = now()
from unnest((select $2::uuid[]), (select $3::int[]), (select $4::bigint[]), (select $5::text[])) as d (id, attempts, token, result)
` + fence + `
returning j.id`

// DeleteSQL deletes the rows of done jobs. Parameters: $1 to $4 the claims.
const DeleteSQL = `
delete from public.soniq_jobs j
using unnest((select $2::uuid[]), (select $3::int[]), (select $4::bigint[])) as d (id, attempts, token)
` + fence + `
returning j.id`

// CancelledSQL makes jobs cancelled. Parameters: $1 to $4 the claims, $5 the errors, $6
// how long the rows are kept.
const CancelledSQL = `
update public.soniq_jobs j
set status = 'cancelled',
  last_error = d.error,
  expires_at = now() + $6::interval,
  updated_at = now()
from unnest((select $2::uuid[]), (select $3::int[]), (select $4::bigint[]), (select $5::text[])) as d (id, attempts, token, error)
` + fence + `
returning j.id`

// RequeueSQL queues jobs again. Parameters: $1 to $4 the claims, $5 the delays, $6 the
// errors, $7 the attempts that are given back, $8 whether they may be unique, $9 the
// history's entries.
//
// A NULL delay keeps the due time: the job goes back to its old place. $8 is false only
// for a job whose unique twin was queued meanwhile: rather than be lost, it goes on
// without being unique. A history that is larger than any of ours is left out: jsonb may
// not hold it and one more entry. If a cancellation was requested, the trigger
// soniq_job_cancelled makes the row cancelled.
func RequeueSQL() string { return requeueSQL }

var requeueSQL = `
update public.soniq_jobs j
set status = 'queued',
  attempts = greatest(j.attempts - d.refund, 0),
  scheduled_at = coalesce(now() + d.delay, ` + pg.JobDueAgain("j") + `),
  last_error = coalesce(d.error, j.last_error),
  unique_job = j.unique_job and $8,
  dedup_key = case when $8 then j.dedup_key end,
  errors = ` + history.Add("case when pg_column_size(j.errors) <= 262144 then j.errors end", "d.failure::jsonb") + `,
  worker_id = null,
  claim_token = null,
  updated_at = now()
from unnest((select $2::uuid[]), (select $3::int[]), (select $4::bigint[]), (select $5::interval[]), (select $6::text[]), (select $7::int[]), (select $9::text[]))
  as d (id, attempts, token, delay, error, refund, failure)
` + fence + `
returning j.id, j.cancel_requested_at is not null`

// lockedSQL finds the jobs whose rows another session has locked. The locks that it
// takes itself last for this statement. Parameter: $1 ids.
const lockedSQL = `
with free as materialized (
  select j.id
  from public.soniq_jobs j
  where j.id = any ($1)
  for update skip locked
)
select j.id
from public.soniq_jobs j
where j.id = any ($1)
  and j.id not in (select free.id from free)`

// exec writes a group and returns the ids of the rows that matched.
func (s *Writer) exec(ctx context.Context, way way, group []Outcome, patience time.Duration) (ids []uuid.UUID, err error) {
	began := time.Now()
	if ids, err = s.write(ctx, way, group, patience); s.Wrote != nil {
		s.Wrote(ctx, len(group), time.Since(began), err)
	}
	return ids, err
}

func (s *Writer) write(ctx context.Context, way way, group []Outcome, patience time.Duration) (ids []uuid.UUID, err error) {
	// Limited, so that a connection that hangs is given up and tried anew.
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if way == writeDead {
		deaths := make([]deadwrite.Death, len(group))
		for i, o := range group {
			deaths[i] = deadwrite.Death{
				ID: o.ID, Attempts: o.Attempts, Token: o.Token, Verdict: o.Verdict, Failure: o.failure(s.Worker),
			}
		}
		return deadwrite.Move(ctx, s.Pool, s.Worker, deaths)
	}
	err = byindex.Again(ctx, s.Pool, func(db byindex.Batcher) (err error) {
		ids, err = s.execOn(ctx, db, way, group)
		return err
	})
	return ids, err
}

// execOn is exec for all but dead letters.
func (s *Writer) execOn(ctx context.Context, db byindex.Batcher, way way, group []Outcome) ([]uuid.UUID, error) {
	ids, attempts, tokens := columns(group)
	array := pg.IDs(ids)
	var rows pgx.Rows
	switch way {
	case writeDone:
		results := make([]*string, len(group))
		for i, o := range group {
			if o.Result != nil {
				results[i] = new(string(o.Result))
			}
		}
		rows, _ = byindex.QueryPatient(ctx, db, byindex.LockPatience, DoneSQL, s.Worker, array, attempts, tokens, results, s.TTL)
	case writeDelete:
		rows, _ = byindex.QueryPatient(ctx, db, byindex.LockPatience, DeleteSQL, s.Worker, array, attempts, tokens)
	case writeRequeue, writeRequeuePlain:
		delays, errs, refunds, failures := s.requeueColumns(group)
		rows, _ = byindex.QueryPatient(ctx, db, byindex.LockPatience, requeueSQL, s.Worker, array, attempts, tokens,
			delays, errs, refunds, way == writeRequeue, failures)
		return collectRequeued(rows, group)
	case writeCancelled:
		errs := make([]string, len(group))
		for i, o := range group {
			errs[i] = o.Verdict.Message
		}
		rows, _ = byindex.QueryPatient(ctx, db, byindex.LockPatience, CancelledSQL, s.Worker, array, attempts, tokens, errs, CancelledTTL)
	}
	return pg.CollectIDs(rows)
}

// columns are the claims of a group.
func columns(group []Outcome) (ids []uuid.UUID, attempts []int32, tokens []int64) {
	ids, attempts, tokens = make([]uuid.UUID, len(group)), make([]int32, len(group)), make([]int64, len(group))
	for i := range group {
		ids[i], attempts[i], tokens[i] = group[i].ID, int32(group[i].Attempts), group[i].Token
	}
	return ids, attempts, tokens
}

// collectRequeued makes outcomes cancelled whose jobs were cancelled instead of queued.
func collectRequeued(rows pgx.Rows, group []Outcome) ([]uuid.UUID, error) {
	cancelled := map[uuid.UUID]bool{}
	var ids []uuid.UUID
	var id uuid.UUID
	var requested bool
	if _, err := pgx.ForEachRow(rows, []any{pg.ScanID(&id), &requested}, func() error {
		ids = append(ids, id)
		cancelled[id] = requested
		return nil
	}); err != nil {
		return nil, err
	}
	for i := range group {
		if cancelled[group[i].ID] {
			group[i].Kind, group[i].Delay = Cancelled, 0
		}
	}
	return ids, nil
}

func (s *Writer) requeueColumns(group []Outcome) (delays []*time.Duration, errs []*string, refunds []int32, failures []*string) {
	delays = make([]*time.Duration, len(group))
	errs = make([]*string, len(group))
	refunds = make([]int32, len(group))
	failures = make([]*string, len(group))
	for i := range group {
		switch o := &group[i]; o.Kind {
		case Retry:
			delays[i], errs[i] = &o.Delay, &o.Verdict.Message
			failures[i] = history.JSON(o.failure(s.Worker))
		case Snooze:
			delays[i], refunds[i] = &o.Delay, 1
		default:
			refunds[i] = 1
		}
	}
	return delays, errs, refunds, failures
}
