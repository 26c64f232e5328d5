package engine_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"soniq"
	"soniq/engine"
	"soniq/internal/pg"
	"soniq/internal/testdb"
)

// Every method of a client works in a schema of any name, with nothing on the
// search_path, and reads and writes nothing in public.
func TestClient_schemaOfItsOwn_everyMethodWorks(t *testing.T) {
	t.Parallel()
	const name = `It's "ours".`
	pool := testdb.NewInSchema(t, name)
	client, err := engine.NewClient(pool, engine.ClientConfig{Schema: name})
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	in := func(what string, do func(tx pgx.Tx) error) {
		t.Helper()
		check(what, pgx.BeginFunc(t.Context(), pool, do))
	}
	ctx := t.Context()
	later := engine.After(time.Hour)

	one := enqueue(t, client, "n", map[string]int{"n": 1}, later, engine.Unique())
	again, err := client.Enqueue(ctx, "n", map[string]int{"n": 1}, later, engine.Unique())
	check("enqueue a duplicate", err)
	if !again.Duplicate || again.ID != one {
		t.Errorf("the duplicate is %+v, want job %s", again, one)
	}
	many, err := client.EnqueueMany(ctx, []engine.Insert{{Name: "n"}, {Name: "n", Options: []engine.EnqueueOption{engine.Queue("q")}}})
	check("enqueue many", err)
	in("enqueue in a transaction", func(tx pgx.Tx) error {
		if _, err := client.EnqueueTx(ctx, tx, "n", nil); err != nil {
			return err
		}
		_, err := client.EnqueueManyTx(ctx, tx, []engine.Insert{{Name: "n"}, {Name: "n"}})
		return err
	})
	jobs, err := client.ListJobs(ctx, engine.JobFilter{})
	check("list", err)
	if len(jobs) != 6 {
		t.Errorf("listed %d jobs, want 6", len(jobs))
	}
	if job := getJob(t, client, one); job.Name != "n" {
		t.Errorf("read %+v", job)
	}
	open, err := client.OpenJobs(ctx, []uuid.UUID{one, many[0].ID, uuid.New()})
	check("open jobs", err)
	if len(open) != 2 || open[one] != engine.StatusQueued {
		t.Errorf("open are %v", open)
	}

	check("retry", client.RetryJob(ctx, one))
	in("retry in a transaction", func(tx pgx.Tx) error { return client.RetryJobTx(ctx, tx, one) })
	_, err = client.CancelJob(ctx, one)
	check("cancel", err)
	twin := enqueue(t, client, "n", map[string]int{"n": 1}, later, engine.Unique())
	var duplicate *engine.DuplicateError
	if err := client.RetryJob(ctx, one); !errors.As(err, &duplicate) || duplicate.ID != twin {
		t.Errorf("retry of a duplicate: %v", err)
	}
	in("cancel in a transaction", func(tx pgx.Tx) error {
		_, err := client.CancelJobTx(ctx, tx, many[0].ID)
		return err
	})
	check("delete", client.DeleteJob(ctx, many[0].ID))
	in("delete in a transaction", func(tx pgx.Tx) error { return client.DeleteJobTx(ctx, tx, twin) })
	if _, err := client.Job(ctx, twin); !errors.Is(err, engine.ErrJobNotFound) {
		t.Errorf("a deleted job: %v", err)
	}

	_, err = client.PauseQueue(ctx, "q")
	check("pause", err)
	in("pause in a transaction", func(tx pgx.Tx) error {
		_, err := client.PauseQueueTx(ctx, tx, "p")
		return err
	})
	availability, err := client.Availability(ctx, "q", "n")
	check("availability", err)
	if want := (engine.Availability{Paused: true}); availability != want {
		t.Errorf("%+v, want %+v", availability, want)
	}
	status, err := client.Status(ctx)
	check("status", err)
	queues, err := client.Queues(ctx)
	check("queues", err)
	names := func(of []engine.QueueStatus) (names []string) {
		for _, q := range of {
			names = append(names, q.Queue)
		}
		return names
	}
	if want := []string{"default", "p", "q"}; !slices.Equal(names(queues), want) || !slices.Equal(names(status.Queues), want) {
		t.Errorf("queues %v and %v, want %v", names(queues), names(status.Queues), want)
	}
	_, err = client.Workers(ctx)
	check("workers", err)
	_, err = client.ResumeQueue(ctx, "q")
	check("resume", err)
	in("resume in a transaction", func(tx pgx.Tx) error {
		_, err := client.ResumeQueueTx(ctx, tx, "p")
		return err
	})

	if n := queryValue[int](t, pool, `select count(*)::int from pg_class where relname like 'soniq%' and relnamespace = 'public'::regnamespace`); n != 0 {
		t.Errorf("%d relations of ours are in public", n)
	}
	if _, err := engine.NewClient(pool, engine.ClientConfig{Schema: "pg_ours"}); !errors.Is(err, pg.ErrSchemaName) {
		t.Errorf("a schema of PostgreSQL's: %v", err)
	}
}

// Two clients on two schemas of one database see each their own jobs.
func TestClient_twoSchemas_areApart(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	ours := newClient(t, pool)
	if _, err := soniq.Setup(t.Context(), pool, soniq.Config{Schema: "other"}); err != nil {
		t.Fatal(err)
	}
	theirs, err := engine.NewClient(pool, engine.ClientConfig{Schema: "other"})
	if err != nil {
		t.Fatal(err)
	}
	id := enqueue(t, theirs, "n", nil)
	if _, err := ours.Job(t.Context(), id); !errors.Is(err, engine.ErrJobNotFound) {
		t.Errorf("the job of the other schema: %v", err)
	}
	getJob(t, theirs, id)
}
