package engine_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/deadletter"
	"soniq/engine"
	"soniq/internal/testdb"
)

// endings are the ways for a job to end, and what its row says then.
var endings = map[string]string{
	"done": "done 1", "result": "done 1", "dead": "dead 1", "retry": "queued 1", "snooze": "queued 0",
}

// ends registers a handler for each ending, which waits to be released and counts its
// runs by job.
type ends struct {
	release chan struct{}
	started chan struct{}

	mu   sync.Mutex
	runs map[uuid.UUID]int
}

func newEnds(reg *engine.Registry) *ends {
	e := &ends{release: make(chan struct{}), started: make(chan struct{}, 1000), runs: map[uuid.UUID]int{}}
	for kind := range endings {
		e.add(reg, kind, kind)
	}
	return e
}

func (e *ends) add(reg *engine.Registry, name, kind string) {
	engine.HandleRaw(reg, name, func(_ context.Context, job *engine.Job) (any, error) {
		e.mu.Lock()
		e.runs[job.ID]++
		e.mu.Unlock()
		e.started <- struct{}{}
		<-e.release
		switch kind {
		case "result":
			return map[string]int{"n": 1}, nil
		case "dead":
			return nil, engine.Permanent(errors.New("never"))
		case "retry":
			return nil, errors.New("not yet")
		case "snooze":
			return nil, engine.Snooze(time.Hour)
		}
		return nil, nil
	}, engine.Retry(engine.Delays{time.Hour}))
}

// roleURL is the URL of a database with another role.
func roleURL(t *testing.T, database, role string) string {
	t.Helper()
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(role, role)
	return u.String()
}

// workerRole makes a role that workers of this test's databases use.
func workerRole(t *testing.T) string {
	t.Helper()
	admin := testdb.New(t)
	role := "soniq_refused_" + strings.ReplaceAll(uuid.NewString(), "-", "")[:12]
	exec(t, admin, `create role `+role+` login password '`+role+`'`)
	t.Cleanup(func() {
		if _, err := admin.Exec(context.Background(), `drop owned by `+role+`; drop role `+role); err != nil {
			t.Error(err)
		}
	})
	return role
}

// One thing at a time that outcomes need is taken away. The outcomes that don't need it
// are written meanwhile. The others are kept and written once it is back; no job runs
// again.
func TestWorker_outcomeIsRefused_waitsAndHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	role := workerRole(t)
	all := slices.Sorted(maps.Keys(endings))
	const raises = `
		create function refuses() returns trigger language plpgsql as $$ begin raise 'the application refuses it'; end $$;
		create trigger refuses before %s for each row execute function refuses()`
	for name, c := range map[string]struct {
		fault, mend string
		refused     []string
		ttl         time.Duration
		// err is what the error says.
		err string
	}{
		"no insert of dead letters": {"revoke insert on soniq_dead_letter_jobs from %s", "grant insert on soniq_dead_letter_jobs to %s", []string{"dead"}, 0, "42501"},
		"no select of dead letters": {"revoke select on soniq_dead_letter_jobs from %s", "grant select on soniq_dead_letter_jobs to %s", []string{"dead"}, 0, "42501"},
		"no delete of jobs":         {"revoke delete on soniq_jobs from %s", "grant delete on soniq_jobs to %s", []string{"dead"}, 0, "42501"},
		"no delete of done jobs":    {"revoke delete on soniq_jobs from %s", "grant delete on soniq_jobs to %s", []string{"dead", "done", "result"}, -1, "42501"},
		"no update of jobs":         {"revoke update on soniq_jobs from %s", "grant update on soniq_jobs to %s", []string{"done", "result", "retry", "snooze"}, 0, "42501"},
		"no select of jobs":         {"revoke select on soniq_jobs from %s", "grant select on soniq_jobs to %s", all, 0, "42501"},
		"no usage of the schema":    {"revoke usage on schema public from public, %s", "grant usage on schema public to public", all, 0, "42"},
		"no table of dead letters":  {"alter table soniq_dead_letter_jobs rename to gone", "alter table gone rename to soniq_dead_letter_jobs", []string{"dead"}, 0, "42P01"},
		"no table of hooks":         {"alter table soniq_hooks rename to gone", "alter table gone rename to soniq_hooks", nil, 0, ""},
		"no column of dead letters": {"alter table soniq_dead_letter_jobs rename fingerprint to gone", "alter table soniq_dead_letter_jobs rename gone to fingerprint", []string{"dead"}, 0, "42703"},
		"no column for results":     {"alter table soniq_jobs rename result to gone", "alter table soniq_jobs rename gone to result", []string{"done", "result"}, 0, "42703"},
		"no column for errors":      {"alter table soniq_jobs rename errors to gone", "alter table soniq_jobs rename gone to errors", []string{"dead", "retry", "snooze"}, 0, "42703"},
		"a column of another's":     {"alter table soniq_dead_letter_jobs add n int; alter table soniq_jobs add n int", "select", nil, 0, ""},
		"a column that must be set": {"alter table soniq_dead_letter_jobs add theirs int not null", "alter table soniq_dead_letter_jobs drop theirs", []string{"dead"}, 0, "23502"},
		"a foreign key":             {"create table theirs (id uuid references soniq_jobs); insert into theirs select id from soniq_jobs", "drop table theirs", []string{"dead"}, 0, "23503"},
		"a check":                   {"alter table soniq_jobs add constraint theirs check (status <> 'done') not valid", "alter table soniq_jobs drop constraint theirs", []string{"done", "result"}, 0, "23514"},
		"a trigger on dead letters": {fmt.Sprintf(raises, "insert on soniq_dead_letter_jobs"), "drop function refuses cascade", []string{"dead"}, 0, "P0001"},
		"a trigger on jobs":         {fmt.Sprintf(raises, "update on soniq_jobs"), "drop function refuses cascade", []string{"done", "result", "retry", "snooze"}, 0, "P0001"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			database := testdb.NewURL(t)
			pool := connect(t, database)
			exec(t, pool, `grant usage on schema public to `+role+`; grant select, insert, update, delete on all tables in schema public to `+role)
			var log journal
			reg := engine.NewRegistry()
			ends := newEnds(reg)
			w := start(t, connect(t, roleURL(t, database, role)), reg, engine.WorkerConfig{
				Concurrency: 20, ResultTTL: c.ttl, Logger: slog.New(slog.NewMultiHandler(log.logger().Handler(), slog.NewTextHandler(t.Output(), nil))),
			})
			ids := enqueueEach(t, pool, all...)
			for range ids {
				receive(t, "the start of a job", ends.started)
			}
			exec(t, pool, strings.ReplaceAll(c.fault, "%s", role))
			close(ends.release)
			w.waitFor(t, "the outcomes that need nothing of it", func(o []engine.Outcome) bool { return len(o) == len(ids)-len(c.refused) })
			if len(c.refused) > 0 {
				waitTrue(t, "the error", func() bool { return strings.Contains(log.String(), "the database refuses the outcome of a job") })
			}
			for kind, id := range ids {
				status := queryValue[string](t, pool, `select coalesce((select status from soniq_jobs where id = $1 and worker_id = $2 and attempts = 1), '')`, id, w.ID())
				if (status == "processing") != slices.Contains(c.refused, kind) {
					t.Errorf("under the worker's claim, the job %s is %q", kind, status)
				}
			}
			exec(t, pool, strings.ReplaceAll(c.mend, "%s", role))
			w.waitFor(t, "all outcomes", func(o []engine.Outcome) bool { return len(o) == len(ids) })
			if err := w.stop(); err != nil {
				t.Error(err)
			}
			ends.wantEach(t, w, pool, ids, c.ttl < 0)
			if text := log.String(); len(c.refused) > 0 && (!strings.Contains(text, c.err) || !strings.Contains(text, "remedy=")) {
				t.Errorf("the log has no reason %s:\n%s", c.err, text)
			}
		})
	}
}

// enqueueEach enqueues a job of each name, in one transaction.
func enqueueEach(t *testing.T, pool *pgxpool.Pool, names ...string) map[string]uuid.UUID {
	t.Helper()
	ids := map[string]uuid.UUID{}
	var sql strings.Builder
	for _, name := range names {
		ids[name] = uuid.New()
		fmt.Fprintf(&sql, "insert into soniq_jobs (id, job_name, args, max_attempts) values ('%s', '%s', '{}', 5);", ids[name], name)
	}
	exec(t, pool, sql.String())
	return ids
}

// wantEach checks that each job has run once, has one outcome, and ended as it should.
func (e *ends) wantEach(t *testing.T, w *running, pool *pgxpool.Pool, ids map[string]uuid.UUID, deleted bool) {
	t.Helper()
	outcomes := map[uuid.UUID]int{}
	for _, o := range w.outcomes {
		outcomes[o.Job.ID]++
	}
	for name, id := range ids {
		kind, _, _ := strings.Cut(name, ".")
		status, attempts := endOf(t, pool, id)
		got, want := fmt.Sprint(status, " ", attempts), endings[kind]
		if deleted && strings.HasPrefix(want, "done") {
			want = "gone 0"
		}
		if got != want || e.runs[id] != 1 || outcomes[id] != 1 {
			t.Errorf("job %s: %s after %d runs with %d outcomes, want %s", name, got, e.runs[id], outcomes[id], want)
		}
	}
}

// Whatever SQLSTATE the database answers for some jobs, those of the same batch are
// written. The verdict on each refused one is kept, and written once the cause is gone;
// the log names each cause once.
func TestWorker_anySQLSTATE_isOfOneOutcomeAlone(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	codes := []string{
		"0A000", "08006", "21000", "22003", "22P05", "23503", "23514", "25006", "25P02", "26000", "28000", "2BP01", "3D000", "40001", "40P01",
		"42501", "42703", "42883", "42P01", "42P05", "53100", "53200", "53300", "53400", "54000", "54001", "55000", "55006", "55P03", "57014", "57P01",
		"57P03", "58030", "F0000", "P0001", "XX000", "XX001", "ZZ999",
	}
	kinds := []string{"done", "dead", "retry"}
	var names []string
	for _, kind := range kinds {
		names = append(names, kind)
		for _, code := range codes {
			names = append(names, kind+"."+code)
		}
	}
	exec(t, pool, `
		create function refuses() returns trigger language plpgsql as $$
		begin
			raise 'a trigger refuses it' using errcode = split_part(new.job_name, '.', 2);
		end $$;
		create trigger refuses before update on soniq_jobs for each row
			when (old.job_name like '%.%' and old.status = 'processing' and new.status <> 'processing') execute function refuses();
		create trigger refuses before insert on soniq_dead_letter_jobs for each row
			when (new.job_name like '%.%') execute function refuses()`)
	var log journal
	reg := engine.NewRegistry()
	ends := newEnds(reg)
	close(ends.release)
	for _, name := range names {
		kind, _, isRefused := strings.Cut(name, ".")
		if isRefused {
			ends.add(reg, name, kind)
		}
	}
	w := start(t, pool, reg, engine.WorkerConfig{
		Concurrency: len(names), Logger: slog.New(slog.NewMultiHandler(log.logger().Handler(), slog.NewTextHandler(t.Output(), nil))),
	})
	ids := enqueueEach(t, pool, names...)
	w.waitFor(t, "the outcomes that nothing refuses", func(o []engine.Outcome) bool { return len(o) == len(kinds) })
	more := enqueueEach(t, pool, kinds...)
	w.waitFor(t, "those that come later", func(o []engine.Outcome) bool { return len(o) == 2*len(kinds) })
	waitTrue(t, "all refusals", func() bool {
		return queryValue[int](t, pool, `select count(*) from soniq_jobs where status = 'processing' and worker_id = $1 and attempts = 1`, w.ID()) == len(ids)-len(kinds) &&
			strings.Count(log.String(), "it is kept, and tried again until it is") >= len(kinds)*(len(codes)-1)
	})
	exec(t, pool, `drop function refuses cascade`)
	w.waitFor(t, "all outcomes", func(o []engine.Outcome) bool { return len(o) == len(ids)+len(more) })
	if err := w.stop(); err != nil {
		t.Error(err)
	}
	ends.wantEach(t, w, pool, ids, false)
	ends.wantEach(t, w, pool, more, false)
	// 22P05 and others are of one cause for each kind and code.
	if n := strings.Count(log.String(), "it is kept, and tried again until it is"); n > len(kinds)*len(codes) {
		t.Errorf("the log names %d causes", n)
	}
}

// A row that the database refuses to delete, to move or to queue, by whatever SQLSTATE,
// holds up no other in any task of maintenance.
func TestMaintenance_anySQLSTATE_isOfOneRowAlone(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	exec(t, pool, `
		create function refuses() returns trigger language plpgsql as $$
		begin
			raise 'a trigger refuses it' using errcode = split_part(old.job_name, '.', 2);
		end $$;
		create trigger refuses before delete or update on soniq_jobs for each row when (old.job_name like '%.%') execute function refuses();
		create trigger refuses before delete on soniq_dead_letter_jobs for each row when (old.job_name like '%.%') execute function refuses()`)
	w, err := engine.NewWorker(pool, newRegistry("known"), engine.WorkerConfig{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	w.SawClock(time.Now())
	if err := w.Beat(t.Context()); err != nil {
		t.Fatal(err)
	}
	exec(t, pool, `update soniq_workers set started_at = now() - interval '1 hour'`)
	codes := []string{"0A000", "22P05", "23503", "42501", "42P01", "53100", "53400", "54000", "57014", "58030", "P0001", "XX000", "ZZ999"}
	// The oldest are refused.
	exec(t, pool, `
		with names as (select n, case when n <= cardinality($1::text[]) then 'x.' || ($1::text[])[n] else 'x' end as name from generate_series(1, 40) n)
		, done as (
			insert into soniq_jobs (id, job_name, args, status, expires_at)
			select gen_random_uuid(), name, '{}', 'done', now() - interval '1 day' + n * interval '1 s' from names
		), orphans as (
			insert into soniq_jobs (id, job_name, args, status, attempts, max_attempts, updated_at)
			select gen_random_uuid(), name, '{}', 'processing', 1, 1 + n % 2, now() - interval '1 day' from names
		), unknown as (
			insert into soniq_jobs (id, job_name, args, created_at, scheduled_at)
			select gen_random_uuid(), name, '{}', now() - interval '1 hour', now() - interval '1 hour' from names
		)
		insert into soniq_dead_letter_jobs (
			id, job_name, args, queue, priority, max_attempts, attempts, dead_letter_reason, original_created_at, moved_to_dead_letter_at, state
		)
		select gen_random_uuid(), name, '{}', 'default', 1, 1, 1, 'timeout', now(), now() - interval '90 days' + n * interval '1 s', s
		from names, unnest(array['dead', 'resolved']) s`, codes)
	queue := newQueue(t, pool)
	for range 2 {
		// Their errors name rows that were refused.
		_ = w.MoveUnknown(t.Context())
		_ = w.Expire(t.Context())
		_ = w.RecoverOrphans(t.Context())
		_, _ = queue.Cleanup(t.Context(), 60*24*time.Hour, deadletter.Filter{State: deadletter.StateDead})
		_, _ = queue.ApplyRetention(t.Context(), []deadletter.Retention{{Filter: deadletter.Filter{State: deadletter.StateResolved}, Keep: 24 * time.Hour}}, deadletter.MaintenanceOptions{})
	}
	for what, sql := range map[string]string{
		"done":         `select count(*), count(*) filter (where job_name = 'x') from soniq_jobs where status = 'done'`,
		"orphans":      `select count(*), count(*) filter (where job_name = 'x') from soniq_jobs where status = 'processing'`,
		"unknown":      `select count(*), count(*) filter (where job_name = 'x') from soniq_jobs where status = 'queued' and attempts = 0`,
		"dead letters": `select count(*) / 2, count(*) filter (where job_name = 'x') from soniq_dead_letter_jobs where moved_to_dead_letter_at < now() - interval '60 days'`,
	} {
		var all, others int
		if err := pool.QueryRow(t.Context(), sql).Scan(&all, &others); err != nil || all != len(codes) || others != 0 {
			t.Errorf("%s: %d are left, %d of them refused by nothing, %v", what, all, others, err)
		}
	}
}

func newRegistry(names ...string) *engine.Registry {
	reg := engine.NewRegistry()
	for _, name := range names {
		noop(reg, name)
	}
	return reg
}

// A worker that stops while outcomes are refused leaves them with their jobs. Whoever
// recovers these writes what became of them; none runs again.
func TestWorker_stopsWhileOutcomesAreRefused_noneRunsAgain(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	exec(t, pool, `
		create function refuses() returns trigger language plpgsql as $$ begin raise 'not now' using errcode = '54000'; end $$;
		create trigger refuses before update on soniq_jobs for each row when (new.status = 'done') execute function refuses();
		create trigger refuses before insert on soniq_dead_letter_jobs for each row execute function refuses()`)
	var log journal
	reg := engine.NewRegistry()
	ends := newEnds(reg)
	close(ends.release)
	w, err := engine.NewWorker(pool, reg, engine.WorkerConfig{Logger: log.logger(), ShutdownTimeout: time.Millisecond, CancelGrace: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	ids := enqueueEach(t, pool, "done", "result", "dead")
	waitUntil(t, pool, "the refusals", `select count(*) = 3 from soniq_kept_outcomes`)
	cancel()
	if err := receive(t, "the end of the worker", ended); err == nil || !strings.Contains(err.Error(), "settle 3 jobs: gave up") {
		t.Errorf("it ended with %v", err)
	}
	if n := strings.Count(log.String(), "could not be written before the worker stopped; whoever recovers the job writes it"); n != len(ids) {
		t.Errorf("it names %d jobs that are left:\n%s", n, log.String())
	}
	// It has been silent for long enough to be taken for dead.
	exec(t, pool, `update soniq_workers set last_heartbeat = now() - interval '1 hour' where id = $1`, w.ID())
	other := start(t, pool, reg, engine.WorkerConfig{})
	waitTrue(t, "a try of the other worker", func() bool {
		_ = other.RecoverOrphans(t.Context())
		return queryValue[int](t, pool, `select count(*) from soniq_jobs where status = 'processing'`) == 3
	})
	exec(t, pool, `drop function refuses cascade`)
	third := start(t, pool, reg, engine.WorkerConfig{})
	waitTrue(t, "the outcomes", func() bool {
		_ = third.RecoverOrphans(t.Context())
		return queryValue[int](t, pool, `select count(*) from soniq_jobs where status = 'processing'`) == 0
	})
	for kind, id := range ids {
		status, attempts := endOf(t, pool, id)
		if got := fmt.Sprint(status, " ", attempts); got != endings[kind] || ends.runs[id] != 1 {
			t.Errorf("job %s: %s after %d runs, want %s", kind, got, ends.runs[id], endings[kind])
		}
	}
	var reason, message, result string
	if err := pool.QueryRow(t.Context(), `select dead_letter_reason, last_error, (select result::text from soniq_jobs where id = $1) from soniq_dead_letter_jobs`, ids["result"]).
		Scan(&reason, &message, &result); err != nil || reason != "permanent_failure" || message != "never" || result != `{"n": 1}` {
		t.Errorf("the dead letter has %s, %s; the result is %s, %v", reason, message, result, err)
	}
}
