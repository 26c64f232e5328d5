package interop

import (
	"context"
	"encoding/json"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"soniq/engine"
	"soniq/internal/testdb"
)

// told is what a handler of either language answers with: see jobs.py and echo.
type told struct {
	By    string            `json:"by"`
	Args  json.RawMessage   `json:"args"`
	Types map[string]string `json:"types"`
}

// arguments that any language must carry as they are, to the digit: numbers are
// written here as JSONB writes them.
const arguments = `{
  "nested": {"list": [1, [2, {"three": null}], true], "empty": {}, "none": []},
  "unicode": "é 😀 日本 \u0001 \"quoted\" \\ </script> \u2028",
  "ключ 🔑": "a key",
  "big": 123456789012345678901234567890,
  "negative": -9223372036854775809,
  "float": 1.0,
  "small": 0.0000001,
  "zero": 0,
  "nothing": null,
  "": "an empty name"
}`

func TestArguments_pythonEnqueues_goRunsThemAsTheyWere(t *testing.T) {
	t.Parallel()
	byTurns(t, func(t *testing.T, py *python) {
		pool, client := goEcho(t)
		c := py.console(t, pool)
		for _, args := range []string{`{}`, arguments} {
			id := uuid.MustParse(eval[string](t, c, `await app.enqueue("go.echo", args=args, queue="go")`, with{"args": json.RawMessage(args)}))
			job := ended(t, client, id)
			var got told
			if err := json.Unmarshal(job.Result, &got); err != nil || job.Status != engine.StatusDone {
				t.Fatalf("%s: %s: %v", job.Status, job.LastError, err)
			}
			if !sameJSON(t, got.Args, []byte(args)) {
				t.Errorf("the Go handler got %s, want %s", got.Args, args)
			}
			// Python reads what Go's handler made of it.
			if !eval[bool](t, c, `await app.get_result(id) == {"by": "go", "args": args}`, with{"id": id, "args": json.RawMessage(args)}) {
				t.Errorf("Python doesn't read the result as it is: %s", job.Result)
			}
		}
	})
}

func TestArguments_goEnqueues_pythonRunsThemAsTheyWere(t *testing.T) {
	t.Parallel()
	byTurns(t, func(t *testing.T, py *python) {
		pool := testdb.New(t)
		client := newClient(t, pool)
		py.worker(t, pool, "python")
		for _, args := range []string{`{}`, arguments} {
			id := enqueue(t, client, "python.echo", json.RawMessage(args), engine.Queue("python"))
			job := ended(t, client, id)
			var got told
			if err := json.Unmarshal(job.Result, &got); err != nil || job.Status != engine.StatusDone {
				t.Fatalf("%s: %s: %v", job.Status, job.LastError, err)
			}
			if !sameJSON(t, got.Args, []byte(args)) {
				t.Errorf("the Python handler got %s, want %s", got.Args, args)
			}
			if args == `{}` {
				continue
			}
			for name, want := range map[string]string{"big": "int", "negative": "int", "float": "float", "nothing": "NoneType", "nested": "dict"} {
				if got.Types[name] != want {
					t.Errorf("%s is a %s for Python, want %s", name, got.Types[name], want)
				}
			}
		}
	})
}

// 0.0.5 stores what isn't JSON as its text; 0.1.0 refuses it, in Python.
func TestArguments_pythonObjects_arriveAsTextOrAreRefused(t *testing.T) {
	t.Parallel()
	byTurns(t, func(t *testing.T, py *python) {
		pool := testdb.New(t)
		client := newClient(t, pool)
		type args struct {
			At     string `json:"at"`
			Amount string `json:"amount"`
			ID     string `json:"id"`
		}
		reg := engine.NewRegistry()
		engine.HandleResult(reg, "go.typed", func(_ context.Context, a args) (args, error) { return a, nil }, engine.Queue("go"))
		goWorker(t, pool, reg, engine.WorkerConfig{})
		c := py.console(t, pool)
		values := `{
			"at": datetime(2026, 5, 4, 9, 12, 33, 120045, tzinfo=timezone.utc),
			"amount": Decimal("10.10"),
			"id": UUID("0f3a8a43-46ab-4ab1-8b7b-0c3c3a2f7f10"),
		}`
		want := args{"2026-05-04 09:12:33.120045+00:00", "10.10", "0f3a8a43-46ab-4ab1-8b7b-0c3c3a2f7f10"}
		id, err := try[string](t, c, `await app.enqueue("go.typed", queue="go", args=`+values+`)`, nil)
		if py.version == "0.0.5" && err != nil {
			t.Fatal(err)
		}
		if py.version != "0.0.5" {
			if err == nil || !strings.Contains(err.Error(), "must be JSON-serializable") {
				t.Errorf("%s takes what isn't JSON: %v", py.version, err)
			}
			// What its own message advises.
			id = eval[string](t, c, `await app.enqueue("go.typed", queue="go", args={k: str(v) for k, v in `+values+`.items()})`, nil)
		}
		job := ended(t, client, uuid.MustParse(id))
		var got args
		if err := json.Unmarshal(job.Result, &got); err != nil || got != want {
			t.Errorf("%s %s: got %+v (%v), want %+v", job.Status, job.LastError, got, err, want)
		}
	})
}

// Each side reads the other's jobs, results and errors by its own API.
func TestResults_eachSideReadsTheOthers(t *testing.T) {
	t.Parallel()
	byTurns(t, func(t *testing.T, py *python) {
		pool := testdb.New(t)
		client := newClient(t, pool)
		py.worker(t, pool, "python,shared")
		c := py.console(t, pool)

		retried := ended(t, client, enqueue(t, client, "shared.fails_once", nil, engine.Queue("shared")))
		if retried.Status != engine.StatusDone || retried.Attempts != 2 || !strings.Contains(retried.LastError, "not at the first attempt") {
			t.Errorf("a job that Python retried: %+v", retried)
		}
		if retried.ExpiresAt == nil || retried.ExpiresAt.Before(time.Now()) {
			t.Errorf("Python's result expires at %v", retried.ExpiresAt)
		}

		dead := ended(t, client, enqueue(t, client, "python.typed", map[string]any{"order": "seven"}, engine.Queue("python")))
		if dead.Status != engine.StatusDeadLetter || dead.DeadLetterReason != "invalid_arguments" || dead.LastError == "" {
			t.Errorf("a job whose arguments Python refuses: %+v", dead)
		}
		// 0.1.0 looks for dead letters too.
		read := eval[*struct {
			Status string
			Reason string `json:"dead_letter_reason"`
		}](t, c, `await app.get_job(id)`, with{"id": dead.ID})
		if py.version == "0.0.5" && read != nil || py.version != "0.0.5" && (read == nil || read.Status != "dead_letter" || read.Reason != "invalid_arguments") {
			t.Errorf("Python %s sees the dead letter as %+v", py.version, read)
		}

		stats := eval[map[string]int64](t, c, `await app.get_queue_stats()`, nil)
		status, err := client.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var done int64
		for _, q := range status.Queues {
			done += q.Done
		}
		if stats["done"] != done || done != 1 || stats["dead_letter"] != status.DeadLetters["dead"] || stats["total"] != 2 {
			t.Errorf("Python counts %v, Go %+v", stats, status)
		}
	})
}

func TestScheduled_eachSideRunsTheOthersWhenDue(t *testing.T) {
	t.Parallel()
	byTurns(t, func(t *testing.T, py *python) {
		pool, client := goEcho(t)
		c := py.console(t, pool)

		// By Python's API, for Go: run at its time, and not before.
		id := uuid.MustParse(eval[string](t, c, `await app.enqueue("go.echo", args={}, queue="go", scheduled_at=timedelta(seconds=1))`, nil))
		job := ended(t, client, id)
		if job.Status != engine.StatusDone || job.ScheduledAt == nil {
			t.Fatalf("%+v", job)
		}
		if early := value[bool](t, pool, `select updated_at < scheduled_at from soniq_jobs where id = $1`, id); early {
			t.Error("it was done before its time")
		}

		// By Go's, for Python; and one far ahead stays.
		later := enqueue(t, client, "python.echo", nil, engine.Queue("python"), engine.After(time.Hour))
		due := enqueue(t, client, "python.echo", nil, engine.Queue("python"), engine.After(time.Millisecond))
		py.worker(t, pool, "python")
		if job := ended(t, client, due); job.Status != engine.StatusDone {
			t.Errorf("%+v", job)
		}
		waiting, err := client.Job(t.Context(), later)
		if err != nil || waiting.Status != engine.StatusQueued {
			t.Errorf("%+v, %v; want it queued", waiting, err)
		}
		// 'job retry' makes it due now, for Python too.
		if err := client.RetryJob(t.Context(), later); err != nil {
			t.Fatal(err)
		}
		if job := ended(t, client, later); job.Status != engine.StatusDone {
			t.Errorf("%+v", job)
		}
	})
}

func TestCancel_eachSideCancelsTheOthersQueuedJob(t *testing.T) {
	t.Parallel()
	byTurns(t, func(t *testing.T, py *python) {
		pool := testdb.New(t)
		client := newClient(t, pool)
		c := py.console(t, pool)

		mine := enqueue(t, client, "shared.echo", nil, engine.Queue("shared"))
		if !eval[bool](t, c, `await app.cancel_job(id)`, with{"id": mine}) {
			t.Error("Python could not cancel Go's job")
		}
		if job := ended(t, client, mine); job.Status != engine.StatusCancelled {
			t.Errorf("%+v", job)
		}
		theirs := uuid.MustParse(eval[string](t, c, `await app.enqueue("shared.echo", args={})`, nil))
		if status, err := client.CancelJob(t.Context(), theirs); err != nil || status != engine.StatusCancelled {
			t.Errorf("Go could not cancel Python's job: %s, %v", status, err)
		}
		if status := eval[string](t, c, `(await app.get_job(id))["status"]`, with{"id": theirs}); status != "cancelled" {
			t.Errorf("Python sees it as %s", status)
		}

		// One that Python runs goes on to the end of its attempt, which is the
		// last: 'shared.fails_once' would be tried again.
		worker := py.worker(t, pool, "shared")
		held := enqueue(t, client, "shared.held", nil, engine.Queue("shared"))
		await(t, pool, "Python has the job", `select status = 'processing' from soniq_jobs where id = $1`, held)
		if status, err := client.CancelJob(t.Context(), held); err != nil || status != engine.StatusProcessing {
			t.Errorf("cancel a job that Python runs: %s, %v", status, err)
		}
		// A stopping worker gives the job back: that is where it ends.
		worker.signal(t, syscall.SIGTERM)
		if job := ended(t, client, held); job.Status != engine.StatusCancelled {
			t.Errorf("%+v", job)
		}
	})
}
