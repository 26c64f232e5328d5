package deadletter_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/deadletter"
	"soniq/deadletter/classify"
	"soniq/internal/deadwrite"
	"soniq/internal/pg"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

// wrongSQL are the rows that an index would hide though they need attention. $1 is whether
// those count, too, that need none and are not marked so.
const wrongSQL = `
select format('%s %s, closed %s', d.id, d.state, d.closed)
from soniq_dead_letter_jobs d
cross join lateral (
  select case
    when d.state = 'resolved' then 'resolved'
    when d.state = 'dead' and exists (select from soniq_dead_letter_jobs s where s.id = d.replay_job_id and s.replay_of = d.id) then 'superseded'
  end as closed
) want
where d.closed is distinct from want.closed
  and ($1 or d.closed is not null)`

// attentionSQL counts what a monitor has to tell of, from the states and the replays alone.
const attentionSQL = `
select count(*)
from soniq_dead_letter_jobs d
where d.state = 'dead'
  and not exists (select from soniq_dead_letter_jobs s where s.id = d.replay_job_id)
  and not exists (select from soniq_dead_letter_jobs p where p.id = d.replay_of and p.replay_job_id <> d.id)`

// closedSteps are what somebody does to a dead letter or to the jobs that replay it.
func closedSteps(t *testing.T, pool *pgxpool.Pool, q *deadletter.Queue) map[string]func(letter uuid.UUID) {
	t.Helper()
	worker := insertWorker(t, pool)
	// jobs are the replays of the letter that have not ended.
	const jobsSQL = `select coalesce(array_agg(id), '{}') from soniq_jobs where replay_of = $1 and status in ('queued', 'processing')`
	jobs := func(letter uuid.UUID) []uuid.UUID { return value[[]uuid.UUID](t, pool, jobsSQL, letter) }
	return map[string]func(uuid.UUID){
		"a death": func(uuid.UUID) { insertDead(t, pool, columns{}) },
		"a replay": func(letter uuid.UUID) {
			// It may be refused.
			_, _ = q.Replay(t.Context(), letter, deadletter.ReplayOptions{})
		},
		"a forced replay": func(letter uuid.UUID) {
			_, _ = q.Replay(t.Context(), letter, deadletter.ReplayOptions{Force: true})
		},
		"a replay of 0.1.0": func(letter uuid.UUID) {
			exec(t, pool, `
				with job as (
				  insert into soniq_jobs (id, job_name, args, replay_of) select gen_random_uuid(), 'a', '{}', $1
				  where exists (select from soniq_dead_letter_jobs where id = $1) returning id
				)
				update soniq_dead_letter_jobs d set state = 'replaying', replay_job_id = job.id from job where d.id = $1`, letter)
		},
		"a success": func(letter uuid.UUID) {
			exec(t, pool, `update soniq_jobs set status = 'done' where id = any($1)`, jobs(letter))
		},
		"another end": func(letter uuid.UUID) { exec(t, pool, `delete from soniq_jobs where id = any($1)`, jobs(letter)) },
		"a death of a replay": func(letter uuid.UUID) {
			for _, id := range jobs(letter) {
				exec(t, pool, `update soniq_jobs set status = 'processing', worker_id = $2, claim_token = 1, attempts = 1 where id = $1`, id, worker)
				if _, err := deadwrite.Move(t.Context(), pool, worker, []deadwrite.Death{death(id)}); err != nil {
					t.Fatal(err)
				}
			}
		},
		"a death of a replay, by hand": func(letter uuid.UUID) {
			if _, err := q.MoveQueued(t.Context(), jobs(letter), "by hand"); err != nil {
				t.Fatal(err)
			}
		},
		"a success that 0.1.0 wrote": func(letter uuid.UUID) {
			exec(t, pool, `update soniq_dead_letter_jobs set state = 'resolved' where id = $1`, letter)
		},
		"a state by hand": func(letter uuid.UUID) {
			exec(t, pool, `update soniq_dead_letter_jobs set state = 'dead' where id = $1`, letter)
		},
		"a deletion": func(letter uuid.UUID) { exec(t, pool, `delete from soniq_dead_letter_jobs where id = $1`, letter) },
		"a cleanup": func(letter uuid.UUID) {
			exec(t, pool, `delete from soniq_dead_letter_jobs where id = $1 or replay_of = $1`, letter)
		},
	}
}

// Whoever writes a state, and in whatever order, nothing that needs attention is hidden, and
// a monitor counts what the states and the replays say.
func TestClosed_anyWriter_hidesNothing(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	r := testkit.Rand(t)
	steps := closedSteps(t, pool, q)
	names := make([]string, 0, len(steps))
	for name := range steps {
		names = append(names, name)
	}
	slices.Sort(names)
	for range 4 {
		steps["a death"](uuid.Nil)
	}
	var last string
	check := func(exact bool) {
		t.Helper()
		for _, wrong := range queryAll[string](t, pool, wrongSQL, exact) {
			t.Errorf("after %s: %s", last, wrong)
		}
		b, err := q.Backlog(t.Context(), deadletter.Filter{State: deadletter.StateDead})
		if want := value[int64](t, pool, attentionSQL); err != nil || b.Count != want {
			t.Errorf("after %s: %d need attention, %v, want %d", last, b.Count, err, want)
		}
	}
	for range testkit.Size(400, 5000) {
		// Most steps are about few letters, so that they meet.
		letters := queryAll[uuid.UUID](t, pool, `select id from soniq_dead_letter_jobs order by moved_to_dead_letter_at desc, id limit 6`)
		last = names[r.IntN(len(names))]
		letter := uuid.New()
		if len(letters) > 0 {
			letter = letters[r.IntN(len(letters))]
		}
		steps[last](letter)
		check(false)
		if r.IntN(20) == 0 {
			last += fmt.Sprintf(" and %d changes of Close", closeAll(t, pool))
			check(true)
		}
		if t.Failed() {
			return
		}
	}
}

// queryAll returns the values of one column.
func queryAll[T any](t *testing.T, pool *pgxpool.Pool, sql string, args ...any) []T {
	t.Helper()
	rows, _ := pool.Query(t.Context(), sql, args...)
	all, err := pgx.CollectRows(rows, pgx.RowTo[T])
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return all
}

func closeAll(t *testing.T, pool *pgxpool.Pool) int64 {
	t.Helper()
	n, err := deadwrite.Close(t.Context(), pg.Schema{}.Pool(pool))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// What a restore or a publisher brings has no mark, or a wrong one: triggers were off. Close
// goes through all of it, whatever its times.
func TestClose_rowsWithoutTriggers_areMarked(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	const fill = `
		insert into soniq_dead_letter_jobs (
		  id, job_name, args, queue, priority, max_attempts, attempts, dead_letter_reason, original_created_at, moved_to_dead_letter_at, state, closed,
		  replay_job_id, replay_of
		)
		select
		  ('00000000-0000-0000-0000-' || lpad(n::text, 12, '0'))::uuid, 'job', '{}', 'q', 1, 3, 3, 'timeout', now(),
		  case n % 50 when 0 then '-infinity' when 1 then 'infinity' else now() - n % 3 * interval '1 hour' end::timestamptz,
		  (array['dead', 'resolved', 'replaying', 'dead'])[1 + n % 4], (array[null, 'superseded', 'resolved'])[1 + n % 3],
		  case when n % 4 = 3 then ('00000000-0000-0000-0000-' || lpad((n + 1)::text, 12, '0'))::uuid end,
		  case when n % 8 = 4 then ('00000000-0000-0000-0000-' || lpad((n - 1)::text, 12, '0'))::uuid end
		from generate_series(1, 2500) n`
	exec(t, pool, fill)
	// A wrong 'resolved' is in no index; only a statement without triggers makes one.
	exec(t, pool, `update soniq_dead_letter_jobs set closed = null where closed = 'resolved' and state <> 'resolved'`)
	if n := closeAll(t, pool); n < 1000 {
		t.Errorf("%d were changed", n)
	}
	for _, wrong := range queryAll[string](t, pool, wrongSQL, true) {
		t.Error(wrong)
	}
	if n := closeAll(t, pool); n != 0 {
		t.Errorf("%d were changed again", n)
	}
}

// A replay leaves a dead letter in its page and each index as it is: no index has a column that
// the replay writes, and pages have room.
func TestReplayAll_changesNoIndex(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	const indexed = `
		select i.indexrelid::regclass || ' has ' || w.name
		from pg_index i, unnest(array['state', 'replay_job_id', 'resurrection_count', 'last_resurrection_at']) as w (name)
		where i.indrelid = 'soniq_dead_letter_jobs'::regclass
		  and pg_get_indexdef(i.indexrelid) ~ ('\m' || w.name || '\M')`
	for _, found := range queryAll[string](t, pool, indexed) {
		t.Error(found)
	}
	fill(t, pool, 2000)
	exec(t, pool, `update soniq_dead_letter_jobs set last_error = repeat('x', 300), dead_letter_reason = 'other'`)
	exec(t, pool, `vacuum full soniq_dead_letter_jobs`)
	exec(t, pool, `
		update soniq_dead_letter_jobs d set dead_letter_reason = 'timeout'
		from (select id, row_number() over (order by ctid) as n from soniq_dead_letter_jobs) o where o.id = d.id and o.n % 6 = 0`)
	exec(t, pool, `vacuum soniq_dead_letter_jobs`)
	exec(t, pool, `create table before as select id, ctid as place from soniq_dead_letter_jobs`)
	result, err := q.ReplayAll(t.Context(), deadletter.Filter{Reasons: []classify.Reason{classify.Timeout}}, deadletter.ReplayAllOptions{})
	if err != nil || len(result.Replayed) < 300 {
		t.Fatal(len(result.Replayed), err)
	}
	const moved = `
		select count(*) from soniq_dead_letter_jobs d join before b on b.id = d.id
		where d.state = 'replaying' and (d.ctid::text::point)[0] <> (b.place::text::point)[0]`
	if n := value[int](t, pool, moved); n > len(result.Replayed)/20 {
		t.Errorf("%d of %d rows are in another page", n, len(result.Replayed))
	}
}
