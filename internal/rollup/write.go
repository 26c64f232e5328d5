package rollup

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"soniq/internal/pg"
)

// stepsSQL are the lengths of rows as seconds, for a VALUES list.
var stepsSQL = func() string {
	var lengths []string
	for _, s := range steps {
		lengths = append(lengths, "("+seconds(s.Length)+")")
	}
	return "values " + strings.Join(lengths, ", ")
}()

func seconds(d time.Duration) string { return strconv.FormatInt(int64(d/time.Second), 10) }

// binSQL is the begin of a step that has a time. %s are its length in seconds, and the time.
const binSQL = `date_bin(make_interval(secs => %s), %s, timestamptz '1970-01-01 00:00:00+00')`

func bin(length, at string) string { return fmt.Sprintf(binSQL, length, at) }

// namedSQL goes on after 'with item as (... at, queue, job_name ...)': it adds 'named', the items with the names
// that they are counted by. Of each half a day the first MaxNames pairs have rows of their own.
var namedSQL = `
, half as (
  select distinct ` + bin(seconds(longest), "i.at") + ` as at
  from item i
), known as (
  select distinct s.at, s.queue, s.job_name
  from half
  join public.soniq_job_stats s on s.step = ` + seconds(longest) + ` and s.at = half.at
), fresh as (
  select n.at, n.queue, n.job_name,
    row_number() over (partition by n.at order by n.queue, n.job_name)
      + (select count(*) from known k where k.at = n.at) as place
  from (
    select distinct ` + bin(seconds(longest), "i.at") + ` as at, i.queue, i.job_name
    from item i
    except
    select k.at, k.queue, k.job_name from known k
  ) n
), named as (
  select
    case when f.place > ` + strconv.Itoa(MaxNames) + ` then '` + Other + `' else i.queue end as counted_queue,
    case when f.place > ` + strconv.Itoa(MaxNames) + ` then '` + Other + `' else i.job_name end as counted_name,
    i.*
  from item i
  left join fresh f on f.at = ` + bin(seconds(longest), "i.at") + ` and f.queue = i.queue and f.job_name = i.job_name
)`

// sumSQL adds up histograms place by place. %s is a set of rows with a jsonb array each, h.
const sumSQL = `array(
    select sum(v.n::bigint)::bigint
    from unnest(%s) h
    cross join jsonb_array_elements_text(h) with ordinality v (n, place)
    group by v.place
    order by v.place
  )`

// plusSQL adds a histogram of a row to another one, of any length.
const plusSQL = `array(
    select coalesce(u.there, 0) + coalesce(u.more, 0)
    from unnest(s.%[1]s, excluded.%[1]s) with ordinality u (there, more, place)
    order by u.place
  )`

// WriteSQL adds counts. A job that was claimed before the server's clock was set back counts now. The rows are written in the order of
// their key: two workers wait for each other at most, and never in a circle. Parameter: $1 the counts.
var WriteSQL = `
with item as (
  select least(to_timestamp(r.minute * 60), now()) as at, r.*
  from jsonb_to_recordset($1::jsonb) as r (
    minute bigint, queue text, job_name text,
    completed bigint, failed bigint, resolved bigint, waited_ms bigint, ran_ms bigint, waits jsonb, runs jsonb
  )
  where r.minute * 60 > extract(epoch from now()) - ` + seconds(kept) + `
)` + namedSQL + `, total as (
  select l.step, ` + bin("l.step", "n.at") + ` as at, n.counted_queue, n.counted_name,
    sum(n.completed)::bigint as completed, sum(n.failed)::bigint as failed, sum(n.resolved)::bigint as resolved,
    sum(n.waited_ms)::bigint as waited_ms, sum(n.ran_ms)::bigint as ran_ms,
    array_agg(n.waits) as waits, array_agg(n.runs) as runs
  from named n
  cross join (` + stepsSQL + `) l (step)
  group by 1, 2, 3, 4
)
insert into public.soniq_job_stats as s (step, at, queue, job_name, reason, completed, failed, resolved, waited_ms, ran_ms, waits, runs)
select t.step, t.at, t.counted_queue, t.counted_name, '', t.completed, t.failed, t.resolved, t.waited_ms, t.ran_ms,
  ` + fmt.Sprintf(sumSQL, "t.waits") + `, ` + fmt.Sprintf(sumSQL, "t.runs") + `
from total t
order by 1, 2, 3, 4
on conflict (step, at, queue, job_name, reason) do update
set completed = s.completed + excluded.completed,
  failed = s.failed + excluded.failed,
  resolved = s.resolved + excluded.resolved,
  waited_ms = s.waited_ms + excluded.waited_ms,
  ran_ms = s.ran_ms + excluded.ran_ms,
  waits = ` + fmt.Sprintf(plusSQL, "waits") + `,
  runs = ` + fmt.Sprintf(plusSQL, "runs")

// item is a row of counts as it is sent.
type item struct {
	Minute    int64     `json:"minute"`
	Queue     string    `json:"queue"`
	JobName   string    `json:"job_name"`
	Completed int64     `json:"completed"`
	Failed    int64     `json:"failed"`
	Resolved  int64     `json:"resolved"`
	WaitedMS  int64     `json:"waited_ms"`
	RanMS     int64     `json:"ran_ms"`
	Waits     Histogram `json:"waits"`
	Runs      Histogram `json:"runs"`
}

// write adds counts to the table, in one statement.
func write(ctx context.Context, pool *pg.Pool, batch map[key]*counts) error {
	items := make([]item, 0, len(batch))
	for k, c := range batch {
		items = append(items, item{
			Minute: k.minute, Queue: stored(k.queue), JobName: stored(k.jobName),
			Completed: c.completed, Failed: c.failed, Resolved: c.resolved,
			WaitedMS: c.waited.Milliseconds(), RanMS: c.ran.Milliseconds(), Waits: c.waits, Runs: c.runs,
		})
	}
	text, err := json.Marshal(items)
	if err != nil {
		return err
	}
	_, err = pool.Exec(ctx, WriteSQL, string(text))
	return err
}
