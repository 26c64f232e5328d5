package maintenance

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"soniq/deadletter/classify"
	"soniq/internal/deadwrite"
	"soniq/internal/liveness"
	"soniq/internal/pg"
	"soniq/internal/tracecontext"
)

// unknown moves jobs that nobody can run to the dead letters.
type unknown struct {
	config  Config
	refused refusals
}

// unknownSQL finds due jobs that no worker knows. For the whole grace the job was due,
// a live Go worker served its queue, and nobody registered its name. No live Python
// worker serves the queue: its job names can't be known. A queue without workers, or a
// paused one, has no unknown jobs. Parameters: $1 served queues, $2 job names, $3
// grace, $4 how long names are remembered, $5 and $6 the silence after which a Go and
// a Python worker is dead, $7 how many.
var unknownSQL = `
select j.id, case when length(left(j.job_name, 501)) > 500 then regexp_replace(left(j.job_name, 500), ` + pg.LastWord + `, '') else j.job_name end, coalesce(pg_column_size(j.args), 0) + coalesce(pg_column_size(j.errors), 0),
  clock_timestamp(), left(` + pg.JobQueue + `, 500), coalesce(j.attempts, 0), greatest(coalesce(j.max_attempts, 4), 1),
  ` + tracecontext.Column("j.trace_context") + `
from public.soniq_jobs j
where j.status = 'queued'
  and ` + pg.JobQueue + ` = any ($1::text[])
  and j.job_name <> all ($2::text[])
  and ` + pg.JobDue + ` <= now() - $3::interval
  and exists (
    select from public.soniq_workers o
    where o.version like 'go/%'
      and o.status <> 'stopped'
      and o.last_heartbeat > now() - $5::interval
      and o.started_at <= now() - $3::interval
      and ` + pg.JobQueue + ` = any (o.queues)
  )
  and not exists (
    select from public.soniq_workers o
    where (o.version is null or o.version not like 'go/%')
      and o.status <> 'stopped'
      and o.last_heartbeat > now() - $6::interval
      and (o.queues = '{}' or ` + pg.JobQueue + ` = any (o.queues))
  )
  and not exists (
    select from public.soniq_queues p
    where p.name = ` + pg.JobQueue + `
      and p.paused_at is not null
  )
  and not exists (
    select from public.soniq_task_registry r
    where r.task_name = j.job_name
      and r.last_seen_at > now() - $4::interval
  )
limit $7`

// unknownJob is one of them: its name, cut, and how many bytes its move writes.
type unknownJob struct {
	ID    uuid.UUID
	Name  string
	Bytes int64
	// At is when it was found, by the database's clock.
	At                    time.Time
	Queue                 string
	Attempts, MaxAttempts int
	TraceContext          tracecontext.Context
}

// trusts reports whether the times that found make jobs unknown: after a step of the
// database's clock each worker seems silent and each job due for long, until the grace
// has passed by this process's own clock. A worker that has just begun has seen no step,
// but lets the others refresh their names first.
func (u *unknown) trusts(found []unknownJob, sent time.Time) bool {
	c := u.config
	if len(found) == 0 {
		return false
	}
	if step := c.Clock.Note(found[0].At, sent, time.Now()); step != 0 {
		c.Stepped(step)
	}
	return c.Clock.Steady(max(c.UnknownGrace, registryWindow)) && c.Clock.Watched(min(c.UnknownGrace, registryWindow))
}

func (u *unknown) run(ctx context.Context) error {
	c := u.config
	var errs []error
	for begun := time.Now(); time.Since(begun) < passPatience; {
		most := u.refused.begin()
		sent := time.Now()
		rows, _ := c.Pool.Query(ctx, unknownSQL, c.Queues, c.Names,
			c.UnknownGrace, max(c.UnknownGrace, registryWindow), liveness.DeadAfter, liveness.PythonDeadAfter, most)
		found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[unknownJob])
		if err != nil {
			return fmt.Errorf("find unknown jobs: %w", err)
		}
		if !u.trusts(found, sent) {
			break
		}
		moved, err := u.movePage(ctx, found)
		if err != nil {
			errs = append(errs, err)
		}
		// If nothing was moved, the rest is locked by others, or skipped.
		if len(found) < most || moved == 0 || u.refused.stuck() {
			break
		}
	}
	return errors.Join(errs...)
}

// movePage moves the jobs that are not skipped, those of one name together.
func (u *unknown) movePage(ctx context.Context, found []unknownJob) (moved int, err error) {
	byName := map[string][]unknownJob{}
	for _, job := range found {
		if !u.refused.skips(job.ID) {
			byName[job.Name] = append(byName[job.Name], job)
		}
	}
	var errs []error
	for name, jobs := range byName {
		for len(jobs) > 0 && !u.refused.stuck() {
			var batch []unknownJob
			batch, jobs = cutBatch(jobs)
			n, err := u.moveNamed(ctx, name, batch)
			moved += n
			if err == nil {
				continue
			}
			errs = append(errs, fmt.Errorf("move unknown jobs called %s: %w", quoteName(name), err))
			if !isRefusal(err) {
				return moved, errors.Join(errs...)
			}
		}
	}
	return moved, errors.Join(errs...)
}

// cutBatch cuts off as many jobs as one statement should move; at least one.
func cutBatch(jobs []unknownJob) (batch, rest []unknownJob) {
	bytes := int64(0)
	for n, job := range jobs {
		if bytes += job.Bytes; n > 0 && bytes > bytesPerMove {
			return jobs[:n], jobs[n:]
		}
	}
	return jobs, nil
}

// moveNamed moves jobs of one name; one by one if the database refuses them.
func (u *unknown) moveNamed(ctx context.Context, name string, jobs []unknownJob) (moved int, err error) {
	verdict := classify.Decide(classify.Attempt{
		JobName: name,
		Kind:    classify.KindUnregistered,
		Message: fmt.Sprintf("no worker has registered the job %s within %s", quoteName(name), u.config.UnknownGrace),
	})
	ids := make([]uuid.UUID, len(jobs))
	for i, job := range jobs {
		ids[i] = job.ID
	}
	gone, err := deadwrite.MoveQueued(ctx, u.config.Pool, ids, verdict)
	switch {
	case err != nil && isRefusal(err) && len(jobs) > 1:
		return u.moveEach(ctx, name, jobs)
	case err != nil && isRefusal(err) && u.refused.add(jobs[0].ID, err):
		u.config.Logger.Error("the database refuses to make a dead letter of a job that nobody can run; it is skipped",
			tracecontext.Attrs(jobs[0].TraceContext.TraceID(), "job", jobs[0].ID, "job_name", name, "error", err, "remedy", pg.Remedy(err))...)
	}
	if err != nil {
		return 0, err
	}
	for _, job := range jobs {
		if !slices.Contains(gone, job.ID) {
			continue
		}
		u.refused.succeeded(job.ID)
		deadwrite.Dead{
			ID: job.ID, JobName: name, Queue: job.Queue, Attempts: job.Attempts, MaxAttempts: job.MaxAttempts, Verdict: verdict,
		}.Log(u.config.Logger, tracecontext.Attrs(job.TraceContext.TraceID())...)
	}
	return len(gone), nil
}

func (u *unknown) moveEach(ctx context.Context, name string, jobs []unknownJob) (moved int, err error) {
	var errs []error
	for i := range jobs {
		n, err := u.moveNamed(ctx, name, jobs[i:i+1])
		moved += n
		if err != nil {
			errs = append(errs, err)
		}
		if err != nil && !isRefusal(err) || u.refused.stuck() {
			break
		}
	}
	return moved, errors.Join(errs...)
}

// quoteName keeps a hostile or empty name from garbling an error.
func quoteName(name string) string {
	if len(name) > 200 {
		name = strings.ToValidUTF8(name[:200], "") + "..."
	}
	return fmt.Sprintf("%q", name)
}
