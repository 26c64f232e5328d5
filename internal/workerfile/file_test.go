package workerfile

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"soniq/engine"
	"soniq/internal/handler"
	"soniq/internal/input"
	"soniq/internal/testkit"
)

// mistakesIn are the mistakes in text, as 'line: text'.
func mistakesIn(t *testing.T, text string) []string {
	t.Helper()
	path := testkit.ConfigFile(t, text)
	_, err := Read(t.Context(), path, Options{Jobs: true, Hooks: true, Getenv: func(string) string { return "" }})
	if err == nil {
		return nil
	}
	var wrong *Error
	if !errors.As(err, &wrong) {
		t.Fatalf("%q: %v", text, err)
	}
	lines := wrong.Lines()
	for i, line := range lines {
		lines[i] = strings.TrimPrefix(line, path+":")
	}
	return lines
}

// Each line of the file says what is told of it, '|' between two mistakes.
// Nothing tells a secret.
func TestConfig_everyMistake_namedByItsLine(t *testing.T) {
	t.Parallel()
	const file = `queues: [default, emails, emails, 3] # queues: "emails" is there twice | queues must be text, not a number; put it in quotes
concurency: 3                        # unknown key "concurency"; did you mean "concurrency"?
concurrency: 0                       # concurrency must be from 1 to 10000, not 0
timeout: 30                          # timeout: 30 has no unit: write 30s, 30m, 30h or 30d
timeout: 5m                          # "timeout" is in line 4 already
result_ttl: 5 minutes                # result_ttl must be a duration such as 90s, 5m, 1h30m or 7d (the units are ms, s, m, h, d and w), not "5 minutes"
shutdown_timeout: -5s                # shutdown_timeout must not be negative: -5s
unknown_grace:                       # unknown_grace has no value
<<: {a: b}                           # '<<' is not supported: write the keys out, or use an &anchor for single values
nonsense_entirely: 1                 # unknown key "nonsense_entirely"; known are concurrency, health_listen, hooks, jobs, max_args_memory, max_args_size, max_attempts_limit, metrics_listen, queue_concurrency, queues, result_ttl, retention, schema, shutdown_timeout, timeout, trace_link_only, trace_url, unknown_grace, warn_dead, warn_dead_age
queue_concurrency:
  emails: 0                          # queue_concurrency: emails must be from 1 to 10000, not 0
  other: 2                           # queue_concurrency: queue "other" is not among the queues of line 1
jobs:
  both:                              # both: has both exec and http; remove one of them
    exec: a
    http: http://h/
  neither:                           # neither: has no handler: give it exec: COMMAND or http: URL
    timout: 3s                       # neither: unknown key "timout"; did you mean "timeout"?
  misnamed:
    command: a                       # misnamed: unknown key "command"; did you mean "exec"?
  short: exec:a                      # short: must be a mapping with exec: COMMAND or http: URL, not text
  exec:
    exec: 42                         # exec: exec must be text, not a number; put it in quotes
    queue: other                     # exec: queue "other" is not among the queues of line 1: its jobs would never run
    max_attempts: 0                  # exec: max_attempts must be from 1 to 2147483647, not 0
    concurrency: 1.5                 # exec: concurrency must be a whole number, not "1.5"
    permanent_exit_codes:
    - 0                              # exec: permanent_exit_codes: 0 means that the job is done
    - 256                            # exec: permanent_exit_codes: 256 is no exit code: they are from 1 to 255
    - -1                             # exec: permanent_exit_codes: -1 is no exit code: they are from 1 to 255
    - 65                             # exec: permanent_exit_codes: 65 means invalid arguments already
    - 127                            # exec: permanent_exit_codes: 127 is the shell's code for a command that it can't run: those jobs are tried again, so that a broken deployment kills none
    - three                          # exec: permanent_exit_codes must be a whole number, not "three"
    - 3
    - 3                              # exec: permanent_exit_codes: 3 is there twice
    env:
      SONIQ_QUEUE: q                 # exec: env: SONIQ_QUEUE is set by the worker
      "A=B": c                       # exec: env: "A=B" can't be the name of a variable
      C: env:NO_SUCH_THING           # exec: env: C: the environment variable NO_SUCH_THING is not set, or empty
      D: [d]                         # exec: env: D must be text, not a list
    dir: no/such/folder              # exec: dir: FOLDER/no/such/folder: no such file or directory
    secret: whsec_hunter2            # exec: secret: the secret must be base64 after whsec_, with the standard alphabet and padding | exec: secret is for http, not for exec
    retry: []                        # exec: retry is an empty list
  exec: {exec: a}                    # jobs: "exec" is in line 23 already
  http:
    http: ftp://u:hunter2@h/         # http: http: the URL must begin with http:// or https://, not ftp://
    secret: env:NO_SUCH_SECRET       # http: secret: the environment variable NO_SUCH_SECRET is not set, or empty
    headers:
      "not a name": hunter2          # http: headers: header "not a name": not a header name; use letters, digits and '-'
      Content-Length: "3"            # http: headers: header "Content-Length": set by soniq, and can't be changed
      X-One: a
      x-one: b                       # http: headers: "x-one" is in line 52 already
      X-Two: 3                       # http: headers: X-Two must be text, not a number; put it in quotes
    dir: .                           # http: dir is for exec, not for http
    retry:                           # -
      base: 0s                       # http: retry: base must be longer than 0
      max: 10                        # http: retry: max: 10 has no unit: write 10s, 10m, 10h or 10d
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
- {state: replaying, keep: 3d}       # retention: rule 4: state must be dead or resolved, not "replaying": replaying dead letters are always kept
- {queue: q, keep: 3d}               # retention: rule 5: unknown key "queue"; did you mean "queues"?
- {queues: [q]}                      # retention: rule 6: keep is missing: give an age such as 30d, or forever
- {queues: [q], keep: 0}             # retention: rule 7: keep must be longer than 0, or forever
- {queues: [q], keep: long}          # retention: rule 8: keep must be a duration such as 90s, 5m, 1h30m or 7d (the units are ms, s, m, h, d and w), not "long"
- {keep: 90d}                        # retention: rule 9: it matches every dead letter, so the rules after it have no effect
- 30d                                # retention: rule 10 must be a mapping ('key: value' lines), not text
schema: pg_mine                      # schema: invalid schema name "pg_mine": PostgreSQL reserves it for itself
health_listen: here                  # health_listen must be PORT, HOST:PORT or unix:PATH, such as 9090, 0.0.0.0:9090 or unix:/run/soniq/health.sock, not "here"
trace_link_only: sometimes           # trace_link_only must be true or false, not "sometimes"
metrics_listen: [9090]               # metrics_listen must be PORT, HOST:PORT or unix:PATH, not a list
warn_dead_age: 3y                    # warn_dead_age must be a duration such as 90s, 5m, 1h30m or 7d (the units are ms, s, m, h, d and w), not "3y"
`
	path := testkit.ConfigFile(t, file)
	var want []string
	for i, line := range strings.Split(file, "\n") {
		if _, texts, found := strings.Cut(line, " # "); found && texts != "-" {
			for _, text := range strings.Split(texts, " | ") {
				want = append(want, fmt.Sprintf("%s:%d: %s", path, i+1, strings.ReplaceAll(text, "FOLDER", filepath.Dir(path))))
			}
		}
	}
	_, err := Read(t.Context(), path, Options{Jobs: true, Hooks: true, Getenv: func(string) string { return "" }})
	var wrong *Error
	if !errors.As(err, &wrong) || err.Error() != fmt.Sprintf("%s has %d mistakes", path, len(want)) {
		t.Fatalf("error %v, want %d mistakes", err, len(want))
	}
	got := wrong.Lines()
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
	if strings.Contains(strings.Join(got, "\n"), "hunter2") {
		t.Error("a secret is shown")
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
		"jobs:\n\ta:\n\t\tb: c":              {"2: indented with a tab; YAML wants spaces", "3: indented with a tab; YAML wants spaces"},
		"timeout: 1s\n---\na: b":             {"2: a second YAML document begins here; a file has one"},
		"timeout: 1s\n---\n":                 {"2: a second YAML document begins here; a file has one"},
		"a: b\n---\nb: \"\\q\"\n":            {"3: not YAML: found unknown escape character"},
		"jobs:\n  a: {exec: x}\n   b: 1\n":   {"3: not YAML: did not find expected key"},
		"jobs:\n  a: {exec: b\n  c: d\n":     {"2: not YAML: did not find expected ',' or '}'"},
		"jobs:\n  a:\n    exec: echo a: b\n": {"3: not YAML: mapping values are not allowed in this context; put text that has a colon and a space in it in quotes, or in lines of its own after |"},
		"timeout: 1s\nqueues: *x\n":          {"2: not YAML: unknown anchor 'x' referenced"},
		"timeout: 1s\nresult_ttl: \xff\n":    {"2: not valid UTF-8"},
		"\xff\xfej\x00o\x00":                 {"1: the text is UTF-16; save it as UTF-8 ('iconv -f UTF-16 -t UTF-8', or in PowerShell 'Out-File -Encoding utf8')"},
		"timeout: 1s\n\x1b[2J: 1s\n":         {`2: control character '\x1b'`},
		"timeout: 1s\nresult_ttl:\r 1s\n":    {`2: control character '\r'`},
		"queues: [a]\njobs:\n  x: {exec: a, queue: b}\n":   {`3: x: queue "b" is not among the queues of line 1: its jobs would never run`},
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

// Everything that a file may hold, read back.
func TestConfig_wholeFile(t *testing.T) {
	t.Parallel()
	path := testkit.ConfigFile(t, `
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
schema: Tenant one
`)
	env := map[string]string{"URL": "https://h/x?y=z", "SECRET": testkit.Secret}
	file, err := Read(t.Context(), path, Options{Jobs: true, Hooks: true, Getenv: func(name string) string { return env[name] }})
	if err != nil {
		t.Fatal(err)
	}
	want := &File{
		Path: path, Schema: "Tenant one", SchemaLine: 27, Queues: []string{"default", "q"}, Concurrency: new(7), QueueConcurrency: map[string]int{"q": 3}, Timeout: new(time.Duration(0)), ResultTTL: new(time.Hour),
		ShutdownTimeout: new(90 * time.Second), UnknownGrace: new(500 * time.Millisecond),
		Jobs: []Job{
			{
				Name: "a", Line: 10, Queue: "q", Timeout: new(90 * time.Minute), MaxAttempts: new(5),
				Retry: engine.Delays{0, time.Minute}, Concurrency: new(2),
				Run: handler.Spec{Exec: handler.Exec{
					Command: "./run --x", PermanentCodes: []int{3, 255}, Dir: filepath.Dir(path),
					Env: []string{"PORT=8080", "FLAG=on", "SECRET=" + testkit.Secret},
				}},
			},
			{
				Name: "b", Line: 20, Timeout: new(time.Duration(0)), Retry: engine.Exponential{Base: 2 * time.Second, Max: time.Minute, NoJitter: true},
				Run: handler.Spec{HTTP: handler.HTTP{
					URL: env["URL"], Reference: "env:URL", Secret: testkit.Secret,
					Headers: map[string]string{"Accept": "application/json", "Authorization": testkit.Secret},
				}},
			},
			{Name: "c", Line: 26, Run: handler.Spec{Exec: handler.Exec{Command: "x"}}, Retry: engine.Delays{0, time.Minute}},
		},
		Secrets: []string{"URL", "SECRET", "SECRET"},
	}
	for i := range want.Jobs {
		want.Jobs[i].Run.Exec.Withheld = want.Secrets
	}
	for i := range max(len(file.Jobs), len(want.Jobs)) {
		if i >= len(file.Jobs) || i >= len(want.Jobs) || !reflect.DeepEqual(file.Jobs[i], want.Jobs[i]) {
			t.Errorf("job %d: got %#v, want %#v", i, file.Jobs, want.Jobs)
		}
	}
	file.Jobs, want.Jobs = nil, nil
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
		"aliases of one mapping":   {manyAliases(10_000), "10008: the file has more than 100000 values, each *alias written out"},
		"aliases of aliases":       {laughs, "5: the file has more than 100000 values, each *alias written out"},
		"aliases of a long text":   {"a: &a " + long + "\nqueues:\n" + strings.Repeat("- *a\n", 20), "10: the file has more than 4194304 bytes of text, each *alias written out"},
		"aliases of a long key":    {"queues: [&a " + long + "]\njobs:\n" + strings.Repeat("  *a : {exec: x}\n", 20), "10: the file has more than 4194304 bytes of text, each *alias written out"},
		"an alias of itself":       {"queues: [a]\njobs: &a\n  x: *a\n", "3: the alias *a is part of what it stands for"},
		"a long list":              {"queues:\n" + strings.Repeat("- x\n", 100_001), "99999: the file has more than 100000 values, each *alias written out"},
		"nested":                   {"queues:\n  " + strings.Repeat("[", 65) + strings.Repeat("]", 65), "2: it is nested deeper than 64"},
		"nested by aliases":        {chain, "63: it is nested deeper than 64"},
		"a long key":               {"jobs:\n  ? " + strings.Repeat("x", 2001) + "\n  : exec: a\n", "2: jobs: a key has 2001 bytes; at most 2000 are allowed"},
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
	if len(got) != 101 || got[100] != "102: 39900 more mistakes from here on" {
		t.Errorf("%d lines, the last one %q", len(got), got[len(got)-1])
	}
}

// Whatever a file holds, it is read or has mistakes at lines that it has.
func FuzzConfig(f *testing.F) {
	for _, text := range []string{
		"", "jobs:\n  a: {exec: b}\n", "jobs: &a {a: *a}\n", "a: [\n", "jobs:\n  a:\n\tb\n", "{a: b, ? [c] : d}", "!!binary a: b", "&a *a", "- \x00",
		"jobs: {a: {http: 'http://h', headers: {a: b}, secret: " + testkit.Secret + "}}", "<<: *x", "timeout: 1e3", "? \n: \n",
		"hooks: {a: {webhook: 'http://h', headers: {a: b}, secret: env:X, allow: [&a 10.0.0.0/8, *a]}, b: {log: true, events: [x], tags: {a: b}}}",
		"hooks:\n  a: {exec: b, base_url: c}\n  ? [d]\n  : {slack: e}\n", manyAliases(2), strings.Repeat("[", 70), strings.Repeat("a: {", 70), strings.Repeat("x: y\n", 150),
	} {
		f.Add(text)
	}
	place := regexp.MustCompile(`^x\.yaml:(\d+): .`)
	f.Fuzz(func(t *testing.T, text string) {
		var wrong *Error
		// Reading ends in good time, whatever it is: a second is a thousand times
		// what the longest file takes.
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_, err := input.Await(ctx, func() (*File, error) {
			return parse("x.yaml", []byte(text), Options{Jobs: true, Hooks: true, Getenv: func(string) string { return "" }})
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
		for _, line := range wrong.Lines() {
			if !place.MatchString(line) {
				t.Errorf("no place: %q", line)
			}
		}
	})
}
