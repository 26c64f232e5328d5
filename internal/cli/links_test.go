package cli_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// links are the modules that a program of these packages links, by their
// paths; our own and the standard library are not among them.
func links(t *testing.T, packages ...string) []string {
	t.Helper()
	const format = `{{with .Module}}{{if not .Main}}{{.Path}}{{end}}{{end}}`
	cmd := exec.Command("go", append([]string{"list", "-deps", "-f", format}, packages...)...)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	modules := strings.Fields(string(out))
	slices.Sort(modules)
	return slices.Compact(modules)
}

// A new module is a decision: who looks after it, and what it brings. It is
// taken here, too.
func TestLinks_modules_areTheChosenOnes(t *testing.T) {
	t.Parallel()
	// What a program gets that imports the engine, and all that works with it.
	engine := []string{
		"github.com/cenkalti/backoff/v5",
		"github.com/google/uuid",
		"github.com/jackc/pgpassfile",
		"github.com/jackc/pgservicefile",
		"github.com/jackc/pgx/v5",
		"github.com/jackc/pgxlisten",
		"github.com/jackc/puddle/v2",
		"golang.org/x/sync",
		"golang.org/x/sys",
		"golang.org/x/text",
		"golang.org/x/time",
	}
	all := append(slices.Clone(engine),
		"github.com/alecthomas/kong",
		"github.com/coreos/go-systemd/v22",
		"golang.org/x/crypto/x509roots/fallback",
		"github.com/lmittmann/tint",
		"github.com/ulikunitz/xz",
		"go.yaml.in/yaml/v3",
		"golang.org/x/term",
	)
	// OpenTelemetry's API, which libraries are to use; its SDK, its exporter for
	// Prometheus, which brings Prometheus's own client, and the one for traces.
	api := []string{
		"github.com/cespare/xxhash/v2", "github.com/go-logr/logr", "github.com/go-logr/stdr",
		"go.opentelemetry.io/auto/sdk", "go.opentelemetry.io/otel", "go.opentelemetry.io/otel/log", "go.opentelemetry.io/otel/metric", "go.opentelemetry.io/otel/trace",
	}
	all = append(append(all, api...),
		"github.com/beorn7/perks", "github.com/munnerz/goautoneg", "github.com/prometheus/client_golang", "github.com/prometheus/client_model",
		"github.com/prometheus/common", "github.com/prometheus/otlptranslator", "github.com/prometheus/procfs",
		"go.opentelemetry.io/otel/exporters/otlp/otlptrace", "go.opentelemetry.io/proto/otlp",
		"go.opentelemetry.io/otel/exporters/prometheus", "go.opentelemetry.io/otel/sdk", "go.opentelemetry.io/otel/sdk/metric",
		"google.golang.org/protobuf",
	)
	slices.Sort(all)
	metrics := append(slices.Clone(engine), api...)
	slices.Sort(metrics)
	for _, test := range []struct {
		what     string
		packages []string
		want     []string
	}{
		{"a program that imports the engine", []string{"soniq/engine"}, engine},
		{"a program with metrics and a meter provider of its own", []string{"soniq/telemetry"}, metrics},
		{"the program soniq", []string{"soniq/cmd/soniq"}, all},
	} {
		got := links(t, test.packages...)
		if !slices.Equal(got, test.want) {
			t.Errorf("%s links\n%s\nwant\n%s", test.what, strings.Join(got, "\n"), strings.Join(test.want, "\n"))
		}
		// Nobody looks after these, or what they do is done here.
		for _, gone := range []string{
			"github.com/lib/pq", "github.com/xi2/xz", "github.com/mitchellh/colorstring", "github.com/fergusstrange/embedded-postgres",
		} {
			if slices.Contains(got, gone) {
				t.Errorf("%s links %s", test.what, gone)
			}
		}
	}
}
