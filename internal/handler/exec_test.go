package handler

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"soniq/engine"
	"soniq/internal/command"
	"soniq/internal/eventually"
	"soniq/internal/testkit"
)

func newHandler(t *testing.T, line string) *execHandler {
	t.Helper()
	w, err := command.NewWarden()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return &execHandler{Exec: Exec{Command: line}, warden: w, grace: 200 * time.Millisecond, log: slog.New(slog.DiscardHandler)}
}

func testJob() *engine.Job {
	return &engine.Job{ID: uuid.Must(uuid.NewV7()), Name: "j", Args: json.RawMessage(`{}`), Attempts: 1, MaxAttempts: 1}
}

func TestExec_ignoresSIGTERM_isKilledWithItsChildren(t *testing.T) {
	t.Parallel()
	pids := filepath.Join(t.TempDir(), "pids")
	h := newHandler(t, `trap '' TERM; sleep 300 & echo $! $$ > `+pids+`.new; mv `+pids+`.new `+pids+`; wait; wait; sleep 300`)
	ctx, cancel := context.WithCancelCause(context.Background())
	done := make(chan error, 1)
	go func() {
		_, err := h.run(ctx, testJob())
		done <- err
	}()
	eventually.True(t, "the command", func() bool { _, err := os.Stat(pids); return err == nil })
	cancel(engine.ErrShutdown)
	if err := <-done; !errors.Is(err, engine.ErrShutdown) {
		t.Errorf("error %v, want the cause", err)
	}
	testkit.ProcessesEnd(t, pids)
}

func TestExec_error_isTheEndOfStandardError(t *testing.T) {
	t.Parallel()
	h := newHandler(t, `i=0; while [ $i -lt 2000 ]; do echo "line $i" >&2; i=$((i+1)); done; exit 1`)
	_, err := h.run(t.Context(), testJob())
	if err == nil || len(err.Error()) > maxStderr+4 || !strings.HasPrefix(err.Error(), "...\nline ") || !strings.HasSuffix(err.Error(), "line 1999") {
		t.Errorf("%d bytes: %.60s", len(err.Error()), err)
	}
}

func TestExec_exitCodes_ofTheUsersOwn_arePermanent(t *testing.T) {
	t.Parallel()
	for status, permanent := range map[string]bool{"3": true, "4": false, "78": true, "255": true} {
		h := newHandler(t, "echo said >&2; exit "+status)
		h.PermanentCodes = []int{3, 255}
		_, err := h.run(t.Context(), testJob())
		var marker interface{ Permanent() bool }
		if err == nil || err.Error() != "said" || errors.As(err, &marker) != permanent {
			t.Errorf("exit %s: %v, permanent is not %v", status, err, permanent)
		}
	}
}

func TestExec_environment_cannotHideTheJobsOwn(t *testing.T) {
	t.Parallel()
	h := newHandler(t, `printf '"%s %s"' "$ADDED" "$SONIQ_JOB_NAME"`)
	h.Env = []string{"ADDED=yes", "SONIQ_JOB_NAME=forged"}
	result, err := h.run(t.Context(), testJob())
	if raw, _ := result.(json.RawMessage); err != nil || string(raw) != `"yes j"` {
		t.Errorf("%s, %v", result, err)
	}
}

func TestExec_tooLongForAResult_isDoneWithoutOne(t *testing.T) {
	t.Parallel()
	h := newHandler(t, `printf '["'; head -c 2000000 /dev/zero | tr '\0' x; printf '"]'`)
	result, err := h.run(t.Context(), testJob())
	if result != nil || err != nil {
		t.Errorf("%v, %v", result, err)
	}
}

// What is sent to endpoints and hooks is not handed to commands, unless their
// own env says so; the database is, for those that enqueue jobs.
func TestExec_environment_hasNoSecretOfOthers(t *testing.T) {
	t.Parallel()
	got := commandEnvironment([]string{
		"PATH=/bin", "DATABASE_URL=a", "SONIQ_DATABASE_URL=b", "PGPASSWORD=c", "MINE=d", "EMPTY=",
		"SONIQ_SLACK_WEBHOOK_URL=e", "SONIQ_WEBHOOK_URL=f", "SONIQ_WEBHOOK_SECRET=g", "SONIQ_HOOK_ORDERS=h", "CRM_TOKEN=i=j", "CRM_TOKENS=k",
		"TRACEPARENT=00-l", "TRACESTATE=m=n",
	}, []string{"CRM_TOKEN"})
	want := []string{"PATH=/bin", "DATABASE_URL=a", "SONIQ_DATABASE_URL=b", "PGPASSWORD=c", "MINE=d", "EMPTY=", "CRM_TOKENS=k"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
