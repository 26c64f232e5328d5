package deadletter_test

import (
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/deadletter/classify"
	"soniq/internal/deadwrite"
	"soniq/internal/testdb"
)

func insertWorker(t testing.TB, pool *pgxpool.Pool) uuid.UUID {
	t.Helper()
	id := uuid.New()
	return insert(t, pool, "soniq_workers", columns{"id": id, "hostname": id.String(), "pid": 1}, nil)
}

// insertClaimed inserts a job that the worker runs, with attempt 3 and token 7.
func insertClaimed(t testing.TB, pool *pgxpool.Pool, worker uuid.UUID, c columns) uuid.UUID {
	t.Helper()
	claim := columns{"status": "processing", "worker_id": worker, "attempts": 3, "claim_token": int64(7)}
	for k, v := range c {
		claim[k] = v
	}
	return insertJob(t, pool, claim)
}

func death(id uuid.UUID) deadwrite.Death {
	return deadwrite.Death{ID: id, Attempts: 3, Token: 7, Verdict: classify.Verdict{
		Reason: classify.MaxRetriesExceeded, Kind: classify.KindError, Type: "*net.OpError", Code: "E1",
		DecidedBy: "budget", Fingerprint: "0123456789abcdef", Message: "connection refused",
	}}
}

func TestMove_keepsAllThatTheJobHad(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	worker := insertWorker(t, pool)
	id := uuid.New()
	replayOf := insertDead(t, pool, columns{"state": "replaying", "replay_job_id": id})
	scheduled := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
	created := scheduled.Add(-time.Hour)
	insertClaimed(t, pool, worker, columns{
		"id": id, "job_name": "emails.send", "args": `{"n": 123456789012345678901234567890, "f": 1.0}`, "args_hash": "h",
		"queue": "emails", "priority": 0, "max_attempts": 4, "unique_job": true, "dedup_key": "k",
		"producer_id": "p", "scheduled_at": scheduled, "created_at": created, "replay_of": replayOf,
	})
	before := time.Now().Add(-time.Minute)

	moved, err := deadwrite.Move(t.Context(), pool, worker, []deadwrite.Death{death(id)})
	if err != nil || !slices.Equal(moved, []uuid.UUID{id}) {
		t.Fatalf("moved %v, %v", moved, err)
	}
	if n := value[int](t, pool, "select count(*) from soniq_jobs"); n != 0 {
		t.Errorf("%d jobs left in the queue", n)
	}
	j := get(t, newQueue(t, pool), id)
	if j.MovedAt.Before(before) || j.MovedXID == nil || j.CreatedAt == nil {
		t.Errorf("moved at %v, xid %v, created %v", j.MovedAt, j.MovedXID, j.CreatedAt)
	}
	j.MovedAt, j.MovedXID, j.CreatedAt = time.Time{}, nil, nil
	want := `{"id":"` + id.String() + `","job_name":"emails.send","args":{"f":1.0,"n":123456789012345678901234567890},` +
		`"queue":"emails","priority":0,"max_attempts":4,"attempts":3,"last_error":"connection refused",` +
		`"dead_letter_reason":"max_retries_exceeded","original_created_at":"2026-01-02T02:04:05.000006Z",` +
		`"moved_to_dead_letter_at":"0001-01-01T00:00:00Z","resurrection_count":0,"last_resurrection_at":null,"tags":null,` +
		`"state":"dead","replay_job_id":null,"replay_of":"` + replayOf.String() + `","error_kind":"error",` +
		`"error_type":"*net.OpError","error_code":"E1","decided_by":"budget","fingerprint":"0123456789abcdef",` +
		`"args_hash":"h","unique_job":true,"dedup_key":"k","producer_id":"p","worker_id":"` + worker.String() + `",` +
		`"scheduled_at":"2026-01-02T03:04:05.000006Z","moved_xid":null,"created_at":null,"errors":null}`
	if got := jsonOf(t, j); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// Whoever may enqueue can make a job that claims to replay a dead letter, and to
// be of an id that one was replayed under.
func TestMove_claimOfAJob_isNoLineage(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	worker := insertWorker(t, pool)
	q := newQueue(t, pool)
	older, over := uuid.New(), uuid.New()
	replaying := insertDead(t, pool, columns{"state": "replaying", "replay_job_id": uuid.New()})
	for _, c := range []columns{
		{"replay_of": insertDead(t, pool, nil)},
		{"replay_of": insertDead(t, pool, columns{"state": "resolved", "replay_job_id": uuid.New()})},
		{"replay_of": replaying},
		{"replay_of": replaying, "id": older},
		{"replay_of": insertDead(t, pool, columns{"replay_job_id": over}), "id": over},
		{"replay_of": uuid.New()},
	} {
		id := insertClaimed(t, pool, worker, c)
		if moved, err := deadwrite.Move(t.Context(), pool, worker, []deadwrite.Death{death(id)}); err != nil || len(moved) != 1 {
			t.Fatalf("moved %v, %v", moved, err)
		}
		if j := get(t, q, id); j.ReplayOf != nil {
			t.Errorf("%v: it is a replay of %s", c, j.ReplayOf)
		}
	}
	if n := value[int](t, pool, "select count(*) from soniq_dead_letter_jobs where id = $1 and state = 'replaying'", replaying); n != 1 {
		t.Error("the replay that is under way is over")
	}
}

func TestMove_readsNullsAsTheWorkerDoes(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	worker := insertWorker(t, pool)
	id := insertClaimed(t, pool, worker, columns{"queue": nil, "priority": nil, "max_attempts": nil, "created_at": nil, "unique_job": nil})

	d := death(id)
	d.Verdict = classify.Verdict{Reason: classify.Timeout}
	if moved, err := deadwrite.Move(t.Context(), pool, worker, []deadwrite.Death{d}); err != nil || len(moved) != 1 {
		t.Fatalf("moved %v, %v", moved, err)
	}
	j := get(t, newQueue(t, pool), id)
	if j.Queue != "default" || j.Priority != 100 || j.MaxAttempts != 4 || j.UniqueJob || j.Attempts != 3 {
		t.Errorf("got %+v", j)
	}
	if time.Since(j.OriginalCreatedAt).Abs() > time.Minute {
		t.Errorf("created at %v", j.OriginalCreatedAt)
	}
	if n := value[int](t, pool, "select num_nulls(error_kind, error_type, error_code, decided_by, fingerprint, last_error) from soniq_dead_letter_jobs"); n != 6 {
		t.Errorf("%d of 6 empty texts are NULL", n)
	}
}

func TestMove_takesOnlyWhatIsStillUnderTheClaim(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	worker, other := insertWorker(t, pool), insertWorker(t, pool)
	good := insertClaimed(t, pool, worker, nil)
	good2 := insertClaimed(t, pool, worker, nil)
	lost := []uuid.UUID{
		insertClaimed(t, pool, other, nil),
		insertClaimed(t, pool, worker, columns{"attempts": 4}),
		insertClaimed(t, pool, worker, columns{"claim_token": int64(8)}),
		insertClaimed(t, pool, worker, columns{"claim_token": nil}),
		insertClaimed(t, pool, worker, columns{"status": "queued"}),
		insertClaimed(t, pool, worker, columns{"status": "done"}),
		uuid.New(),
	}
	deaths := []deadwrite.Death{death(good2)}
	for _, id := range lost {
		deaths = append(deaths, death(id))
	}
	deaths = append(deaths, death(good), death(good))

	moved, err := deadwrite.Move(t.Context(), pool, worker, deaths)
	if err != nil || !slices.Equal(moved, []uuid.UUID{good2, good}) {
		t.Errorf("moved %v, %v; want %v", moved, err, []uuid.UUID{good2, good})
	}
	if n := value[int](t, pool, "select count(*) from soniq_jobs"); n != len(lost)-1 {
		t.Errorf("%d jobs left, want %d", n, len(lost)-1)
	}
}

func TestMove_storesAnyText(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	worker := insertWorker(t, pool)
	id := insertClaimed(t, pool, worker, nil)
	d := death(id)
	bad := "a\x00\xff" + strings.Repeat("😀\x00", 1<<16)
	d.Verdict.Message, d.Verdict.Type, d.Verdict.Code, d.Verdict.DecidedBy, d.Verdict.Fingerprint = bad, bad, bad, bad, bad
	d.Verdict.Kind, d.Verdict.Reason = classify.Kind(bad), classify.Reason(bad)

	if moved, err := deadwrite.Move(t.Context(), pool, worker, []deadwrite.Death{d}); err != nil || len(moved) != 1 {
		t.Fatalf("moved %v, %v", moved, err)
	}
	if j := get(t, newQueue(t, pool), id); len(j.LastError) > classify.MaxErrorBytes {
		t.Errorf("the error has %d bytes", len(j.LastError))
	}
}

func TestMove_refusesAVerdictWithoutAReason(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	worker := insertWorker(t, pool)
	id := insertClaimed(t, pool, worker, nil)
	d := death(id)
	d.Verdict = classify.Verdict{Retry: true}
	if moved, err := deadwrite.Move(t.Context(), pool, worker, []deadwrite.Death{d}); err == nil || len(moved) != 0 {
		t.Errorf("moved %v, %v", moved, err)
	}
	if moved, err := deadwrite.MoveQueued(t.Context(), pool, []uuid.UUID{id}, d.Verdict); err == nil || len(moved) != 0 {
		t.Errorf("moved queued %v, %v", moved, err)
	}
	if moved, err := deadwrite.Move(t.Context(), pool, worker, nil); err != nil || len(moved) != 0 {
		t.Errorf("of nothing: %v, %v", moved, err)
	}
}

// Whoever may enqueue can choose a job's id, and hears those of dead letters on
// the channel, with their names. Their arguments may be known to him too.
func TestMove_idOfADeadLetter_hasARowOfItsOwn(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	worker := insertWorker(t, pool)
	q := newQueue(t, pool)
	long := strings.Repeat("long ", 1000)
	forged := columns{"errors": `[{"message": "forged"}]`, "last_error": "forged", "producer_id": "somebody else"}
	for _, c := range []struct{ dead, job columns }{
		{columns{"job_name": "a", "args": `{"id": 1}`}, columns{"job_name": "a", "args": `{"id": 1}`}},
		{columns{"job_name": "a", "args": `{"id": 1}`, "state": "resolved"}, columns{"job_name": "a", "args": `{"id": 1}`}},
		{columns{"job_name": "a", "args": `{"id": 1}`, "state": "replaying", "replay_job_id": uuid.New()}, columns{"job_name": "a", "args": `{"id": 1}`}},
		{columns{"job_name": "a", "args": `{"id": 1}`}, columns{"job_name": "b", "args": `{"id": 1}`}},
		{columns{"job_name": "a", "args": `{"id": 1}`}, columns{"job_name": "a", "args": `{"id": 2}`}},
		{columns{"job_name": "short", "whole_job_name": long, "args": `{}`}, columns{"job_name": long, "args": `{}`}},
	} {
		id := insertDead(t, pool, c.dead)
		before := get(t, q, id)
		c.job["id"] = id
		maps.Copy(c.job, forged)
		_ = insertClaimed(t, pool, worker, c.job)
		if moved, err := deadwrite.Move(t.Context(), pool, worker, []deadwrite.Death{death(id)}); err != nil || len(moved) != 1 || moved[0] != id {
			t.Fatalf("moved %v, %v", moved, err)
		}
		if after := get(t, q, id); !reflect.DeepEqual(before, after) {
			t.Errorf("%v: before %+v, after %+v", c, before, after)
		}
		count := value[int](t, pool, "select count(*) from soniq_dead_letter_jobs where coalesce(whole_job_name, job_name) = $1 and args = $2::jsonb and id <> $3 and state = 'dead'", c.job["job_name"], c.job["args"], id)
		if count != 1 {
			t.Errorf("%v: %d rows tell of the death", c, count)
		}
		exec(t, pool, "delete from soniq_dead_letter_jobs")
	}
}

func TestMove_twoDeathsInOneTransactionDiffer(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	worker := insertWorker(t, pool)
	id := insertClaimed(t, pool, worker, columns{"job_name": "x", "args": "{}"})
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(t.Context()) }()
	var times []time.Time
	for range 2 {
		if moved, err := deadwrite.Move(t.Context(), tx, worker, []deadwrite.Death{death(id)}); err != nil || len(moved) != 1 {
			t.Fatalf("moved %v, %v", moved, err)
		}
		var at time.Time
		if err := tx.QueryRow(t.Context(), "select max(moved_to_dead_letter_at) from soniq_dead_letter_jobs").Scan(&at); err != nil {
			t.Fatal(err)
		}
		times = append(times, at)
		const again = "insert into soniq_jobs (id, job_name, args, status, worker_id, attempts, claim_token) values ($1, 'x', '{}', 'processing', $2, 3, 7)"
		if _, err := tx.Exec(t.Context(), again, id, worker); err != nil {
			t.Fatal(err)
		}
	}
	if !times[1].After(times[0]) {
		t.Errorf("died at %v and at %v", times[0], times[1])
	}
}

func TestMove_aBatchIsOneStatement(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	worker := insertWorker(t, pool)
	const n = 2000
	exec(t, pool, `insert into soniq_jobs (id, job_name, args, status, worker_id, attempts, claim_token)
		select gen_random_uuid(), 'x', '{}', 'processing', $1, 3, 7 from generate_series(1, $2)`, worker, n)
	rows, _ := pool.Query(t.Context(), "select id from soniq_jobs")
	ids, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		t.Fatal(err)
	}
	deaths := make([]deadwrite.Death, len(ids))
	for i, id := range ids {
		deaths[i] = death(id)
	}
	moved, err := deadwrite.Move(t.Context(), pool, worker, deaths)
	if err != nil || !slices.Equal(moved, ids) {
		t.Errorf("moved %d of %d, %v", len(moved), n, err)
	}
	if xids := value[int](t, pool, "select count(distinct moved_xid) from soniq_dead_letter_jobs"); xids != 1 {
		t.Errorf("%d transactions", xids)
	}
}

func TestMoveQueued_takesWhatIsQueuedAndFree(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	worker := insertWorker(t, pool)
	kept := insertJob(t, pool, columns{"last_error": "before", "attempts": 2})
	fresh := insertJob(t, pool, columns{"attempts": nil, "priority": nil, "queue": nil})
	held := insertJob(t, pool, nil)
	running := insertClaimed(t, pool, worker, nil)

	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(t.Context()) }()
	if _, err := tx.Exec(t.Context(), "select from soniq_jobs where id = $1 for update", held); err != nil {
		t.Fatal(err)
	}

	ids := []uuid.UUID{fresh, held, running, uuid.New(), kept, kept}
	q := newQueue(t, pool)
	moved, err := q.As("ada", "why").MoveQueued(within(t, 10*time.Second), ids, "")
	if err != nil || !slices.Equal(moved, []uuid.UUID{fresh, kept}) {
		t.Fatalf("moved %v, %v; want %v", moved, err, []uuid.UUID{fresh, kept})
	}
	if n := value[int](t, pool, `select count(*) from soniq_dead_letter_audit where action = 'bury' and actor = 'ada' and comment = 'why'`); n != 2 {
		t.Errorf("%d records, want 2", n)
	}
	if j := get(t, q, kept); j.LastError != "before" || j.Attempts != 2 || j.Reason != classify.ManualMove || j.DecidedBy != "operator" {
		t.Errorf("got %+v", j)
	}
	if j := get(t, q, fresh); j.LastError != "" || j.Attempts != 0 || j.Queue != "default" || j.Priority != 100 {
		t.Errorf("got %+v", j)
	}

	v := classify.Decide(classify.Attempt{JobName: "emails.send", Kind: classify.KindUnregistered, Message: "no worker knows emails.send"})
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if moved, err := deadwrite.MoveQueued(t.Context(), pool, []uuid.UUID{held}, v); err != nil || len(moved) != 1 {
		t.Fatalf("moved %v, %v", moved, err)
	}
	if j := get(t, q, held); j.Reason != classify.JobNotFound || j.LastError != "no worker knows emails.send" || j.ErrorKind != classify.KindUnregistered {
		t.Errorf("got %+v", j)
	}
}
