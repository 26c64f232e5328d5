package telemetry_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/deadletter/classify"
	"soniq/engine"
	"soniq/hooks"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
	"soniq/telemetry"
	"soniq/telemetry/prom"
)

func newMetrics(t testing.TB, e *prom.Exporter, config telemetry.MetricsConfig) *telemetry.Metrics {
	t.Helper()
	config.MeterProvider = e.MeterProvider()
	m, err := telemetry.NewMetrics(config)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// work runs a worker until the test ends.
func work(t testing.TB, pool *pgxpool.Pool, reg *engine.Registry, config engine.WorkerConfig) {
	t.Helper()
	config.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	w, err := engine.NewWorker(pool, reg, config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// A real worker, scraped over HTTP: what Python Soniq counts, under its names, and what it
// does not.
func TestMetrics_worker_isCountedAndTimed(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	e := newExporter(t)
	m := newMetrics(t, e, telemetry.MetricsConfig{})
	reg := engine.NewRegistry()
	inHandler, goOn := make(chan struct{}), make(chan struct{})
	handle := func(name string, do func(job *engine.Job) error) {
		engine.HandleRaw(reg, name, func(_ context.Context, job *engine.Job) (any, error) { return nil, do(job) }, engine.Queue("q"))
	}
	handle("good", func(*engine.Job) error { return nil })
	handle("flaky", func(job *engine.Job) error {
		if job.Attempts == 1 {
			return engine.RetryAfter(time.Millisecond, errors.New("again"))
		}
		return nil
	})
	handle("bad", func(*engine.Job) error { return engine.Permanent(errors.New("token=hunter2")) })
	handle("slow", func(*engine.Job) error { close(inHandler); <-goOn; return nil })
	client, err := engine.NewClient(pool, engine.ClientConfig{Registry: reg})
	if err != nil {
		t.Fatal(err)
	}
	work(t, pool, reg, engine.WorkerConfig{Tracers: []engine.Tracer{m}})
	eventually.True(t, "the listener", func() bool { return scrape(t, e)["soniq_listener_up"] == 1 })
	for _, name := range []string{"good", "good", "flaky", "bad", "slow"} {
		if _, err := client.Enqueue(t.Context(), name, map[string]string{"password": "hunter2"}); err != nil {
			t.Fatal(err)
		}
	}
	<-inHandler
	eventually.True(t, "the slow job to be all that is in progress", func() bool {
		s := scrape(t, e)
		return s[`soniq_jobs_in_progress{job_name="slow",queue="q"}`] == 1 && s[`soniq_jobs_in_progress{job_name="good",queue="q"}`] == 0
	})
	close(goOn)
	var s scraped
	eventually.True(t, "all to be done", func() bool {
		s = scrape(t, e)
		return s[`soniq_jobs_completed_total{job_name="slow",queue="q",status="done"}`] == 1 && s[`soniq_jobs_completed_total{job_name="flaky",queue="q",status="done"}`] == 1 &&
			s[`soniq_jobs_completed_total{job_name="bad",queue="q",status="dead_letter"}`] == 1 && s[`soniq_jobs_completed_total{job_name="good",queue="q",status="done"}`] == 2
	})
	s.want(t, map[string]float64{
		`soniq_jobs_started_total{job_name="good",queue="q"}`: 2, `soniq_jobs_started_total{job_name="flaky",queue="q"}`: 2,
		`soniq_jobs_completed_total{job_name="flaky",queue="q",status="failed"}`:              1,
		`soniq_job_duration_seconds_count{job_name="good",queue="q",status="done"}`:           2,
		`soniq_job_duration_seconds_count{job_name="bad",queue="q",status="dead_letter"}`:     1,
		`soniq_job_wait_seconds_count{job_name="flaky",queue="q"}`:                            2,
		`soniq_job_attempts_sum{job_name="flaky",queue="q"}`:                                  2,
		`soniq_jobs_dead_lettered_total{job_name="bad",queue="q",reason="permanent_failure"}`: 1,
		`soniq_jobs_in_progress{job_name="slow",queue="q"}`:                                   0,
		`soniq_job_attempts_count{job_name="good",queue="q"}`:                                 2,
		`soniq_job_duration_seconds_count{job_name="flaky",queue="q",status="failed"}`:        1,
	})
	for _, name := range []string{
		`soniq_claims_total{result="ok"}`, `soniq_claims_total{result="empty"}`, "soniq_claim_jobs_count", "soniq_claim_duration_seconds_count",
		`soniq_outcome_writes_total{result="ok"}`, "soniq_outcome_write_jobs_count", "soniq_outcome_write_duration_seconds_count", "soniq_worker_wakes_total",
	} {
		if s[name] < 1 {
			t.Errorf("%s is %v", name, s[name])
		}
	}
	if jobs := s["soniq_claim_jobs_sum"]; jobs != 6 {
		t.Errorf("claims have brought %v jobs, want 6", jobs)
	}
	for name := range s {
		if strings.Contains(name, "hunter2") {
			t.Errorf("a secret is in %s", name)
		}
	}
}

// What is hard to bring about is told by hand.
func TestMetrics_rareEvents_areCounted(t *testing.T) {
	t.Parallel()
	e := newExporter(t)
	m := newMetrics(t, e, telemetry.MetricsConfig{})
	ctx := t.Context()
	job := &engine.Job{ID: uuid.New(), Queue: "q", Name: "n", Attempts: 3, UpdatedAt: time.Unix(100, 0), CreatedAt: time.Unix(10, 0), ScheduledAt: new(time.Unix(70, 0))}
	m.TraceAttemptStart(ctx, job)
	for _, kind := range []engine.OutcomeKind{engine.OutcomeLost, engine.OutcomeReleased, engine.OutcomeCancelled, engine.OutcomeSnooze} {
		m.Settled(ctx, engine.Outcome{Job: job, Kind: kind})
	}
	m.TraceClaim(ctx, engine.ClaimTrace{Err: errors.New("x")})
	m.TraceWrite(ctx, engine.WriteTrace{Err: errors.New("x"), Outcomes: 5})
	m.TraceWake(ctx, 0)
	m.TraceWake(ctx, 2)
	m.TraceListening(false)
	for _, kind := range []engine.OutcomeKind{engine.OutcomeRetry, engine.OutcomeReleased, engine.OutcomeDeadLetter, ""} {
		m.TraceRecovery(ctx, engine.RecoveryTrace{Queue: "q", JobName: "n", Outcome: kind})
	}
	want := map[string]float64{
		`soniq_job_wait_seconds_sum{job_name="n",queue="q"}`: 30, `soniq_claims_lost_total{job_name="n",queue="q"}`: 1,
		`soniq_claims_total{result="error"}`: 1, `soniq_outcome_writes_total{result="error"}`: 1, "soniq_claim_duration_seconds_count": 1,
		"soniq_worker_wakes_total": 2, "soniq_worker_spurious_wakes_total": 1, "soniq_listener_up": 0,
	}
	for _, status := range []string{"lost", "released", "cancelled", "snoozed"} {
		want[`soniq_jobs_completed_total{job_name="n",queue="q",status="`+status+`"}`] = 1
	}
	for _, outcome := range []string{"queued", "released", "dead_letter", "written"} {
		want[`soniq_jobs_recovered_total{job_name="n",outcome="`+outcome+`",queue="q"}`] = 1
	}
	s := scrape(t, e)
	s.want(t, want)
	// What brought nothing says nothing about sizes.
	if _, ok := s["soniq_claim_jobs_count"]; ok {
		t.Error("a failed claim has a size")
	}
}

func TestMetrics_moreJobsThanItHas_areOther(t *testing.T) {
	t.Parallel()
	e := newExporter(t)
	log := &testkit.Log{}
	m := newMetrics(t, e, telemetry.MetricsConfig{MaxJobs: 2, Logger: log.Logger(0)})
	for _, name := range []string{"a", "b", "c", "d", "a", "c"} {
		job := &engine.Job{Queue: "q", Name: name}
		m.TraceAttemptStart(t.Context(), job)
		m.Settled(t.Context(), engine.Outcome{Job: job, Kind: engine.OutcomeDeadLetter, Verdict: classify.Verdict{Reason: classify.Timeout}})
		m.TraceDeliveryEnd(t.Context(), hooks.DeliveryTrace{Delivery: &hooks.Delivery{Hook: name}, Outcome: hooks.DeliveryDelivered})
	}
	scrape(t, e).want(t, map[string]float64{
		`soniq_jobs_started_total{job_name="a",queue="q"}`: 2, `soniq_jobs_started_total{job_name="b",queue="q"}`: 1,
		`soniq_jobs_started_total{job_name="other",queue="other"}`:                        3,
		`soniq_jobs_dead_lettered_total{job_name="other",queue="other",reason="timeout"}`: 3,
		`soniq_hook_deliveries_total{hook="other",outcome="delivered"}`:                   3,
	})
	if n := strings.Count(log.String(), "count together as 'other'"); n != 2 {
		t.Errorf("said %d times, want once for jobs and once for hooks:\n%s", n, log)
	}
	if _, err := telemetry.NewMetrics(telemetry.MetricsConfig{MaxJobs: -1}); err == nil {
		t.Error("a negative MaxJobs is taken")
	}
}

// What a dispatcher sends is counted by how it ended.
func TestMetrics_dispatcher_deliveriesAreCounted(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	e := newExporter(t)
	m := newMetrics(t, e, telemetry.MetricsConfig{})
	status := http.StatusOK
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/bad":
			w.WriteHeader(http.StatusInternalServerError)
		case "/gone":
			w.WriteHeader(http.StatusNotFound)
		default:
			w.WriteHeader(status)
		}
	}))
	defer receiver.Close()
	d, err := hooks.NewDispatcher(pool, hooks.Config{Tracers: []hooks.Tracer{m}, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	var specs []hooks.Spec
	for _, name := range []string{"good", "bad"} {
		specs = append(specs, hooks.Spec{Name: name, Kind: hooks.Webhook, URL: receiver.URL + "/" + name, Allow: []string{"127.0.0.0/8"}})
	}
	if err := d.Declare(t.Context(), specs...); err != nil {
		t.Fatal(err)
	}
	reg := engine.NewRegistry()
	engine.HandleRaw(reg, "dies", func(context.Context, *engine.Job) (any, error) { return nil, engine.Permanent(errors.New("no")) })
	work(t, pool, reg, engine.WorkerConfig{Services: []engine.BackgroundService{d}})
	client, err := engine.NewClient(pool, engine.ClientConfig{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Enqueue(t.Context(), "dies", nil); err != nil {
		t.Fatal(err)
	}
	eventually.True(t, "both deliveries", func() bool {
		s := scrape(t, e)
		return s[`soniq_hook_deliveries_total{hook="good",outcome="delivered"}`] == 1 && s[`soniq_hook_deliveries_total{hook="bad",outcome="retried"}`] == 1 &&
			s[`soniq_hook_delivery_duration_seconds_count{hook="good",outcome="delivered"}`] == 1
	})
}

// A mixed fleet has dashboards for the names of Python Soniq: they and their labels and
// buckets are here too.
func TestMetrics_pythonsNames_areTheSame(t *testing.T) {
	t.Parallel()
	e := newExporter(t)
	m := newMetrics(t, e, telemetry.MetricsConfig{})
	job := &engine.Job{Queue: "q", Name: "n"}
	m.TraceAttemptStart(t.Context(), job)
	for _, kind := range []engine.OutcomeKind{engine.OutcomeDone, engine.OutcomeRetry, engine.OutcomeDeadLetter, engine.OutcomeSnooze} {
		m.Settled(t.Context(), engine.Outcome{Job: job, Kind: kind, Verdict: classify.Verdict{Reason: classify.Timeout}})
	}
	families, err := e.Registry().Gather()
	if err != nil {
		t.Fatal(err)
	}
	type metric struct {
		kind   string
		labels []string
	}
	found, bounds, status := map[string]metric{}, []float64{}, []string{}
	for _, f := range families {
		var names []string
		for _, l := range f.Metric[0].Label {
			names = append(names, l.GetName())
		}
		found[f.GetName()] = metric{f.GetType().String(), names}
		for _, one := range f.Metric {
			if f.GetName() == "soniq_job_duration_seconds" {
				bounds = bounds[:0]
				for _, b := range one.Histogram.Bucket {
					bounds = append(bounds, b.GetUpperBound())
				}
			}
			if f.GetName() == "soniq_jobs_completed_total" {
				for _, l := range one.Label {
					if l.GetName() == "status" {
						status = append(status, l.GetValue())
					}
				}
			}
		}
	}
	for name, want := range map[string]metric{
		"soniq_jobs_started_total":   {"COUNTER", []string{"job_name", "queue"}},
		"soniq_jobs_completed_total": {"COUNTER", []string{"job_name", "queue", "status"}},
		"soniq_job_duration_seconds": {"HISTOGRAM", []string{"job_name", "queue", "status"}},
		"soniq_jobs_in_progress":     {"GAUGE", []string{"job_name", "queue"}},
	} {
		if got := found[name]; got.kind != want.kind || !slices.Equal(got.labels, want.labels) {
			t.Errorf("%s is %v, Python's is %v", name, got, want)
		}
	}
	slices.Sort(status)
	if want := []string{"dead_letter", "done", "failed", "snoozed"}; !slices.Equal(status, want) {
		t.Errorf("statuses %q, Python's are %q", status, want)
	}
	for _, bound := range []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600} {
		if !slices.Contains(bounds, bound) {
			t.Errorf("there is no bucket of %v s, which Python has", bound)
		}
	}
	if !slices.Contains(bounds, .001) || !slices.Contains(bounds, 3600) {
		t.Errorf("the buckets %v don't go from 1 ms to 1 h", bounds)
	}
}

// docs/metrics.md has each metric with its labels, and no other.
func TestMetrics_docs_listEachOne(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `(soniq_\\w+)` \\| (\\w+) \\|([^|]*)\\|").FindAllStringSubmatch(string(page), -1) {
		labels := regexp.MustCompile(`\w+`).FindAllString(row[3], -1)
		slices.Sort(labels)
		documented[row[1]] = row[2] + " " + strings.Join(labels, ",")
	}
	pool := testdb.New(t)
	exec(t, pool, "set session_replication_role = replica;"+filled+"; reset session_replication_role; analyze soniq_jobs")
	_, e := newFleet(t, pool, telemetry.FleetConfig{})
	m := newMetrics(t, e, telemetry.MetricsConfig{})
	job := &engine.Job{Queue: "q", Name: "n"}
	m.TraceAttemptStart(t.Context(), job)
	for _, kind := range []engine.OutcomeKind{engine.OutcomeDeadLetter, engine.OutcomeLost} {
		m.Settled(t.Context(), engine.Outcome{Job: job, Kind: kind, Verdict: classify.Verdict{Reason: classify.Timeout}})
	}
	m.TraceClaim(t.Context(), engine.ClaimTrace{})
	m.TraceWrite(t.Context(), engine.WriteTrace{})
	m.TraceWake(t.Context(), 0)
	m.TraceListening(true)
	m.TraceRecovery(t.Context(), engine.RecoveryTrace{})
	m.TraceDeliveryEnd(t.Context(), hooks.DeliveryTrace{Delivery: &hooks.Delivery{}, Outcome: hooks.DeliveryFailed})
	families, err := e.Registry().Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		var labels []string
		for _, l := range f.Metric[0].Label {
			labels = append(labels, l.GetName())
		}
		is := strings.ToLower(f.GetType().String()) + " " + strings.Join(labels, ",")
		if said, ok := documented[f.GetName()]; !ok || said != is {
			t.Errorf("docs/metrics.md says of %s %q (there: %t); it is %q", f.GetName(), said, ok, is)
		}
		delete(documented, f.GetName())
	}
	for name := range documented {
		t.Errorf("docs/metrics.md has %s, which does not exist", name)
	}
}

// A program can leave the metrics again: nothing of them goes on.
func TestMetrics_closed_leavesNothingBehind(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	e := newExporter(t)
	f, err := telemetry.NewFleet(pool, telemetry.FleetConfig{MeterProvider: e.MeterProvider()})
	if err != nil {
		t.Fatal(err)
	}
	if scrape(t, e)["soniq_database_up"] != 1 {
		t.Error("not up")
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if _, ok := scrape(t, e)["soniq_database_up"]; ok {
		t.Error("a closed fleet still has gauges")
	}
}
