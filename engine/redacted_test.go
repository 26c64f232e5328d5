package engine_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"log/slog"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/deadletter/classify"
	"soniq/engine"
)

// exportedStructs are the names of the struct types that the package exports.
func exportedStructs(t *testing.T) (names []string) {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if spec, ok := n.(*ast.TypeSpec); ok && spec.Name.IsExported() {
				if _, ok := spec.Type.(*ast.StructType); ok {
					names = append(names, spec.Name.Name)
				}
			}
			return true
		})
	}
	return names
}

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
	job := engine.Job{
		ID: uuid.New(), Name: text, Queue: text, Args: object, Result: object, LastError: text, ProducerID: text, DedupKey: text,
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
		engine.JobFilter{},
		engine.Status{},
		engine.QueueStatus{},
		engine.WorkerStatus{},
		engine.Availability{},
		engine.RefusedError{},
		engine.DuplicateError{},
		engine.ArgumentError{},
		engine.Exponential{},
	}
	shown := map[string]any{"Worker": worker}
	for _, value := range values {
		shown[reflect.TypeOf(value).Name()] = value
	}
	for _, name := range exportedStructs(t) {
		value, ok := shown[name]
		if !ok {
			t.Errorf("%s is new: add it, with a secret wherever it can have one", name)
			continue
		}
		var printed []string
		for _, verb := range []string{"%v", "%+v", "%#v"} {
			printed = append(printed, fmt.Sprintf(verb, value), fmt.Sprintf(verb, []any{value}))
		}
		var out bytes.Buffer
		slog.New(slog.NewTextHandler(&out, nil)).Info("here", "value", value)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("here", "value", value)
		for _, line := range append(printed, out.String()) {
			if strings.Contains(line, secret) || strings.Contains(line, fmt.Sprint([]byte(secret))) || strings.Contains(line, fmt.Sprintf("%x", secret)) {
				t.Errorf("%s shows the secret: %s", name, line)
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
