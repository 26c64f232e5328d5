package jobs_test

import (
	"regexp"
	"strings"
	"testing"

	"soniq/engine"
	"soniq/internal/cli/app"
	"soniq/internal/cli/clitest"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
)

func TestQueue_paused_listed_resumed(t *testing.T) {
	t.Parallel()
	url := testdb.New(t).Config().ConnString()
	s := clitest.NewShell(t, url)
	s.Env["USER"] = "ada"
	if r := s.OK("queue", "list"); r.Out != "" || !strings.Contains(r.Err, "no queue has jobs") {
		t.Errorf("none: %+v", r)
	}
	if r := s.OK("queue", "list", "--json"); r.Out != "[]\n" {
		t.Errorf("none, as JSON: %+v", r)
	}
	r := s.OK("queue", "pause", "default", "mail")
	if r.Out != "Paused default\nPaused mail\n" {
		t.Errorf("pause: %q", r.Out)
	}
	clitest.WantIn(t, "pause's note", r.Err, "no live worker serves queue mail")
	clitest.WantIn(t, "pause again", s.OK("queue", "pause", "mail").Out, "mail is paused already")

	startWorker(t, url, "--handle", "j=exec:cat")
	id := strings.TrimSpace(s.OK("enqueue", "j").Out)
	if out := s.OK("status").Out; !regexp.MustCompile(`(?m)^default +paused \d+[sm] `).MatchString(out) {
		t.Errorf("status: %s", out)
	}
	clitest.WantIn(t, "queue list", s.OK("queue", "list").Out, "paused", "mail")
	queues := clitest.Decode[[]engine.QueueStatus](t, s.OK("queue", "list", "--json").Out)
	if len(queues) != 2 || queues[0].Due != 1 || !strings.HasPrefix(queues[0].PausedBy, "ada@") {
		t.Errorf("queues: %+v", queues)
	}
	waiting := s.Start("job", id, "--wait")
	eventually.True(t, "the warning", func() bool {
		return strings.Contains(waiting.Err.String(), "soniq: queue default is paused: waiting")
	})
	clitest.WantIn(t, "resume", s.OK("queue", "resume", "default", "other").Out, "Resumed default\n", "other is not paused\n")
	if code := waiting.Wait(t); code != app.ExitDone {
		t.Errorf("exit code %d: %s", code, waiting.Err.String())
	}
	resumed := clitest.Decode[map[string][]string](t, s.OK("queue", "resume", "mail", "other", "--json").Out)
	if len(resumed["resumed"]) != 1 || len(resumed["unchanged"]) != 1 {
		t.Errorf("resume: %v", resumed)
	}
}

func TestWorker_list(t *testing.T) {
	t.Parallel()
	url := testdb.New(t).Config().ConnString()
	s := clitest.NewShell(t, url)
	if r := s.OK("worker", "list"); r.Out != "" || r.Err != "no workers\n" {
		t.Errorf("none: %+v", r)
	}
	if r := s.OK("worker", "list", "--json"); r.Out != "[]\n" {
		t.Errorf("none, as JSON: %+v", r)
	}
	startWorker(t, url, "--handle", "j=exec:cat", "--queues", "mail")
	eventually.True(t, "the worker", func() bool { return s.OK("worker", "list").Out != "" })
	clitest.WantIn(t, "list", s.OK("worker", "list").Out, "WORKER", "active", "mail", "go/")
	if workers := clitest.Decode[[]engine.WorkerStatus](t, s.OK("worker", "list", "--json").Out); len(workers) != 1 || !workers[0].Live {
		t.Errorf("workers: %+v", workers)
	}
}
