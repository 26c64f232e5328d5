package engine_test

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq"
	"soniq/engine"
	"soniq/internal/testdb"
)

// The work of a job is done, whatever becomes of its result: it runs once, and a note
// says what is missing.
func TestWorker_resultCantBeStored_isDoneWithANote(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	results := map[string]any{
		"nan": math.NaN(), "nul": "a\x00b", "numeric": json.RawMessage(`1e200000`), "digits": json.Number(strings.Repeat("9", 140_000)),
		"channel": make(chan int), "large": strings.Repeat("x", 2<<20), "syntax": json.RawMessage(`{"a"`),
	}
	for name, result := range results {
		engine.HandleRaw(reg, name, func(context.Context, *engine.Job) (any, error) { return result, nil })
	}
	client := newClient(t, pool)
	var log journal
	w := start(t, pool, reg, engine.WorkerConfig{Logger: log.logger()})
	for name := range results {
		id := enqueue(t, client, name, nil)
		outcomes := w.waitForJob(t, id)
		job := getJob(t, client, id)
		if len(outcomes) != 1 || job.Status != engine.StatusDone || job.Attempts != 1 || !strings.HasPrefix(string(job.Result), `{"result_not_stored": "`) {
			t.Errorf("%s: %s after %d attempts, with the result %.200s", name, job.Status, job.Attempts, job.Result)
		}
		if !strings.Contains(log.String(), "the result of a job can't be stored; the job is done") || !strings.Contains(log.String(), id.String()) {
			t.Errorf("%s: the log doesn't say so: %s", name, log.String())
		}
	}
}

// eucJP is a database that has no emoji. Its name is that of the pool's.
func eucJP(t *testing.T) *pgxpool.Pool {
	t.Helper()
	admin := testdb.New(t)
	name := "soniq_euc_" + strings.ReplaceAll(uuid.NewString(), "-", "")[:12]
	exec(t, admin, `create database `+name+` template template0 encoding 'EUC_JP' lc_collate 'C' lc_ctype 'C'`)
	config := admin.Config()
	config.ConnConfig.Database = name
	config.ConnConfig.RuntimeParams["client_encoding"] = "UTF8"
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		pool.Close()
		if _, err := admin.Exec(context.Background(), `drop database `+name+` with (force)`); err != nil {
			t.Error(err)
		}
	})
	if _, err := soniq.Setup(t.Context(), pool, soniq.Config{}); err != nil {
		t.Fatal(err)
	}
	return pool
}

// What a database of another encoding can't hold of an outcome is replaced; what
// becomes of the job stays the same, and it is charged once.
func TestWorker_textCantBeStored_keepsTheVerdict(t *testing.T) {
	t.Parallel()
	pool := eucJP(t)
	reg := engine.NewRegistry()
	noLuck := errors.New("no luck 🎲 with the dice")
	engine.HandleRaw(reg, "retry", func(context.Context, *engine.Job) (any, error) { return nil, noLuck }, engine.Retry(engine.Delays{time.Hour}))
	engine.HandleRaw(reg, "dead", func(context.Context, *engine.Job) (any, error) { return nil, engine.Permanent(noLuck) })
	engine.HandleRaw(reg, "done", func(context.Context, *engine.Job) (any, error) { return "🎲", nil })
	client := newClient(t, pool)
	w := start(t, pool, reg, engine.WorkerConfig{})
	retry, dead, done := enqueue(t, client, "retry", nil), enqueue(t, client, "dead", nil), enqueue(t, client, "done", nil)
	w.waitFor(t, "the outcomes", func(o []engine.Outcome) bool { return len(o) == 3 })
	if job := getJob(t, client, retry); job.Status != engine.StatusQueued || job.Attempts != 1 || job.LastError != "no luck ? with the dice" || len(job.Errors) != 1 {
		t.Errorf("the retry is %s after %d attempts: %s", job.Status, job.Attempts, job.LastError)
	}
	if job := getJob(t, client, dead); job.Status != engine.StatusDeadLetter || job.LastError != "no luck ? with the dice" || job.DeadLetterReason != "permanent_failure" {
		t.Errorf("the dead letter is %s, %s: %s", job.Status, job.DeadLetterReason, job.LastError)
	}
	if job := getJob(t, client, done); job.Status != engine.StatusDone || !strings.Contains(string(job.Result), "the database refuses it") {
		t.Errorf("the job is %s, with the result %s", job.Status, job.Result)
	}
}
