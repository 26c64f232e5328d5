package jobs_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"soniq/internal/cli/clitest"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

const (
	traceID     = "4bf92f3577b34da6a3ce929d0e0e4736"
	traceparent = "00-" + traceID + "-00f067aa0ba902b7-01"
)

// A trace goes from the command line or the environment through the queue into a command and
// an endpoint, into the log, to the dead letter, and back with its replay.
func TestTrace_commandLine_isOneStory(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	heads := make(chan http.Header, 10)
	endpoint := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { heads <- r.Header }))
	defer endpoint.Close()
	s.Env["TRACEPARENT"], s.Env["TRACESTATE"] = traceparent, "vendor=1"
	ids := map[string]string{
		"environment": s.OK("enqueue", "says").Out,
		"flags":       s.OK("enqueue", "says", "--traceparent", traceparent[:53]+"00").Out,
		"endpoint":    s.OK("enqueue", "posts").Out,
		"dies":        s.OK("enqueue", "dies").Out,
	}
	s.Env["TRACEPARENT"] = strings.ToUpper(traceparent) // another program's mistake
	ids["none"] = s.OK("enqueue", "says").Out
	s.Stdin = `{"job_name": "says", "traceparent": "` + traceparent + `", "tracestate": "a=1"}` + "\n" + `{"job_name": "says", "traceparent": "nonsense"}`
	lines := strings.Fields(s.OK("enqueue", "--from", "-").Out)
	ids["line"], ids["bad line"] = lines[0], lines[1]
	worker := s.Start("worker", "--log-format=json",
		"--handle", `says=exec:printf '"%s %s"' "$TRACEPARENT" "$TRACESTATE"`, "--handle", "posts="+endpoint.URL, "--handle", "dies=exec:exit 78")
	for name, want := range map[string]string{
		"environment": traceparent + " vendor=1", "flags": traceparent[:53] + "00 ", "none": " ", "line": traceparent + " a=1", "bad line": " ",
	} {
		out := s.OK("job", strings.TrimSpace(ids[name]), "--wait", "--json").Out
		var job struct {
			Result       string
			TraceContext string `json:"trace_context"`
			TraceID      string `json:"trace_id"`
			TraceURL     string `json:"trace_url"`
		}
		if err := json.Unmarshal([]byte(out), &job); err != nil || job.Result != want || job.TraceContext != strings.TrimSpace(want) || (job.TraceID == traceID) != (want != " ") || job.TraceURL != "" {
			t.Errorf("%s: %v, want %q, not %s", name, err, want, out)
		}
		if strings.Contains(out, "nonsense") || strings.Contains(out, traceID) && want == " " {
			t.Errorf("%s: shows what is no trace context: %s", name, out)
		}
	}
	if got := <-heads; got.Get("Traceparent") != traceparent || got.Get("Tracestate") != "vendor=1" {
		t.Errorf("the endpoint got %v", got)
	}
	eventually.True(t, "the dead letter", func() bool { return clitest.CountLetters(t, pool) == 1 })
	letter := strings.TrimSpace(ids["dies"])
	shown := s.OK("dead-letter", "show", letter, "--trace-url", "https://t.example.com/{trace_id}").Out
	clitest.WantIn(t, "show", shown, "Trace        "+traceID+", https://t.example.com/"+traceID+"\n")
	s.OK("dead-letter", "replay", letter)
	again := testkit.Value[string](t, pool, "select replay_job_id::text from soniq_dead_letter_jobs where id = $1", letter)
	eventually.True(t, "the replay's dead letter", func() bool { return clitest.CountLetters(t, pool) == 2 })
	clitest.WantIn(t, "the replay", s.OK("job", again).Out, "Trace        "+traceID+"\n")
	clitest.WantIn(t, "the log", worker.Err.String(), `"trace_id":"`+traceID+`"`)
	s.Signals <- os.Interrupt
	clitest.WantCode(t, clitest.Result{Code: worker.Wait(t)}, 0)
}

// Where traces are shown is said by the flag, else the variable, else soniq.yaml of the
// working folder.
func TestTrace_url_isOfTheFlagTheVariableOrTheFile(t *testing.T) {
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	id := strings.TrimSpace(s.OK("enqueue", "j", "--traceparent", traceparent).Out)
	other := strings.TrimSpace(s.OK("enqueue", "j").Out)
	t.Chdir(t.TempDir())
	show := func(want string, args ...string) {
		t.Helper()
		clitest.WantIn(t, "job "+strings.Join(args, " "), s.OK(append([]string{"job", id}, args...)...).Out, "Trace        "+traceID+want+"\n")
	}
	show("")
	file := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(".", "soniq.yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	file("trace_url: https://file.example.com/{trace_id}\njobs: {j: {exec: 'true'}}\n")
	show(", https://file.example.com/" + traceID)
	s.Env["SONIQ_TRACE_URL"] = "https://env.example.com/{trace_id}"
	show(", https://env.example.com/" + traceID)
	show(", https://flag.example.com/00f067aa0ba902b7/"+traceID, "--trace-url", "https://flag.example.com/{span_id}/{trace_id}")
	s.Env["SONIQ_TRACE_URL"] = "https://ann:hunter2@env.example.com/{trace_id}"
	r := s.Run("job", id)
	clitest.WantCode(t, r, 2)
	clitest.WantIn(t, "a password", r.Err, "SONIQ_TRACE_URL must hold no password or token")
	if strings.Contains(r.Err, "hunter2") {
		t.Errorf("shows the password: %s", r.Err)
	}
	delete(s.Env, "SONIQ_TRACE_URL")
	file("trace_url: nowhere\n")
	r = s.OK("job", id)
	clitest.WantIn(t, "a bad file", r.Err, "no link to the trace: soniq.yaml can't be read")
	// Of a job in no trace nothing is said.
	if r := s.OK("job", other); r.Err != "" || strings.Contains(r.Out, "Trace") {
		t.Errorf("%q, %q", r.Out, r.Err)
	}
	r = s.Run("worker", "--check-config")
	clitest.WantCode(t, r, 2)
	clitest.WantIn(t, "check-config", r.Err, "soniq.yaml:1: trace_url must have {trace_id}")
}

func TestTrace_flags_mistakesAreSaid(t *testing.T) {
	t.Parallel()
	s := clitest.NewShell(t, "postgres://nobody@127.0.0.1:1/x")
	for want, args := range map[string][]string{
		"--traceparent must be":                      {"--traceparent", "x"},
		"--tracestate goes with --traceparent":       {"--tracestate", "a=1"},
		"--tracestate must be KEY=VALUE":             {"--traceparent", traceparent, "--tracestate", "a"},
		"--tracestate must be KEY=VALUE, or several": {"--traceparent", traceparent, "--tracestate", strings.Repeat("a=1,", 200)},
	} {
		r := s.Run(append([]string{"enqueue", "j"}, args...)...)
		clitest.WantCode(t, r, 2)
		clitest.WantIn(t, want, r.Err, want)
	}
	for want, args := range map[string][]string{
		"--trace-url must have {trace_id}": {"--trace-url", "https://t.example.com"},
		"--trace-url must be an http":      {"--trace-url", "ftp://t.example.com/{trace_id}"},
	} {
		for _, command := range [][]string{{"job", "01890a5d-ac96-774b-bcce-b302099a8057"}, {"dead-letter", "show", "01890a5d-ac96-774b-bcce-b302099a8057"}} {
			r := s.Run(append(command, args...)...)
			clitest.WantCode(t, r, 2)
			clitest.WantIn(t, want, r.Err, want)
		}
	}
}
