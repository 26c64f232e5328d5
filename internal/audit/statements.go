package audit

import (
	"fmt"
	"time"

	"github.com/google/uuid"

	"soniq/internal/pg"
)

// BeginSQL begins an operation. $1 the id, $2 the action, $3 the state, $4 the actor, $5
// the comment, $6 the filter, $7 the options or null, $8 to $10 the counts.
const BeginSQL = `
insert into public.soniq_dead_letter_operations
  (id, action, state, actor, comment, because, filter, options, total, done, skipped, heartbeat_at)
values ($1, $2, $3, nullif($4, ''), nullif($5, ''), nullif($5, ''), $6::jsonb, $7::jsonb, $8, $9, $10, clock_timestamp())
returning created_at, updated_at`

// SaveSQL records how far an operation is. $1 the id, $2 the state, $3 why it stopped or
// empty, $4 to $6 the counts.
const SaveSQL = `
update public.soniq_dead_letter_operations
set
  state = $2,
  stopped_by = nullif($3, ''),
  total = $4,
  done = $5,
  skipped = $6,
  updated_at = clock_timestamp(),
  heartbeat_at = clock_timestamp()
where id = $1`

// HeartbeatSQL shows that the process of the operation $1 lives.
const HeartbeatSQL = `
update public.soniq_dead_letter_operations
set heartbeat_at = clock_timestamp()
where id = $1
  and state = 'running'`

// SelectOperations reads operations.
var SelectOperations = `
select
  id, action,
  case when ` + IsLost + ` then 'stopped' else state end,
  case when ` + IsLost + ` then '` + StoppedByLoss + `' else coalesce(stopped_by, '') end,
  coalesce(actor, ''), coalesce(comment, because, ''), ` + pg.BoundedJSON("filter", "a filter", pg.ListedBytes) + `,
  total, done, skipped, ` + pg.BoundedTime("created_at") + `, ` + pg.BoundedTime("updated_at") + `
from public.soniq_dead_letter_operations`

var selectRecords = `
select r.dead_letter_id, r.operation_id, r.action, coalesce(r.actor, ''), coalesce(r.comment, r.because, ''), r.job_id, ` + pg.BoundedJSON("r.detail", "details", pg.ListedBytes) + `, ` + pg.BoundedTime("r.at")

// HistorySQL reads the last records of a dead letter, the oldest first. $1 the
// dead letter, $2 the limit.
var HistorySQL = selectRecords + `
from (
  select *
  from public.soniq_dead_letter_audit
  where dead_letter_id = $1
  order by id desc
  limit $2
) r
order by r.id`

// RecordSQL adds a record for each of the dead letters. $1 the dead letters, $2
// the action, $3 the actor, $4 the comment, $5 the detail or null.
const RecordSQL = `
insert into public.soniq_dead_letter_audit (dead_letter_id, action, actor, comment, because, detail)
select unnest($1::uuid[]), $2, nullif($3, ''), nullif($4, ''), nullif($4, ''), $5::jsonb`

// A Filter picks what the history has. The zero value picks all.
type Filter struct {
	// ID picks records of this dead letter. Operations have none.
	ID *uuid.UUID
	// Actor picks what somebody of exactly this name did.
	Actor string
	// From and To bound the time at which it was done, or began. Both are included; a zero
	// time is no bound.
	From, To time.Time
	// Limit is how many are returned at most. Negative is an error. 0 is 1,000.
	Limit int
}

// Validate returns an error that begins with what is done with the filter, and names the
// first wrong field.
//
// Errors: only that; no caller decides by it.
func (f Filter) Validate(doing string) error {
	if f.Limit < 0 {
		return fmt.Errorf("%s: Limit: %d is negative", doing, f.Limit)
	}
	return pg.CheckWindow(doing, f.From, f.To)
}

// where returns the conditions on a table with the column at for the time.
func (f Filter) where(at string) *pg.Where {
	w := &pg.Where{}
	if f.Actor != "" {
		w.And("r.actor = " + w.Param(f.Actor))
	}
	if !f.From.IsZero() {
		w.And(at + " >= " + w.Param(f.From))
	}
	if !f.To.IsZero() {
		w.And(at + " <= " + w.Param(f.To))
	}
	return w
}

func (f Filter) limit(w *pg.Where) string {
	const most = 1000
	if f.Limit == 0 {
		f.Limit = most
	}
	return w.Limit(f.Limit)
}

// Operations returns the statement that reads operations, the newest first.
func (f Filter) Operations() (sql string, params []any) {
	w := f.where("r.created_at")
	sql = SelectOperations + " r" + w.SQL() + "\norder by r.created_at desc, r.id desc" + f.limit(w)
	return sql, w.Params()
}

// Records returns the statement that reads records, the newest first: all of the dead
// letter ID or, without one, those that were no part of an operation.
func (f Filter) Records() (sql string, params []any) {
	w := f.where("r.at")
	if f.ID != nil {
		w.And("r.dead_letter_id = " + w.Param(*f.ID))
	} else {
		w.And("r.operation_id is null")
	}
	sql = selectRecords + "\nfrom public.soniq_dead_letter_audit r" + w.SQL() + "\norder by r.id desc" + f.limit(w)
	return sql, w.Params()
}
