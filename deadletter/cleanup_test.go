package deadletter_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"soniq/deadletter"
	"soniq/deadletter/classify"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
)

func TestQueue_Cleanup_deletesWhatItsCountSaid(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	day := 24 * time.Hour
	age := func(d time.Duration, state string) uuid.UUID {
		return insertDead(t, pool, columns{"moved_to_dead_letter_at": time.Now().Add(-d), "state": state})
	}
	age(31*day, "dead")
	age(31*day, "resolved")
	replaying := age(400*day, "replaying")
	young := age(30*day-time.Hour, "dead")

	for _, d := range []time.Duration{0, -day} {
		if n, err := q.Cleanup(t.Context(), d, deadletter.Filter{}); err == nil || n != 0 {
			t.Errorf("older than %s: %d, %v", d, n, err)
		}
		if n, err := q.CleanupCount(t.Context(), d, deadletter.Filter{}); err == nil || n != 0 {
			t.Errorf("count of older than %s: %d, %v", d, n, err)
		}
	}
	for _, want := range []int64{2, 0} {
		counted, err := q.CleanupCount(t.Context(), 30*day, deadletter.Filter{})
		if err != nil || counted != want {
			t.Errorf("counted %d, %v; want %d", counted, err, want)
		}
		if deleted, err := q.Cleanup(t.Context(), 30*day, deadletter.Filter{}); err != nil || deleted != want {
			t.Errorf("deleted %d, %v; want %d", deleted, err, want)
		}
	}
	if got := left(t, q); !slices.Equal(got, []uuid.UUID{young, replaying}) {
		t.Errorf("left %v", got)
	}
	if n, err := q.CleanupCount(t.Context(), 1<<63-1, deadletter.Filter{}); n != 0 || err != nil {
		t.Errorf("older than three centuries: %d, %v", n, err)
	}
}

func TestQueue_Cleanup_isInTheHistory(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool).As("cron", "quota")
	insertDead(t, pool, columns{"moved_to_dead_letter_at": time.Now().Add(-48 * time.Hour)})
	for range 2 { // the second finds nothing, and is no operation
		if _, err := q.Cleanup(t.Context(), 24*time.Hour, deadletter.Filter{}); err != nil {
			t.Fatal(err)
		}
	}
	ops, err := q.Operations(t.Context(), 10)
	if err != nil || len(ops) != 1 {
		t.Fatalf("%d operations, %v; want one", len(ops), err)
	}
	if op := ops[0]; op.Action != deadletter.ActionCleanup || op.State != deadletter.OperationDone ||
		op.Done != 1 || op.Total != 1 || op.Actor != "cron" || op.Comment != "quota" {
		t.Errorf("the history says %+v", op)
	}
}

func TestQueue_Cleanup_goesInBatchesAndNeverWaits(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	const n = 10_500
	fill(t, pool, n)
	held := value[uuid.UUID](t, pool, "select id from soniq_dead_letter_jobs order by moved_to_dead_letter_at limit 1")
	exec(t, pool, `
		create table batches (xid xid8, n int);
		create function batch() returns trigger language plpgsql as $$
		begin
			insert into batches select pg_current_xact_id(), count(*) from gone;
			return null;
		end $$;
		create trigger batch after delete on soniq_dead_letter_jobs
			referencing old table as gone for each statement execute function batch()`)

	release := hold(t, pool, held)
	defer release()
	deleted, err := q.Cleanup(within(t, 30*time.Second), time.Hour, deadletter.Filter{})
	if err != nil || deleted != n-1 {
		t.Errorf("deleted %d, %v; want all but the one in use", deleted, err)
	}
	got := value[string](t, pool, "select string_agg(n::text, ' ' order by xid) from batches")
	if got != "5000 5000 499" {
		t.Errorf("batches: %s", got)
	}
}

// safe is an archive that can fail.
type safe struct {
	bytes.Buffer
	// writes is how many writes succeed, -1 for all.
	writes    int
	commitErr error
	// seen is called when all is written.
	seen      func()
	committed int
}

func (s *safe) Write(p []byte) (int, error) {
	if s.writes == 0 {
		return 0, errFull
	}
	s.writes--
	return s.Buffer.Write(p)
}

func (s *safe) Commit() error {
	s.committed++
	if s.seen != nil {
		s.seen()
	}
	return s.commitErr
}

func TestQueue_CleanupTo_deletesWhatIsSafe(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	fill(t, pool, 200)
	month := 30 * 24 * time.Hour
	count := func() int { return value[int](t, pool, "select count(*) from soniq_dead_letter_jobs") }

	for name, to := range map[string]*safe{
		"the write fails":  {writes: 0},
		"the end fails":    {writes: 1},
		"the commit fails": {writes: -1, commitErr: errFull},
	} {
		n, err := q.CleanupTo(t.Context(), month, deadletter.Filter{}, to, deadletter.FormatJSON)
		if n != 0 || !errors.Is(err, errFull) || count() != 200 {
			t.Errorf("%s: %d, %v; %d are left", name, n, err, count())
		}
	}
	if _, err := q.CleanupTo(t.Context(), month, deadletter.Filter{}, &safe{writes: -1}, "xml"); err == nil || count() != 200 {
		t.Errorf("took an unknown format: %v", err)
	}
	untouched := &safe{}
	if n, err := q.CleanupTo(t.Context(), month, deadletter.Filter{JobNames: []string{"other"}}, untouched, deadletter.FormatJSON); n != 0 || err != nil || untouched.committed != 0 {
		t.Errorf("without a row: %d, %v, committed %d times", n, err, untouched.committed)
	}

	// What dies or is replayed while the file is made safe stays.
	replayed := value[uuid.UUID](t, pool, "select id from soniq_dead_letter_jobs limit 1")
	var late uuid.UUID
	to := &safe{writes: -1, seen: func() {
		if n := count(); n != 200 {
			t.Errorf("%d are left before the file is safe", n)
		}
		late = insertDead(t, pool, columns{"moved_to_dead_letter_at": time.Now().Add(-2 * month)})
		if _, err := q.Replay(t.Context(), replayed, deadletter.ReplayOptions{}); err != nil {
			t.Error(err)
		}
	}}
	n, err := q.CleanupTo(t.Context(), month, deadletter.Filter{}, to, deadletter.FormatJSON)
	if err != nil || n != 199 || to.committed != 1 {
		t.Errorf("deleted %d, %v; committed %d times", n, err, to.committed)
	}
	var archived []deadletter.Job
	if err := json.Unmarshal(to.Bytes(), &archived); err != nil || len(archived) != 200 {
		t.Errorf("%d in the archive, %v", len(archived), err)
	}
	got := left(t, q)
	slices.SortFunc(got, func(a, b uuid.UUID) int { return bytes.Compare(a[:], b[:]) })
	want := []uuid.UUID{replayed, late}
	slices.SortFunc(want, func(a, b uuid.UUID) int { return bytes.Compare(a[:], b[:]) })
	if !slices.Equal(got, want) {
		t.Errorf("left %v, want %v", got, want)
	}
	ops, err := q.Operations(t.Context(), 1)
	if err != nil || ops[0].Action != deadletter.ActionCleanup || ops[0].Done != 199 || ops[0].Skipped != 1 {
		t.Errorf("the history says %+v, %v", ops, err)
	}
}

func TestQueue_Cleanup_filters(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	day := 24 * time.Hour
	for i := range 10 {
		insertDead(t, pool, columns{
			"job_name": fmt.Sprint("job", i%2), "queue": fmt.Sprint("q", i%5),
			"moved_to_dead_letter_at": time.Now().Add(-time.Duration(i+1)*day - time.Hour),
		})
	}
	for _, tt := range []struct {
		filter deadletter.Filter
		days   time.Duration
		want   int64
	}{
		{deadletter.Filter{JobNames: []string{"job0"}, Queues: []string{"q0"}}, 1, 1},
		{deadletter.Filter{JobNames: []string{"job1"}}, 5, 3},
		{deadletter.Filter{Limit: 2}, 1, 2},
		{deadletter.Filter{}, 2, 4},
	} {
		counted, err := q.CleanupCount(t.Context(), tt.days*day, tt.filter)
		if err != nil || counted != tt.want {
			t.Errorf("%+v: counted %d, %v; want %d", tt.filter, counted, err, tt.want)
		}
		deleted, err := q.Cleanup(t.Context(), tt.days*day, tt.filter)
		if err != nil || deleted != tt.want {
			t.Errorf("%+v: deleted %d, %v; want %d", tt.filter, deleted, err, tt.want)
		}
	}
	for _, f := range []deadletter.Filter{{Queues: []string{}}, {State: deadletter.StateReplaying}, {State: "zombie"}} {
		if _, err := q.Cleanup(t.Context(), day, f); err == nil {
			t.Errorf("took %+v", f)
		}
	}
}

// Rows without any difference in their time of death, and ones before and after
// all times, are gone through as well.
func TestQueue_Cleanup_rowsOfOneMoment(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	const n = 10_100
	fill(t, pool, n)
	exec(t, pool, `update soniq_dead_letter_jobs set moved_to_dead_letter_at = now() - interval '40 days'`)
	insertDead(t, pool, columns{"moved_to_dead_letter_at": "-infinity"})
	insertDead(t, pool, columns{"moved_to_dead_letter_at": "infinity"})
	if deleted, err := q.Cleanup(within(t, 30*time.Second), time.Hour, deadletter.Filter{}); err != nil || deleted != n+1 {
		t.Errorf("deleted %d, %v; want %d", deleted, err, n+1)
	}
}

func TestQueue_ApplyRetention_theFirstRuleThatPicksDecides(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool).As("keeper", "rules")
	day := 24 * time.Hour
	put := func(name, queue, reason, state string, age time.Duration) {
		insertDead(t, pool, columns{
			"job_name": name, "queue": queue, "dead_letter_reason": reason, "state": state, "last_error": nil,
			"moved_to_dead_letter_at": time.Now().Add(-age),
		})
	}
	put("kept for ever", "payments", "timeout", "dead", 1000*day)
	put("an old timeout", "default", "timeout", "dead", 8*day)
	put("a new timeout", "default", "timeout", "dead", 6*day)
	put("an old one", "default", "manual_move", "dead", 91*day)
	put("one in the middle", "default", "manual_move", "dead", 89*day)
	put("mended", "default", "manual_move", "resolved", 3*day)
	put("being replayed", "default", "timeout", "replaying", 1000*day)
	rules := []deadletter.Retention{
		{Filter: deadletter.Filter{Queues: []string{"payments"}}},
		{Filter: deadletter.Filter{ErrorLike: "no text has this"}}, // null, where there is no text
		{Filter: deadletter.Filter{Reasons: []classify.Reason{classify.Timeout}}, Keep: 7 * day},
		{Filter: deadletter.Filter{State: deadletter.StateResolved}, Keep: 2 * day},
		{Keep: 90 * day},
	}
	if n, err := q.ApplyRetention(within(t, 30*time.Second), rules, deadletter.MaintenanceOptions{}); err != nil || n != 3 {
		t.Errorf("deleted %d, %v; want 3", n, err)
	}
	names := value[string](t, pool, "select string_agg(job_name, ', ' order by job_name) from soniq_dead_letter_jobs")
	if names != "a new timeout, being replayed, kept for ever, one in the middle" {
		t.Errorf("left: %s", names)
	}
	ops, err := q.Operations(t.Context(), 10)
	if err != nil || len(ops) != 3 || ops[0].Actor != "keeper" || ops[0].State != deadletter.OperationDone {
		t.Errorf("the history says %+v, %v", ops, err)
	}
}

// Who holds the lock is at work. It may be for a moment, as an expiry of results
// is, and a pass that gave up then would leave the rows until its next turn.
func TestQueue_ApplyRetention_waitsForTheLock(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	fill(t, pool, 2500)
	rules := []deadletter.Retention{{Keep: time.Hour}}
	conn, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	if _, err := conn.Exec(t.Context(), "select pg_advisory_lock(7)"); err != nil {
		t.Fatal(err)
	}
	if n, err := q.ApplyRetention(within(t, 200*time.Millisecond), rules, deadletter.MaintenanceOptions{Lock: 7}); n != 0 || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("without the lock it deleted %d, %v", n, err)
	}
	// A row that somebody holds is left, and waits for nobody.
	held := value[uuid.UUID](t, pool, "select id from soniq_dead_letter_jobs order by moved_to_dead_letter_at limit 1")
	defer hold(t, pool, held)()
	before := value[time.Time](t, pool, "select clock_timestamp()")
	var deleted int64
	var g errgroup.Group
	g.Go(func() (err error) {
		deleted, err = q.ApplyRetention(within(t, 30*time.Second), rules, deadletter.MaintenanceOptions{Lock: 7})
		return err
	})
	eventually.True(t, "its try", func() bool {
		return value[bool](t, pool, `
			select exists (
			  select from pg_stat_activity
			  where datname = current_database() and pid <> pg_backend_pid() and query like '%pg_try_advisory_xact_lock%' and query_start > $1
			)`, before)
	})
	if _, err := conn.Exec(t.Context(), "select pg_advisory_unlock(7)"); err != nil {
		t.Fatal(err)
	}
	if err := g.Wait(); deleted != 2499 || err != nil {
		t.Errorf("deleted %d, %v; want all but the one in use", deleted, err)
	}
	if n := value[int](t, pool, "select count(*) from pg_locks where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())"); n != 0 {
		t.Errorf("%d locks are left", n)
	}
}

func TestValidateRetention(t *testing.T) {
	t.Parallel()
	queue := deadletter.Filter{Queues: []string{"q"}}
	for want, rules := range map[string][]deadletter.Retention{
		"":                                  {{Filter: queue}, {Keep: time.Hour}},
		"rule 1: keep: -1s is negative":     {{Keep: -time.Second}},
		"rule 2: filter: Queues":            {{Filter: queue}, {Filter: deadletter.Filter{Queues: []string{}}}},
		"rule 1: filter: Limit":             {{Filter: deadletter.Filter{Limit: 3}, Keep: time.Hour}},
		"rule 1: it picks every dead":       {{Keep: time.Hour}, {Filter: queue}},
		"rule 1: what is being replayed is": {{Filter: deadletter.Filter{State: deadletter.StateReplaying}, Keep: time.Hour}},
	} {
		err := deadletter.ValidateRetention(rules)
		if want == "" && err != nil || want != "" && (err == nil || !strings.HasPrefix(err.Error(), want)) {
			t.Errorf("%+v: %v, want %q", rules, err, want)
		}
	}
}

func TestQueue_PruneHistory_whatIsLongAgo(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	fill(t, pool, 30)
	begin := func(name string) deadletter.Operation {
		op := start(t, q.As(name, ""), deadletter.Filter{All: true}, deadletter.ReplayOptions{}, deadletter.Pace{})
		// As after a kill.
		exec(t, pool, "update soniq_dead_letter_operations set state = 'running', stopped_by = null where id = $1", op.ID)
		return op
	}
	age := func(op deadletter.Operation, created, updated string) {
		exec(t, pool, `
			update soniq_dead_letter_operations
			set created_at = now() - $2::text::interval, updated_at = now() - $3::text::interval
			where id = $1`, op.ID, created, updated)
	}
	paused, abandoned, ancient, slow := begin("paused"), begin("abandoned"), begin("ancient"), begin("slow")
	age(paused, "29 days", "29 days")
	age(abandoned, "31 days", "31 days")
	age(ancient, "400 days", "366 days")
	age(slow, "400 days", "1 day")
	old, kept := uuid.New(), uuid.New()
	exec(t, pool, `
		insert into soniq_dead_letter_audit (dead_letter_id, action, at)
		select case when n <= 1500 then $1::uuid else $2 end, 'tag', now() - case when n <= 1500 then interval '366 days' else interval '364 days' end
		from generate_series(1, 1600) n`, old, kept)
	if err := q.PruneHistory(t.Context(), deadletter.MaintenanceOptions{Lock: 7}); err != nil {
		t.Fatal(err)
	}
	names := value[string](t, pool, `select string_agg(actor || ' ' || (select count(*) from soniq_dead_letter_selections s where s.operation_id = o.id), ', ' order by actor) from soniq_dead_letter_operations o`)
	if names != "abandoned 0, paused 30, slow 30" {
		t.Errorf("left: %s", names)
	}
	if got := value[string](t, pool, `select count(*) filter (where dead_letter_id = $1) || ' ' || count(*) filter (where dead_letter_id = $2) from soniq_dead_letter_audit`, old, kept); got != "0 100" {
		t.Errorf("records of the old one and of the other: %s", got)
	}
	if op, err := resume(t.Context(), q, abandoned.ID, nil); !errors.Is(err, deadletter.ErrNotResumable) || op.State != deadletter.OperationStopped {
		t.Errorf("resumed what was given up: %+v, %v", op, err)
	}
	if op, err := resume(t.Context(), q, paused.ID, nil); err != nil || op.Done != 30 {
		t.Errorf("the paused one: %+v, %v", op, err)
	}
}
