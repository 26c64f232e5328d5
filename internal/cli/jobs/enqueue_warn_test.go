package jobs_test

import (
	"fmt"
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
	want("no live worker serves queue defualt; the job waits for one; did you mean default?\n", "emails.send", "--queue", "defualt")
	clitest.WantIn(t, "pause", s.OK("queue", "pause", "defualt").Err, "no live worker serves queue defualt; did you mean default?")
	s.OK("queue", "pause", "default")
	want("queue default is paused; the job waits until it is resumed\n", "emails.send")
	s.OK("queue", "resume", "default")
	// The lines of a file, each place once.
	s.Stdin = strings.Repeat("{}\n{\"queue\": \"defualt\"}\n{\"name\": \"email.send\"}\n{\"queue\": \"defualt\", \"name\": \"other\"}\n", 2)
	r := s.OK("enqueue", "emails.send", "--from", "-")
	if want := "8 jobs enqueued\nno live worker serves queue defualt; the job waits for one; did you mean default?\n" +
		"no live worker of queue default has a handler for email.send; did you mean emails.send?\n"; r.Err != want {
		t.Errorf("%q, want %q", r.Err, want)
	}
	lines := ""
	for i := range 8 {
		lines += fmt.Sprintf("{\"queue\": \"q%d\"}\n", i)
	}
	s.Stdin = lines
	clitest.WantIn(t, "many", s.OK("enqueue", "emails.send", "--from", "-").Err, "queue q4;", "and 3 more of their queues")
}
