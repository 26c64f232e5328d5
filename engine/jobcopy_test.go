package engine_test

import (
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"soniq/deadletter/classify"
	"soniq/engine"
	"soniq/internal/testdb"
)

// scribbles are what a bad handler writes into the fields of a job, by type.
var scribbles = map[reflect.Type]any{
	reflect.TypeFor[uuid.UUID]():           uuid.Must(uuid.NewV7()),
	reflect.TypeFor[string]():              "scribble",
	reflect.TypeFor[json.RawMessage]():     json.RawMessage(`{"scribble":1}`),
	reflect.TypeFor[int]():                 77,
	reflect.TypeFor[time.Time]():           time.Unix(0, 0),
	reflect.TypeFor[engine.JobStatus]():    engine.StatusCancelled,
	reflect.TypeFor[classify.Reason]():     classify.ManualMove,
	reflect.TypeFor[engine.TraceContext](): engine.NewTraceContext("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", ""),
	reflect.TypeFor[[]classify.Failure]():  []classify.Failure{{Attempt: 77}},
}

// scribble overwrites a field, and what a pointer in it leads to.
func scribble(t *testing.T, job *engine.Job, field reflect.StructField) {
	value := reflect.ValueOf(job).Elem().FieldByIndex(field.Index)
	kind := field.Type
	if kind.Kind() == reflect.Pointer {
		kind = kind.Elem()
	}
	with, ok := scribbles[kind]
	if !ok {
		t.Errorf("field %s: no scribble of type %s: add one", field.Name, kind)
		return
	}
	if field.Type.Kind() != reflect.Pointer {
		value.Set(reflect.ValueOf(with))
		return
	}
	if !value.IsNil() {
		value.Elem().Set(reflect.ValueOf(with))
	}
	fresh := reflect.New(kind)
	fresh.Elem().Set(reflect.ValueOf(with))
	value.Set(fresh)
}

// A handler, or middleware, that writes into its job must not free another slot
// than the job's, nor have the outcome written under another claim. Each field is
// tried, and all together, with each way an attempt can end.
func TestWorker_handlerWritesItsJob_changesNothing(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	client := newClient(t, pool)
	var fields [][]reflect.StructField
	for field := range reflect.TypeFor[engine.Job]().Fields() {
		if field.IsExported() {
			fields = append(fields, []reflect.StructField{field})
		}
	}
	if len(fields) < 15 {
		t.Fatalf("only %d fields", len(fields))
	}
	fields = append(fields, reflect.VisibleFields(reflect.TypeFor[engine.Job]()))

	var now atomic.Pointer[[]reflect.StructField] // those to write; there is one job at a time
	spoil := func(job *engine.Job) {
		for _, field := range *now.Load() {
			if field.IsExported() {
				scribble(t, job, field)
			}
		}
	}
	reg := engine.NewRegistry()
	reg.Use(func(next engine.HandlerFunc) engine.HandlerFunc {
		return func(ctx context.Context, job *engine.Job) (any, error) {
			spoil(job)
			defer spoil(job)
			return next(ctx, job)
		}
	})
	type ending struct{ End string }
	engine.Handle(reg, "write", func(ctx context.Context, args ending) error {
		spoil(engine.JobFromContext(ctx))
		switch args.End {
		case "retry":
			return errors.New("failed")
		case "dead":
			return engine.Permanent(errors.New("failed"))
		case "snooze":
			return engine.Snooze(time.Hour)
		case "panic":
			panic("failed")
		}
		return nil
	}, engine.Concurrency(1), engine.Queue("narrow"), engine.Retry(engine.Delays{time.Hour}))
	// A slot that leaks stops all that follows.
	w := start(t, pool, reg, engine.WorkerConfig{
		Concurrency: 2, Queues: []string{"narrow"}, QueueConcurrency: map[string]int{"narrow": 1},
	})
	want := map[string]struct {
		kind   engine.OutcomeKind
		status engine.JobStatus
	}{
		"done":   {engine.OutcomeDone, engine.StatusDone},
		"retry":  {engine.OutcomeRetry, engine.StatusQueued},
		"dead":   {engine.OutcomeDeadLetter, engine.StatusDeadLetter},
		"snooze": {engine.OutcomeSnooze, engine.StatusQueued},
		"panic":  {engine.OutcomeRetry, engine.StatusQueued},
	}
	for _, written := range fields {
		now.Store(&written)
		if written[0].Name == "Args" || len(written) > 1 {
			// The typed handler would decode the scribble: it is not called.
			continue
		}
		for end, want := range want {
			id := enqueue(t, client, "write", ending{end}, engine.Queue("narrow"), engine.DedupKey(written[0].Name+end))
			o := outcomeOf(t, w, id)
			if o.Kind != want.kind || o.Job.Name != "write" || o.Job.Queue != "narrow" || o.Job.Attempts != 1 || string(o.Job.Args) != `{"End": "`+end+`"}` {
				t.Errorf("%s, %s: outcome %s of %+v", written[0].Name, end, o.Kind, o.Job)
			}
			if job := getJob(t, client, id); job.Status != want.status {
				t.Errorf("%s, %s: the job is %s, want %s", written[0].Name, end, job.Status, want.status)
			}
		}
	}
	for _, written := range fields {
		now.Store(&written)
		id := enqueue(t, client, "write", ending{"done"}, engine.Queue("narrow"))
		o := outcomeOf(t, w, id)
		// Middleware that writes other arguments changes what the handler decodes: here they
		// have a field that a newer worker may know. It also says which attempt this is.
		wantKind := engine.OutcomeDone
		switch {
		case len(written) > 1:
			wantKind = engine.OutcomeDeadLetter
		case written[0].Name == "Args":
			wantKind = engine.OutcomeRetry
		}
		if o.Kind != wantKind {
			t.Errorf("%s: outcome %s, want %s", written[0].Name, o.Kind, wantKind)
		}
		if o.Job.ID != id || string(o.Job.Args) != `{"End": "done"}` || o.Job.LastError != "" || o.Job.Errors != nil || o.Job.Result != nil {
			t.Errorf("%s: the worker's job has changed: %+v", written[0].Name, o.Job)
		}
	}
}

// outcomeOf waits for the one outcome of a job.
func outcomeOf(t *testing.T, w *running, id uuid.UUID) engine.Outcome {
	t.Helper()
	var found engine.Outcome
	w.waitFor(t, "the outcome of job "+id.String(), func(all []engine.Outcome) bool {
		for _, o := range all {
			if o.Job.ID == id {
				found = o
			}
		}
		return found.Job != nil
	})
	return found
}
