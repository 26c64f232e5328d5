package main

import (
	"context"
	"maps"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"soniq/deadletter"
	"soniq/deadletter/classify"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
)

// Five kinds of failure, each under its reason wherever one looks: in the list,
// in the watch and on a plain LISTEN of another program.
func TestWorker_fiveFailures_seenInListWatchAndPlainListen(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	url := pool.Config().ConnString()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	if _, err := conn.Exec(t.Context(), "listen soniq_dead_letter"); err != nil {
		t.Fatal(err)
	}
	watching, working := newShell(t, url), newShell(t, url)
	watch := watching.start("dead-letter", "watch")
	eventually.True(t, "the watch", func() bool { return strings.Contains(watch.err.String(), "watching for dead letters") })

	s := newShell(t, url)
	want := map[string]classify.Reason{}
	worker := []string{"worker", "--unknown-grace", "1s"}
	for name, failure := range map[string]struct {
		command string
		reason  classify.Reason
	}{
		"fails":   {"exit 1", classify.MaxRetriesExceeded},
		"never":   {"exit 78", classify.PermanentFailure},
		"refuses": {"exit 65", classify.InvalidArguments},
		"hangs":   {"sleep 60", classify.Timeout},
		"unknown": {"", classify.JobNotFound},
	} {
		if failure.command != "" {
			worker = append(worker, "--handle", name+"=exec:"+failure.command)
		}
		id := strings.TrimSpace(s.ok("enqueue", name, "--max-attempts", "1").out)
		want[id] = failure.reason
	}
	run := working.start(append(worker, "--timeout", "3s")...)

	heard := map[string]classify.Reason{}
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	for range want {
		n, err := conn.WaitForNotification(ctx)
		if err != nil {
			t.Fatalf("after %v: %v", heard, err)
		}
		e := decode[deadletter.Event](t, n.Payload)
		heard[e.ID.String()] = e.Reason
	}
	if !maps.Equal(heard, want) {
		t.Errorf("heard %v, want %v", heard, want)
	}
	listed := map[string]classify.Reason{}
	for _, j := range decode[[]deadletter.Job](t, s.ok("dead-letter", "list", "--json").out) {
		listed[j.ID.String()] = j.Reason
	}
	if !maps.Equal(listed, want) {
		t.Errorf("listed %v, want %v", listed, want)
	}
	eventually.True(t, "the watch", func() bool { return strings.Count(watch.out.String(), "\n") == len(want) })
	for line := range strings.Lines(watch.out.String()) {
		fields := strings.Fields(line) // date, time, id, name, reason
		if len(fields) < 5 || want[fields[2]] != classify.Reason(fields[4]) {
			t.Errorf("watched %q", line)
		}
	}
	for s, r := range map[*shell]*running{watching: watch, working: run} {
		s.signals <- syscall.SIGTERM
		if code := r.wait(t); code != 0 {
			t.Errorf("exit %d: %s", code, r.err.String())
		}
	}
}
