package telemetry_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/internal/testdb"
	"soniq/internal/testkit"
	"soniq/telemetry"
)

// filled has some of everything.
const filled = `
insert into soniq_jobs (id, job_name, args, queue, status, scheduled_at, priority, created_at)
select gen_random_uuid(), 'mail', '{}', v.queue, v.status, now() + v.due::interval, v.priority, now() - interval '2 hours'
from (values
  ('a', 'queued', '-60 s', 100, 3), ('a', 'queued', '-90 s', 1, 2), ('a', 'queued', '1 h', 100, 4), ('a', 'processing', '-1 s', 100, 5),
  ('b', 'queued', '1 h', 100, 1), (null, 'queued', null, null, 1), ('b', 'done', '-1 s', 100, 7), ('busy', 'processing', '-1 s', 100, 1)
) v (queue, status, due, priority, n), generate_series(1, v.n);
insert into soniq_queues (name, paused_at) values ('b', now()), ('empty', now());
insert into soniq_workers (id, hostname, pid, queues, concurrency, version, last_heartbeat) values
  (gen_random_uuid(), 'one', 1, '{a,served}', 7, 'go/1.0', now()), (gen_random_uuid(), 'two', 2, '{a}', 5, null, now()),
  (gen_random_uuid(), 'old', 3, '{a}', 50, 'go/1.0', now() - interval '1 hour');
insert into soniq_dead_letter_jobs (id, job_name, args, queue, priority, max_attempts, attempts, dead_letter_reason, original_created_at, moved_to_dead_letter_at, state)
select gen_random_uuid(), v.job, '{}', 'a', 100, 3, 3, v.reason, now(), now() - v.age::interval, v.state
from (values
  ('mail', 'timeout', '10 s', 'dead', 3), ('mail', 'timeout', '2 h', 'resolved', 2), ('mail', 'max_retries_exceeded', '1 h', 'dead', 1),
  ('report', 'something new', '3 s', 'replaying', 1)
) v (job, reason, age, state, n), generate_series(1, v.n);
insert into soniq_hooks (id, name, kind, url, failures, dropped, enabled) values
  ('00000000-0000-0000-0000-000000000001', 'pager', 'webhook', 'https://user:hunter2@example.com/hook?token=hunter2', 4, 9, true),
  ('00000000-0000-0000-0000-000000000002', 'off', 'log', null, 0, 0, false);
insert into soniq_hook_deliveries (hook_id, event, dead_letter_id, facts, group_key, state, created_at)
select '00000000-0000-0000-0000-000000000001', 'job.dead_lettered', gen_random_uuid(), '{}', 'g', s, now() - interval '5 minutes'
from (values ('pending', 2), ('delivered', 3), ('failed', 4)) v (s, n), generate_series(1, v.n)`

func TestFleet_scrape_hasWhatTheTablesHold(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	exec(t, pool, "set session_replication_role = replica;"+filled+"; reset session_replication_role")
	_, e := newFleet(t, pool, telemetry.FleetConfig{})
	s := scrape(t, e)
	s.want(t, map[string]float64{
		"soniq_database_up":                       1,
		`soniq_queue_jobs{queue="a",state="due"}`: 5, `soniq_queue_jobs{queue="a",state="scheduled"}`: 4, `soniq_queue_jobs{queue="a",state="processing"}`: 5,
		`soniq_queue_jobs{queue="b",state="due"}`: 0, `soniq_queue_jobs{queue="b",state="scheduled"}`: 1,
		`soniq_queue_jobs{queue="default",state="due"}`: 1, `soniq_queue_jobs{queue="busy",state="processing"}`: 1,
		`soniq_queue_jobs{queue="served",state="due"}`: 0, `soniq_queue_jobs{queue="empty",state="due"}`: 0,
		`soniq_queue_jobs_estimate{queue="a",state="due"}`: 5, "soniq_queue_jobs_bound": 1000,
		`soniq_queue_paused{queue="a"}`: 0, `soniq_queue_paused{queue="b"}`: 1, `soniq_queue_paused{queue="empty"}`: 1,
		`soniq_queue_oldest_due_seconds{queue="b"}`: 0,
		`soniq_workers_alive{runtime="go"}`:         1, `soniq_workers_alive{runtime="python"}`: 1,
		`soniq_worker_slots{runtime="go"}`: 7, `soniq_worker_slots{runtime="python"}`: 5,
		`soniq_dead_letters{job_name="mail",reason="timeout",state="dead"}`:              3,
		`soniq_dead_letters{job_name="mail",reason="timeout",state="resolved"}`:          2,
		`soniq_dead_letters{job_name="mail",reason="max_retries_exceeded",state="dead"}`: 1,
		`soniq_dead_letters{job_name="report",reason="other",state="replaying"}`:         1,
		`soniq_dead_letters_estimate{job_name="mail",reason="timeout",state="dead"}`:     3,
		`soniq_dead_letters_recent{job_name="mail",reason="timeout"}`:                    3,
		`soniq_dead_letters_recent{job_name="report",reason="other"}`:                    1,
		"soniq_dead_letters_dead": 4, "soniq_dead_letters_bound": 1000,
		`soniq_hook_enabled{hook="pager"}`: 1, `soniq_hook_enabled{hook="off"}`: 0, `soniq_hook_failures{hook="pager"}`: 4,
		`soniq_hook_pending_deliveries{hook="pager"}`: 2, `soniq_hook_dropped_deliveries_total{hook="pager"}`: 9,
		`soniq_hook_pending_deliveries{hook="off"}`: 0, `soniq_hook_oldest_pending_seconds{hook="off"}`: 0,
	})
	for name, least := range map[string]float64{
		`soniq_queue_oldest_due_seconds{queue="a"}`: 90, `soniq_queue_oldest_due_seconds{queue="default"}`: 7200,
		"soniq_dead_letters_oldest_seconds": 3600, `soniq_hook_oldest_pending_seconds{hook="pager"}`: 300,
	} {
		if got := s[name]; got < least || got > least+1800 {
			t.Errorf("%s is %v, want %v and a little", name, got, least)
		}
	}
	for name := range s {
		if strings.Contains(name, "hunter2") || strings.Contains(name, "example.com") {
			t.Errorf("a hook's address is in %s", name)
		}
	}
}

func TestFleet_nothingThere_hasNoGaps(t *testing.T) {
	t.Parallel()
	_, e := newFleet(t, testdb.New(t), telemetry.FleetConfig{})
	scrape(t, e).want(t, map[string]float64{
		"soniq_database_up": 1, "soniq_dead_letters_dead": 0, "soniq_dead_letters_oldest_seconds": 0,
		`soniq_workers_alive{runtime="go"}`: 0, `soniq_workers_alive{runtime="python"}`: 0,
	})
}

// More than is counted: the bound, and an estimate. A small table is sampled whole.
func TestFleet_moreThanTheBound_isEstimated(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	exec(t, pool, `set session_replication_role = replica;
		insert into soniq_jobs (id, job_name, args, queue, status, scheduled_at)
		select gen_random_uuid(), 'n', '{}', 'q', case when i % 3 = 0 then 'processing' else 'queued' end, now() + case when i % 3 = 1 then interval '-1 s' else interval '1 h' end
		from generate_series(1, 7500) i;
		insert into soniq_dead_letter_jobs (id, job_name, args, queue, priority, max_attempts, attempts, dead_letter_reason, original_created_at, moved_to_dead_letter_at, state)
		select gen_random_uuid(), 'n', '{}', 'q', 100, 3, 3, 'timeout', now(), now() - i * interval '1 s', case when i > 1200 then 'resolved' else 'dead' end from generate_series(1, 1700) i;
		reset session_replication_role`)
	_, e := newFleet(t, pool, telemetry.FleetConfig{})
	s := scrape(t, e)
	s.want(t, map[string]float64{
		`soniq_queue_jobs{queue="q",state="due"}`: 1000, `soniq_queue_jobs{queue="q",state="scheduled"}`: 1000, `soniq_queue_jobs{queue="q",state="processing"}`: 2000,
		`soniq_dead_letters{job_name="n",reason="timeout",state="dead"}`: 1000,
	})
	// Some pages may be read by chance, or not.
	for name, want := range map[string]float64{
		`soniq_queue_jobs_estimate{queue="q",state="due"}`: 2500, `soniq_queue_jobs_estimate{queue="q",state="scheduled"}`: 2500,
		`soniq_queue_jobs_estimate{queue="q",state="processing"}`:                     2500,
		`soniq_dead_letters_estimate{job_name="n",reason="timeout",state="dead"}`:     1200,
		`soniq_dead_letters_estimate{job_name="n",reason="timeout",state="resolved"}`: 500,
	} {
		if got := s[name]; got < want/2 || got > want*2 {
			t.Errorf("%s is %v, want about %v", name, got, want)
		}
	}
}

// readings counts the statements that read for all.
type readings struct{ n atomic.Int64 }

func (r *readings) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	if strings.Contains(data.SQL, "recursive walk") {
		r.n.Add(1)
	}
	return ctx
}

func (*readings) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func counted(t testing.TB, url string, settings ...string) (*pgxpool.Pool, *readings) {
	t.Helper()
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	r := &readings{}
	config.ConnConfig.Tracer = r
	for i := 0; i < len(settings); i += 2 {
		config.ConnConfig.RuntimeParams[settings[i]] = settings[i+1]
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool, r
}

func TestFleet_manyProcessesScraped_oneReads(t *testing.T) {
	t.Parallel()
	pool, r := counted(t, testdb.NewURL(t))
	exec(t, pool, `insert into soniq_jobs (id, job_name, args) values (gen_random_uuid(), 'n', '{}')`)
	const processes, scrapes = 20, 5
	var all sync.WaitGroup
	ages := make(chan time.Duration, processes*scrapes)
	for range processes {
		f, _ := newFleet(t, pool, telemetry.FleetConfig{Interval: time.Hour, Timeout: time.Minute})
		for range scrapes {
			all.Go(func() {
				reading, age, err := f.Read(t.Context())
				if err != nil || len(reading.Queues) != 1 || reading.Queues[0].Due != 1 {
					t.Errorf("%+v, %v", reading, err)
				}
				ages <- age
			})
		}
	}
	all.Wait()
	if n := r.n.Load(); n != 1 {
		t.Errorf("%d processes that were asked %d times each have read %d times", processes, scrapes, n)
	}
	close(ages)
	for age := range ages {
		if age < 0 || age > time.Minute {
			t.Errorf("a reading is %s old", age)
		}
	}
	// Its time comes again.
	exec(t, pool, `update soniq_leader_tasks set begun_at = begun_at - interval '2 hours'`)
	f, _ := newFleet(t, pool, telemetry.FleetConfig{Interval: time.Hour})
	if _, _, err := f.Read(t.Context()); err != nil || r.n.Load() != 2 {
		t.Errorf("after the interval: %d readings, %v", r.n.Load(), err)
	}
}

// A reader that may not write reads for itself, each time that its interval has passed.
func TestFleet_mayNotWrite_readsAlone(t *testing.T) {
	t.Parallel()
	url := testdb.NewURL(t)
	owner := testkit.Open(t, url)
	exec(t, owner, "set session_replication_role = replica;"+filled+"; reset session_replication_role")
	role := fmt.Sprintf("viewer_%s", strings.ReplaceAll(testkit.Value[string](t, owner, "select current_database()"), "-", "_"))
	exec(t, owner, fmt.Sprintf(`create role %[1]s; grant usage on schema public to %[1]s;
		grant select on soniq_jobs, soniq_dead_letter_jobs, soniq_workers, soniq_queues, soniq_leader_tasks to %[1]s`, role))
	defer func() { exec(t, owner, fmt.Sprintf("drop owned by %[1]s; drop role %[1]s", role)) }()
	for name, settings := range map[string][]string{"a role with few rights": {"role", role}, "a read-only server": {"default_transaction_read_only", "on"}} {
		pool, r := counted(t, url, settings...)
		log := &testkit.Log{}
		f, _ := newFleet(t, pool, telemetry.FleetConfig{Interval: time.Second, Logger: log.Logger(0)})
		for range 3 {
			reading, _, err := f.Read(t.Context())
			if err != nil || len(reading.Queues) == 0 {
				t.Errorf("%s: %v", name, err)
				continue
			}
			if hooks := len(reading.Hooks) > 0; hooks != (settings[0] != "role") {
				t.Errorf("%s: sees hooks: %t", name, hooks)
			}
		}
		if n := r.n.Load(); n < 1 {
			t.Errorf("%s has read %d times", name, n)
		}
		if n := strings.Count(log.String(), "not shared"); n != 1 {
			t.Errorf("%s: said %d times:\n%s", name, n, log)
		}
		pool.Close()
	}
	if n := testkit.Count(t, owner, "select count(*) from soniq_leader_tasks where result is not null"); n != 0 {
		t.Errorf("%d shared readings", n)
	}
}

func TestFleet_databaseAway_isServedAllTheSame(t *testing.T) {
	t.Parallel()
	url := testdb.NewURL(t)
	proxy := testkit.StartProxy(t, url)
	pool := testkit.Open(t, proxy.Through(t, url))
	log := &testkit.Log{}
	_, e := newFleet(t, pool, telemetry.FleetConfig{Interval: time.Second, Timeout: 2 * time.Second, Logger: log.Logger(0)})
	// Until it is up: the machine may be busy.
	up := func(want float64) {
		t.Helper()
		for {
			s := scrape(t, e)
			if got, ok := s["soniq_database_up"]; !ok {
				t.Fatal("there is no soniq_database_up")
			} else if got == want {
				if _, others := s["soniq_dead_letters_dead"]; others != (want == 1) {
					t.Errorf("up is %v, and the other gauges are there: %t", want, others)
				}
				return
			}
		}
	}
	up(1)
	proxy.BlackHole()
	up(0)
	proxy.Cut()
	proxy.Down()
	up(0)
	proxy.Up(t, url)
	up(1)
	for _, line := range []string{"soniq_database_up is 0 until it can", "can be read for metrics again"} {
		if n := strings.Count(log.String(), line); n == 0 || n > 20 {
			t.Errorf("said %d times: %s\n%s", n, line, log)
		}
	}
}

func TestFleet_moreNamesThanItHas_areOther(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	exec(t, pool, `set session_replication_role = replica;
		insert into soniq_jobs (id, job_name, args, queue, scheduled_at) select gen_random_uuid(), 'n', '{}', 'q' || to_char(i, 'FM0000'), now() - interval '1 s' from generate_series(1, 150) i, generate_series(1, 2);
		insert into soniq_workers (id, hostname, pid, queues, version) values (gen_random_uuid(), 'one', 1, '{q0149}', 'go/1');
		insert into soniq_dead_letter_jobs (id, job_name, args, queue, priority, max_attempts, attempts, dead_letter_reason, original_created_at, moved_to_dead_letter_at)
		select gen_random_uuid(), 'j' || to_char(i, 'FM0000'), '{}', 'q', 100, 3, 3, 'timeout', now(), now() from generate_series(1, 130) i;
		reset session_replication_role`)
	log := &testkit.Log{}
	_, e := newFleet(t, pool, telemetry.FleetConfig{Interval: time.Second, Logger: log.Logger(0)})
	s := scrape(t, e)
	s.want(t, map[string]float64{
		`soniq_queue_jobs{queue="q0100",state="due"}`: 2, `soniq_queue_jobs{queue="q0149",state="due"}`: 2, `soniq_queue_jobs{queue="other",state="due"}`: 98,
		`soniq_dead_letters{job_name="j0100",reason="timeout",state="dead"}`: 1, `soniq_dead_letters{job_name="other",reason="timeout",state="dead"}`: 30,
		`soniq_dead_letters_recent{job_name="other",reason="timeout"}`: 30,
	})
	if len(s) > 1500 {
		t.Errorf("%d samples", len(s))
	}
	exec(t, pool, `update soniq_leader_tasks set begun_at = begun_at - interval '1 hour'`)
	for range 3 {
		scrape(t, e)
	}
	if n := strings.Count(log.String(), "counted together as 'other'"); n != 1 {
		t.Errorf("said %d times:\n%s", n, log)
	}
}

func TestNewFleet_badConfig_names(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	for want, try := range map[string]struct {
		pool   *pgxpool.Pool
		config telemetry.FleetConfig
	}{
		"pool is nil": {}, "Interval must be at least 1s": {pool, telemetry.FleetConfig{Interval: time.Millisecond}},
		"Timeout must not be negative": {pool, telemetry.FleetConfig{Timeout: -1}}, "Schema": {pool, telemetry.FleetConfig{Schema: "pg_x"}},
	} {
		if _, err := telemetry.NewFleet(try.pool, try.config); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

func TestExporter_writeText_isWhatIsScraped(t *testing.T) {
	t.Parallel()
	_, e := newFleet(t, testdb.New(t), telemetry.FleetConfig{Interval: time.Hour})
	var text bytes.Buffer
	if err := e.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	written, served := parse(t, text.String()), scrape(t, e)
	if len(written) != len(served) || written["soniq_database_up"] != 1 {
		t.Errorf("%d samples were written, %d served", len(written), len(served))
	}
}
