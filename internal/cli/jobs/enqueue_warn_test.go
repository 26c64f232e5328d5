package jobs_test

import (
	"strings"
	"testing"

	"soniq/internal/cli/clitest"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
)

func TestEnqueue_nobodyServesIt_warnsInOneLine(t *testing.T) {
	t.Parallel()
	url := testdb.New(t).Config().ConnString()
	s := clitest.NewShell(t, url)
	want := func(line string, args ...string) {
		t.Helper()
		r := s.OK(append([]string{"enqueue"}, args...)...)
		if r.Err != line || strings.Count(r.Out, "\n") != 1 {
			t.Errorf("%q: %+v, want %q", args, r, line)
		}
	}
	want("no live worker serves queue default; the job waits for one\n", "emails.send")
	startWorker(t, url, "--handle", "emails.send=exec:true", "--queues", "default")
	eventually.True(t, "the worker to be listed", func() bool { return strings.Contains(s.OK("worker", "list").Out, "default") })
	want("", "emails.send")
	want("no live worker of queue default has a handler for email.send; did you mean emails.send?\n", "email.send")
	want("no live worker of queue default has a handler for reports.build\n", "reports.build")
	want("no live worker serves queue emials; the job waits for one\n", "emails.send", "--queue", "emials")
}
