package deadletter_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/deadletter"
	"soniq/deadletter/classify"
	"soniq/internal/deadwrite"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
	"soniq/notify"
)

// A subscriber runs Subscribe and hands over what it hears.
type subscriber struct {
	events    chan deadletter.Event
	connected chan struct{}
	log       *safeBuffer
}

// subscribe returns once the subscription listens. It ends with the test.
func subscribe(t testing.TB, pool *pgxpool.Pool) *subscriber {
	t.Helper()
	s := &subscriber{
		events:    make(chan deadletter.Event, 10_000),
		connected: make(chan struct{}, 100),
		log:       &safeBuffer{},
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- deadletter.Subscribe(ctx, pool.Config().ConnConfig, deadletter.SubscribeOptions{
			Logger:    slog.New(slog.NewTextHandler(s.log, nil)),
			OnConnect: func(context.Context) { s.connected <- struct{}{} },
		}, func(_ context.Context, e deadletter.Event) { s.events <- e })
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("subscribe: %v", err)
		}
	})
	receive(t, s.connected)
	return s
}

// receive waits long: an open transaction of a test of another package, on the same server, holds up what is read
// in its order.
func receive[T any](t testing.TB, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-within(t, 2*time.Minute).Done():
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

// nothing checks that what came before now was all.
func (s *subscriber) nothing(t testing.TB, pool *pgxpool.Pool) {
	t.Helper()
	mark := uuid.New()
	exec(t, pool, "select pg_notify('soniq_dead_letter', $1)", `{"v":1,"id":"`+mark.String()+`"}`)
	if e := receive(t, s.events); e.ID != mark {
		t.Errorf("heard of %+v", e)
	}
}

// safeBuffer is a log that is read while it is written.
type safeBuffer = testkit.Log

func TestSubscribe_hearsOfEachDeath(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := subscribe(t, pool)
	worker := insertWorker(t, pool)
	id := uuid.New()
	replayOf := insertDead(t, pool, columns{"state": "replaying", "replay_job_id": id})
	_ = receive(t, s.events)
	insertClaimed(t, pool, worker, columns{"id": id, "queue": "emails", "replay_of": replayOf})
	if _, err := deadwrite.Move(t.Context(), pool, worker, []deadwrite.Death{death(id)}); err != nil {
		t.Fatal(err)
	}
	j := get(t, newQueue(t, pool), id)
	e := receive(t, s.events)
	want := deadletter.Event{
		Version: 1, ID: id, JobName: j.JobName, Queue: "emails", Reason: j.Reason, Kind: j.ErrorKind,
		Fingerprint: j.Fingerprint, Attempts: 3, MovedAt: j.MovedAt, ReplayOf: &replayOf,
	}
	if jsonOf(t, e) != jsonOf(t, want) {
		t.Errorf("got %s\nwant %s", jsonOf(t, e), jsonOf(t, want))
	}

	// The id dies again, by a worker of 0.1.0: another event. A change that is no
	// death: none.
	exec(t, pool, "update soniq_dead_letter_jobs set tags = '{}', state = 'resolved', resurrection_count = 1")
	exec(t, pool, "update soniq_dead_letter_jobs set moved_to_dead_letter_at = clock_timestamp(), state = 'dead' where id = $1", id)
	if again := receive(t, s.events); again.ID != id || !again.MovedAt.After(e.MovedAt) {
		t.Errorf("got %+v", again)
	}
	s.nothing(t, pool)
}

func TestSubscribe_hearsOfADeathThatPythonWrote(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := subscribe(t, pool)
	id := uuid.New()
	exec(t, pool, `
		INSERT INTO soniq_dead_letter_jobs (
			id, job_name, args, queue, priority, max_attempts, attempts, last_error, dead_letter_reason,
			original_created_at, moved_to_dead_letter_at, resurrection_count, last_resurrection_at, tags, created_at
		) VALUES ($1, 'app.tasks.Send', '{}', 'default', 100, 4, 4, 'ValueError: no', 'max_retries_exceeded',
			NOW(), NOW(), 0, NULL, NULL, NOW())`, id)
	e := receive(t, s.events)
	if e.ID != id || e.JobName != "app.tasks.Send" || e.Reason != classify.MaxRetriesExceeded || e.Kind != "" || e.ReplayOf != nil || e.Truncated {
		t.Errorf("got %+v", e)
	}
	j := get(t, newQueue(t, pool), id)
	if j.State != deadletter.StateDead || j.MovedXID == nil {
		t.Errorf("row %+v", j)
	}
}

func TestSubscribe_oneStatementGivesAnEventForEachRow(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := subscribe(t, pool)
	const n = 2000
	exec(t, pool, `
		insert into soniq_dead_letter_jobs (id, job_name, args, queue, priority, max_attempts, attempts,
			dead_letter_reason, original_created_at, moved_to_dead_letter_at)
		select gen_random_uuid(), 'x', '{}', 'q', 1, 1, 1, 'timeout', now(), now() from generate_series(1, $1)`, n)
	seen := map[uuid.UUID]bool{}
	for range n {
		seen[receive(t, s.events).ID] = true
	}
	if len(seen) != n {
		t.Errorf("%d different events, want %d", len(seen), n)
	}
	s.nothing(t, pool)
}

func TestSubscribe_whatRollsBackIsNotAnnounced(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := subscribe(t, pool)
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	const die = `insert into soniq_dead_letter_jobs (id, job_name, args, queue, priority, max_attempts, attempts,
		dead_letter_reason, original_created_at, moved_to_dead_letter_at)
		values (gen_random_uuid(), 'x', '{}', 'q', 1, 1, 1, 'timeout', now(), now())`
	if _, err := tx.Exec(t.Context(), die); err != nil {
		t.Fatal(err)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.nothing(t, pool)
}

func TestSubscribe_skipsWhatItCannotRead(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := subscribe(t, pool)
	for _, payload := range []string{
		"", "hello", "[1]", `{"v":1}`, `{"v":2,"id":"` + uuid.NewString() + `"}`, `{"v":1,"id":7}`,
		`{"v":1,"id":"` + uuid.NewString() + `","moved_at":"yesterday"}`, strings.Repeat("x", 7000),
	} {
		exec(t, pool, "select pg_notify('soniq_dead_letter', $1)", payload)
	}
	s.nothing(t, pool)
	log := s.log.String()
	if n := strings.Count(log, "skipped a dead-letter notification"); n != 8 {
		t.Errorf("%d records, want 8:\n%s", n, log)
	}
	if len(log) > 8000 {
		t.Errorf("the log has %d bytes", len(log))
	}
}

func TestSubscribe_reconnectsAndSaysSo(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := subscribe(t, pool)
	eventually.True(t, "a listener to cut off", func() bool {
		return value[int](t, pool, `select count(pg_terminate_backend(pid)) from pg_stat_activity
			where datname = current_database() and pid <> pg_backend_pid() and application_name = 'soniq-listener'`) == 1
	})
	receive(t, s.connected)
	id := insertDead(t, pool, nil)
	if e := receive(t, s.events); e.ID != id {
		t.Errorf("got %+v", e)
	}
}

func TestSubscribe_refusesAConfigThatCannotWork(t *testing.T) {
	t.Parallel()
	err := deadletter.Subscribe(t.Context(), nil, deadletter.SubscribeOptions{}, func(context.Context, deadletter.Event) {})
	if err == nil || !strings.Contains(err.Error(), "subscribe to dead letters: ") {
		t.Errorf("got %v", err)
	}
}

func TestSubscribe_endsWithItsContextWhileTheSubscriberIsBusy(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	busy, connected := make(chan struct{}), make(chan struct{}, 1)
	done := make(chan error, 1)
	go func() {
		done <- deadletter.Subscribe(ctx, pool.Config().ConnConfig, deadletter.SubscribeOptions{
			OnConnect: func(context.Context) { connected <- struct{}{} },
		}, func(ctx context.Context, _ deadletter.Event) {
			close(busy) // a second call would panic
			<-ctx.Done()
		})
	}()
	receive(t, connected)
	insertDead(t, pool, nil)
	insertDead(t, pool, nil)
	receive(t, busy)
	cancel()
	if err := receive(t, done); err != nil {
		t.Error(err)
	}
}

// hostileTexts are names that grow most in JSON or in bytes.
func hostileTexts() map[string]string {
	return map[string]string{
		"control characters": strings.Repeat("\x01", 600),
		"quotes":             strings.Repeat(`"\`, 600),
		"wide runes":         strings.Repeat("😀", 600),
		"letters":            strings.Repeat("a", 600),
		"a mix":              strings.Repeat("\x1f😀\"é", 150),
		"separators":         strings.Repeat("\u2028<&>", 150),
	}
}

func TestDeadLetterTrigger_payloadStaysSmallWhateverTheRowHolds(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	wait := listen(t, pool, notify.DeadLetter)
	for name, text := range hostileTexts() {
		id := insertDead(t, pool, columns{
			"job_name": text, "queue": text, "dead_letter_reason": text, "error_kind": text, "fingerprint": text,
			"replay_of": uuid.New(), "attempts": 1<<31 - 1, "args": `{"a": 1}`, "last_error": text,
		})
		payload := wait()
		if len(payload) >= 1000 {
			t.Errorf("%s: %d bytes", name, len(payload))
		}
		e, err := deadletter.ParseEvent(payload)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if e.ID != id || !e.Truncated || e.JobName == "" || !strings.HasPrefix(text, e.JobName) || e.ReplayOf == nil {
			t.Errorf("%s: %+v", name, e)
		}
		var fields map[string]any
		if err := json.Unmarshal([]byte(payload), &fields); err != nil || fields["last_error"] != nil || fields["args"] != nil {
			t.Errorf("%s: %s, %v", name, payload, err)
		}
	}
}

func TestDeadLetterTrigger_infiniteTimesHurtNobody(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	id := insertDead(t, pool, columns{"moved_to_dead_letter_at": time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)})
	exec(t, pool, "update soniq_dead_letter_jobs set moved_to_dead_letter_at = 'infinity' where id = $1", id)
	exec(t, pool, "update soniq_dead_letter_jobs set moved_to_dead_letter_at = '-infinity' where id = $1", id)
}

// A role with rights on the jobs alone, and a search_path that leads elsewhere.
func TestDeadLetterTrigger_servesARoleThatMayOnlyUseTheJobs(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	comeHungry(t, pool)
	waitJob, waitDeath := listen(t, pool, notify.NewJob), listen(t, pool, notify.DeadLetter)
	id := insertDead(t, pool, columns{"queue": "emails"})
	waitDeath()
	job, err := q.Replay(t.Context(), id, deadletter.ReplayOptions{})
	if err != nil {
		t.Fatal(err)
	}
	waitJob()

	role := "app_" + strings.ReplaceAll(uuid.NewString(), "-", "")
	exec(t, pool, "create role "+role)
	t.Cleanup(func() {
		ctx := context.Background()
		if _, err := pool.Exec(ctx, "drop owned by "+role+"; drop role "+role); err != nil {
			t.Error(err)
		}
	})
	schema := value[string](t, pool, "select current_schema()")
	exec(t, pool, "grant usage on schema "+schema+" to "+role)
	exec(t, pool, "grant select, insert, update, delete on soniq_jobs to "+role)
	exec(t, pool, "grant insert on soniq_dead_letter_jobs to "+role)
	exec(t, pool, "create schema elsewhere")
	exec(t, pool, "grant usage on schema elsewhere to "+role)

	conn, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	as := func(sql string, args ...any) {
		t.Helper()
		if _, err := conn.Exec(t.Context(), sql, args...); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	as("set role " + role)
	as("set search_path = elsewhere")
	defer func() {
		if err := resetRole(conn.Conn()); err != nil {
			t.Error(err)
		}
	}()

	jobs, dead := schema+".soniq_jobs", schema+".soniq_dead_letter_jobs"
	as("insert into " + jobs + " (id, job_name, args, queue) values (gen_random_uuid(), 'x', '{}', 'from the role')")
	if got := waitJob(); got != "from the role" {
		t.Errorf("announced %q", got)
	}
	as("update "+jobs+" set status = 'cancelled' where id = $1", job)
	as("insert into " + dead + ` (id, job_name, args, queue, priority, max_attempts, attempts, dead_letter_reason,
		original_created_at, moved_to_dead_letter_at) values (gen_random_uuid(), 'by the role', '{}', 'q', 1, 1, 1, 'timeout', now(), now())`)
	if e, err := deadletter.ParseEvent(waitDeath()); err != nil || e.JobName != "by the role" {
		t.Errorf("announced %+v, %v", e, err)
	}
	if j := get(t, q, id); j.State != deadletter.StateDead {
		t.Errorf("after the role cancelled the replay, the dead letter is %s", j.State)
	}
	again, err := q.Replay(t.Context(), id, deadletter.ReplayOptions{})
	if err != nil {
		t.Fatal(err)
	}
	as("delete from "+jobs+" where id = $1", again)
	if j := get(t, q, id); j.State != deadletter.StateDead {
		t.Errorf("after the role deleted the replay, the dead letter is %s", j.State)
	}
}

func resetRole(conn *pgx.Conn) error {
	_, err := conn.Exec(context.Background(), "reset role; reset search_path")
	return err
}

func TestDeadLetterTrigger_canBeSilenced(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := subscribe(t, pool)
	fill(t, pool, 3)
	s.nothing(t, pool)
	if n := value[int](t, pool, "select count(*) from soniq_dead_letter_jobs"); n != 3 {
		t.Errorf("%d rows", n)
	}
}
