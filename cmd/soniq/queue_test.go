package main

import (
	"regexp"
	"strings"
	"testing"

	"soniq/engine"
	"soniq/internal/cli/app"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
)

func TestQueue_paused_listed_resumed(t *testing.T) {
	t.Parallel()
	url := testdb.New(t).Config().ConnString()
	s := newShell(t, url)
	s.env["USER"] = "ada"
	if r := s.ok("queue", "list"); r.out != "" || !strings.Contains(r.err, "no queue has jobs") {
		t.Errorf("none: %+v", r)
	}
	if r := s.ok("queue", "list", "--json"); r.out != "[]\n" {
		t.Errorf("none, as JSON: %+v", r)
	}
	r := s.ok("queue", "pause", "default", "mail")
	if r.out != "Paused default\nPaused mail\n" {
		t.Errorf("pause: %q", r.out)
	}
	wantIn(t, "pause's note", r.err, "no live worker serves queue mail")
	wantIn(t, "pause again", s.ok("queue", "pause", "mail").out, "mail is paused already")

	startWorker(t, url, "--handle", "j=exec:cat")
	id := strings.TrimSpace(s.ok("enqueue", "j").out)
	if out := s.ok("status").out; !regexp.MustCompile(`(?m)^default +paused \d+[sm] `).MatchString(out) {
		t.Errorf("status: %s", out)
	}
	wantIn(t, "queue list", s.ok("queue", "list").out, "paused", "mail")
	queues := decode[[]engine.QueueStatus](t, s.ok("queue", "list", "--json").out)
	if len(queues) != 2 || queues[0].Due != 1 || !strings.HasPrefix(queues[0].PausedBy, "ada@") {
		t.Errorf("queues: %+v", queues)
	}
	waiting := s.start("job", id, "--wait")
	eventually.True(t, "the warning", func() bool {
		return strings.Contains(waiting.err.String(), "soniq: queue default is paused: waiting")
	})
	wantIn(t, "resume", s.ok("queue", "resume", "default", "other").out, "Resumed default\n", "other is not paused\n")
	if code := waiting.wait(t); code != app.ExitDone {
		t.Errorf("exit code %d: %s", code, waiting.err.String())
	}
	resumed := decode[map[string][]string](t, s.ok("queue", "resume", "mail", "other", "--json").out)
	if len(resumed["resumed"]) != 1 || len(resumed["unchanged"]) != 1 {
		t.Errorf("resume: %v", resumed)
	}
}

func TestWorker_list(t *testing.T) {
	t.Parallel()
	url := testdb.New(t).Config().ConnString()
	s := newShell(t, url)
	if r := s.ok("worker", "list"); r.out != "" || r.err != "no workers\n" {
		t.Errorf("none: %+v", r)
	}
	if r := s.ok("worker", "list", "--json"); r.out != "[]\n" {
		t.Errorf("none, as JSON: %+v", r)
	}
	startWorker(t, url, "--handle", "j=exec:cat", "--queues", "mail")
	eventually.True(t, "the worker", func() bool { return s.ok("worker", "list").out != "" })
	wantIn(t, "list", s.ok("worker", "list").out, "WORKER", "active", "mail", "go/")
	if workers := decode[[]engine.WorkerStatus](t, s.ok("worker", "list", "--json").out); len(workers) != 1 || !workers[0].Live {
		t.Errorf("workers: %+v", workers)
	}
}
