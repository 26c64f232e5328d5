package cli_test

import (
	"context"
	"maps"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"soniq/deadletter"
	"soniq/deadletter/classify"
	"soniq/internal/cli/clitest"
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
	watching, working := clitest.NewShell(t, url), clitest.NewShell(t, url)
	watch := watching.Start("dead-letter", "watch")
	eventually.True(t, "the watch", func() bool { return strings.Contains(watch.Err.String(), "watching for dead letters") })

	s := clitest.NewShell(t, url)
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
		id := strings.TrimSpace(s.OK("enqueue", name, "--max-attempts", "1").Out)
		want[id] = failure.reason
	}
	run := working.Start(append(worker, "--timeout", "3s")...)

	heard := map[string]classify.Reason{}
	ctx, cancel := context.WithTimeout(t.Context(), clitest.Deadline)
	defer cancel()
	for range want {
		n, err := conn.WaitForNotification(ctx)
		if err != nil {
			t.Fatalf("after %v: %v", heard, err)
		}
		e := clitest.Decode[deadletter.Event](t, n.Payload)
		heard[e.ID.String()] = e.Reason
	}
	if !maps.Equal(heard, want) {
		t.Errorf("heard %v, want %v", heard, want)
	}
	listed := map[string]classify.Reason{}
	for _, j := range clitest.Decode[[]deadletter.Job](t, s.OK("dead-letter", "list", "--json").Out) {
		listed[j.ID.String()] = j.Reason
	}
	if !maps.Equal(listed, want) {
		t.Errorf("listed %v, want %v", listed, want)
	}
	eventually.True(t, "the watch", func() bool { return strings.Count(watch.Out.String(), "\n") == len(want) })
	for line := range strings.Lines(watch.Out.String()) {
		fields := strings.Fields(line) // date, time, zone, id, name, reason
		if len(fields) < 6 || want[fields[3]] != classify.Reason(fields[5]) {
			t.Errorf("watched %q", line)
		}
	}
	for s, r := range map[*clitest.Shell]*clitest.Running{watching: watch, working: run} {
		s.Signals <- syscall.SIGTERM
		if code := r.Wait(t); code != 0 {
			t.Errorf("exit %d: %s", code, r.Err.String())
		}
	}
}
