package hooks

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
)

// soon waits until ok.
func soon(t *testing.T, what string, ok func() bool) {
	t.Helper()
	timeout := time.After(30 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("waited 30s for %s", what)
		}
	}
}

// The command and what it has started are gone when Deliver returns: another
// dispatcher may begin.
func TestExec_stopped_isKilledWithItsChildren(t *testing.T) {
	t.Parallel()
	pids := filepath.Join(t.TempDir(), "pids")
	h := &execHook{
		line:    `trap '' TERM; echo working >&2; sleep 300 & echo $! $$ > '` + pids + `.new'; mv '` + pids + `.new' '` + pids + `'; wait; wait; sleep 300`,
		timeout: time.Hour,
	}
	defer h.close()
	ctx, stop := context.WithCancelCause(t.Context())
	cause := errors.New("stopped")
	done := make(chan error, 1)
	go func() { done <- h.Deliver(ctx, &Delivery{ID: uuid.New()}) }()
	soon(t, "the command", func() bool { _, err := os.Stat(pids); return err == nil })
	stop(cause)
	if err := <-done; !errors.Is(err, cause) || err.Error() != "stopped: working" {
		t.Errorf("%v", err)
	}
	text, err := os.ReadFile(pids)
	if err != nil {
		t.Fatal(err)
	}
	for _, field := range strings.Fields(string(text)) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			t.Fatal(err)
		}
		soon(t, "process "+field+" to end", func() bool {
			// It is gone, or a zombie that its parent has not collected yet.
			stat, err := os.ReadFile("/proc/" + field + "/stat")
			return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) || err == nil && strings.Contains(string(stat), ") Z ")
		})
	}
}

func TestExec_takesTooLong_saysSo(t *testing.T) {
	t.Parallel()
	h := &execHook{line: "sleep 300", timeout: 50 * time.Millisecond}
	defer h.close()
	err := h.Deliver(t.Context(), &Delivery{ID: uuid.New()})
	if err == nil || err.Error() != "the command took longer than 50ms" {
		t.Errorf("%v", err)
	}
}
