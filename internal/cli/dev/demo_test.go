package dev_test

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"soniq/deadletter"
	"soniq/deadletter/classify"
	"soniq/internal/cli/app"
	"soniq/internal/cli/clitest"
)

// The demo is the first thing that anybody runs: the whole program, on a
// database that doesn't exist yet, and what it leads to.
func TestDemo_freshMachine_showsEveryReasonAndAReplay(t *testing.T) {
	t.Parallel()
	dir := clitest.DevDir(t)
	soniq := func(args ...string) (stdout string) {
		t.Helper()
		p := clitest.NewProgram(t, dir, "", args...)
		p.Env = append(p.Env, "SONIQ_DEV_DIR="+dir)
		if err := p.Run(); err != nil {
			t.Fatalf("soniq %q: %v: %s", args, err, p.Err.String())
		}
		return p.Out.String()
	}

	out := soniq("demo", "--json")
	var report struct {
		Done, Retries int
		DeadLetters   []deadletter.Job `json:"dead_letters"`
		ReplayState   deadletter.State `json:"replay_state"`
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	if report.Done != 3 || report.Retries != 6 || report.ReplayState != deadletter.StateResolved {
		t.Errorf("%d done, %d retries, replay %s; want 3, 6, resolved", report.Done, report.Retries, report.ReplayState)
	}
	reasons := map[classify.Reason]string{}
	for _, j := range report.DeadLetters {
		reasons[j.Reason] = j.JobName
	}
	for reason, job := range map[classify.Reason]string{
		classify.PermanentFailure:   "payments.charge",
		classify.InvalidArguments:   "invoices.render",
		classify.MaxRetriesExceeded: "inventory.sync",
		classify.Timeout:            "videos.transcode",
		classify.JobNotFound:        "faxes.send",
	} {
		if reasons[reason] != job {
			t.Errorf("%s: %q, want %q", reason, reasons[reason], job)
		}
	}

	// Once more, for people, on the database that is there now, with a job in it
	// that a killed demo left.
	soniq("enqueue", "emails.send_welcome", "--queue", "demo", "--args", `{"user_id": 1}`, "--dev")
	out = soniq("demo")
	clitest.WantIn(t, "the end", out, "3 jobs done, 6 retries, 5 dead letters announced, 1 replayed and resolved.")
	_, hints, _ := strings.Cut(out, "Try:")
	commands := 0
	for line := range strings.Lines(hints) {
		if _, command, ok := strings.Cut(line, " dead-letter "); ok {
			commands++
			soniq(append([]string{"dead-letter"}, strings.Fields(command)...)...)
		}
	}
	if commands != 4 {
		t.Errorf("the demo suggests %d commands, want 4:\n%s", commands, out)
	}
	if info, err := os.Stat(dir + "/dead_jobs.csv"); err != nil || info.Size() == 0 {
		t.Errorf("the export that it suggests: %v, %v", info, err)
	}
}

func TestDemo_databaseURL_isRefused(t *testing.T) {
	t.Parallel()
	r := clitest.NewShell(t, "").Run("demo", "--database-url", "postgres://x@127.0.0.1:1/x")
	if r.Code != app.ExitUsage || !strings.Contains(r.Err, "takes no --database-url") {
		t.Errorf("exit %d: %s", r.Code, r.Err)
	}
}
