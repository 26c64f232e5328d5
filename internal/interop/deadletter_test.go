package interop

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/deadletter"
	"soniq/deadletter/classify"
	"soniq/engine"
	"soniq/hooks"
	"soniq/internal/testdb"
)

// letter is a dead letter as Python's API has it.
type letter struct {
	ID                string            `json:"id"`
	JobName           string            `json:"job_name"`
	Args              json.RawMessage   `json:"args"`
	Queue             string            `json:"queue"`
	Priority          int               `json:"priority"`
	MaxAttempts       int               `json:"max_attempts"`
	Attempts          int               `json:"attempts"`
	LastError         string            `json:"last_error"`
	Reason            string            `json:"dead_letter_reason"`
	ResurrectionCount int               `json:"resurrection_count"`
	Tags              map[string]string `json:"tags"`
}

const getLetter = `await app.dead_letter.get_dead_letter_job(id)`

// The database announces a death, so it does not matter who moved the job.
func TestDeadLetters_ofPython_areAnnouncedAndReachTheHooks(t *testing.T) {
	t.Parallel()
	byTurns(t, func(t *testing.T, py *python) {
		pool := testdb.New(t)
		client := newClient(t, pool)
		bodies := make(chan string, 100)
		receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			bodies <- string(body)
		}))
		t.Cleanup(receiver.Close)
		store, err := hooks.NewStore(pool, hooks.StoreConfig{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := store.Add(t.Context(), hooks.Spec{
			Name: "here", Kind: "webhook", URL: receiver.URL, Secrets: hooks.NewSecret(),
			Allow: []string{"127.0.0.0/8"}, Jobs: []string{"shared.*"},
		}, nil); err != nil {
			t.Fatal(err)
		}
		// The hooks' dispatcher lives in a worker, one of ours on any queue.
		dispatcher, err := hooks.NewDispatcher(pool, hooks.Config{
			Logger: slog.New(slog.NewTextHandler(t.Output(), nil)), Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		})
		if err != nil {
			t.Fatal(err)
		}
		reg := engine.NewRegistry()
		echo(reg, "go.echo", engine.Queue("go"))
		goWorker(t, pool, reg, engine.WorkerConfig{Queues: []string{"go"}, Services: []engine.BackgroundService{dispatcher}})
		events := subscribe(t, pool)

		py.worker(t, pool, "shared,python")
		for _, want := range []struct {
			name, queue, args string
			reason            classify.Reason
			text              string
			hooked            bool
		}{
			{"shared.fails", "shared", `{"message": "the till is \u001b[31mclosed"}`, classify.MaxRetriesExceeded, "the till is", true},
			{"shared.unknown", "shared", `{}`, classify.JobNotFound, "not registered", true},
			{"python.typed", "python", `{"order": []}`, classify.InvalidArguments, "Corrupted argument data", false},
		} {
			id := enqueue(t, client, want.name, json.RawMessage(want.args), engine.Queue(want.queue), engine.MaxAttempts(1))
			event := receive(t, "the announcement of "+want.name, events)
			if event.ID != id || event.JobName != want.name || event.Reason != want.reason || event.Attempts != 1 {
				t.Errorf("announced %+v, want %s", event, want.name)
			}
			row, err := newQueue(t, pool).Get(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			if row.Reason != want.reason || !strings.Contains(row.LastError, want.text) || row.MovedXID == nil || row.State != "dead" {
				t.Errorf("Go reads %+v", row)
			}
			if !want.hooked {
				continue
			}
			body := receive(t, "the webhook of "+want.name, bodies)
			if !strings.Contains(body, id.String()) || !strings.Contains(body, string(want.reason)) {
				t.Errorf("the webhook says %s", body)
			}
		}
	})
}

// Go's dead letters have columns that Python doesn't know, and tags: Python
// lists, reads, tags, replays and deletes them all the same.
func TestDeadLetters_ofGo_areWorkedByPython(t *testing.T) {
	t.Parallel()
	byTurns(t, func(t *testing.T, py *python) {
		pool := testdb.New(t)
		queue := newQueue(t, pool)
		id := dieInGo(t, pool, "shared.echo", arguments)
		if err := queue.Tag(t.Context(), id, map[string]string{"ticket": "T-1"}); err != nil {
			t.Fatal(err)
		}
		c := py.console(t, pool)

		listed := eval[[]letter](t, c, `await app.dead_letter.list_dead_letter_jobs(DeadLetterFilter(job_names=["shared.echo"], reasons=["permanent_failure"], tags={"ticket": "T-1"}))`, nil)
		if len(listed) != 1 || listed[0].ID != id.String() {
			t.Fatalf("Python lists %+v", listed)
		}
		read := eval[letter](t, c, getLetter, with{"id": id})
		if read.JobName != "shared.echo" || read.Queue != "go" || read.Attempts != 1 || read.Reason != "permanent_failure" ||
			read.LastError != "closed for good" || read.Priority != 7 || read.MaxAttempts != 5 {
			t.Errorf("Python reads %+v", read)
		}
		if !eval[bool](t, c, `(await app.dead_letter.get_dead_letter_job(id)).args == args`, with{"id": id, "args": json.RawMessage(arguments)}) {
			t.Errorf("Python reads the arguments %s", read.Args)
		}

		// Each adds tags to the other's.
		if !eval[bool](t, c, `await app.dead_letter.add_tags_to_job(id, {"owner": "ada"})`, with{"id": id}) {
			t.Error("Python could not tag")
		}
		found, err := queue.List(t.Context(), deadletter.Filter{Tags: map[string]string{"owner": "ada", "ticket": "T-1"}})
		if err != nil || len(found) != 1 {
			t.Errorf("Go finds %d by both tags: %v", len(found), err)
		}

		// Somebody mends the row by hand; the replay is of what it says now.
		execute(t, pool, `
			update soniq_dead_letter_jobs
			set args = '{"mended": true}', queue = 'shared', priority = 3, max_attempts = 2
			where id = $1`, id)
		replay := uuid.MustParse(eval[string](t, c, `await app.dead_letter.replay(id)`, with{"id": id}))
		job := job(t, pool, replay)
		if job.Queue != "shared" || job.Priority != 3 || job.MaxAttempts != 2 || job.Attempts != 0 || string(job.Args) != `{"mended": true}` || job.Status != engine.StatusQueued {
			t.Errorf("Python's replay is %+v", job)
		}
		row, err := queue.Get(t.Context(), id)
		if err != nil || row.ResurrectionCount != 1 || row.State != "dead" || !row.OutcomeUnknown() {
			t.Errorf("after Python's replay Go reads %+v, %v", row, err)
		}
		// It is nobody's to replay again by the way, but who insists may.
		n, err := queue.ReplayCount(t.Context(), deadletter.Filter{All: true}, deadletter.ReplayOptions{MaxReplays: 1})
		if err != nil || n != 0 {
			t.Errorf("a replay of what was replayed less than once would take %d, %v", n, err)
		}

		if !eval[bool](t, c, `await app.dead_letter.delete_dead_letter_job(id)`, with{"id": id}) {
			t.Error("Python could not delete")
		}
		if _, err := queue.Get(t.Context(), id); !errors.Is(err, deadletter.ErrNotFound) {
			t.Errorf("after Python's delete: %v", err)
		}
	})
}

// Python's dead letters are replayed by Go, and what becomes of the replay is
// known, though Python runs it.
func TestDeadLetters_ofPython_areReplayedByGo(t *testing.T) {
	t.Parallel()
	byTurns(t, func(t *testing.T, py *python) {
		pool := testdb.New(t)
		client, queue := newClient(t, pool), newQueue(t, pool)
		py.worker(t, pool, "shared")
		id := enqueue(t, client, "shared.fails", map[string]any{"message": "first"}, engine.Queue("shared"), engine.MaxAttempts(1))
		ended(t, client, id)

		// It dies again: by Python, which knows nothing of replay_of.
		again, err := queue.Replay(t.Context(), id, deadletter.ReplayOptions{Args: json.RawMessage(`{"message": "second"}`)})
		if err != nil {
			t.Fatal(err)
		}
		if job := ended(t, client, again); job.Status != engine.StatusDeadLetter || !strings.Contains(job.LastError, "second") {
			t.Errorf("the replay: %+v", job)
		}
		row, err := queue.Get(t.Context(), id)
		if err != nil || row.State != "dead" || row.ResurrectionCount != 1 || row.OutcomeUnknown() {
			t.Errorf("after a replay that died: %+v, %v", row, err)
		}

		// Mended by hand, edited columns and all, it succeeds.
		execute(t, pool, `
			update soniq_dead_letter_jobs
			set job_name = 'shared.echo', args = '{"mended": 1}', priority = 0
			where id = $1`, id)
		mended, err := queue.Replay(t.Context(), id, deadletter.ReplayOptions{MaxAttempts: 9})
		if err != nil {
			t.Fatal(err)
		}
		job := ended(t, client, mended)
		var result told
		if err := json.Unmarshal(job.Result, &result); err != nil || result.By != "python" || string(result.Args) != `{"mended": 1}` || job.MaxAttempts != 9 || job.Priority != 0 {
			t.Errorf("the mended replay: %+v, %v", job, err)
		}
		if row, err = queue.Get(t.Context(), id); err != nil || row.State != "resolved" || row.ResurrectionCount != 2 {
			t.Errorf("after a replay that Python ran well: %+v, %v", row, err)
		}
	})
}

// What both call by the same name is the same number.
func TestStats_agreeWhereTheyMeanTheSame(t *testing.T) {
	t.Parallel()
	byTurns(t, func(t *testing.T, py *python) {
		pool := testdb.New(t)
		queue := newQueue(t, pool)
		execute(t, pool, `
			insert into soniq_dead_letter_jobs (id, job_name, args, queue, priority, max_attempts, attempts,
			  dead_letter_reason, original_created_at, moved_to_dead_letter_at)
			select gen_random_uuid(), 'job.' || n % 3, '{}', 'queue.' || n % 2, 100, 4, 4,
			  case when n % 5 = 0 then 'permanent_failure' else 'max_retries_exceeded' end,
			  now(), now() - n * interval '4 hours'
			from generate_series(1, 20) n`)
		c := py.console(t, pool)
		for _, hours := range []int{0, 24, 48} {
			type stats struct {
				Total    int64            `json:"total_count"`
				ByJob    map[string]int64 `json:"by_job_name"`
				ByQueue  map[string]int64 `json:"by_queue"`
				ByReason map[string]int64 `json:"by_reason"`
				ByDate   map[string]int64 `json:"by_date"`
				Oldest   float64          `json:"oldest_job_age_hours"`
			}
			theirs := eval[stats](t, c, `await app.dead_letter.get_dead_letter_stats(hours=hours)`, with{"hours": hours})
			mine, err := queue.Stats(t.Context(), time.Duration(hours)*time.Hour)
			if err != nil {
				t.Fatal(err)
			}
			raw, err := json.Marshal(mine)
			if err != nil {
				t.Fatal(err)
			}
			var ours stats
			if err := json.Unmarshal(raw, &ours); err != nil {
				t.Fatal(err)
			}
			// Python's by_date is of the last seven days and its oldest age ends
			// with the window, whatever was asked for: they agree without one.
			if hours == 0 {
				if d := ours.Oldest - theirs.Oldest; d > 0.5 || d < -0.5 {
					t.Errorf("the oldest is %g h old for Go, %g for Python", ours.Oldest, theirs.Oldest)
				}
			} else {
				theirs.ByDate, ours.ByDate = nil, nil
			}
			theirs.Oldest, ours.Oldest = 0, 0
			if want, got := marshal(t, theirs), marshal(t, ours); want != got {
				t.Errorf("hours=%d: Go counts %s, Python %s", hours, got, want)
			}
		}
	})
}

// dieInGo makes a dead letter by a worker of ours.
func dieInGo(t *testing.T, pool *pgxpool.Pool, name, args string) uuid.UUID {
	t.Helper()
	client := newClient(t, pool)
	reg := engine.NewRegistry()
	engine.HandleRaw(reg, name, func(context.Context, *engine.Job) (any, error) {
		return nil, engine.Permanent(errors.New("closed for good"))
	})
	stop := goWorker(t, pool, reg, engine.WorkerConfig{Queues: []string{"go"}})
	id := enqueue(t, client, name, json.RawMessage(args), engine.Queue("go"), engine.Priority(7), engine.MaxAttempts(5))
	if job := ended(t, client, id); job.Status != engine.StatusDeadLetter {
		t.Fatalf("%+v", job)
	}
	stop()
	return id
}

func job(t *testing.T, pool *pgxpool.Pool, id uuid.UUID) *engine.Job {
	t.Helper()
	j, err := newClient(t, pool).Job(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// subscribe returns once it listens.
func subscribe(t *testing.T, pool *pgxpool.Pool) <-chan deadletter.Event {
	t.Helper()
	events, connected := make(chan deadletter.Event, 1000), make(chan struct{}, 10)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- deadletter.Subscribe(ctx, pool.Config().ConnConfig, deadletter.SubscribeOptions{
			Logger:    slog.New(slog.NewTextHandler(t.Output(), nil)),
			OnConnect: func(context.Context) { connected <- struct{}{} },
		}, func(_ context.Context, e deadletter.Event) { events <- e })
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	receive(t, "the subscription", connected)
	return events
}

func receive[T any](t *testing.T, what string, ch <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-ch:
	case <-time.After(patience):
		t.Fatalf("%s: not within %s", what, patience)
	}
	return v
}

func marshal(t *testing.T, v any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}
