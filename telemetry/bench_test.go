package telemetry_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"soniq/engine"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
	"soniq/telemetry"
	"soniq/telemetry/otlp"
)

// counter closes done with the last of left outcomes.
type counter struct {
	left atomic.Int64
	done chan struct{}
}

func (c *counter) Settled(context.Context, engine.Outcome) {
	if c.left.Add(-1) == 0 {
		close(c.done)
	}
}

// BenchmarkBurnDown works off a backlog of jobs that do nothing, with metrics or traces and without,
// in turns, and reports the median of the pairs' ratios: of speed, and of the time on
// processors that this process takes; and of how much more of that a job takes. Only ratios of one
// run mean something.
//
//	go test ./telemetry -run '^$' -bench BurnDown -benchtime 6x
func BenchmarkBurnDown(b *testing.B) {
	pool := testdb.New(b)
	b.Run("metrics", func(b *testing.B) { burnDown(b, pool, metricsOf(b, pool)) })
	b.Run("traces", func(b *testing.B) { burnDown(b, pool, tracesOf(b, nil)) })
	b.Run("traces that are sent", func(b *testing.B) { burnDown(b, pool, sentTraces(b)) })
	b.Run("traces that are not sampled", func(b *testing.B) { burnDown(b, pool, tracesOf(b, sdktrace.NeverSample())) })
}

// tracesOf makes spans, which are batched and thrown away. Each job is in a trace.
func tracesOf(b testing.TB, sampler sdktrace.Sampler) *telemetry.Traces {
	options := []sdktrace.TracerProviderOption{sdktrace.WithBatcher(noExporter{})}
	if sampler != nil {
		options = append(options, sdktrace.WithSampler(sampler))
	}
	provider := sdktrace.NewTracerProvider(options...)
	b.Cleanup(func() { _ = provider.Shutdown(context.Background()) })
	return telemetry.NewTraces(telemetry.TracesConfig{TracerProvider: provider})
}

// sentTraces are sent as a worker sends them, to a collector in this process, whose time counts too.
func sentTraces(b *testing.B) engine.Tracer {
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
	b.Cleanup(collector.Close)
	sender, err := otlp.New(otlp.Config{Getenv: func(name string) string {
		return map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": collector.URL}[name]
	}})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = sender.Shutdown(context.Background()) })
	return telemetry.NewTraces(telemetry.TracesConfig{TracerProvider: sender.TracerProvider()})
}

// BenchmarkAttempt is what the spans of one attempt cost beside the attempt.
func BenchmarkAttempt(b *testing.B) {
	for name, sampler := range map[string]sdktrace.Sampler{"recorded": sdktrace.AlwaysSample(), "not sampled": sdktrace.NeverSample()} {
		b.Run(name, func(b *testing.B) {
			traces := tracesOf(b, sampler)
			job := &engine.Job{ID: uuid.New(), Queue: "q", Name: "n", Attempts: 1, MaxAttempts: 3, TraceContext: engine.NewTraceContext("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "")}
			b.ReportAllocs()
			used := processTime(b)
			for b.Loop() {
				attempt(b.Context(), traces, job)
			}
			b.ReportMetric(float64((processTime(b)-used).Nanoseconds())/float64(b.N), "cpu-ns/op")
		})
	}
}

// attempt is one, as a worker tells of it.
func attempt(ctx context.Context, traces *telemetry.Traces, job *engine.Job) engine.TraceContext {
	ctx = traces.TraceAttemptStart(ctx, job)
	c := traces.TraceContext(ctx)
	traces.TraceAttemptEnd(ctx, engine.Outcome{Job: job, Kind: engine.OutcomeDone})
	return c
}

type noExporter struct{}

func (noExporter) ExportSpans(context.Context, []sdktrace.ReadOnlySpan) error { return nil }
func (noExporter) Shutdown(context.Context) error                             { return nil }

func metricsOf(b *testing.B, pool *pgxpool.Pool) engine.Tracer {
	exporter := newExporter(b)
	m := newMetrics(b, exporter, telemetry.MetricsConfig{})
	if _, err := telemetry.NewFleet(pool, telemetry.FleetConfig{MeterProvider: exporter.MeterProvider()}); err != nil {
		b.Fatal(err)
	}
	return m
}

func burnDown(b *testing.B, pool *pgxpool.Pool, tracer engine.Tracer) {
	const jobs = 20_000
	once := func(config engine.WorkerConfig) (took, cpu time.Duration) {
		testkit.Exec(b, pool, fmt.Sprintf(`set session_replication_role = replica; truncate soniq_jobs;
			insert into soniq_jobs (id, job_name, args, trace_context)
			select gen_random_uuid(), 'n', '{}', '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01' from generate_series(1, %d);
			reset session_replication_role`, jobs))
		testkit.Exec(b, pool, `vacuum analyze soniq_jobs`)
		reg := engine.NewRegistry()
		engine.HandleRaw(reg, "n", func(context.Context, *engine.Job) (any, error) { return nil, nil })
		c := &counter{done: make(chan struct{})}
		c.left.Store(jobs)
		config.Concurrency, config.ResultTTL, config.Observer, config.Logger = 100, -1, c, slog.New(slog.DiscardHandler)
		w, err := engine.NewWorker(pool, reg, config)
		if err != nil {
			b.Fatal(err)
		}
		ctx, cancel := context.WithCancel(b.Context())
		defer cancel()
		began, used := time.Now(), processTime(b)
		ended := make(chan error, 1)
		go func() { ended <- w.Run(ctx) }()
		select {
		case <-c.done:
		case err := <-ended:
			b.Fatal(err)
		}
		took, cpu = time.Since(began), processTime(b)-used
		cancel()
		if err := <-ended; err != nil {
			b.Fatal(err)
		}
		return took, cpu
	}
	var speed, cpu, more []float64
	on, off := engine.WorkerConfig{Tracers: []engine.Tracer{tracer}}, engine.WorkerConfig{}
	once(off)
	for i := range b.N {
		first, second := off, on
		if i%2 == 1 {
			first, second = on, off
		}
		t1, c1 := once(first)
		t2, c2 := once(second)
		if i%2 == 1 {
			t1, c1, t2, c2 = t2, c2, t1, c1
		}
		speed, cpu = append(speed, float64(t1)/float64(t2)), append(cpu, float64(c2)/float64(c1))
		more = append(more, float64((c2-c1).Microseconds())/jobs)
	}
	slices.Sort(speed)
	slices.Sort(cpu)
	slices.Sort(more)
	b.ReportMetric(speed[len(speed)/2], "speed-on/off")
	b.ReportMetric(cpu[len(cpu)/2], "cpu-on/off")
	b.ReportMetric(more[len(more)/2], "cpu-µs-more/job")
}
