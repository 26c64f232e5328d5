package telemetry_test

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"soniq/internal/testdb"
	"soniq/internal/testkit"
	"soniq/telemetry"
	"soniq/telemetry/prom"
)

func TestMain(m *testing.M) { testdb.Main(m) }

var exec = testkit.Exec

func newExporter(t testing.TB) *prom.Exporter {
	t.Helper()
	e, err := prom.New(prom.Config{WithoutProcess: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Shutdown(t.Context()) })
	return e
}

// newFleet returns a fleet's metrics of the pool, and what serves them.
func newFleet(t testing.TB, pool *pgxpool.Pool, config telemetry.FleetConfig) (*telemetry.Fleet, *prom.Exporter) {
	t.Helper()
	e := newExporter(t)
	config.MeterProvider = e.MeterProvider()
	f, err := telemetry.NewFleet(pool, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f, e
}

// scraped are the samples of a scrape, by 'name{label="value",...}' with the labels sorted.
type scraped map[string]float64

// scrape asks a handler over HTTP, reads the answer as Prometheus does, and lints it.
func scrape(t testing.TB, e *prom.Exporter) scraped {
	t.Helper()
	server := httptest.NewServer(e.Handler(nil))
	defer server.Close()
	response, err := server.Client().Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var text bytes.Buffer
	if _, err := text.ReadFrom(response.Body); err != nil || response.StatusCode != http.StatusOK {
		t.Fatal(response.Status, err)
	}
	return parse(t, text.String())
}

func parse(t testing.TB, text string) scraped {
	t.Helper()
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("promlint: %v, %v", problems, err)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	all := scraped{}
	for name, family := range families {
		for _, m := range family.Metric {
			add := func(suffix string, v float64) { all[name+suffix+labels(m)] = v }
			switch {
			case m.Counter != nil:
				add("", m.Counter.GetValue())
			case m.Gauge != nil:
				add("", m.Gauge.GetValue())
			case m.Histogram != nil:
				add("_count", float64(m.Histogram.GetSampleCount()))
				add("_sum", m.Histogram.GetSampleSum())
			}
		}
	}
	return all
}

func labels(m *dto.Metric) string {
	var pairs []string
	for _, l := range m.Label {
		pairs = append(pairs, l.GetName()+`="`+l.GetValue()+`"`)
	}
	if len(pairs) == 0 {
		return ""
	}
	return "{" + strings.Join(pairs, ",") + "}"
}

// want compares some samples.
func (s scraped) want(t testing.TB, samples map[string]float64) {
	t.Helper()
	for name, value := range samples {
		if got, ok := s[name]; !ok || got != value {
			t.Errorf("%s is %v (there: %t), want %v", name, got, ok, value)
		}
	}
	if t.Failed() {
		for name, value := range s {
			if !strings.Contains(name, "_bucket") {
				t.Log(name, value)
			}
		}
	}
}
