package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"soniq/deadletter"
	"soniq/deadletter/classify"
	"soniq/engine"
	"soniq/internal/cli/app"
	"soniq/internal/handler"
	"soniq/internal/input"
)

const testSecret = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5"

// writeConfig writes a configuration file into a folder of the test's own.
func writeConfig(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "soniq.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// mistakesIn are the mistakes in text, as 'line: text'.
func mistakesIn(t *testing.T, text string) []string {
	t.Helper()
	path := writeConfig(t, text)
	_, err := readConfig(t.Context(), path, configUse{jobs: true, hooks: true}, func(string) string { return "" })
	if err == nil {
		return nil
	}
	var wrong *configError
	if !errors.As(err, &wrong) {
		t.Fatalf("%q: %v", text, err)
	}
	lines := wrong.list()
	for i, line := range lines {
		lines[i] = strings.TrimPrefix(line, path+":")
	}
	return lines
}

// Each line of the file says what is told of it, '|' between two mistakes.
// Nothing tells a secret.
func TestConfig_everyMistake_namedByItsLine(t *testing.T) {
	t.Parallel()
	const file = `queues: [default, emails, emails, 3] # queues: "emails" stands there twice | queues must be text, not a number; put it in quotes
concurency: 3                        # unknown key "concurency"; did you mean "concurrency"?
concurrency: 0                       # concurrency must be from 1 to 10000, not 0
timeout: 30                          # timeout: 30 has no unit: write 30s, 30m or 30h
timeout: 5m                          # "timeout" stands in line 4 already
result_ttl: 5 minutes                # result_ttl must be a duration such as 90s, 5m or 1h30m (the units are ms, s, m and h), not "5 minutes"
shutdown_timeout: -5s                # shutdown_timeout must not be negative: -5s
unknown_grace:                       # unknown_grace has no value
<<: {a: b}                           # '<<' is not supported: write the keys out, or give one value an &anchor
nonsense_entirely: 1                 # unknown key "nonsense_entirely"; known are concurrency, hooks, jobs, max_args_memory, max_args_size, max_attempts_limit, queue_concurrency, queues, result_ttl, retention, shutdown_timeout, timeout, unknown_grace, warn_dead, warn_dead_age
queue_concurrency:
  emails: 0                          # queue_concurrency: emails must be from 1 to 10000, not 0
  other: 2                           # queue_concurrency: queue "other" is not among the queues of line 1
jobs:
  both:                              # both: has both exec and http; a job has one handler
    exec: a
    http: http://h/
  neither:                           # neither: has no handler: give it exec: COMMAND or http: URL
    timout: 3s                       # neither: unknown key "timout"; did you mean "timeout"?
  misnamed:
    command: a                       # misnamed: unknown key "command"; did you mean "exec"?
  short: exec:a                      # short: must be a mapping with exec: COMMAND or http: URL, not text
  exec:
    exec: 42                         # exec: exec must be text, not a number; put it in quotes
    queue: other                     # exec: queue "other" is not among the queues of line 1: its jobs would never be fetched
    max_attempts: 0                  # exec: max_attempts must be from 1 to 2147483647, not 0
    concurrency: 1.5                 # exec: concurrency must be a whole number, not "1.5"
    permanent_exit_codes:
    - 0                              # exec: permanent_exit_codes: 0 means done
    - 256                            # exec: permanent_exit_codes: 256 is no exit code: they are from 1 to 255
    - -1                             # exec: permanent_exit_codes: -1 is no exit code: they are from 1 to 255
    - 65                             # exec: permanent_exit_codes: 65 means invalid arguments already
    - 127                            # exec: permanent_exit_codes: 127 is the shell's own for a command that it can't run: a broken deployment must not bury jobs
    - three                          # exec: permanent_exit_codes must be a whole number, not "three"
    - 3
    - 3                              # exec: permanent_exit_codes: 3 stands there twice
    env:
      SONIQ_QUEUE: q                 # exec: env: SONIQ_QUEUE is set by the worker
      "A=B": c                       # exec: env: "A=B" can't be the name of a variable
      C: env:NO_SUCH_THING           # exec: env: C: the environment has no NO_SUCH_THING, or it is empty
      D: [d]                         # exec: env: D must be text, not a list
    dir: no/such/folder              # exec: dir: FOLDER/no/such/folder: no such file or directory
    secret: whsec_hunter2            # exec: secret: the secret must be base64 after whsec_, with the standard alphabet and padding | exec: secret is for http, not for exec
    retry: []                        # exec: retry is an empty list
  exec: {exec: a}                    # jobs: "exec" stands in line 23 already
  http:
    http: ftp://u:hunter2@h/         # http: http: the URL must begin with http:// or https://, not ftp://
    secret: env:NO_SUCH_SECRET       # http: secret: the environment has no NO_SUCH_SECRET, or it is empty
    headers:
      "not a name": hunter2          # http: headers: header "not a name": not a header name; use letters, digits and '-'
      Content-Length: "3"            # http: headers: header "Content-Length": set by soniq, and can't be changed
      X-One: a
      x-one: b                       # http: headers: "x-one" stands in line 52 already
      X-Two: 3                       # http: headers: X-Two must be text, not a number; put it in quotes
    dir: .                           # http: dir is for exec, not for http
    retry:                           # -
      base: 0s                       # http: retry: base must be longer than 0
      max: 10                        # http: retry: max: 10 has no unit: write 10s, 10m or 10h
      jitter: perhaps                # http: retry: jitter must be true or false, not "perhaps"
      step: 3                        # http: retry: unknown key "step"; known are base, jitter, max
  shrinking:
    exec: a
    retry: {base: 1m, max: 1s}       # shrinking: retry: max is 1s, below base, which is 1m0s
  scalar:
    exec: a
    retry: 5s                        # scalar: retry must be a list such as [1s, 10s, 1m], or {base: 1s, max: 1h, jitter: true}
  both-auths:                        # both-auths: header "Authorization": the URL has a user name, which becomes this header; remove one of the two
    http: http://u:hunter2@h/
    headers: {Authorization: hunter2}
  "": {exec: a}                      # a job's name must not be empty
  7: {exec: a}                       # jobs: a key must be text, not a number; put it in quotes
  blank: {exec: " "}                 # blank: exec must not be empty
  nul: {exec: "a\0b"}                # nul: exec must not contain a NUL byte
max_args_size: 16 apples             # max_args_size must be a size such as 65536, 512KiB, 16MiB or 1GB, not "16 apples"
max_args_memory: 0                   # max_args_memory must be a size such as 65536, 512KiB, 16MiB or 1GB, not "0"
max_attempts_limit: -1               # max_attempts_limit must be from 0 to 2147483647, not -1
warn_dead: -1                        # warn_dead must be from 0 to 1000000, not -1
retention:
- {queues: [payments], keep: forever}
- {reasons: [bad_luck], keep: 3d}    # retention: rule 2: reasons: unknown reason "bad_luck": want one of max_retries_exceeded, permanent_failure, job_not_found, invalid_arguments, timeout, manual_move
- {jobs: [], keep: 3d}               # retention: rule 3: jobs is an empty list
- {state: replaying, keep: 3d}       # retention: rule 4: state must be dead or resolved, not "replaying": what is being replayed is kept
- {queue: q, keep: 3d}               # retention: rule 5: unknown key "queue"; did you mean "queues"?
- {queues: [q]}                      # retention: rule 6: keep is missing: an age such as 30d, or forever
- {queues: [q], keep: 0}             # retention: rule 7: keep must be longer than 0, or forever
- {queues: [q], keep: long}          # retention: rule 8: keep must be an age such as 90m, 24h or 7d, not "long"
- {keep: 90d}                        # retention: rule 9: it picks every dead letter, so the rules after it decide nothing
- 30d                                # retention: rule 10 must be a mapping ('key: value' lines), not text
warn_dead_age: 3y                    # warn_dead_age must be an age such as 90m, 24h or 7d, not "3y"
`
	path := writeConfig(t, file)
	var want []string
	for i, line := range strings.Split(file, "\n") {
		if _, texts, found := strings.Cut(line, " # "); found && texts != "-" {
			for _, text := range strings.Split(texts, " | ") {
				want = append(want, fmt.Sprintf("%s:%d: %s", path, i+1, strings.ReplaceAll(text, "FOLDER", filepath.Dir(path))))
			}
		}
	}
	r := newShell(t, "").run("worker", "--config", path, "--check-config")
	wantCode(t, r, app.ExitUsage)
	got := strings.Split(strings.TrimSuffix(r.err, "\n"), "\n")
	last := fmt.Sprintf("soniq: %s has %d mistakes (see 'soniq worker --help')", path, len(want))
	if got[len(got)-1] != last {
		t.Errorf("last line %q, want %q", got[len(got)-1], last)
	}
	got = got[:len(got)-1]
	slices.Sort(got)
	slices.Sort(want)
	for _, line := range got {
		if !slices.Contains(want, line) {
			t.Errorf("unexpected: %s", line)
		}
	}
	for _, line := range want {
		if !slices.Contains(got, line) {
			t.Errorf("missing: %s", line)
		}
	}
	if strings.Contains(r.err+r.out, "hunter2") || r.out != "" {
		t.Errorf("stdout %q, or a secret was printed", r.out)
	}
}

func TestConfig_notYAML_namesTheLine(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][]string{
		"":                                   {"1: the file is empty"},
		"# a comment\n":                      {"1: the file is empty"},
		"---\n":                              {"1: the file is empty"},
		"a word\n":                           {"1: the file must be a mapping ('key: value' lines), not text"},
		"- a\n":                              {"1: the file must be a mapping ('key: value' lines), not a list"},
		"jobs:\n":                            {"1: jobs has no value"},
		"jobs: {}\n":                         {"1: jobs has no entries"},
		"jobs:\n\ta:\n\t\tb: c":              {"2: is indented with a tab; YAML wants spaces", "3: is indented with a tab; YAML wants spaces"},
		"timeout: 1s\n---\na: b":             {"2: a second document begins here; a file is one"},
		"timeout: 1s\n---\n":                 {"2: a second document begins here; a file is one"},
		"a: b\n---\nb: \"\\q\"\n":            {"3: not YAML: found unknown escape character"},
		"jobs:\n  a: {exec: x}\n   b: 1\n":   {"3: not YAML: did not find expected key"},
		"jobs:\n  a: {exec: b\n  c: d\n":     {"2: not YAML: did not find expected ',' or '}'"},
		"jobs:\n  a:\n    exec: echo a: b\n": {"3: not YAML: mapping values are not allowed in this context; a text that has a colon and a space in it needs quotes, or lines of its own after |"},
		"timeout: 1s\nqueues: *x\n":          {"2: not YAML: unknown anchor 'x' referenced"},
		"timeout: 1s\nresult_ttl: \xff\n":    {"2: is not valid UTF-8"},
		"timeout: 1s\n\x1b[2J: 1s\n":         {`2: has a control character ('\x1b')`},
		"timeout: 1s\nresult_ttl:\r 1s\n":    {`2: has a control character ('\r')`},
		"queues: [a]\njobs:\n  x: {exec: a, queue: b}\n":   {`3: x: queue "b" is not among the queues of line 1: its jobs would never be fetched`},
		"jobs: &a {a: *a}\n":                               {"1: the alias *a is part of what it stands for"},
		"jobs:\n  a:\n    exec: |\n      a\n      \ttab\n": nil,
		"jobs: {a: {exec: b}}\r\ntimeout: 1h\r\n":          nil,
		"\ufeff%YAML 1.1\n---\njobs: {a: {exec: b}}\n...":  nil,
	} {
		if got := mistakesIn(t, text); !slices.Equal(got, want) {
			t.Errorf("%q:\n got %q\nwant %q", text, got, want)
		}
	}
}

func TestConfig_unreadable_isOneLine(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for path, want := range map[string]string{
		filepath.Join(dir, "none.yaml"): "none.yaml: no such file or directory",
		dir:                             "is a directory",
		"/dev/zero":                     "is longer than 1048576 bytes",
		"":                              "--config is empty",
	} {
		for _, command := range [][]string{{"worker"}, {"worker", "run-once", "j"}, {"worker", "--check-config", "--json", "--handle", "j=exec:a"}} {
			r := newShell(t, "").run(append(command, "--config", path)...)
			wantCode(t, r, app.ExitUsage)
			wantIn(t, "stderr", r.err, want)
			checkComplaint(t, r)
		}
	}
}

// Everything that a file may hold, read back.
func TestConfig_wholeFile(t *testing.T) {
	t.Parallel()
	path := writeConfig(t, `
queues: [default, q]
concurrency: 7
queue_concurrency: {q: 3}
timeout: 0
result_ttl: 1h
shutdown_timeout: 90s
unknown_grace: 500ms
jobs:
  a:
    exec: ./run --x
    queue: q
    timeout: 1h30m
    max_attempts: 5
    retry: &delays [0s, 1m]
    concurrency: 2
    permanent_exit_codes: [3, 255]
    env: {PORT: 8080, FLAG: on, SECRET: env:SECRET}
    dir: .
  b:
    http: env:URL
    secret: env:SECRET
    headers: {Accept: application/json, Authorization: env:SECRET}
    retry: {base: 2s, max: 1m, jitter: false}
    timeout: 0s
  c: {exec: x, retry: *delays}
`)
	env := map[string]string{"URL": "https://h/x?y=z", "SECRET": testSecret}
	file, err := readConfig(t.Context(), path, configUse{jobs: true, hooks: true}, func(name string) string { return env[name] })
	if err != nil {
		t.Fatal(err)
	}
	want := &workerFile{
		path: path, queues: []string{"default", "q"}, concurrency: new(7), perQueue: map[string]int{"q": 3}, timeout: new(time.Duration(0)), resultTTL: new(time.Hour),
		shutdownTimeout: new(90 * time.Second), unknownGrace: new(500 * time.Millisecond),
		jobs: []handlerSpec{
			{
				name: "a", line: 10, queue: "q", timeout: new(90 * time.Minute), maxAttempts: new(5),
				retry: engine.Delays{0, time.Minute}, concurrency: new(2),
				Spec: handler.Spec{Exec: handler.Exec{
					Command: "./run --x", PermanentCodes: []int{3, 255}, Dir: filepath.Dir(path),
					Env: []string{"PORT=8080", "FLAG=on", "SECRET=" + testSecret},
				}},
			},
			{
				name: "b", line: 20, timeout: new(time.Duration(0)), retry: engine.Exponential{Base: 2 * time.Second, Max: time.Minute, NoJitter: true},
				Spec: handler.Spec{HTTP: handler.HTTP{
					URL: env["URL"], Reference: "env:URL", Secret: testSecret,
					Headers: map[string]string{"Accept": "application/json", "Authorization": testSecret},
				}},
			},
			{name: "c", line: 26, Spec: handler.Spec{Exec: handler.Exec{Command: "x"}}, retry: engine.Delays{0, time.Minute}},
		},
		requestSecrets: []string{"URL", "SECRET", "SECRET"},
	}
	for i := range max(len(file.jobs), len(want.jobs)) {
		if i >= len(file.jobs) || i >= len(want.jobs) || !reflect.DeepEqual(file.jobs[i], want.jobs[i]) {
			t.Errorf("job %d: got %#v, want %#v", i, file.jobs, want.jobs)
		}
	}
	file.jobs, want.jobs = nil, nil
	if !reflect.DeepEqual(file, want) {
		t.Errorf("got\n%#v\nwant\n%#v", file, want)
	}
}

func TestClosest(t *testing.T) {
	t.Parallel()
	known := []string{"concurrency", "exec", "http", "max_attempts", "queue", "retry", "timeout"}
	for word, want := range map[string]string{
		"maxAttempts": "max_attempts", "max-attempts": "max_attempts", "Timeout": "timeout", "timout": "timeout", "queues": "queue",
		"htpp": "http", "cmd": "exec", "URL": "http", "backoff": "retry", "x": "", "": "", "priority": "", "labels": "", "été": "",
	} {
		if got := closest(word, known); got != want {
			t.Errorf("closest(%q) = %q, want %q", word, got, want)
		}
	}
}

// manyAliases is a file of n jobs whose headers are the same, by an alias.
func manyAliases(n int) string {
	var b strings.Builder
	b.WriteString("jobs:\n  first:\n    http: http://h/\n    headers: &h\n")
	for i := range n {
		fmt.Fprintf(&b, "      h%d: v\n", i)
	}
	for i := range n {
		fmt.Fprintf(&b, "  j%d: {http: 'http://h/', headers: *h}\n", i)
	}
	return b.String()
}

// A file that is short, and means more than anybody wrote, is refused in one
// line that says where, before anything of it is read. These took minutes.
func TestConfig_tooMuch_isRefusedAtItsLine(t *testing.T) {
	t.Parallel()
	laughs := "a: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
	for i := range 20 {
		laughs += fmt.Sprintf("b%d: &a%d [*a%[3]d, *a%[3]d, *a%[3]d, *a%[3]d, *a%[3]d, *a%[3]d, *a%[3]d, *a%[3]d, *a%[3]d, *a%[3]d]\n", i, i+1, i)
	}
	chain := "a: &a0 [x]\n"
	for i := range 70 {
		chain += fmt.Sprintf("b%d: &a%d [*a%d]\n", i, i+1, i)
	}
	long := strings.Repeat("x", 500_000)
	for name, test := range map[string]struct{ text, want string }{
		"aliases of one mapping":   {manyAliases(10_000), "10008: the file has more than 100000 values, each *alias being written out"},
		"aliases of aliases":       {laughs, "5: the file has more than 100000 values, each *alias being written out"},
		"aliases of a long text":   {"a: &a " + long + "\nqueues:\n" + strings.Repeat("- *a\n", 20), "10: the file has more than 4194304 bytes of text, each *alias being written out"},
		"aliases of a long key":    {"queues: [&a " + long + "]\njobs:\n" + strings.Repeat("  *a : {exec: x}\n", 20), "10: the file has more than 4194304 bytes of text, each *alias being written out"},
		"an alias of itself":       {"queues: [a]\njobs: &a\n  x: *a\n", "3: the alias *a is part of what it stands for"},
		"a long list":              {"queues:\n" + strings.Repeat("- x\n", 100_001), "99999: the file has more than 100000 values, each *alias being written out"},
		"nested":                   {"queues:\n  " + strings.Repeat("[", 65) + strings.Repeat("]", 65), "2: it is nested deeper than 64"},
		"nested by aliases":        {chain, "63: it is nested deeper than 64"},
		"a long key":               {"jobs:\n  ? " + strings.Repeat("x", 2001) + "\n  : exec: a\n", "2: jobs: a key has 2001 bytes; 2000 are the most"},
		"nested too deep for YAML": {strings.Repeat("[", 20_000), "1: not YAML: exceeded max depth of 10000"},
	} {
		if got := mistakesIn(t, test.text); len(got) != 1 || got[0] != test.want {
			t.Errorf("%s: %.300q, want %q", name, got, test.want)
		}
	}
	if got := mistakesIn(t, manyAliases(200)); got != nil {
		t.Errorf("200 jobs with 200 headers of one alias: %q", got)
	}
	got := mistakesIn(t, strings.Repeat("x: y\n", 40_000))
	if len(got) != 101 || got[100] != "102: and 39900 more from here on" {
		t.Errorf("%d lines, the last one %q", len(got), got[len(got)-1])
	}
}

// Whatever a file holds, it is read or has mistakes at lines that it has.
func FuzzConfig(f *testing.F) {
	for _, text := range []string{
		"", "jobs:\n  a: {exec: b}\n", "jobs: &a {a: *a}\n", "a: [\n", "jobs:\n  a:\n\tb\n", "{a: b, ? [c] : d}", "!!binary a: b", "&a *a", "- \x00",
		"jobs: {a: {http: 'http://h', headers: {a: b}, secret: " + testSecret + "}}", "<<: *x", "timeout: 1e3", "? \n: \n",
		"hooks: {a: {webhook: 'http://h', headers: {a: b}, secret: env:X, allow: [&a 10.0.0.0/8, *a]}, b: {log: true, events: [x], tags: {a: b}}}",
		"hooks:\n  a: {exec: b, base_url: c}\n  ? [d]\n  : {slack: e}\n", manyAliases(2), strings.Repeat("[", 70), strings.Repeat("a: {", 70), strings.Repeat("x: y\n", 150),
	} {
		f.Add(text)
	}
	place := regexp.MustCompile(`^x\.yaml:(\d+): .`)
	f.Fuzz(func(t *testing.T, text string) {
		var wrong *configError
		// Reading ends in good time, whatever it is: a second is a thousand times
		// what the longest file takes.
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_, err := input.Await(ctx, func() (*workerFile, error) {
			return parseConfig("x.yaml", []byte(text), configUse{jobs: true, hooks: true}, func(string) string { return "" })
		})
		if err == nil {
			return
		}
		if !errors.As(err, &wrong) {
			t.Fatal(err)
		}
		most := strings.Count(text, "\n") + 1
		if len(wrong.mistakes) > maxMistakes {
			t.Errorf("%d mistakes", len(wrong.mistakes))
		}
		for _, m := range wrong.mistakes {
			if m.line < 1 || m.line > most {
				t.Errorf("line %d of %d: %s", m.line, most, m.text)
			}
		}
		for _, line := range wrong.list() {
			if !place.MatchString(line) {
				t.Errorf("no place: %q", line)
			}
		}
	})
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
		var out, notes stream
		a := app.New(t.Context(), newShell(t, "").world(&out, &notes))
		cmd, _, err := parse(a, append([]string{"worker", "--config", writeConfig(t, test.file)}, test.args...))
		if err != nil {
			t.Fatal(err)
		}
		c, _ := selected[*workerRunCmd](cmd)
		s, err := c.load(a)
		if err != nil {
			t.Fatal(err)
		}
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
		var out, notes stream
		a := app.New(t.Context(), newShell(t, "").world(&out, &notes))
		cmd, _, err := parse(a, append([]string{"worker", "--config", writeConfig(t, test.file)}, test.args...))
		if err != nil {
			t.Fatal(err)
		}
		c, _ := selected[*workerRunCmd](cmd)
		s, err := c.load(a)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.config; got.MaxArgsBytes != test.size || got.MaxArgsMemory != test.memory || got.MaxAttemptsLimit != test.attempts {
			t.Errorf("%q %q: %d, %d, %d", test.file, test.args, got.MaxArgsBytes, got.MaxArgsMemory, got.MaxAttemptsLimit)
		}
	}
}

func TestConfig_retention_isTheWorkersPolicy(t *testing.T) {
	t.Parallel()
	path := writeConfig(t, `
retention:
- {queues: [payments, refunds], keep: forever}
- {reasons: [timeout], jobs: [a], keep: 7d}
- {state: resolved, keep: 36h}
- keep: 90d
jobs: {a: {exec: x}}
`)
	file, err := readConfig(t.Context(), path, configUse{jobs: true}, func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	config, err := (&workerRunCmd{}).config(file)
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
