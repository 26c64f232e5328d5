package deadletter_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/deadletter"
	"soniq/internal/pg"
	"soniq/internal/testdb"
)

// Everything that a Queue does works in a schema of any name, whatever the
// search_path is, and touches nothing in public.
func TestQueue_schemaOfItsOwn_everyMethodWorks(t *testing.T) {
	t.Parallel()
	const name = `It's "ours".`
	pool := testdb.NewInSchema(t, name)
	schema, err := pg.NewSchema(name)
	if err != nil {
		t.Fatal(err)
	}
	q, err := deadletter.NewQueue(pool, deadletter.QueueConfig{Schema: name})
	if err != nil {
		t.Fatal(err)
	}
	const insert = `
		insert into public.soniq_dead_letter_jobs (id, job_name, args, queue, priority, max_attempts, attempts,
		  last_error, dead_letter_reason, original_created_at, moved_to_dead_letter_at)
		select gen_random_uuid(), 'emails.send', jsonb_build_object('n', n), 'default', 100, 3, 3, 'error ' || n,
		  'timeout', now() - interval '1 year', now() - interval '10 days' + n * interval '1 second'
		from generate_series(1, 12) n`
	exec(t, pool, schema.SQL(insert))
	f := deadletter.Filter{NameLike: "emails.*"}
	ctx := within(t, time.Minute)

	letters, err := q.List(ctx, f)
	if err != nil || len(letters) != 12 {
		t.Fatalf("listed %d, %v", len(letters), err)
	}
	ids := idsOf(letters)
	check := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, err = q.ListAfter(ctx, f, letters[0].Cursor())
	check("list a page", err)
	_, err = q.Count(ctx, f)
	check("count", err)
	_, err = q.Picks(ctx, f, ids[0])
	check("picks", err)
	found, err := q.Find(ctx, ids[0].String()[:12])
	check("find", err)
	if found != ids[0] {
		t.Errorf("found %s, want %s", found, ids[0])
	}
	_, err = q.Groups(ctx, f)
	check("groups", err)
	_, err = q.Stats(ctx, 0)
	check("stats", err)
	_, err = q.Backlog(ctx, f)
	check("backlog", err)
	check("tag", q.Tag(ctx, ids[0], map[string]string{"ticket": "7"}))
	check("reveal", q.Reveal(ctx, ids[0]))
	check("reveal a list", q.RevealList(ctx, json.RawMessage(`{}`), ids))

	testSchemaTx(ctx, t, pool, q, ids[0])
	check("check a replay", q.CheckReplay(ctx, ids[0], deadletter.ReplayOptions{}))
	_, err = q.Replay(ctx, ids[0], deadletter.ReplayOptions{Edits: []deadletter.ArgsEdit{{Path: "n", Value: json.RawMessage("99")}}})
	check("replay", err)
	testSchemaBulk(ctx, t, q, f)

	var file strings.Builder
	_, err = q.Export(ctx, &file, deadletter.Filter{}, deadletter.FormatJSONL)
	check("export", err)
	check("delete", q.Delete(ctx, ids[11]))
	_, err = q.DeleteAll(ctx, deadletter.Filter{All: true, Limit: 4})
	check("delete all", err)
	back, err := q.Import(ctx, strings.NewReader(file.String()), deadletter.FormatJSONL, deadletter.ImportOptions{})
	check("import", err)
	if back.Imported != 5 {
		t.Errorf("imported %d", back.Imported)
	}
	history, err := q.History(ctx, ids[0])
	check("history", err)
	if len(history) < 4 {
		t.Errorf("the history has %d records", len(history))
	}
	_, err = q.Lineage(ctx, ids[0])
	check("lineage", err)
	ops, err := q.Operations(ctx, 0)
	check("operations", err)
	if len(ops) < 3 {
		t.Errorf("%d operations", len(ops))
	}
	_, err = q.CleanupCount(ctx, time.Hour, deadletter.Filter{})
	check("cleanup count", err)
	_, err = q.CleanupTo(ctx, time.Hour, deadletter.Filter{Limit: 1}, &inMemory{}, deadletter.FormatCSV)
	check("cleanup to an archive", err)
	_, err = q.Cleanup(ctx, time.Hour, deadletter.Filter{Limit: 1})
	check("cleanup", err)
	_, err = q.ApplyRetention(ctx, []deadletter.Retention{{Keep: time.Hour}}, deadletter.MaintenanceOptions{Lock: 7})
	check("retain", err)
	check("forget", q.PruneHistory(ctx, deadletter.MaintenanceOptions{Lock: 7}))

	if n := value[int](t, pool, "select count(*) from pg_class where relnamespace = 'public'::regnamespace"); n != 0 {
		t.Errorf("public has %d relations", n)
	}
	if _, err := deadletter.NewQueue(pool, deadletter.QueueConfig{Schema: "pg_own"}); !errors.Is(err, pg.ErrSchemaName) || !strings.Contains(err.Error(), "Schema: ") {
		t.Errorf("a schema of the system: %v", err)
	}
}

// testSchemaBulk replays in bulk.
func testSchemaBulk(ctx context.Context, t *testing.T, q *deadletter.Queue, f deadletter.Filter) {
	t.Helper()
	o := deadletter.ReplayOptions{MaxReplays: 3}
	plan, err := q.PlanReplay(ctx, f, o)
	if err != nil || plan.Replay != 11 {
		t.Errorf("planned %+v, %v", plan, err)
	}
	first, err := q.ReplayList(ctx, f, o, 5)
	if err != nil || len(first) != 5 {
		t.Errorf("%d are the first to replay, %v", len(first), err)
	}
	result, err := q.ReplayAll(ctx, f, deadletter.ReplayAllOptions{ReplayOptions: o, Pace: deadletter.Pace{Breaker: 0.5}})
	if err != nil || len(result.Replayed) != 11 {
		t.Errorf("replayed %+v, %v", result, err)
	}
	if _, err := q.ResumeReplay(ctx, result.Operation.ID, nil); !errors.Is(err, deadletter.ErrNotResumable) {
		t.Errorf("resumed what is done: %v", err)
	}
}

// testSchemaTx calls the methods that take part in a transaction, and rolls back.
func testSchemaTx(ctx context.Context, t *testing.T, pool *pgxpool.Pool, q *deadletter.Queue, id uuid.UUID) {
	t.Helper()
	tx, err := pool.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	if _, err := q.ReplayTx(ctx, tx, id, deadletter.ReplayOptions{}); err != nil {
		t.Errorf("replay in a transaction: %v", err)
	}
	result, err := q.ReplayAllTx(ctx, tx, deadletter.Filter{All: true}, deadletter.ReplayAllOptions{})
	if err != nil || len(result.Replayed) != 11 {
		t.Errorf("replay all in a transaction: %+v, %v", result, err)
	}
	if err := q.DeleteTx(ctx, tx, id); err != nil {
		t.Errorf("delete in a transaction: %v", err)
	}
}

// Two schemas of one database don't hear each other.
func TestSubscribe_schemaOfItsOwn_hearsNoOther(t *testing.T) {
	t.Parallel()
	const name = `It's "ours".`
	pool := testdb.NewInSchema(t, name)
	exec(t, pool, "create schema other")
	events := make(chan deadletter.Event, 10)
	connected, ended := make(chan struct{}, 1), make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		ended <- deadletter.Subscribe(ctx, pool.Config().ConnConfig, deadletter.SubscribeOptions{
			Schema: name, OnConnect: func(context.Context) { connected <- struct{}{} },
		}, func(_ context.Context, e deadletter.Event) { events <- e })
	}()
	<-connected
	payload := func(id uuid.UUID) string { return `{"v": 1, "id": "` + id.String() + `"}` }
	// Those of public and of another schema come before the one that is ours.
	for _, other := range []string{"", "other"} {
		schema, err := pg.NewSchema(other)
		if err != nil {
			t.Fatal(err)
		}
		exec(t, pool, "select pg_notify($1, $2)", schema.Channel("soniq_dead_letter"), payload(uuid.New()))
	}
	ours := uuid.New()
	schema, err := pg.NewSchema(name)
	if err != nil {
		t.Fatal(err)
	}
	exec(t, pool, schema.SQL(`
		insert into public.soniq_dead_letter_jobs (id, job_name, args, queue, priority, max_attempts, attempts,
		  last_error, dead_letter_reason, original_created_at, moved_to_dead_letter_at)
		values ($1, 'a', '{}', 'default', 100, 3, 3, 'x', 'timeout', now(), now())`), ours)
	select {
	case e := <-events:
		if e.ID != ours {
			t.Errorf("heard of %s, want %s", e.ID, ours)
		}
	case <-within(t, 10*time.Second).Done():
		t.Error("heard nothing")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
