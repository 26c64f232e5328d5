package hooks_test

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"soniq/hooks"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
)

// declare is for dispatch.
func declare(t *testing.T, specs ...hooks.Spec) func(*hooks.Dispatcher) {
	return func(d *hooks.Dispatcher) {
		if err := d.Declare(t.Context(), specs...); err != nil {
			t.Fatal(err)
		}
	}
}

// Others leave it alone, and whoever changes the row changes neither where it
// goes nor what is run.
func TestDeclare_hook_isSentToAsDeclared_byThoseWhoDeclareIt(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	rc, other := newReceiver(t, nil), newReceiver(t, nil)
	file := filepath.Join(t.TempDir(), "ran")
	specs := []hooks.Spec{
		{Name: "orders", Kind: "webhook", URL: rc.URL, Secrets: secret, Allow: []string{"127.0.0.0/8"}, Jobs: []string{"orders.*"}},
		{Name: "pager", Kind: "exec", Command: "cat > '" + file + "'"},
	}
	stop := dispatch(t, pool, declare(t, specs...))
	stop()
	exec(t, pool, `update soniq_hooks set url = $1, settings = '{"command": "exit 3"}'`, other.URL)
	addHook(t, pool, "log", "")
	die(t, pool, 1, "orders.ship", "boom")
	die(t, pool, 1, "emails.send", "boom")
	stop = dispatch(t, pool)
	eventually.True(t, "the log's deliveries", func() bool {
		return value[int](t, pool, `select count(*) from soniq_hook_deliveries where state = 'delivered'`) == 2
	})
	stop()
	dispatch(t, pool, func(d *hooks.Dispatcher) {
		declare(t, specs...)(d)
		exec(t, pool, `update soniq_hooks set url = $1, settings = '{"command": "exit 3"}' where declared_at is not null`, other.URL)
	})
	eventually.True(t, "all deliveries", func() bool {
		return value[int](t, pool, `select count(*) from soniq_hook_deliveries where state = 'delivered'`) == 5
	})
	if n, m := len(rc.requests()), len(other.requests()); n != 1 || m != 0 {
		t.Errorf("%d requests, and %d where the row says", n, m)
	}
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
}

func TestDeclare_again_changesTheHookAndKeepsItDisabled(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	var log strings.Builder
	d := dispatcherOf(t, pool, hooks.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	declare(t, hooks.Spec{Name: "h", Kind: "log"})(d)
	if log.Len() > 0 {
		t.Errorf("%s", log.String())
	}
	exec(t, pool, `update soniq_hooks set enabled = false`)
	declare(t, hooks.Spec{Name: "h", Kind: "slack", URL: "env:SLACK_URL", Queues: []string{"q"}, Events: []hooks.EventType{hooks.Resolved}})(d)
	if n := value[int](t, pool, `
		select count(*) from soniq_hooks
		where kind = 'slack' and url = 'env:SLACK_URL' and queues = '{q}' and events = '{job.resolved}' and not enabled`); n != 1 {
		t.Errorf("the row was not changed, or enabled")
	}
	if !strings.Contains(log.String(), "a hook of the configuration is disabled") {
		t.Errorf("it was not logged: %s", log.String())
	}
}

func TestDeclare_nameOfAnotherHook_isRefusedAndLeavesItAlone(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	store := storeOf(t, pool, nil)
	if _, err := store.Add(t.Context(), hooks.Spec{Name: "h", Kind: "log"}, nil); err != nil {
		t.Fatal(err)
	}
	err := dispatcherOf(t, pool, hooks.Config{}).Declare(t.Context(),
		hooks.Spec{Name: "other", Kind: "log"}, hooks.Spec{Name: "h", Kind: "exec", Command: "true"})
	var wrong *hooks.DeclareError
	if !errors.Is(err, hooks.ErrExists) || !errors.As(err, &wrong) || wrong.Hook != "h" {
		t.Errorf("%v", err)
	}
	if _, err := store.Get(t.Context(), "other"); !errors.Is(err, hooks.ErrNotFound) {
		t.Errorf("the first of them was declared: %v", err)
	}
	if h, err := store.Get(t.Context(), "h"); err != nil || h.Kind != "log" || h.DeclaredAt != nil {
		t.Errorf("%+v, %v", h, err)
	}
}

func TestDeclare_noLongerInAnyConfiguration_isRemovedAfterAWeek(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	d := dispatcherOf(t, pool, hooks.Config{})
	declare(t, hooks.Spec{Name: "gone", Kind: "log"}, hooks.Spec{Name: "lately", Kind: "log"}, hooks.Spec{Name: "kept", Kind: "log"})(d)
	exec(t, pool, `insert into soniq_hooks (name, kind) values ('made', 'log')`)
	die(t, pool, 1, "j", "boom")
	exec(t, pool, `update soniq_hooks set declared_at = declared_at - interval '6 days' where name = 'lately'`)
	exec(t, pool, `update soniq_hooks set declared_at = declared_at - interval '8 days' where name in ('gone', 'kept')`)
	dispatch(t, pool, declare(t, hooks.Spec{Name: "kept", Kind: "log"}))
	eventually.True(t, "the removal", func() bool {
		return value[int](t, pool, `select count(*) from soniq_hooks where name = 'gone'`) == 0
	})
	if n := value[int](t, pool, `select count(*) from soniq_hooks`); n != 3 {
		t.Errorf("%d hooks are left, want 3", n)
	}
	if n := value[int](t, pool, `select count(*) from soniq_hook_deliveries where hook_id not in (select id from soniq_hooks)`); n != 0 {
		t.Errorf("%d deliveries of the hook are left", n)
	}
}

// As a person in psql does it. The poll would come after a minute.
func TestDispatcher_hookEnabledOrMendedByPlainSQL_wakes(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	rc := newReceiver(t, nil)
	addHook(t, pool, "webhook", rc.URL)
	exec(t, pool, `update soniq_hooks set settings = '{}'`) // the address is not allowed
	dispatch(t, pool)
	die(t, pool, 1, "j", "boom")
	eventually.True(t, "the refusal", func() bool {
		return value[int](t, pool, `select count(*) from soniq_hook_deliveries where last_error is not null and lease is null`) == 1
	})
	exec(t, pool, `update soniq_hooks set enabled = false`)
	exec(t, pool, `update soniq_hook_deliveries set next_attempt_at = now()`)
	exec(t, pool, `update soniq_hooks set enabled = true, settings = '{"allow": ["127.0.0.0/8"]}'`)
	eventually.True(t, "the delivery", func() bool { return len(rc.requests()) == 1 })
}
