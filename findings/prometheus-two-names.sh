#!/bin/sh
# What meets: client_golang 1.25.0, whose registry takes UTF-8 names by default,
# and a scraper that asks for the classic names (no Accept header, as curl or a
# Prometheus before 3.0), read by prometheus/common's own text parser.
#
# Behaviour: `soniq.jobs` (as OpenTelemetry names it) and `soniq_jobs` are two
# metrics to the registry; so are the labels `job.name` and `job_name` of one
# metric. Dots become underscores as the page is written, nobody looks again, and
# the page has the same HELP line twice, or a series with the same label twice.
# Both answers are 200 and the Go parser refuses both. To a scraper that accepts
# UTF-8 the same registry gives a page that parses.
#
# Why it matters: a queue exports soniq_jobs and a program that embeds it adds
# soniq.jobs through a bridge. Each tool built on that parser then refuses the whole
# page, the program's other metrics with it; the program's tests register both
# without an error, and a scraper that accepts UTF-8 sees nothing wrong.
. "$(dirname "$0")/lib.sh"

go_with github.com/prometheus/client_golang@v1.25.0
cat >go/main.go <<'GO'
package main

import (
	"fmt"
	"net/http/httptest"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

func scrape(name, accept string, registry *prometheus.Registry) {
	request := httptest.NewRequest("GET", "/metrics", nil)
	request.Header.Set("Accept", accept)
	page := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(page, request)
	parser := expfmt.NewTextParser(model.UTF8Validation)
	_, err := parser.TextToMetricFamilies(strings.NewReader(page.Body.String()))
	fmt.Println(name, page.Code, err)
}

func main() {
	names := prometheus.NewRegistry()
	names.MustRegister(
		prometheus.NewGauge(prometheus.GaugeOpts{Name: "soniq.jobs", Help: "from a bridge"}),
		prometheus.NewGauge(prometheus.GaugeOpts{Name: "soniq_jobs", Help: "from the queue"}))
	labels := prometheus.NewRegistry()
	depth := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "depth"}, []string{"job.name", "job_name"})
	depth.WithLabelValues("a", "b").Set(1)
	labels.MustRegister(depth)

	scrape("names, classic:", "", names)
	scrape("names, UTF-8:", "text/plain;version=1.0.0;escaping=allow-utf-8", names)
	scrape("labels, classic:", "", labels)
	scrape("labels, UTF-8:", "text/plain;version=1.0.0;escaping=allow-utf-8", labels)
}
GO
go_run >out
line() { sed -n "$1p" out; }

expect "two metrics" \
	'names, classic: 200 text format parsing error in line 4: second HELP line for metric name "soniq_jobs"' "$(line 1)"
expect "two metrics" "names, UTF-8: 200 <nil>" "$(line 2)"
expect "two labels" \
	'labels, classic: 200 text format parsing error in line 3: duplicate label names for metric "depth"' "$(line 3)"
expect "two labels" "labels, UTF-8: 200 <nil>" "$(line 4)"
finish
