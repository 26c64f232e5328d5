package dashboard

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"soniq/engine"
	"soniq/internal/pg"
	"soniq/internal/safetext"
)

const (
	// listedJobs is how many jobs a page lists.
	listedJobs = 100
	// smallTable is how large a table of jobs may be, in bytes, that is read as a whole: no index
	// has the order of the list. Of a larger one a page looks at a part.
	smallTable = 64 << 20
)

// jobStatuses are those that jobs can be filtered by.
var jobStatuses = []engine.JobStatus{engine.StatusQueued, engine.StatusProcessing, engine.StatusDone, engine.StatusCancelled}

// jobsPage is what the page of jobs shows.
type jobsPage struct {
	Statuses           []engine.JobStatus
	Status, Queue, Job string
	Jobs               []*engine.Job
	// More: more are picked than are listed.
	More bool
	// Part: the table is large, and the page has looked at up to Window jobs of each status.
	Part   bool
	Window int64
}

// Narrow reports whether jobs are filtered.
func (p jobsPage) Narrow() bool { return p.Status != "" || p.Queue != "" || p.Job != "" }

func (d *Dashboard) jobs(v *visit) error {
	query := v.r.URL.Query()
	page := jobsPage{Statuses: jobStatuses, Status: query.Get("status"), Queue: query.Get("queue"), Job: query.Get("job"), Window: window}
	f := engine.JobFilter{Limit: listedJobs + 1}
	if page.Status != "" {
		if !slices.Contains(jobStatuses, engine.JobStatus(page.Status)) {
			return badInput("status: must be queued, processing, done or cancelled, not %q", page.Status)
		}
		f.Statuses = []engine.JobStatus{engine.JobStatus(page.Status)}
	}
	for name, text := range map[string]string{"queue": page.Queue, "job": page.Job} {
		if pg.Storable(text, len(text)) != text {
			return badInput("%s: no name has these characters", name)
		}
	}
	if page.Queue != "" {
		f.Queues = []string{page.Queue}
	}
	if page.Job != "" {
		f.Names = []string{page.Job}
	}
	ctx, cancel := context.WithTimeout(v.Context(), longest)
	defer cancel()
	if err := d.listJobs(ctx, &page, f, query.Get("all") != ""); err != nil {
		return err
	}
	if page.More = len(page.Jobs) > listedJobs; page.More {
		page.Jobs = page.Jobs[:listedJobs]
	}
	for i, j := range page.Jobs {
		page.Jobs[i] = j.Redacted()
	}
	return v.show("jobs", view{Title: "Jobs", Nav: "/jobs", Data: page})
}

const jobsSizeSQL = `select pg_relation_size('public.soniq_jobs'::regclass)`

// listJobs lists jobs, the newest first: all of a small table, or if somebody asks for all; else
// among those that indexes find.
func (d *Dashboard) listJobs(ctx context.Context, page *jobsPage, f engine.JobFilter, all bool) (err error) {
	if !all {
		short, cancel := context.WithTimeout(ctx, pageTimeout)
		defer cancel()
		ctx = short
		var size int64
		if err := d.db.QueryRow(ctx, jobsSizeSQL).Scan(&size); err != nil {
			return err
		}
		page.Part = size > d.smallTable
	}
	if !page.Part {
		page.Jobs, err = look{filter: f, parts: []string{lookAllSQL}}.read(ctx, d.db)
		return err
	}
	return d.byIndex(ctx, func(tx pgx.Tx) error {
		l, err := newLook(ctx, tx, f)
		if err == nil {
			page.Jobs, err = l.read(ctx, tx)
		}
		return err
	})
}

// Parts of lookSQL: which jobs are looked at, all or by an index each. Parameters: $1 queues, $2 how
// many queued jobs of each, $3 how many of the others, $4 statuses.
const (
	lookAllSQL = `(
    select j.id, j.job_name, ` + pg.JobQueue + ` as queue, j.created_at
    from public.soniq_jobs j
    where j.status = any ($4::text[])
  )`
	lookQueuedSQL = `(
    select q.*
    from unnest((select $1::text[])) as named (queue)
    cross join lateral (
      select j.id, j.job_name, ` + pg.JobQueue + ` as queue, j.created_at
      from public.soniq_jobs j
      where j.status = 'queued' and ` + pg.JobQueue + ` = named.queue
      order by ` + pg.JobPriority + `, ` + pg.JobDue + `
      limit (select $2::int)
    ) q
  )`
	lookRunningSQL = `(
    select j.id, j.job_name, ` + pg.JobQueue + ` as queue, j.created_at
    from public.soniq_jobs j
    where j.status = 'processing'
    limit (select $3::int)
  )`
	lookEndedSQL = `(
    select e.id, e.job_name, e.queue, e.created_at
    from (
      select j.id, j.job_name, ` + pg.JobQueue + ` as queue, j.created_at, j.status
      from public.soniq_jobs j
      where j.expires_at is not null
      order by j.expires_at desc
      limit (select $3::int)
    ) e
    where e.status = any ($4::text[])
  )`
)

// lookSQL lists those of the parts that match, without what makes rows large. Parameters: those of the
// parts, $5 and $6 the queue and the job, or null, $7 how many. Each has a type, whatever the parts.
func lookSQL(parts []string) string {
	return `
with picked as (
  select l.id
  from (` + strings.Join(parts, "\n  union all\n  ") + `) l
  where coalesce($1::text[] is null, $2::int is null, $3::int is null, $4::text[] is null) is not null
    and ($5::text is null or l.queue = $5)
    and ($6::text is null or l.job_name = $6)
  order by l.created_at desc nulls last, l.id desc
  limit (select $7::int)
)
select
  j.id, ` + pg.BoundedText("j.job_name", 2000) + `, ` + pg.BoundedText(pg.JobQueue, 2000) + `, j.status, coalesce(j.attempts, 0),
  coalesce(j.max_attempts, 0), ` + pg.BoundedTime("j.scheduled_at") + `, coalesce(` + pg.FiniteTime("j.created_at") + `, now()),
  coalesce(` + pg.BoundedText("j.last_error", 4000) + `, ''), ` + pg.BoundedTime("j.cancel_requested_at") + `
from picked
join public.soniq_jobs j on j.id = picked.id
order by j.created_at desc nulls last, j.id desc`
}

// A look is a filter, and the parts that are looked at.
type look struct {
	filter engine.JobFilter
	parts  []string
	// queues are those whose queued jobs are looked at.
	queues []string
}

// newLook is a look at a large table: at the queued jobs that run first of each queue, at some that
// run, and at those that ended last.
func newLook(ctx context.Context, tx pgx.Tx, f engine.JobFilter) (l look, err error) {
	l = look{filter: f, queues: f.Queues}
	wants := func(status engine.JobStatus) bool { return f.Statuses == nil || slices.Contains(f.Statuses, status) }
	if wants(engine.StatusQueued) {
		l.parts = append(l.parts, lookQueuedSQL)
		if l.queues == nil {
			if l.queues, err = queueNames(ctx, tx); err != nil {
				return l, err
			}
		}
	}
	if wants(engine.StatusProcessing) {
		l.parts = append(l.parts, lookRunningSQL)
	}
	if wants(engine.StatusDone) || wants(engine.StatusCancelled) {
		l.parts = append(l.parts, lookEndedSQL)
	}
	return l, nil
}

func (l look) read(ctx context.Context, db pg.Querier) ([]*engine.Job, error) {
	statuses := l.filter.Statuses
	if statuses == nil {
		statuses = jobStatuses
	}
	first := func(list []string) *string {
		if len(list) == 0 {
			return nil
		}
		return &list[0]
	}
	each := max(window/max(len(l.queues), 1), listedJobs)
	rows, _ := db.Query(ctx, lookSQL(l.parts), l.queues, each, window, statuses, first(l.filter.Queues), first(l.filter.Names), l.filter.Limit)
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (*engine.Job, error) {
		j := &engine.Job{}
		err := row.Scan(&j.ID, &j.Name, &j.Queue, &j.Status, &j.Attempts, &j.MaxAttempts, &j.ScheduledAt, &j.CreatedAt, &j.LastError, &j.CancelRequestedAt)
		return j, err
	})
}

// jobPage is what the page of one job shows.
type jobPage struct {
	*engine.Job

	// Dead: it is a dead letter by now.
	Dead bool
	// Cancellable and Retryable say what may be tried.
	Cancellable, Retryable bool
	// Watched: it runs, or will in a moment, so the page follows it.
	Watched bool
}

// readJob reads the job of the path, without its secrets.
func (d *Dashboard) readJob(v *visit) (*engine.Job, error) {
	id, err := d.jobID(v)
	if err != nil {
		return nil, err
	}
	j, err := d.client.Job(v.Context(), id)
	if err != nil {
		return nil, jobError(err)
	}
	return j.Redacted(), nil
}

// jobFile sends a job as a file.
func (d *Dashboard) jobFile(v *visit) error {
	j, err := d.readJob(v)
	if err != nil {
		return err
	}
	doc, err := json.Marshal(j)
	if err != nil {
		return err
	}
	v.written = true
	v.w.Header().Set("Content-Type", "application/json")
	v.w.Header().Set("Content-Disposition", `attachment; filename="job-`+j.ID.String()+`.json"`)
	_, _ = safetext.NewJSONWriter(v.w).Write(doc)
	return nil
}

func (d *Dashboard) job(v *visit) error {
	j, err := d.readJob(v)
	if err != nil {
		return err
	}
	now, err := d.now(v.Context())
	if err != nil {
		return err
	}
	later := j.ScheduledAt != nil && j.ScheduledAt.After(now)
	return v.show("job", view{Title: j.Name, Nav: "/jobs", Data: jobPage{
		Job:         j,
		Dead:        j.Status == engine.StatusDeadLetter,
		Cancellable: j.Status == engine.StatusQueued || j.Status == engine.StatusProcessing,
		Retryable:   j.Status == engine.StatusCancelled && j.ReplayOf == nil || j.Status == engine.StatusQueued && later,
		Watched:     j.Status == engine.StatusProcessing || j.Status == engine.StatusQueued && !later,
	}})
}

// jobID is the job of the path, whose first digits are enough.
func (d *Dashboard) jobID(v *visit) (uuid.UUID, error) {
	text := v.r.PathValue("id")
	if id, err := uuid.Parse(text); err == nil {
		return id, nil
	}
	id, err := d.client.FindJob(v.Context(), text)
	return id, jobError(err)
}

// jobError says why there is no such job, or why it can't be changed: it has gone on meanwhile.
func jobError(err error) error {
	var refused *engine.RefusedError
	var duplicate *engine.DuplicateError
	var ambiguous *engine.AmbiguousError
	switch {
	case errors.Is(err, engine.ErrJobNotFound):
		return errNoJob
	case errors.As(err, &refused):
		return badInput("%s", refused)
	case errors.As(err, &duplicate):
		return badInput("%s", duplicate)
	case errors.As(err, &ambiguous):
		return badInput("%s", ambiguous)
	}
	return err
}

func (d *Dashboard) cancelJob(v *visit) error {
	return v.changeJob(func(id uuid.UUID) (done string, err error) {
		status, err := d.client.CancelJob(v.Context(), id)
		if status == engine.StatusProcessing {
			return "cancelling", err
		}
		return "cancelled", err
	})
}

func (d *Dashboard) retryJob(v *visit) error {
	return v.changeJob(func(id uuid.UUID) (string, error) { return "retried", d.client.RetryJob(v.Context(), id) })
}

// changeJob changes the job of the path, once for the token of the form.
func (v *visit) changeJob(change func(uuid.UUID) (done string, err error)) error {
	return v.once(func() (string, error) {
		id, err := v.d.jobID(v)
		if err != nil {
			return "", err
		}
		done, err := change(id)
		if err != nil {
			return "", jobError(err)
		}
		v.log("a job was "+done, "job", id)
		return "/jobs/" + id.String() + "?done=" + done, nil
	})
}

// once does what a form asks for, once for its token, and leads to the path.
func (v *visit) once(do func() (path string, err error)) error {
	if err := v.r.ParseForm(); err != nil {
		return err
	}
	path, err := v.d.runs.once(v.Context(), v.r.PostForm.Get("token"), do)
	if err != nil {
		return err
	}
	return v.redirect(path)
}
