package engine_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq"
	"soniq/engine"
	"soniq/internal/testdb"
)

// row is what an enqueue wrote.
type row struct {
	JobName     string  `json:"job_name"`
	Args        any     `json:"args"`
	ArgsHash    *string `json:"args_hash"`
	Status      string  `json:"status"`
	Attempts    int     `json:"attempts"`
	MaxAttempts int     `json:"max_attempts"`
	Queue       string  `json:"queue"`
	Priority    int     `json:"priority"`
	UniqueJob   bool    `json:"unique_job"`
	DedupKey    *string `json:"dedup_key"`
	ScheduledAt *string `json:"scheduled_at"`
	ProducerID  string  `json:"producer_id"`
}

func getRow(t *testing.T, pool *pgxpool.Pool, id uuid.UUID) row {
	t.Helper()
	return queryValue[row](t, pool, `select to_jsonb(j) from soniq_jobs j where id = $1`, id)
}

func countJobs(t *testing.T, pool *pgxpool.Pool) int {
	t.Helper()
	return queryValue[int](t, pool, `select count(*)::int from soniq_jobs`)
}

func expectRow(t *testing.T, what string, got, want row) {
	t.Helper()
	g, _ := json.Marshal(got)
	w, _ := json.Marshal(want)
	if string(g) != string(w) {
		t.Errorf("%s:\n got %s\nwant %s", what, g, w)
	}
}

// The hashes were computed by Python's json.dumps and hashlib.
const (
	hashOfNothing = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a" // {}
	hashOfTwo     = "43258cff783fe7036d8a43033f830adfc60ec037382473548ac742b888292777" // {"a": 1, "b": 2}
)

func TestClient_enqueue_writesEachColumn(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	nop := func(context.Context, *engine.Job) (any, error) { return nil, nil }
	engine.HandleRaw(reg, "emails.send", nop, engine.Queue("emails"), engine.MaxAttempts(9))
	client, err := engine.NewClient(pool, engine.ClientConfig{Registry: reg, ProducerID: "here"})
	if err != nil {
		t.Fatal(err)
	}
	defaults := row{
		JobName: "n", Args: map[string]any{}, Status: "queued", MaxAttempts: 4, Queue: "default",
		Priority: 100, ProducerID: "here",
	}
	hash, nothing, key := hashOfTwo, hashOfNothing, "k"
	for _, c := range []struct {
		what string
		name string
		args any
		opts []engine.EnqueueOption
		want func(*row)
	}{
		{"defaults", "n", nil, nil, func(*row) {}},
		{"map", "n", map[string]any{"a": 1}, nil, func(r *row) { r.Args = map[string]any{"a": 1} }},
		{"struct", "n", struct {
			B bool `json:"b"`
		}{true}, nil, func(r *row) { r.Args = map[string]any{"b": true} }},
		{"raw", "n", json.RawMessage(`{"c": "\u00e9 <&>"}`), nil, func(r *row) { r.Args = map[string]any{"c": "é <&>"} }},
		{"handler's defaults", "emails.send", nil, nil, func(r *row) { r.JobName, r.Queue, r.MaxAttempts = "emails.send", "emails", 9 }},
		{
			"call before handler", "emails.send", nil,
			[]engine.EnqueueOption{engine.Queue("q"), engine.MaxAttempts(1)},
			func(r *row) { r.JobName, r.Queue, r.MaxAttempts = "emails.send", "q", 1 },
		},
		{"priority 0", "n", nil, []engine.EnqueueOption{engine.Priority(0)}, func(r *row) { r.Priority = 0 }},
		{"priority below 0", "n", nil, []engine.EnqueueOption{engine.Priority(math.MinInt32)}, func(r *row) { r.Priority = math.MinInt32 }},
		{"producer", "n", nil, []engine.EnqueueOption{engine.ProducerID("there")}, func(r *row) { r.ProducerID = "there" }},
		{"dedup key", "n", nil, []engine.EnqueueOption{engine.DedupKey("k")}, func(r *row) { r.DedupKey = &key }},
		{
			"unique", "n", json.RawMessage(`{"b": 2, "a": 1}`),
			[]engine.EnqueueOption{engine.Unique()},
			func(r *row) { r.Args, r.UniqueJob, r.ArgsHash = map[string]any{"a": 1, "b": 2}, true, &hash },
		},
		{
			"unique without arguments", "n", nil,
			[]engine.EnqueueOption{engine.Unique()},
			func(r *row) { r.UniqueJob, r.ArgsHash = true, &nothing },
		},
	} {
		want := defaults
		c.want(&want)
		e, err := client.Enqueue(t.Context(), c.name, c.args, c.opts...)
		if err != nil || e.Duplicate {
			t.Errorf("%s: %+v, %v", c.what, e, err)
			continue
		}
		expectRow(t, c.what, getRow(t, pool, e.ID), want)
	}
}

func TestClient_enqueue_numbersKeepTheirDigits(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	client := newClient(t, pool)
	const args = `{"a": 1.0, "b": 12345678901234567890123, "c": 0.1000}`
	id := enqueue(t, client, "n", json.RawMessage(args))
	if got := queryValue[string](t, pool, `select args::text from soniq_jobs where id = $1`, id); got != args {
		t.Errorf("stored %s, want %s", got, args)
	}
	if got := getJob(t, client, id).Args; string(got) != args {
		t.Errorf("read back %s, want %s", got, args)
	}
}

// The caller's clock may be wrong: a delay counts from the database's.
func TestClient_dueTime_isByTheDatabasesClock(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	client := newClient(t, pool)
	delayOf := func(opts ...engine.EnqueueOption) *time.Duration {
		return queryValue[*time.Duration](t, pool,
			`select scheduled_at - created_at from soniq_jobs where id = $1`, enqueue(t, client, "n", nil, opts...))
	}
	for _, d := range []time.Duration{0, time.Millisecond, 90 * time.Minute, 1000 * 24 * time.Hour} {
		if got := delayOf(engine.After(d)); got == nil || *got != d {
			t.Errorf("After(%s) is due after %v", d, got)
		}
	}
	if got := delayOf(engine.At(time.Now()), engine.After(time.Hour)); got == nil || *got != time.Hour {
		t.Errorf("After in place of At is due after %v", got)
	}
	for _, at := range []time.Time{
		time.Date(2031, 2, 3, 4, 5, 6, 7000, time.FixedZone("", 3600)),
		time.Date(1999, 12, 31, 0, 0, 0, 0, time.UTC),
		{},
	} {
		got := getJob(t, client, enqueue(t, client, "n", nil, engine.After(time.Hour), engine.At(at))).ScheduledAt
		if got == nil || !got.Equal(at) || got.Location() != time.UTC {
			t.Errorf("At(%s) is due at %v", at, got)
		}
	}
}

func TestClient_badInput_isNamedAndStoresNothing(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	client, err := engine.NewClient(pool, engine.ClientConfig{MaxArgsBytes: 1000})
	if err != nil {
		t.Fatal(err)
	}
	opts := func(o ...engine.EnqueueOption) []engine.EnqueueOption { return o }
	raw := func(s string) json.RawMessage { return json.RawMessage(s) }
	for _, c := range []struct {
		field, problem string
		name           string
		args           any
		opts           []engine.EnqueueOption
	}{
		{"job name", "empty", "", nil, nil},
		{"job name", "NUL", "a\x00b", nil, nil},
		{"job name", "UTF-8", "a\xffb", nil, nil},
		{"queue", "empty", "n", nil, opts(engine.Queue(""))},
		{"queue", "NUL", "n", nil, opts(engine.Queue("\x00"))},
		{"queue", "UTF-8", "n", nil, opts(engine.Queue("\xc3"))},
		{"dedup key", "empty", "n", nil, opts(engine.DedupKey(""))},
		{"dedup key", "NUL", "n", nil, opts(engine.DedupKey("k\x00"))},
		{"dedup key", "UTF-8", "n", nil, opts(engine.DedupKey("\xff"))},
		{"producer id", "empty", "n", nil, opts(engine.ProducerID(""))},
		{"producer id", "NUL", "n", nil, opts(engine.ProducerID("\x00"))},
		{"max attempts", "not 0", "n", nil, opts(engine.MaxAttempts(0))},
		{"max attempts", "not -1", "n", nil, opts(engine.MaxAttempts(-1))},
		{"max attempts", "2147483648", "n", nil, opts(engine.MaxAttempts(math.MaxInt32 + 1))},
		{"priority", "32 bits", "n", nil, opts(engine.Priority(math.MaxInt32 + 1))},
		{"priority", "32 bits", "n", nil, opts(engine.Priority(math.MinInt32 - 1))},
		{"delay", "negative", "n", nil, opts(engine.After(-time.Nanosecond))},
		// As microseconds these are 1970, and any time at all.
		{"at", "from 1 to 9999", "n", nil, opts(engine.At(time.Unix(1<<60, 0)))},
		{"at", "from 1 to 9999", "n", nil, opts(engine.At(time.Unix(time.Now().UnixMicro(), 0)))},
		{"at", "from 1 to 9999", "n", nil, opts(engine.At(time.Unix(-1<<60, 0)))},
		{"at", "from 1 to 9999", "n", nil, opts(engine.At(time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC)))},
		{"args", "an array", "n", []int{1}, nil},
		{"args", "a string", "n", "text", nil},
		{"args", "a number", "n", 7, nil},
		{"args", "a boolean", "n", true, nil},
		{"args", "null", "n", raw(`null`), nil},
		{"args", "{} for none", "n", raw(``), nil},
		{"args", "not valid JSON", "n", raw(`{"a"}`), nil},
		{"args", "not valid JSON", "n", raw(`{}{}`), nil},
		{"args", `\u0000`, "n", map[string]string{"a": "\x00"}, nil},
		{"args", "UTF-8", "n", raw("{\"a\": \"\xff\"}"), nil},
		{"args", "surrogate", "n", raw(`{"a": "\ud800"}`), nil},
		{"args", "can't be JSON", "n", map[string]any{"a": math.Inf(1)}, nil},
		{"args", "over the limit of 1000", "n", map[string]string{"a": strings.Repeat("x", 1000)}, nil},
		{"args", "a number out of the range", "n", raw(`{"a": 1e999999}`), nil},
		{"args", "a number out of the range", "n", raw(`{"a": -1E+999999}`), opts(engine.Unique())},
		// What only the database can tell.
		{"job", "can't be stored", incompressible(20_000), nil, opts(engine.Unique())},
		{"job", "can't be stored", "n", nil, opts(engine.Queue(incompressible(20_000)))},
	} {
		what := fmt.Sprintf("%.40q %.60v %d options, %s %s", c.name, c.args, len(c.opts), c.field, c.problem)
		_, err := client.Enqueue(t.Context(), c.name, c.args, c.opts...)
		var argErr *engine.ArgumentError
		if !errors.As(err, &argErr) {
			t.Errorf("%s: got %v, want an ArgumentError", what, err)
			continue
		}
		if argErr.Field != c.field || !strings.Contains(argErr.Problem, c.problem) || !strings.HasPrefix(err.Error(), "enqueue ") {
			t.Errorf("%s: got %.300v", what, err)
		}
		if len(err.Error()) > 1000 || strings.ContainsRune(err.Error(), 0) || !utf8.ValidString(err.Error()) {
			t.Errorf("%s: the error is %d bytes, %.100q", what, len(err.Error()), err)
		}
		many := []engine.Insert{{Name: "good"}, {Name: c.name, Args: c.args, Options: c.opts}, {Name: "good"}}
		if _, err := client.EnqueueMany(t.Context(), many); !errors.As(err, &argErr) {
			t.Errorf("%s, among others: got %v, want an ArgumentError", what, err)
		}
	}
	if n := countJobs(t, pool); n != 0 {
		t.Errorf("%d rows were stored", n)
	}
}

// incompressible is text of n bytes that no index can hold.
func incompressible(n int) string {
	var b strings.Builder
	for b.Len() < n {
		b.WriteString(uuid.NewString())
	}
	return b.String()[:n]
}

func TestClient_deepArguments_areStoredOrRefused(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	client := newClient(t, pool)
	for _, depth := range []int{100, 5000, 9990, 100_000} {
		args := `{"a":` + strings.Repeat("[", depth) + strings.Repeat("]", depth) + `}`
		e, err := client.Enqueue(t.Context(), "n", json.RawMessage(args), engine.Unique())
		var argErr *engine.ArgumentError
		if err != nil && !errors.As(err, &argErr) {
			t.Errorf("depth %d: %v", depth, err)
		}
		if err == nil {
			getJob(t, client, e.ID)
		} else if depth == 100 {
			t.Errorf("depth %d: %v", depth, err)
		}
	}
}

func TestNewClient_mistakes_areErrors(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	engine.HandleRaw(reg, "", nil)
	for want, make := range map[string]func() (*engine.Client, error){
		"pool is nil":  func() (*engine.Client, error) { return engine.NewClient(nil, engine.ClientConfig{}) },
		"MaxArgsBytes": func() (*engine.Client, error) { return engine.NewClient(pool, engine.ClientConfig{MaxArgsBytes: -1}) },
		`handler ""`:   func() (*engine.Client, error) { return engine.NewClient(pool, engine.ClientConfig{Registry: reg}) },
	} {
		if _, err := make(); err == nil || !strings.Contains(err.Error(), "new client: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
}

func TestClient_withoutSchema_errorIsMissing(t *testing.T) {
	t.Parallel()
	pool, err := pgxpool.New(t.Context(), testdb.EmptyURL(t))
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	client := newClient(t, pool)
	_, enqueueErr := client.Enqueue(t.Context(), "n", nil)
	_, jobErr := client.Job(t.Context(), uuid.New())
	_, statusErr := client.Status(t.Context())
	for what, err := range map[string]error{"Enqueue": enqueueErr, "Job": jobErr, "Status": statusErr} {
		if !soniq.IsMissing(err) {
			t.Errorf("%s: got %v, want an error for which soniq.IsMissing holds", what, err)
		}
	}
}

func TestClient_enqueueTx_existsOnlyOnceCommitted(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	client := newClient(t, pool)
	addWorker(t, pool, nil, nil, 0, 0) // somebody who is told
	listener, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Release()
	if _, err := listener.Exec(t.Context(), `listen soniq_new_job`); err != nil {
		t.Fatal(err)
	}
	ids := map[string]uuid.UUID{}
	for _, queue := range []string{"rolled-back", "committed"} {
		tx, err := pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		e, err := client.EnqueueTx(t.Context(), tx, "n", nil, engine.Queue(queue))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.Job(t.Context(), e.ID); !errors.Is(err, engine.ErrJobNotFound) {
			t.Errorf("before the end of its transaction: %v, want ErrJobNotFound", err)
		}
		ids[queue] = e.ID
		end := tx.Commit
		if queue == "rolled-back" {
			end = tx.Rollback
		}
		if err := end(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	n, err := listener.Conn().WaitForNotification(ctx)
	if err != nil || n.Payload != "committed" {
		t.Errorf("first notification %+v, %v; want that of the committed job", n, err)
	}
	if _, err := client.Job(t.Context(), ids["rolled-back"]); !errors.Is(err, engine.ErrJobNotFound) {
		t.Errorf("rolled back: %v, want ErrJobNotFound", err)
	}
	getJob(t, client, ids["committed"])
}

func TestClient_enqueueMany_10000InOrder(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	client := newClient(t, pool)
	jobs := make([]engine.Insert, 10_000)
	for i := range jobs {
		jobs[i] = engine.Insert{Name: "n", Args: map[string]int{"i": i}, Options: []engine.EnqueueOption{engine.Priority(i)}}
	}
	done, err := client.EnqueueMany(t.Context(), jobs)
	if err != nil || len(done) != len(jobs) {
		t.Fatalf("%d enqueued, %v", len(done), err)
	}
	if !slices.IsSortedFunc(done, func(a, b engine.Enqueued) int { return strings.Compare(a.ID.String(), b.ID.String()) }) {
		t.Error("the ids are not in the order of the jobs")
	}
	ids := make([]uuid.UUID, len(done))
	for i, e := range done {
		ids[i] = e.ID
	}
	if n := queryValue[int](t, pool, `
		select count(*)::int
		from unnest($1::uuid[]) with ordinality as d (id, position)
		join soniq_jobs j on j.id = d.id and j.priority = d.position - 1 and j.args = jsonb_build_object('i', d.position - 1)`, ids); n != len(jobs) {
		t.Errorf("%d rows are as their job says, want %d", n, len(jobs))
	}
}

func TestClient_enqueueMany_nothingOrNothingAtAll(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	client := newClient(t, pool)
	if done, err := client.EnqueueMany(t.Context(), nil); err != nil || len(done) != 0 {
		t.Errorf("no jobs: %v, %v", done, err)
	}
	_, err := client.EnqueueMany(t.Context(), []engine.Insert{{Name: "a"}, {Name: "b", Args: 1}})
	if err == nil || !strings.Contains(err.Error(), `enqueue job 2 of 2, "b": args must be a JSON object`) {
		t.Errorf("got %v, want the second job named", err)
	}
	err = pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		_, err := client.EnqueueManyTx(t.Context(), tx, []engine.Insert{{Name: "a"}, {Name: "b"}})
		return errors.Join(err, errors.New("changed my mind"))
	})
	if err == nil || err.Error() != "changed my mind" {
		t.Errorf("enqueue in a transaction: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := client.EnqueueMany(ctx, []engine.Insert{{Name: "a"}}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v, want context.Canceled", err)
	}
	if n := countJobs(t, pool); n != 0 {
		t.Errorf("%d rows were stored", n)
	}
}
