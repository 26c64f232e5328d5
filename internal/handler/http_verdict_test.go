package handler

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/deadletter/classify"
	"soniq/engine"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

// verdictRow is one row of the verdict table, and what must come of a job.
type verdictRow struct {
	handle   http.HandlerFunc
	url      string // in place of handle
	attempts int    // default 1, so that a failure is final
	timeout  time.Duration
	status   engine.JobStatus
	reason   classify.Reason
	error    string // the beginning
	says     string // anywhere in the error
	code     string
	result   string
	pause    time.Duration
}

func verdictRows(t *testing.T) map[string]verdictRow {
	done := func(handle http.HandlerFunc, result string) verdictRow {
		return verdictRow{handle: handle, status: engine.StatusDone, result: result}
	}
	dead := func(reason classify.Reason, attempts int, handle http.HandlerFunc, code int, text string) verdictRow {
		return verdictRow{
			handle: handle, attempts: attempts, status: engine.StatusDeadLetter, reason: reason,
			error: fmt.Sprintf("HTTP %d: %s", code, text), code: strconv.Itoa(code),
		}
	}
	lost := func(handle http.HandlerFunc, says string) verdictRow {
		return verdictRow{handle: handle, status: engine.StatusDeadLetter, reason: classify.MaxRetriesExceeded, error: "POST http", says: says}
	}
	late := func(handle http.HandlerFunc, text string) verdictRow {
		return verdictRow{handle: handle, timeout: 3 * time.Second, status: engine.StatusDeadLetter, reason: classify.Timeout, error: text}
	}
	snoozed := func(handle http.HandlerFunc, pause time.Duration) verdictRow {
		return verdictRow{handle: handle, status: engine.StatusQueued, pause: pause}
	}
	inOneHour := time.Now().Add(time.Hour).UTC().Format(http.TimeFormat)

	rows := map[string]verdictRow{
		"json":        done(answer(200, `{"a": [1, "é"]}`), `{"a": [1, "é"]}`),
		"number":      done(answer(201, " 42\n"), `42`),
		"any-type":    done(answer(299, `["ok"]`, "Content-Type", "text/html"), `["ok"]`),
		"empty":       done(answer(200, ""), ""),
		"blank":       done(answer(202, " \n"), ""),
		"no-content":  done(answer(204, ""), ""),
		"text":        done(answer(200, "all went well"), ""),
		"not-utf8":    done(answer(200, "[\"a\xff\"]"), ""),
		"nul":         done(answer(200, `["\u0000"]`), ""),
		"no-nul":      done(answer(200, `["\\u0000", "\u00e9"]`), `["\\u0000", "é"]`),
		"surrogates":  done(answer(200, `["\ud83d\ude00", "\ud83d"]`), `["😀", "`+"\ufffd"+`"]`),
		"early-hints": done(raw("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n7", false), `7`),

		"again": {handle: answer(500, "flaky"), attempts: 5, status: engine.StatusQueued, error: "HTTP 500: flaky"},

		"429-seconds": snoozed(answer(429, "slow down", "Retry-After", "3600"), time.Hour),
		"503-seconds": snoozed(answer(503, "", "Retry-After", "7200"), 2*time.Hour),
		"503-date":    snoozed(answer(503, "", "Retry-After", inOneHour), time.Hour),
		"429-for-years": snoozed(answer(429, "", "Retry-After", "99999999999999999999"),
			24*time.Hour),
		"503-nonsense": dead(classify.MaxRetriesExceeded, 1, answer(503, "", "Retry-After", "soon"), 503, "Service Unavailable"),
		// It means a pause with 429 and 503 only.
		"500-seconds": dead(classify.MaxRetriesExceeded, 1, answer(500, "", "Retry-After", "3600"), 500, "Internal Server Error"),

		"huge":     dead(classify.PermanentFailure, 5, answer(200, strings.Repeat("x", MaxResult+1)), 200, "the work was done, but the response is longer than 1048576 bytes"),
		"upgrade":  dead(classify.PermanentFailure, 5, raw("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", true), 101, "Switching Protocols"),
		"cut":      lost(raw("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"a\":", false), "read response: unexpected EOF"),
		"cut-500":  dead(classify.MaxRetriesExceeded, 1, raw("HTTP/1.1 500 Oops\r\nContent-Length: 100\r\n\r\nhalf a sent", false), 500, "half a sent"),
		"hung-up":  lost(raw("", false), "EOF"),
		"not-http": lost(raw("220 mail.example.com ESMTP\r\n", false), "malformed HTTP"),
		"refused": {
			url: "http://" + testkit.ClosedAddress(t), status: engine.StatusDeadLetter, reason: classify.MaxRetriesExceeded,
			error: "POST http://127.0.0.1:", says: "connection refused",
		},
		"unknown-ca": {
			url: tlsEndpoint(t), status: engine.StatusDeadLetter, reason: classify.MaxRetriesExceeded,
			error: "POST https://127.0.0.1:", says: "certificate signed by unknown authority",
		},
		"timeout":      late(hang(0, ""), "no response from http://127.0.0.1:"),
		"timeout-200":  late(hang(200, `{"a":`), "no whole response from http://127.0.0.1:"),
		"timeout-500":  late(hang(500, "overloaded"), "HTTP 500: overloaded"),
		"wrong-scheme": {url: strings.Replace(tlsEndpoint(t), "https:", "http:", 1), status: engine.StatusDeadLetter, reason: classify.InvalidArguments, error: "HTTP 400: Client sent an HTTP request to an HTTPS server."},
	}
	for reason, statuses := range map[classify.Reason][]int{
		classify.InvalidArguments:   {400, 422},
		classify.MaxRetriesExceeded: {401, 403, 404, 407, 408, 421, 425, 429, 500, 501, 502, 503, 504, 599, 600},
		classify.PermanentFailure:   {402, 405, 406, 409, 410, 411, 413, 415, 418, 423, 451, 499},
	} {
		attempts := 5
		if reason == classify.MaxRetriesExceeded {
			attempts = 1
		}
		for _, status := range statuses {
			rows[strconv.Itoa(status)] = dead(reason, attempts, answer(status, "sorry"), status, "sorry")
		}
	}
	for _, status := range []int{300, 301, 302, 303, 304, 305, 307, 308} {
		rows[strconv.Itoa(status)] = dead(classify.PermanentFailure, 5, answer(status, "", "Location", "/json"),
			status, http.StatusText(status)+"; redirects are not followed")
	}
	return rows
}

func tlsEndpoint(t *testing.T) string {
	t.Helper()
	s := unstartedEndpoint(t, answer(200, ""))
	s.StartTLS()
	return s.URL
}

const pauseSQL = `select extract(epoch from scheduled_at - now())::int from soniq_jobs where id = $1`

// The whole table, from enqueue to the row.
func TestHTTP_statusIsTheVerdict(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	rows := verdictRows(t)
	server := endpoint(t, func(w http.ResponseWriter, r *http.Request) {
		rows[strings.TrimPrefix(r.URL.Path, "/")].handle(w, r)
	})
	registry := engine.NewRegistry()
	client, err := engine.NewClient(pool, engine.ClientConfig{})
	if err != nil {
		t.Fatal(err)
	}
	ids := map[string]uuid.UUID{}
	for name, row := range rows {
		url := row.url
		if url == "" {
			url = server.URL + "/" + name
		}
		options := []engine.HandleOption{engine.Retry(engine.Delays{time.Hour})}
		if row.timeout > 0 {
			options = append(options, engine.Timeout(row.timeout))
		}
		engine.HandleRaw(registry, name, endpointHandler(t, HTTP{URL: url}).run, options...)
		enqueued, err := client.Enqueue(t.Context(), name, map[string]int{"n": 1}, engine.MaxAttempts(max(row.attempts, 1)))
		if err != nil {
			t.Fatal(err)
		}
		ids[name] = enqueued.ID
	}
	settled := runWorker(t, pool, registry, engine.WorkerConfig{Concurrency: len(rows), ResultTTL: time.Hour})
	for range rows {
		o := settled.next(t)
		row := rows[o.Job.Name]
		job, err := client.Job(t.Context(), ids[o.Job.Name])
		if err != nil {
			t.Fatal(err)
		}
		if job.Status != row.status || job.DeadLetterReason != row.reason {
			t.Errorf("%s: %s %s (%s), want %s %s", job.Name, job.Status, job.DeadLetterReason, job.LastError, row.status, row.reason)
		}
		if !strings.HasPrefix(job.LastError, row.error) || !strings.Contains(job.LastError, row.says) || row.error == "" && job.LastError != "" {
			t.Errorf("%s: error %q, want %q ... %q", job.Name, job.LastError, row.error, row.says)
		}
		if row.code != "" && o.Verdict.Code != row.code {
			t.Errorf("%s: code %q, want %q", job.Name, o.Verdict.Code, row.code)
		}
		if !testkit.SameJSON(t, job.Result, row.result) {
			t.Errorf("%s: result %s, want %s", job.Name, job.Result, row.result)
		}
		if row.pause > 0 {
			pause := time.Duration(testkit.Count(t, pool, pauseSQL, job.ID)) * time.Second
			if job.Attempts != 0 || pause > row.pause || pause < row.pause-testkit.Deadline {
				t.Errorf("%s: %d attempts charged, due in %s, want 0 and %s", job.Name, job.Attempts, pause, row.pause)
			}
		}
	}
}

// outcomes is an observer that passes on what it is told.
type outcomes chan engine.Outcome

func (o outcomes) Settled(_ context.Context, outcome engine.Outcome) { o <- outcome }

func (o outcomes) next(t *testing.T) engine.Outcome {
	t.Helper()
	select {
	case outcome := <-o:
		return outcome
	case <-time.After(testkit.Deadline):
		t.Fatal("no outcome")
		return engine.Outcome{}
	}
}

// runWorker runs a worker until the test ends.
func runWorker(t *testing.T, pool *pgxpool.Pool, registry *engine.Registry, config engine.WorkerConfig) outcomes {
	t.Helper()
	o := make(outcomes, 1000)
	config.Observer = o
	config.Logger = slog.New(slog.DiscardHandler)
	w, err := engine.NewWorker(pool, registry, config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run worker: %v", err)
		}
	})
	return o
}

func TestHTTP_pause_isNotCharged_andNeverAHotLoop(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	var calls atomic.Int32
	server := endpoint(t, func(w http.ResponseWriter, r *http.Request) {
		if calls.Add(1) == 1 {
			answer(503, "starting", "Retry-After", "0")(w, r)
			return
		}
		answer(200, strconv.Quote(r.Header.Get("Soniq-Attempt")))(w, r)
	})
	registry := engine.NewRegistry()
	engine.HandleRaw(registry, "j", endpointHandler(t, HTTP{URL: server.URL}).run)
	client, err := engine.NewClient(pool, engine.ClientConfig{})
	if err != nil {
		t.Fatal(err)
	}
	o := runWorker(t, pool, registry, engine.WorkerConfig{ResultTTL: time.Hour})
	enqueued, err := client.Enqueue(t.Context(), "j", map[string]int{}, engine.MaxAttempts(1))
	if err != nil {
		t.Fatal(err)
	}
	if first := o.next(t); first.Kind != engine.OutcomeSnooze || first.Delay != time.Second {
		t.Errorf("%s, %s", first.Kind, first.Delay)
	}
	if second := o.next(t); second.Kind != engine.OutcomeDone {
		t.Errorf("%s: %s", second.Kind, second.Verdict.Message)
	}
	job, err := client.Job(t.Context(), enqueued.ID)
	if err != nil {
		t.Fatal(err)
	}
	if job.Status != engine.StatusDone || job.Attempts != 1 || string(job.Result) != `"1"` {
		t.Errorf("%+v", job)
	}
}

func TestHTTP_retryAfter(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	for _, test := range []struct {
		value, date string
		want        time.Duration // 0: none
	}{
		{"120", "", 2 * time.Minute},
		{" 120 ", "", 2 * time.Minute},
		{"0", "", time.Second},
		{"86401", "", 24 * time.Hour},
		{"18446744073709551617", "", 24 * time.Hour},
		{"Wed, 04 Mar 2026 05:07:07 GMT", "", time.Minute},
		{"Wednesday, 04-Mar-26 05:07:07 GMT", "", time.Minute},
		{"Wed Mar  4 05:07:07 2026", "", time.Minute},
		{"Wed, 04 Mar 2026 05:00:00 GMT", "", time.Second},
		{"Thu, 04 Mar 2027 05:00:00 GMT", "", 24 * time.Hour},
		// The endpoint's clock is an hour ahead.
		{"Wed, 04 Mar 2026 06:07:07 GMT", "Wed, 04 Mar 2026 06:06:07 GMT", time.Minute},
		{"Wed, 04 Mar 2026 05:07:07 GMT", "whenever", time.Minute},
		{"", "", 0},
		{"-1", "", 0},
		{"1.5", "", 0},
		{"soon", "", 0},
		{"PT5M", "", 0},
	} {
		got, ok := retryAfter(http.Header{"Retry-After": {test.value}, "Date": {test.date}}, now)
		if got != test.want || ok != (test.want > 0) {
			t.Errorf("%q, %q: %s, %t, want %s", test.value, test.date, got, ok, test.want)
		}
	}
	if _, ok := retryAfter(http.Header{}, now); ok {
		t.Error("a pause that nobody asked for")
	}
}
