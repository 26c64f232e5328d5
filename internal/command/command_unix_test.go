//go:build unix

package command

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"soniq/internal/eventually"
	"soniq/internal/testkit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newWarden(t *testing.T) *Warden {
	t.Helper()
	w, err := NewWarden()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

func TestWarden_run_inputOutputAndExitCode(t *testing.T) {
	t.Parallel()
	w := newWarden(t)
	var out bytes.Buffer
	err := w.Run(t.Context(), Command{
		Line: `cat; echo " $GREETING"; exit 3`, Stdin: strings.NewReader("in"), Stdout: &out, Env: []string{"GREETING=hello"},
	})
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 3 || out.String() != "in hello\n" {
		t.Errorf("%q, %v", out.String(), err)
	}
	if err := w.Run(t.Context(), Command{Line: "true", Dir: filepath.Join(t.TempDir(), "none")}); err == nil || errors.As(err, &exit) {
		t.Errorf("in a folder that does not exist: %v", err)
	}
}

func TestWarden_close_killsWhatIsLeft(t *testing.T) {
	t.Parallel()
	w := newWarden(t)
	pids := filepath.Join(t.TempDir(), "pids")
	done := make(chan error, 1)
	go func() {
		done <- w.Run(context.Background(), Command{
			Line: `sleep 300 & echo $! $$ > ` + pids + `.new; mv ` + pids + `.new ` + pids + `; wait`,
		})
	}()
	eventually.True(t, "the command", func() bool { _, err := os.Stat(pids); return err == nil })
	// A warden that somebody kills is replaced, and the new one knows all.
	if err := w.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually.True(t, "the warden's end", func() bool { return testkit.Ended(w.cmd.Process.Pid) })
	if err := w.Run(t.Context(), Command{Line: "true"}); err != nil {
		t.Fatal(err)
	}
	w.mu.Lock()
	err := w.stop()
	w.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	if err := <-done; err == nil || err.Error() != "signal: killed" {
		t.Errorf("error %v", err)
	}
	testkit.ProcessesEnd(t, pids)
	if err := w.start(); err != nil { // for the cleanup
		t.Fatal(err)
	}
}

func TestTail_longOutput_beginsAtALine(t *testing.T) {
	t.Parallel()
	tail := &Tail{Limit: 12}
	for _, text := range []string{"first\n", "second\n", "third\n"} {
		_, _ = tail.Write([]byte(text))
	}
	if got := tail.String(); got != CutOff+"third" {
		t.Errorf("%q", got)
	}
}
