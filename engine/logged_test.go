package engine_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"

	"soniq/engine"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

// A dead letter's log record has what its notification and its row have, whatever made it: a handler's
// error, the death of a worker, or a name that nobody knows.
func TestWorker_deadLetter_logRecordIsComplete(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	engine.HandleRaw(reg, "fails", func(context.Context, *engine.Job) (any, error) {
		return nil, engine.Permanent(&pgconn.PgError{Code: "23505", Message: "taken"})
	})
	client := newClient(t, pool)
	failed, unknown, orphan := enqueue(t, client, "fails", nil), enqueue(t, client, "unknown", nil), uuid.New()
	exec(t, pool, `
		insert into soniq_jobs (id, job_name, args, status, attempts, max_attempts, worker_id, claim_token, updated_at)
		values ($1, 'fails', '{}', 'processing', 2, 2, gen_random_uuid(), 1, now() - interval '1 day')`, orphan)
	var log testkit.Log
	start(t, pool, reg, engine.WorkerConfig{UnknownGrace: time.Second, Logger: slog.New(slog.NewJSONHandler(&log, nil))})
	want := map[uuid.UUID]map[string]any{
		failed: {
			"job_name": "fails", "attempts": 1.0, "max_attempts": 4.0, "reason": "permanent_failure", "kind": "error",
			"code": "23505", "decided_by": "marker",
		},
		unknown: {"job_name": "unknown", "attempts": 0.0, "max_attempts": 4.0, "reason": "job_not_found", "kind": "unregistered"},
		orphan:  {"job_name": "fails", "attempts": 2.0, "max_attempts": 2.0, "reason": "max_retries_exceeded", "kind": "crash"},
	}
	queue := newQueue(t, pool)
	for id, fields := range want {
		var record map[string]any
		eventually.True(t, "the record of "+id.String(), func() bool { record = logRecord(t, log.String(), "job is a dead letter", id); return record != nil })
		dead, err := queue.Get(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		fields["queue"], fields["fingerprint"], fields["level"] = dead.Queue, dead.Fingerprint, "WARN"
		for key, value := range fields {
			if record[key] != value {
				t.Errorf("%s: %q is %v, want %v", record["job_name"], key, record[key], value)
			}
		}
		for _, key := range []string{"code", "decided_by", "error"} {
			if _, ok := record[key].(string); !ok {
				t.Errorf("%s: %q is missing", record["job_name"], key)
			}
		}
	}
}

// logRecord is the first record with the message about the job.
func logRecord(t *testing.T, log string, message string, job uuid.UUID) map[string]any {
	t.Helper()
	for line := range strings.Lines(log) {
		var record map[string]any
		if err := json.Unmarshal([]byte(line), &record); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if record["msg"] == message && record["job"] == job.String() {
			return record
		}
	}
	return nil
}
