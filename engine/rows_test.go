package engine_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"soniq/deadletter/classify"
	"soniq/engine"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

// Rows as only SQL makes them. Each ends, with a true reason, and so do others'.
func TestWorker_rowsOfAnyKind_end(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	noop(reg, "done")
	engine.HandleRaw(reg, "fails", func(context.Context, *engine.Job) (any, error) { return nil, errors.New("no luck") }, soon)
	engine.Handle(reg, "typed", func(context.Context, struct {
		N int `json:"n"`
	},
	) error {
		return nil
	})
	client := newClient(t, pool)
	w := start(t, pool, reg, engine.WorkerConfig{MaxAttemptsLimit: 3})
	deep := `(repeat('{"n":', 5000) || '1' || repeat('}', 5000))::jsonb`
	for _, c := range []struct {
		what, columns, values string
		runs                  int
		reason                classify.Reason
	}{
		{"most attempts", "job_name, max_attempts", `'fails', 2147483647`, 3, classify.MaxRetriesExceeded},
		{"no maximum", "job_name, max_attempts", `'fails', null`, 3, classify.MaxRetriesExceeded},
		{"a maximum of 0", "job_name, max_attempts", `'fails', 0`, 1, classify.MaxRetriesExceeded},
		{"a negative maximum", "job_name, max_attempts", `'done', -2147483648`, 1, ""},
		{"a negative maximum, and it fails", "job_name, max_attempts", `'fails', -2147483648`, 1, classify.MaxRetriesExceeded},
		{"attempts below 0", "job_name, attempts, max_attempts", `'fails', -2147483648, 2147483647`, 3, classify.MaxRetriesExceeded},
		{"no attempts", "job_name, attempts", `'fails', null`, 3, classify.MaxRetriesExceeded},
		{"all attempts", "job_name, attempts, max_attempts", `'done', 2147483647, 2147483647`, 1, classify.MaxRetriesExceeded},
		{"the most urgent", "job_name, priority", `'done', -2147483648`, 1, ""},
		{"the least urgent", "job_name, priority", `'done', 2147483647`, 1, ""},
		{"no priority", "job_name, priority, queue", `'done', null, null`, 1, ""},
		{"since ever", "job_name, scheduled_at", `'fails', '-infinity'`, 3, classify.MaxRetriesExceeded},
		{"made at the end of time", "job_name, scheduled_at, created_at, updated_at", `'fails', now(), 'infinity', 'infinity'`, 3, classify.MaxRetriesExceeded},
		{"made before time", "job_name, created_at, updated_at", `'fails', '-infinity', '-infinity'`, 3, classify.MaxRetriesExceeded},
		{"made in year 294000", "job_name, scheduled_at, created_at", `'done', now(), '294000-01-01'`, 1, ""},
		{"a claim of its own", "job_name, claim_token, worker_id, cancel_requested_at", `'done', 1, gen_random_uuid(), now()`, 1, ""},
		{"expired", "job_name, expires_at", `'done', '-infinity'`, 1, ""},
		{"a foreign history", "job_name, errors", `'fails', '"none"'`, 3, classify.MaxRetriesExceeded},
		{"a replay of nothing", "job_name, replay_of", `'done', gen_random_uuid()`, 1, ""},
		{"a long key", "job_name, dedup_key, producer_id, last_error", `'fails', repeat('k', 100000), repeat('p', 100000), repeat('e', 100000)`, 3, classify.MaxRetriesExceeded},
		{"deep arguments", "job_name, args", `'typed', ` + deep, 1, classify.InvalidArguments},
		{"deep arguments of anything", "job_name, args", `'done', ` + deep, 1, ""},
		{"a number of 100,000 digits", "job_name, args", `'typed', ('{"n": ' || repeat('9', 100000) || '}')::jsonb`, 1, classify.InvalidArguments},
		{"no object", "job_name, args", `'typed', '[1]'`, 1, classify.InvalidArguments},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			id := uuid.New()
			if !strings.Contains(c.columns, "args") {
				c.columns, c.values = c.columns+", args", c.values+", '{}'"
			}
			exec(t, pool, `insert into soniq_jobs (id, `+c.columns+`) values ($1, `+c.values+`)`, id)
			outcomes := w.waitForJob(t, id)
			last := outcomes[len(outcomes)-1]
			if len(outcomes) != c.runs || last.Verdict.Reason != c.reason {
				t.Errorf("%d outcomes, the last %s %s: %.200s; want %d, %q", len(outcomes), last.Kind, last.Verdict.Reason, last.Verdict.Message, c.runs, c.reason)
			}
			// Its own error, and not that a worker died with it.
			if strings.HasPrefix(c.values, "'fails'") && last.Verdict.Message != "no luck" {
				t.Errorf("it ended with %q", last.Verdict.Message)
			}
			w.waitForJob(t, enqueue(t, client, "done", nil))
		})
	}
}

// Whoever enqueues, a job has as many attempts by default, and a lookup says so.
func TestEnqueue_withoutMaxAttempts_theDefaultIsTheSame(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	engine.HandleRaw(reg, "fails", func(context.Context, *engine.Job) (any, error) { return nil, errors.New("no luck") }, soon)
	client := newClient(t, pool)
	ids := map[string]uuid.UUID{"SQL": uuid.New(), "SQL with NULL": uuid.New(), "Go": enqueue(t, client, "fails", nil)}
	exec(t, pool, `insert into soniq_jobs (id, job_name, args) values ($1, 'fails', '{}')`, ids["SQL"])
	exec(t, pool, `insert into soniq_jobs (id, job_name, args, max_attempts) values ($1, 'fails', '{}', null)`, ids["SQL with NULL"])
	const want = 4
	for who, id := range ids {
		if j, err := client.Job(t.Context(), id); err != nil || j.MaxAttempts != want {
			t.Errorf("%s: %+v, %v", who, j, err)
		}
	}
	w := start(t, pool, reg, engine.WorkerConfig{})
	for who, id := range ids {
		if outcomes := w.waitForJob(t, id); len(outcomes) != want {
			t.Errorf("%s: %d attempts", who, len(outcomes))
		}
	}
}

// Ten thousand levels are more than Go's decoder takes, and no reason to fail
// anything but that job.
func TestWorker_argumentsDeeperThanGoReads_areInvalid(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	exec(t, pool, `do $$ begin execute format('alter database %I set max_stack_depth = ''6MB''', current_database()); end $$`)
	pool.Reset()
	reg := engine.NewRegistry()
	engine.Handle(reg, "typed", func(context.Context, map[string]any) error { return nil })
	w := start(t, pool, reg, engine.WorkerConfig{})
	id := uuid.New()
	exec(t, pool, `insert into soniq_jobs (id, job_name, args) values ($1, 'typed', (repeat('{"n":', 11000) || '1' || repeat('}', 11000))::jsonb)`, id)
	if o := w.waitForJob(t, id); o[0].Verdict.Reason != classify.InvalidArguments {
		t.Errorf("%s: %s", o[0].Kind, o[0].Verdict.Message)
	}
}

func TestWorker_attemptsLimit_isNoLimitOfAHandlersOwn(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	fails := func(context.Context, *engine.Job) (any, error) { return nil, errors.New("no") }
	engine.HandleRaw(reg, "own", fails, soon, engine.AttemptLimit(4))
	engine.HandleRaw(reg, "none", fails, soon)
	client := newClient(t, pool)
	w := start(t, pool, reg, engine.WorkerConfig{MaxAttemptsLimit: 2})
	for name, want := range map[string]int{"own": 4, "none": 2} {
		if o := w.waitForJob(t, enqueue(t, client, name, nil, engine.MaxAttempts(9))); len(o) != want {
			t.Errorf("%s: %d attempts, want %d", name, len(o), want)
		}
	}
}

// A thousand names that no index of the dead letters holds, and one that is like
// any other, come to their end in one turn.
func TestWorker_longNames_areBuriedWithTheOthers(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	noop(reg, "known")
	log := new(journal)
	w, err := engine.NewWorker(pool, reg, engine.WorkerConfig{Logger: log.logger()})
	if err != nil {
		t.Fatal(err)
	}
	w.SawClock(time.Now())
	if err := w.Beat(t.Context()); err != nil {
		t.Fatal(err)
	}
	exec(t, pool, `update soniq_workers set started_at = now() - interval '1 hour'`)
	const long = 1100
	exec(t, pool, `
		insert into soniq_jobs (id, job_name, args, created_at)
		select gen_random_uuid(), (select string_agg(md5(n || '.' || i), '') from generate_series(1, 100) i), '{}', now() - interval '1 hour'
		from generate_series(1, $1::int) n`, long)
	id := enqueue(t, newClient(t, pool), "unknown", nil, engine.At(time.Now().Add(-time.Hour)))
	if err := w.MoveUnknown(t.Context()); err != nil {
		t.Error(err)
	}
	if job := getJob(t, newClient(t, pool), id); job.Status != engine.StatusDeadLetter {
		t.Errorf("the other job is %s", job.Status)
	}
	if n := queryValue[int](t, pool, `select count(distinct job_name) from soniq_dead_letter_jobs where length(whole_job_name) = 3200`); n != long {
		t.Errorf("%d are dead letters, want %d", n, long)
	}
	if n := len(log.String()); n > long*1500 {
		t.Errorf("the log has %d bytes", n)
	}
}

// Orphans whose names, keys or queues no index of the queue can hold.
func TestWorker_orphansWithLongNames_areRecovered(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	noop(reg, "known")
	w, err := engine.NewWorker(pool, reg, engine.WorkerConfig{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	// A history of 26 MB is left out, as one of 266 MB must be, which leaves no room in a value of the table.
	giant := testkit.Size(100, 1000)
	exec(t, pool, `
		insert into soniq_jobs (id, job_name, args, status, attempts, updated_at, unique_job, args_hash, dedup_key, queue, errors)
		select gen_random_uuid(), case when n = 1 then l.long else 'known' end, '{}', 'processing', 1, now() - interval '1 day',
			n <= 2, case when n = 2 then l.long else n::text end, case when n = 3 then l.long end, case when n = 4 then l.long else 'default' end,
			case when n = 5 then jsonb_build_array(repeat('x', 200000 * $1::int), repeat('x', 66000 * $1::int)) end
		from generate_series(1, 5) n, (select string_agg(md5(i::text), '') as long from generate_series(1, 100) i) l`, giant)
	if err := w.RecoverOrphans(t.Context()); err != nil {
		t.Error(err)
	}
	if n := queryValue[int](t, pool, `select count(*) from soniq_jobs where status = 'queued' and not coalesce(unique_job, false) and dedup_key is null and jsonb_array_length(errors) = 1`); n != 4 {
		t.Errorf("%d are queued with one entry, want 4", n)
	}
	if n := queryValue[int](t, pool, `select count(*) from soniq_dead_letter_jobs where length(whole_queue) = 3200 and length(queue) < 300`); n != 1 {
		t.Errorf("%d are dead letters, want the one whose queue is too long", n)
	}
}

// JSON has no times before the year 1 and after 9999, and Go none at infinity. A
// row with such is listed with the others, and shown.
func TestClient_rowsWithAnyTimes_areJSON(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	exec(t, pool, `
		insert into soniq_jobs (id, job_name, args, status, created_at, updated_at, expires_at, scheduled_at, cancel_requested_at)
		select gen_random_uuid(), 'x', '{}', 'done', at, at, at, at, at
		from unnest(array['4713-01-01 BC', '0044-03-15 BC', '10000-01-01', '294276-01-01', '-infinity', 'infinity', null]::timestamptz[]) at`)
	exec(t, pool, `
		insert into soniq_dead_letter_jobs (
		  id, job_name, args, queue, priority, max_attempts, attempts, dead_letter_reason, original_created_at, moved_to_dead_letter_at, scheduled_at
		)
		select gen_random_uuid(), 'x', '{}', 'q', 1, 1, 1, 'timeout', at, at, at
		from unnest(array['4713-01-01 BC', '294276-01-01', '-infinity', 'infinity']::timestamptz[]) at`)
	exec(t, pool, `
		insert into soniq_workers (id, hostname, pid, last_heartbeat, started_at)
		select gen_random_uuid(), 'h', row_number() over (), at, at
		from unnest(array['4713-01-01 BC', '294276-01-01', '-infinity', 'infinity']::timestamptz[]) at`)
	exec(t, pool, `insert into soniq_queues (name, paused_at) values ('a', '4713-01-01 BC'), ('b', '294276-01-01'), ('c', 'infinity')`)
	client := newClient(t, pool)
	jobs, err := client.ListJobs(t.Context(), engine.JobFilter{})
	if err != nil || len(jobs) != 7 {
		t.Fatalf("%d jobs: %v", len(jobs), err)
	}
	status, err := client.Status(t.Context())
	if err != nil || len(status.Workers) != 4 || len(status.Queues) != 4 {
		t.Fatalf("%+v: %v", status, err)
	}
	shown := []any{jobs, status}
	rows, _ := pool.Query(t.Context(), `select id from soniq_jobs union all select id from soniq_dead_letter_jobs`)
	ids, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		shown = append(shown, getJob(t, client, id))
	}
	for _, v := range shown {
		if _, err := json.Marshal(v); err != nil {
			t.Errorf("%T: %v", v, err)
		}
	}
}
