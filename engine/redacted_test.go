package engine_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/deadletter/classify"
	"soniq/engine"
	"soniq/internal/testkit"
)

// No exported struct shows a secret, however it is printed or logged: each one is
// here, with a secret wherever it can have one.
func TestExportedStructs_printNoSecrets(t *testing.T) {
	t.Parallel()
	const secret = "pl4nted"
	const text = "password=" + secret
	object := json.RawMessage(`{"password": "` + secret + `"}`)
	listen, err := pgx.ParseConfig("postgres://user:" + secret + "@127.0.0.1:1/db")
	if err != nil {
		t.Fatal(err)
	}
	pool, err := pgxpool.New(t.Context(), "postgres://user:"+secret+"@127.0.0.1:1/db")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	reg := engine.NewRegistry()
	noop(reg, "n")
	workerConfig := engine.WorkerConfig{ListenConfig: listen}
	worker, err := engine.NewWorker(pool, reg, workerConfig)
	if err != nil {
		t.Fatal(err)
	}
	inTrace := engine.NewTraceContext("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "password="+secret)
	job := engine.Job{
		TraceContext: inTrace,
		ID:           uuid.New(), Name: text, Queue: text, Args: object, Result: object, LastError: text, ProducerID: text, DedupKey: text,
		DeadLetterReason: classify.Timeout,
		Errors:           []classify.Failure{{Message: text, Stack: text}},
	}
	values := []any{
		job,
		engine.Outcome{Job: &job, Verdict: classify.Verdict{Message: text, Stack: text}},
		engine.Insert{Name: "n", Args: map[string]string{"password": secret}},
		*newClient(t, pool),
		engine.ClientConfig{Registry: reg},
		workerConfig, *reg,
		engine.Enqueued{},
		engine.ClaimTrace{Err: errors.New(text)},
		engine.WriteTrace{Err: errors.New(text)},
		engine.RecoveryTrace{JobName: text, Queue: text},
		engine.EnqueueTrace{Jobs: []engine.EnqueuedJob{{Name: text, Queue: text, TraceContext: inTrace}}, Err: errors.New(text)},
		engine.EnqueuedJob{Name: text, Queue: text, TraceContext: inTrace},
		engine.JobFilter{},
		engine.Status{},
		engine.QueueStatus{},
		engine.WorkerStatus{},
		engine.Availability{},
		engine.RefusedError{},
		engine.AmbiguousError{},
		engine.DuplicateError{},
		engine.ArgumentError{},
		engine.Exponential{},
	}
	shown := map[string]any{"Worker": worker}
	for _, value := range values {
		shown[reflect.TypeOf(value).Name()] = value
	}
	for _, name := range testkit.ExportedStructs(t) {
		value, ok := shown[name]
		if !ok {
			t.Errorf("%s is new: add it, with a secret wherever it can have one", name)
			continue
		}
		for form, line := range testkit.Printed(value) {
			// The arguments of a job that is written as JSON are what the program wants.
			if form != "json" && testkit.Shows(line, secret) {
				t.Errorf("%s as %s shows the secret: %s", name, form, line)
			}
		}
	}
	if line := fmt.Sprintf("%+v", &job); !strings.Contains(line, job.ID.String()) || !strings.Contains(line, "[redacted]") {
		t.Errorf("a job is printed as %s", line)
	}
	if line := fmt.Sprint((*engine.Job)(nil), engine.Outcome{Kind: engine.OutcomeDone}); line != "<nil> done" {
		t.Errorf("no job is printed as %s", line)
	}
}
