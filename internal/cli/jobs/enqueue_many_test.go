package jobs_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/uuid"

	"soniq/internal/cli"
	"soniq/internal/cli/app"
	"soniq/internal/cli/clitest"
	"soniq/internal/testdb"
)

const linesSQL = `
select count(*)
from soniq_jobs
where job_name = $1 and queue = $2 and priority = $3 and max_attempts = $4`

func TestEnqueueMany_linesOverFlags(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	s.Stdin = "\ufeff" + `{"args": {"n": 1}}

{"name": "own", "queue": "q", "priority": 7, "max_attempts": 2, "delay": "90m", "dedup_key": "k"}
  {"job_name": "own", "dedup_key": "k", "queue": null}` + "\r\n" + `{"args": {"n": 2}, "scheduled_at": "2099-01-01T00:00:00Z"}
{"args": {"n": 1}, "unique": true}
{"args": {"n": 1}, "unique": true}`
	r := s.OK("enqueue", "default.name", "--from", "-", "--queue", "flag", "--priority", "9", "--max-attempts", "5", "--delay", "1m")
	ids := strings.Fields(r.Out)
	if len(ids) != 6 || ids[1] != ids[2] || ids[4] != ids[5] || ids[0] == ids[4] {
		t.Errorf("ids: %q", ids)
	}
	if r.Err != "4 jobs enqueued, 2 were duplicates\nno live worker serves queue flag; the job waits for one\nno live worker serves queue q; the job waits for one\n" {
		t.Errorf("stderr: %q", r.Err)
	}
	for want, args := range map[int][]any{
		3: {"default.name", "flag", 9, 5},
		1: {"own", "q", 7, 2},
	} {
		if n := clitest.Count(t, pool, linesSQL, args...); n != want {
			t.Errorf("%d jobs of %v, want %d", n, args, want)
		}
	}
	for sql, want := range map[string]int{
		`select count(*) from soniq_jobs where scheduled_at = '2099-01-01T00:00:00Z'`:                            1,
		`select count(*) from soniq_jobs where scheduled_at > now() and scheduled_at < now() + interval '2 min'`: 2,
		`select count(*) from soniq_jobs where scheduled_at > now() + interval '80 min' and dedup_key = 'k'`:     1,
	} {
		if n := clitest.Count(t, pool, sql); n != want {
			t.Errorf("%d of %s, want %d", n, sql, want)
		}
	}
}

func TestEnqueueMany_mistakes_eachByItsLine_nothingEnqueued(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	bad := []struct{ line, want string }{
		{`{"args": {}}`, `job_name is missing`},
		{`{"job_name": "j", "name": "j"}`, `the same: give one`},
		{`{"job_name": ""}`, `job name must not be empty`},
		{`{"job_name": "j", "args": [1]}`, `args must be a JSON object`},
		{`{"job_name": "j", "args": {"a": "\u0000"}}`, `contain \u0000`},
		{`{"job_name": "j", "max_attempts": 0}`, `max attempts must be`},
		{`{"job_name": "j", "priority": "high"}`, `priority must be a whole number, not a JSON string`},
		{`{"job_name": "j", "priority": 1.5}`, `priority must be a whole number`},
		{`{"job_name": "j", "traceparent": 1}`, `traceparent must be a string`},
		{`{"job_name": "j", "tracestate": "a=1"}`, `tracestate goes with traceparent`},
		{`{"job_name": "j", "unique": 1}`, `unique must be true or false`},
		{`{"job_name": "j", "delay": "soon"}`, `delay must be a duration`},
		{`{"job_name": "j", "delay": "-1s"}`, `delay must not be negative`},
		{`{"job_name": "j", "scheduled_at": "noon"}`, `scheduled_at must be a time`},
		{`{"job_name": "j", "delay": "1s", "scheduled_at": "2099-01-01T00:00:00Z"}`, `exclude each other`},
		{`{"job_name": "j", "prio": 1}`, `unknown field "prio"; a line has job_name`},
		{`{"job_name": "j"`, `the line ends within the object`},
		{`{"job_name" "j"}`, `not valid JSON`},
		{`{"job_name": "j"} {}`, `something behind the object`},
		{`[{"job_name": "j"}]`, `an array, not an object`},
		{`"j"`, `not a JSON object`},
		{"{\"job_name\": \"\xff\"}", `not valid UTF-8`},
		{`{"job_name": "j", "args": {"a": "` + strings.Repeat("x", 1<<20) + `"}}`, `over the limit of 1048576`},
		{`{"job_name": "j", "args": {"a": "` + strings.Repeat("x", 2<<20) + `"}}`, `longer than`},
		{"{\"job_name\": \"j\", \"\x1b[2J\": 1}", `not valid JSON`},
	}
	// Twenty are named: the first half in one file, the second in another.
	for start := 0; start < len(bad); start += 13 {
		part := bad[start:min(start+13, len(bad))]
		var in strings.Builder
		for _, b := range part {
			in.WriteString("{\"job_name\": \"good\"}\n" + b.line + "\n")
		}
		s.Stdin = in.String()
		r := s.Run("enqueue", "--from", "-")
		clitest.WantCode(t, r, app.ExitUsage)
		lines := strings.Split(strings.TrimSuffix(r.Err, "\n"), "\n")
		if len(lines) != len(part)+1 || r.Out != "" {
			t.Fatalf("%d lines of complaints, want %d: %s%s", len(lines), len(part)+1, r.Err, r.Out)
		}
		for i, b := range part {
			clitest.WantIn(t, "a complaint", lines[i], fmt.Sprintf("soniq: line %d: ", 2*i+2), b.want)
		}
		clitest.WantIn(t, "the end", lines[len(part)], fmt.Sprintf("%d of %d lines are wrong; nothing was enqueued", len(part), 2*len(part)))
		clitest.CheckSafe(t, r.Err)
	}
	s.Stdin = strings.Repeat("{}\n", 1234)
	r := s.Run("enqueue", "--from", "-")
	clitest.WantCode(t, r, app.ExitUsage)
	clitest.WantIn(t, "stderr", r.Err, "line 20: ", "and 1,214 lines more", "1,234 of 1,234 lines are wrong")
	if strings.Contains(r.Err, "line 21:") {
		t.Error("more than 20 mistakes are named")
	}
	if n := clitest.CountJobs(t, pool); n != 0 {
		t.Errorf("%d jobs were enqueued", n)
	}
}

// What only the database can refuse comes after other batches have gone in.
func TestEnqueueMany_refusedByTheDatabase_takesAllBack(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	// The name of a queue that no index holds, however it is compressed.
	var queue strings.Builder
	for range 600 {
		queue.WriteString(uuid.NewString())
	}
	s.Stdin = strings.Repeat("{}\n", 2_500) + `{"queue": "` + queue.String() + `"}` + "\n"
	r := s.Run("enqueue", "j", "--from", "-")
	clitest.WantCode(t, r, app.ExitUsage)
	clitest.WantIn(t, "stderr", r.Err, "lines 2001 to 2501: ", "can't be stored", "nothing was enqueued")
	if n := clitest.CountJobs(t, pool); n != 0 {
		t.Errorf("%d jobs were enqueued", n)
	}
}

func TestEnqueueMany_tenThousand_fromAFileAndAPipe(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	var in bytes.Buffer
	for i := range 10_000 {
		_, _ = fmt.Fprintf(&in, `{"job_name": "j", "args": {"i": %d}, "dedup_key": "%d"}`+"\n", i, i%9_997)
	}
	file := filepath.Join(t.TempDir(), "jobs.jsonl")
	if err := os.WriteFile(file, in.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	r := s.OK("enqueue", "--from", file, "--json")
	if n := strings.Count(r.Out, "\n"); n != 10_000 || strings.Count(r.Out, `"duplicate":true`) != 3 {
		t.Errorf("%d lines", n)
	}
	if r.Err != "9,997 jobs enqueued, 3 were duplicates\nno live worker serves queue default; the job waits for one\n" {
		t.Errorf("stderr: %q", r.Err)
	}
	first := clitest.Decode[struct{ ID uuid.UUID }](t, r.Out[:strings.Index(r.Out, "\n")])
	// In the order of the lines: the first is the first's.
	if n := clitest.Count(t, pool, `select count(*) from soniq_jobs where id = $1 and args = '{"i": 0}'`, first.ID); n != 1 {
		t.Error("the first id isn't the first line's")
	}
	s.TTY, s.Stdin = true, in.String()
	r = s.OK("enqueue", "--from", "-")
	clitest.WantIn(t, "the bar", r.Err, "enqueueing", "0 jobs enqueued, 10,000 were duplicates")
	s.TTY = false
	if r := s.OK("enqueue", "--from", os.DevNull); r.Err != "0 jobs enqueued\n" {
		t.Errorf("nothing: %+v", r)
	}
}

func TestEnqueueMany_interruptedWhileReading_enqueuesNothing(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	in, out := io.Pipe()
	w := s.Process(io.Discard, io.Discard)
	w.Stdin = in
	code := make(chan int, 1)
	go func() { code <- cli.Run(w, []string{"enqueue", "--from", "-"}) }()
	if _, err := io.WriteString(out, `{"job_name": "j"}`+"\n"); err != nil {
		t.Fatal(err)
	}
	s.Signals <- syscall.SIGINT
	if c := <-code; c != app.ExitFailed {
		t.Errorf("exit code %d", c)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	if n := clitest.CountJobs(t, pool); n != 0 {
		t.Errorf("%d jobs were enqueued", n)
	}
}

func TestEnqueueMany_usage(t *testing.T) {
	t.Parallel()
	s := clitest.NewShell(t, "postgres://nowhere.invalid/x")
	for want, args := range map[string][]string{
		"which job?":                {"enqueue"},
		"--dedup-key would make":    {"enqueue", "--from", "-", "--dedup-key", "k"},
		"both read standard input":  {"enqueue", "--from", "-", "--args", "-"},
		"no such file":              {"enqueue", "--from", "/no/such"},
		"is a folder":               {"enqueue", "--from", "/"},
		"--wait-timeout needs":      {"enqueue", "j", "--wait-timeout", "1s"},
		"--wait-timeout must be":    {"enqueue", "j", "--wait", "--wait-timeout", "0s"},
		"'soniq job --help'":        {"job", "01890a5d-ac96-774b-bcce-b302099a8057", "--wait-timeout", "1s"},
		"dev is about the private ": {"dev", "reset", "--database-url", "postgres://h/x"},
	} {
		r := s.Run(args...)
		clitest.WantCode(t, r, app.ExitUsage)
		clitest.WantIn(t, "stderr", r.Err, want)
		clitest.CheckComplaint(t, r)
	}
}
