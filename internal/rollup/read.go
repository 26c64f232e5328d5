package rollup

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"soniq/internal/pg"
)

// A Window is a span up to now, and the length of its points.
type Window struct {
	// Name is how it is written in an address: '1h', '24h', '7d' or '30d'.
	Name string
	Span time.Duration
	Step time.Duration
}

// Windows are those that can be read, from the shortest on.
func Windows() []Window {
	return []Window{
		{"1h", time.Hour, time.Minute},
		{"24h", 24 * time.Hour, 30 * time.Minute},
		{"7d", 7 * 24 * time.Hour, 3 * time.Hour},
		{"30d", 30 * 24 * time.Hour, 12 * time.Hour},
	}
}

// A Pick picks one pair of queue and job name. An empty name picks all.
type Pick struct{ Queue, JobName string }

func (p Pick) has(queue, jobName string) bool {
	return (p.Queue == "" || p.Queue == queue) && (p.JobName == "" || p.JobName == jobName)
}

// Counts is what was counted.
type Counts struct {
	// Completed attempts made their job done. Failed ones did not, whether it was tried again or not. Resolved is
	// how many of the completed ones made a dead letter resolved.
	Completed, Failed, Resolved int64
	// Dead is how many jobs became dead letters, by any program.
	Dead int64
	// Waited is how long the jobs of these attempts had been due together, and Ran how long their handlers ran.
	Waited, Ran time.Duration
	Waits, Runs Histogram
}

func (c *Counts) merge(o *Counts) {
	c.Completed, c.Failed, c.Resolved = plus(c.Completed, o.Completed), plus(c.Failed, o.Failed), plus(c.Resolved, o.Resolved)
	c.Dead = plus(c.Dead, o.Dead)
	c.Waited = time.Duration(plus(int64(c.Waited), int64(o.Waited)))
	c.Ran = time.Duration(plus(int64(c.Ran), int64(o.Ran)))
	c.Waits.Merge(o.Waits)
	c.Runs.Merge(o.Runs)
}

// Job is what a job name has done in a queue. Both are [Other] for all pairs that have no rows of their own.
type Job struct {
	Queue, Name string
	Counts
	// Done and Died are the completed attempts and the deaths of each point.
	Done, Died []int64
}

// Past is what a window has. Points, Reasons and Total have what was picked, and Jobs all.
type Past struct {
	Window Window
	Pick   Pick
	// Now is the server's clock. The points begin at From, each a Step after the one before; the last one is not
	// over.
	Now, From time.Time
	Points    []Counts
	// Reasons are the deaths of each point, by reason. Reasons that nobody died for are absent.
	Reasons map[string][]int64
	Total   Counts
	// Jobs are by their completed and failed attempts and deaths, the most first.
	Jobs []Job
	// Behind is true if more deaths are not counted yet than were looked at: the last points lack some.
	Behind bool
	// Counted is until when deaths were counted by a worker, and zero if they never were. What died since was read
	// from the dead letters themselves.
	Counted time.Time
}

// uncounted bounds how many deaths are read that no worker has counted yet.
const uncounted = 20_000

// windowSQL reads the rows of a window. Parameters: $1 the step in seconds, $2 the number of points.
var windowSQL = `
select s.at, s.queue, s.job_name, s.reason, s.completed, s.failed, s.resolved, s.dead, s.waited_ms, s.ran_ms, s.waits, s.runs
from public.soniq_job_stats s
where s.step = $1::int
  and s.at >= ` + bin("$1::int", "now()") + ` - ($2::int - 1) * make_interval(secs => $1::int)
  and s.at <= now()`

// nowSQL reads the clock, and until when deaths are counted. Parameters: as of windowSQL, and $3 the task.
var nowSQL = `
select now(), ` + bin("$1::int", "now()") + ` - ($2::int - 1) * make_interval(secs => $1::int),
  (select t.begun_at from public.soniq_leader_tasks t where t.name = $3 and t.result is not null)`

// uncountedSQL reads the deaths after the position up to which they are counted. Parameters: $1 the task, $2 how
// many, $3 the step, $4 the first point.
var uncountedSQL = `
with counted as (
  select (t.result ->> 'epoch')::bigint as epoch, (t.result ->> 'xid')::xid8 as xid, (t.result ->> 'id')::uuid as id
  from public.soniq_leader_tasks t
  where t.name = $1
    and t.result is not null
), page as materialized (
  select ` + deathSQL + `
  from public.soniq_dead_letter_jobs d
  where d.moved_xid is not null
    and (d.moved_epoch, d.moved_xid, d.id) > (
      coalesce((select epoch from counted), 0), coalesce((select xid from counted), '0'::xid8),
      coalesce((select id from counted), '00000000-0000-0000-0000-000000000000')
    )
  order by d.moved_epoch desc, d.moved_xid desc, d.id desc
  limit $2
)
select ` + bin("$3::int", "p.at") + `, p.queue, p.job_name, p.reason, count(*), (select count(*) from page)
from page p
where p.at >= $4
group by 1, 2, 3, 4`

// Read reads what a window has, in the transaction tx, whose settings it changes. It reads a bounded number of
// rows, whatever the other tables hold.
//
// Errors: those of the database.
func Read(ctx context.Context, tx pgx.Tx, w Window, pick Pick) (*Past, error) {
	p := &Past{Window: w, Pick: pick, Reasons: map[string][]int64{}}
	if _, err := tx.Exec(ctx, orderSQL); err != nil {
		return nil, fmt.Errorf("read counts: %w", err)
	}
	step, points := int(w.Step/time.Second), int(w.Span/w.Step)
	var counted *time.Time
	if err := tx.QueryRow(ctx, nowSQL, step, points, deathsTask).Scan(&p.Now, &p.From, &counted); err != nil {
		return nil, fmt.Errorf("read counts: %w", err)
	}
	p.Now, p.From, p.Points = p.Now.UTC(), p.From.UTC(), make([]Counts, points)
	if counted != nil {
		p.Counted = counted.UTC()
	}
	f := folder{p, map[[2]string]*Job{}}
	rows, _ := tx.Query(ctx, windowSQL, step, points)
	if err := f.fold(rows); err != nil {
		return nil, fmt.Errorf("read counts: %w", err)
	}
	if err := f.uncounted(ctx, tx, step); err != nil {
		return nil, fmt.Errorf("read the latest deaths: %w", err)
	}
	f.finish()
	return p, nil
}

// ReadPool is [Read] in a transaction of its own.
//
// Errors: those of the database.
func ReadPool(ctx context.Context, pool *pg.Pool, w Window, pick Pick) (p *Past, err error) {
	err = pg.InTx(ctx, pool, func(tx pgx.Tx) error {
		p, err = Read(ctx, tx, w, pick)
		return err
	})
	return p, err
}

// folder adds rows up by point, by job and by reason.
type folder struct {
	*Past
	jobs map[[2]string]*Job
}

func (f folder) fold(rows pgx.Rows) error {
	var at time.Time
	var queue, name, reason string
	var c Counts
	var waitedMS, ranMS int64
	_, err := pgx.ForEachRow(rows, []any{
		&at, &queue, &name, &reason, &c.Completed, &c.Failed, &c.Resolved, &c.Dead, &waitedMS, &ranMS, &c.Waits, &c.Runs,
	}, func() error {
		c.Waited, c.Ran = milliseconds(waitedMS), milliseconds(ranMS)
		f.add(at, queue, name, reason, &c)
		return nil
	})
	return err
}

func milliseconds(n int64) time.Duration {
	return time.Duration(min(n, int64(1<<63-1)/int64(time.Millisecond))) * time.Millisecond
}

func (f folder) uncounted(ctx context.Context, tx pgx.Tx, step int) error {
	rows, _ := tx.Query(ctx, uncountedSQL, deathsTask, uncounted, step, f.From)
	var at time.Time
	var queue, name, reason string
	var c Counts
	var read int
	_, err := pgx.ForEachRow(rows, []any{&at, &queue, &name, &reason, &c.Dead, &read}, func() error {
		f.Behind = f.Behind || read >= uncounted
		f.add(at, queue, name, reason, &c)
		return nil
	})
	return err
}

// add counts a row.
func (f folder) add(at time.Time, queue, name, reason string, c *Counts) {
	i := int(at.Sub(f.From) / f.Window.Step)
	if i < 0 || i >= len(f.Points) || at.Before(f.From) {
		return
	}
	k := [2]string{queue, name}
	j := f.jobs[k]
	if j == nil {
		j = &Job{Queue: queue, Name: name, Done: make([]int64, len(f.Points)), Died: make([]int64, len(f.Points))}
		f.jobs[k] = j
	}
	j.merge(c)
	j.Done[i] = plus(j.Done[i], c.Completed)
	j.Died[i] = plus(j.Died[i], c.Dead)
	if !f.Pick.has(queue, name) {
		return
	}
	f.Points[i].merge(c)
	f.Total.merge(c)
	if reason != "" {
		if f.Reasons[reason] == nil {
			f.Reasons[reason] = make([]int64, len(f.Points))
		}
		f.Reasons[reason][i] = plus(f.Reasons[reason][i], c.Dead)
	}
}

func (f folder) finish() {
	for _, j := range f.jobs {
		f.Jobs = append(f.Jobs, *j)
	}
	weight := func(j Job) int64 { return plus(plus(j.Completed, j.Failed), j.Dead) }
	slices.SortFunc(f.Jobs, func(a, b Job) int {
		return cmp.Or(cmp.Compare(weight(b), weight(a)), cmp.Compare(a.Queue, b.Queue), cmp.Compare(a.Name, b.Name))
	})
}
