package deadletter_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/deadletter"
	"soniq/internal/deadwrite"
	"soniq/internal/testdb"
)

func TestQueue_Replay_makesAnEqualJobAndKeepsTheRecord(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	id := insertDead(t, pool, columns{
		"job_name": "nobody.knows.me", "args": `{"n": 123456789012345678901234567890}`, "args_hash": "h",
		"queue": "emails", "priority": 0, "max_attempts": 4, "attempts": 4, "unique_job": true, "dedup_key": "k",
		"producer_id": "p", "replay_of": uuid.New(), "resurrection_count": nil, "scheduled_at": time.Now().Add(time.Hour),
	})

	job, err := q.Replay(t.Context(), id, deadletter.ReplayOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if job.Version() != 7 || job == id {
		t.Errorf("new id %s", job)
	}
	got := value[string](t, pool, `select jsonb_build_array(job_name, args, args_hash, status, attempts, max_attempts, queue,
		priority, unique_job, dedup_key, producer_id, replay_of = $2, scheduled_at, worker_id, claim_token, expires_at, last_error,
		created_at between now() - interval '1 minute' and now())::text from soniq_jobs where id = $1`, job, id)
	want := `["nobody.knows.me", {"n": 123456789012345678901234567890}, "h", "queued", 0, 4, "emails", 0, true, "k", "p", true, null, null, null, null, null, true]`
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	j := get(t, q, id)
	if j.State != deadletter.StateReplaying || j.ReplayJobID == nil || *j.ReplayJobID != job || j.ResurrectionCount != 1 || j.LastResurrectionAt == nil {
		t.Errorf("the record says %+v", j)
	}
	if j.OutcomeUnknown() {
		t.Error("the outcome of our own replay is known")
	}
}

func TestQueue_Replay_optionsChangeTheJob(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	tests := []struct {
		name    string
		dead    columns
		options deadletter.ReplayOptions
		want    string // attempts, max_attempts, queue, priority
	}{
		{"nothing", nil, deadletter.ReplayOptions{}, "0 3 default 100"},
		{"a maximum", nil, deadletter.ReplayOptions{MaxAttempts: 10}, "0 10 default 100"},
		{"a maximum below the attempts", nil, deadletter.ReplayOptions{MaxAttempts: 1}, "0 1 default 100"},
		{"priority 0", nil, deadletter.ReplayOptions{Priority: ptr(0)}, "0 3 default 0"},
		{"a negative priority", nil, deadletter.ReplayOptions{Priority: ptr(-5)}, "0 3 default -5"},
		{"a queue", nil, deadletter.ReplayOptions{Queue: "retry-queue"}, "0 3 retry-queue 100"},
		{"attempts kept under a higher maximum", nil, deadletter.ReplayOptions{KeepAttempts: true, MaxAttempts: 4}, "3 4 default 100"},
		{"attempts kept where some are left", columns{"attempts": 1}, deadletter.ReplayOptions{KeepAttempts: true}, "1 3 default 100"},
		{"a dead letter without a maximum", columns{"max_attempts": 0}, deadletter.ReplayOptions{}, "0 1 default 100"},
	}
	for _, tt := range tests {
		id := insertDead(t, pool, tt.dead)
		job, err := q.Replay(t.Context(), id, tt.options)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		got := value[string](t, pool, "select concat_ws(' ', attempts, max_attempts, queue, priority) from soniq_jobs where id = $1", job)
		if got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestQueue_Replay_refusalsChangeNothing(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	queued := insertJob(t, pool, columns{"args_hash": "h", "unique_job": true})
	deduped := insertJob(t, pool, columns{"dedup_key": "k"})
	running := uuid.New()

	var attempts *deadletter.AttemptsError
	var state *deadletter.StateError
	var duplicate *deadletter.DuplicateError
	tests := []struct {
		name    string
		dead    columns
		options deadletter.ReplayOptions
		check   func(error) bool
	}{
		{
			"no attempts left", nil,
			deadletter.ReplayOptions{KeepAttempts: true},
			func(err error) bool {
				return errors.As(err, &attempts) && attempts.Attempts == 3 && attempts.MaxAttempts == 3 && strings.Contains(err.Error(), "4 or more")
			},
		},
		{
			"a maximum that is used up", nil,
			deadletter.ReplayOptions{KeepAttempts: true, MaxAttempts: 3},
			func(err error) bool { return errors.As(err, &attempts) },
		},
		{
			"being replayed",
			columns{"state": "replaying", "replay_job_id": running},
			deadletter.ReplayOptions{},
			func(err error) bool {
				return errors.Is(err, deadletter.ErrReplaying) && !errors.Is(err, deadletter.ErrResolved) &&
					errors.As(err, &state) && *state.ReplayJobID == running && strings.Contains(err.Error(), running.String())
			},
		},
		{
			"resolved",
			columns{"state": "resolved"},
			deadletter.ReplayOptions{},
			func(err error) bool { return errors.Is(err, deadletter.ErrResolved) && errors.As(err, &state) },
		},
		{
			"an equal unique job",
			columns{"args_hash": "h", "unique_job": true},
			deadletter.ReplayOptions{},
			func(err error) bool { return errors.As(err, &duplicate) && duplicate.ID == queued },
		},
		{
			"an equal dedup key",
			columns{"dedup_key": "k", "job_name": "another"},
			deadletter.ReplayOptions{Force: true},
			func(err error) bool { return errors.As(err, &duplicate) && duplicate.ID == deduped },
		},
		{"a negative maximum", nil, deadletter.ReplayOptions{MaxAttempts: -1}, mentions("MaxAttempts")},
		{"an endless maximum", nil, deadletter.ReplayOptions{MaxAttempts: 1 << 31}, mentions("MaxAttempts")},
		{"an endless priority", nil, deadletter.ReplayOptions{Priority: ptr(1 << 31)}, mentions("Priority")},
		{"a bad queue", nil, deadletter.ReplayOptions{Queue: "a\x00"}, mentions("Queue")},
	}
	for _, tt := range tests {
		id := insertDead(t, pool, tt.dead)
		before := get(t, q, id)
		if err := q.CheckReplay(t.Context(), id, tt.options); err == nil || !tt.check(err) {
			t.Errorf("%s: the check: %v", tt.name, err)
		}
		job, err := q.Replay(t.Context(), id, tt.options)
		if err == nil || job != uuid.Nil || !tt.check(err) {
			t.Errorf("%s: %s, %v", tt.name, job, err)
		}
		if after := get(t, q, id); jsonOf(t, after) != jsonOf(t, before) {
			t.Errorf("%s: changed\n%s into\n%s", tt.name, jsonOf(t, before), jsonOf(t, after))
		}
	}
	if _, err := q.Replay(t.Context(), uuid.New(), deadletter.ReplayOptions{}); !errors.Is(err, deadletter.ErrNotFound) {
		t.Errorf("a missing row: %v", err)
	}
	if err := q.CheckReplay(t.Context(), uuid.New(), deadletter.ReplayOptions{}); !errors.Is(err, deadletter.ErrNotFound) {
		t.Errorf("the check of a missing row: %v", err)
	}
	if err := q.CheckReplay(t.Context(), insertDead(t, pool, nil), deadletter.ReplayOptions{}); err != nil {
		t.Errorf("the check of one that can be replayed: %v", err)
	}
	if n := value[int](t, pool, "select count(*) from soniq_jobs"); n != 2 {
		t.Errorf("%d jobs, want the 2 from before", n)
	}
}

func mentions(field string) func(error) bool {
	return func(err error) bool { return strings.Contains(err.Error(), field) }
}

func TestQueue_Replay_anUnfinishedOrDoneTwinIsNoDuplicate(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	for _, status := range []string{"processing", "done", "cancelled"} {
		insertJob(t, pool, columns{"args_hash": "h", "unique_job": true, "status": status, "dedup_key": "k"})
	}
	id := insertDead(t, pool, columns{"args_hash": "h", "unique_job": true, "dedup_key": "k"})
	if _, err := q.Replay(t.Context(), id, deadletter.ReplayOptions{}); err != nil {
		t.Error(err)
	}
}

func TestQueue_Replay_forceReplaysAgain(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	id := insertDead(t, pool, nil)
	first, err := q.Replay(t.Context(), id, deadletter.ReplayOptions{})
	if err != nil {
		t.Fatal(err)
	}
	second, err := q.Replay(t.Context(), id, deadletter.ReplayOptions{Force: true})
	if err != nil {
		t.Fatal(err)
	}
	if j := get(t, q, id); first == second || *j.ReplayJobID != second || j.ResurrectionCount != 2 {
		t.Errorf("got %+v", j)
	}
	// The first one's end isn't the end of the latest replay.
	exec(t, pool, "update soniq_jobs set status = 'cancelled' where id = $1", first)
	if j := get(t, q, id); j.State != deadletter.StateReplaying {
		t.Errorf("state %s", j.State)
	}
}

func TestQueue_Replay_atTheSameTimeMakesOneJob(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	for round := range 5 {
		id := insertDead(t, pool, nil)
		var made atomic.Int32
		together(8, func(int) {
			_, err := q.Replay(t.Context(), id, deadletter.ReplayOptions{})
			switch {
			case err == nil:
				made.Add(1)
			case !errors.Is(err, deadletter.ErrReplaying):
				t.Errorf("round %d: %v", round, err)
			}
		})
		if made.Load() != 1 {
			t.Errorf("round %d: %d made a job", round, made.Load())
		}
		if n := value[int](t, pool, "select count(*) from soniq_jobs where replay_of = $1", id); n != 1 {
			t.Errorf("round %d: %d jobs", round, n)
		}
	}
}

// together runs f n times at once and waits for all.
func together(n int, f func(int)) {
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range n {
		wg.Go(func() {
			<-start
			f(i)
		})
	}
	close(start)
	wg.Wait()
}

func TestQueue_Replay_duplicatesThatComeAndGo(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	// Each tells of a job in the queue or makes one; none fails otherwise.
	ids := make([]uuid.UUID, 40)
	for i := range ids {
		ids[i] = insertDead(t, pool, columns{"dedup_key": "k"})
	}
	ctx, stop := context.WithCancel(t.Context())
	var claims sync.WaitGroup
	claims.Go(func() {
		for ctx.Err() == nil {
			_, _ = pool.Exec(ctx, "update soniq_jobs set status = 'processing' where status = 'queued'")
		}
	})
	together(4, func(worker int) {
		for i := worker; i < len(ids); i += 4 {
			var duplicate *deadletter.DuplicateError
			if _, err := q.Replay(t.Context(), ids[i], deadletter.ReplayOptions{}); err != nil && !errors.As(err, &duplicate) {
				t.Error(err)
			}
		}
	})
	stop()
	claims.Wait()
	jobs := value[int](t, pool, "select count(*) from soniq_jobs")
	replaying := value[int](t, pool, "select count(*) from soniq_dead_letter_jobs where state = 'replaying'")
	if jobs == 0 || jobs != replaying {
		t.Errorf("%d jobs of %d dead letters", jobs, replaying)
	}
}

// What ends a replay, and the state that it leaves the dead letter in.
func TestQueue_Replay_stateFollowsTheJob(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	worker := insertWorker(t, pool)
	claim := func(job uuid.UUID) {
		exec(t, pool, "update soniq_jobs set status = 'processing', worker_id = $2, attempts = 3, claim_token = 7 where id = $1", job, worker)
	}
	tests := []struct {
		name string
		end  func(job uuid.UUID)
		want string
	}{
		{"done", func(job uuid.UUID) {
			claim(job)
			exec(t, pool, "update soniq_jobs set status = 'done' where id = $1", job)
		}, "resolved"},
		{"running", claim, "replaying"},
		{"retried", func(job uuid.UUID) {
			claim(job)
			exec(t, pool, "update soniq_jobs set status = 'queued' where id = $1", job)
		}, "replaying"},
		{"cancelled", func(job uuid.UUID) {
			exec(t, pool, "update soniq_jobs set status = 'cancelled' where id = $1", job)
		}, "dead"},
		{"deleted", func(job uuid.UUID) {
			exec(t, pool, "delete from soniq_jobs where id = $1", job)
		}, "dead"},
		{"dead", func(job uuid.UUID) {
			claim(job)
			if moved, err := deadwrite.Move(t.Context(), pool, worker, []deadwrite.Death{death(job)}); err != nil || len(moved) != 1 {
				t.Errorf("moved %v, %v", moved, err)
			}
		}, "dead"},
		{"done, then expired", func(job uuid.UUID) {
			claim(job)
			exec(t, pool, "update soniq_jobs set status = 'done' where id = $1", job)
			exec(t, pool, "delete from soniq_jobs where id = $1", job)
		}, "resolved"},
		{"its dead letter deleted meanwhile", func(job uuid.UUID) {
			exec(t, pool, "delete from soniq_dead_letter_jobs where replay_job_id = $1", job)
			exec(t, pool, "delete from soniq_jobs where id = $1", job)
		}, ""},
	}
	for _, tt := range tests {
		id := insertDead(t, pool, nil)
		job, err := q.Replay(t.Context(), id, deadletter.ReplayOptions{})
		if err != nil {
			t.Fatal(err)
		}
		tt.end(job)
		if got := value[string](t, pool, "select coalesce((select state from soniq_dead_letter_jobs where id = $1), '')", id); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestQueue_Replay_successResolvesTheWholeLineage(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	worker := insertWorker(t, pool)
	id := insertDead(t, pool, nil)
	lineage := []uuid.UUID{id}
	for range 3 {
		job, err := q.Replay(t.Context(), lineage[len(lineage)-1], deadletter.ReplayOptions{})
		if err != nil {
			t.Fatal(err)
		}
		lineage = append(lineage, job)
		exec(t, pool, "update soniq_jobs set status = 'processing', worker_id = $2, attempts = 3, claim_token = 7 where id = $1", job, worker)
		if len(lineage) == 4 {
			break
		}
		if moved, err := deadwrite.Move(t.Context(), pool, worker, []deadwrite.Death{death(job)}); err != nil || len(moved) != 1 {
			t.Fatalf("moved %v, %v", moved, err)
		}
		if n, err := q.ReplayCount(t.Context(), unfiltered, deadletter.ReplayOptions{}); n != 1 || err != nil {
			t.Errorf("%d to replay, %v; want only the youngest", n, err)
		}
	}
	exec(t, pool, "update soniq_jobs set status = 'done'")
	got := value[string](t, pool, "select string_agg(state, ' ') from soniq_dead_letter_jobs")
	if got != "resolved resolved resolved" {
		t.Errorf("states: %s", got)
	}
}

func TestQueue_Replay_wakesTheWorkers(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	one := insertDead(t, pool, columns{"queue": "emails"})
	insertDead(t, pool, columns{"queue": "bulk"})
	insertDead(t, pool, columns{"queue": "bulk"})
	comeHungry(t, pool)
	wait := listen(t, pool, "soniq_new_job")

	if _, err := q.Replay(t.Context(), one, deadletter.ReplayOptions{Queue: "again"}); err != nil {
		t.Fatal(err)
	}
	if got := wait(); got != "again" {
		t.Errorf("announced %q", got)
	}
	if _, err := q.ReplayAll(t.Context(), unfiltered, deadletter.ReplayAllOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := wait(); got != "bulk" {
		t.Errorf("announced %q", got)
	}
}

// comeHungry registers a worker of all queues that is told of jobs.
func comeHungry(t testing.TB, pool *pgxpool.Pool) {
	t.Helper()
	exec(t, pool, "insert into soniq_workers (id, hostname, pid) values (gen_random_uuid(), 'h', 1)")
}

// listen returns a function that waits for the channel's next payload.
func listen(t testing.TB, pool *pgxpool.Pool, channel string) func() string {
	t.Helper()
	conn, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Release)
	if _, err := conn.Exec(t.Context(), "listen "+channel); err != nil {
		t.Fatal(err)
	}
	return func() string {
		n, err := conn.Conn().WaitForNotification(within(t, 10*time.Second))
		if err != nil {
			t.Fatal(fmt.Errorf("wait for %s: %w", channel, err))
		}
		return n.Payload
	}
}

// A count that another program wrote as large as it can be is no reason to replay nothing.
func TestQueue_Replay_greatestCount_isReplayedLikeOthers(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	fill(t, pool, 5)
	exec(t, pool, "update soniq_dead_letter_jobs set resurrection_count = case args ->> 'n' when '1' then 2147483647 when '2' then 2147483646 when '3' then null else 0 end")
	one := value[uuid.UUID](t, pool, "select id from soniq_dead_letter_jobs where args ->> 'n' = '1'")
	if _, err := q.Replay(t.Context(), one, deadletter.ReplayOptions{}); err != nil {
		t.Error(err)
	}
	exec(t, pool, "update soniq_dead_letter_jobs set state = 'dead'")
	result, err := q.ReplayAll(t.Context(), unfiltered, deadletter.ReplayAllOptions{})
	if err != nil || len(result.Replayed) != 5 {
		t.Errorf("replayed %d, %v", len(result.Replayed), err)
	}
	if got := value[string](t, pool, "select string_agg(resurrection_count::text, ' ' order by args ->> 'n') from soniq_dead_letter_jobs"); got != "2147483647 2147483647 1 1 1" {
		t.Errorf("counts %s", got)
	}
}
