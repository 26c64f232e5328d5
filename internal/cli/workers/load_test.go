package workers

import (
	"io"
	"reflect"
	"testing"
	"time"

	"github.com/alecthomas/kong"

	"soniq/deadletter"
	"soniq/deadletter/classify"
	"soniq/internal/cli/app"
	"soniq/internal/testkit"
	"soniq/internal/workerfile"
)

// loaded is what 'soniq worker' makes of its flags.
func loaded(t *testing.T, flags ...string) *served {
	t.Helper()
	var c runCmd
	parser, err := kong.New(&c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parser.Parse(flags); err != nil {
		t.Fatal(err)
	}
	a := app.New(t.Context(), app.Process{Stdout: io.Discard, Stderr: io.Discard, Getenv: func(string) string { return "" }})
	s, err := c.load(a)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// In both 0 is what it says, and a flag beats the file.
func TestWorker_warnings_flagsBeatTheFile(t *testing.T) {
	t.Parallel()
	const file = "warn_dead: 50\nwarn_dead_age: 2d\njobs: {a: {exec: x}}\n"
	for _, test := range []struct {
		file string
		args []string
		dead int
		age  time.Duration
	}{
		{file: "jobs: {a: {exec: x}}\n"},
		{file: file, dead: 50, age: 48 * time.Hour},
		{file: file, args: []string{"--warn-dead", "7", "--warn-dead-age", "1w"}, dead: 7, age: 7 * 24 * time.Hour},
		{file: file, args: []string{"--warn-dead", "0", "--warn-dead-age", "0"}, dead: -1},
		{file: "warn_dead: 0\nwarn_dead_age: 0\njobs: {a: {exec: x}}\n", dead: -1},
	} {
		s := loaded(t, append([]string{"--config", testkit.ConfigFile(t, test.file)}, test.args...)...)
		if s.config.WarnDead != test.dead || s.config.WarnDeadAge != test.age {
			t.Errorf("%q %q: %d, %s", test.file, test.args, s.config.WarnDead, s.config.WarnDeadAge)
		}
	}
}

func TestWorker_limits_flagsBeatTheFile(t *testing.T) {
	t.Parallel()
	const file = "max_args_size: 1MiB\nmax_args_memory: 64MiB\nmax_attempts_limit: 50\njobs: {a: {exec: x}}\n"
	for _, test := range []struct {
		file     string
		args     []string
		size     int
		memory   int64
		attempts int
	}{
		{file: "jobs: {a: {exec: x}}\n"},
		{file: file, size: 1 << 20, memory: 64 << 20, attempts: 50},
		{file: file, args: []string{"--max-args-size", "1.5kB", "--max-args-memory", "2000", "--max-attempts-limit", "0"}, size: 1500, memory: 2000, attempts: -1},
	} {
		s := loaded(t, append([]string{"--config", testkit.ConfigFile(t, test.file)}, test.args...)...)
		if got := s.config; got.MaxArgsBytes != test.size || got.MaxArgsMemory != test.memory || got.MaxAttemptsLimit != test.attempts {
			t.Errorf("%q %q: %d, %d, %d", test.file, test.args, got.MaxArgsBytes, got.MaxArgsMemory, got.MaxAttemptsLimit)
		}
	}
}

func TestConfig_retention_isTheWorkersPolicy(t *testing.T) {
	t.Parallel()
	path := testkit.ConfigFile(t, `
retention:
- {queues: [payments, refunds], keep: forever}
- {reasons: [timeout], jobs: [a], keep: 7d}
- {state: resolved, keep: 36h}
- keep: 90d
jobs: {a: {exec: x}}
`)
	file, err := workerfile.Read(t.Context(), path, workerfile.Options{Jobs: true, Getenv: func(string) string { return "" }})
	if err != nil {
		t.Fatal(err)
	}
	config, err := (&runCmd{}).config(file)
	if err != nil {
		t.Fatal(err)
	}
	day := 24 * time.Hour
	want := []deadletter.Retention{
		{Filter: deadletter.Filter{Queues: []string{"payments", "refunds"}}},
		{Filter: deadletter.Filter{Reasons: []classify.Reason{"timeout"}, JobNames: []string{"a"}}, Keep: 7 * day},
		{Filter: deadletter.Filter{State: "resolved"}, Keep: 36 * time.Hour},
		{Keep: 90 * day},
	}
	if !reflect.DeepEqual(config.Retention, want) {
		t.Errorf("%+v, want %+v", config.Retention, want)
	}
}
