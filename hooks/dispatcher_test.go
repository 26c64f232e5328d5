package hooks_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"soniq/deadletter"
	"soniq/hooks"
	"soniq/internal/eventually"
	"soniq/internal/testclient"
	"soniq/internal/testdb"
)

type hookFunc func(ctx context.Context, d *hooks.Delivery) error

func (f hookFunc) Deliver(ctx context.Context, d *hooks.Delivery) error { return f(ctx, d) }

func TestWebhook_death_isSignedAndHasNoArguments(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	rc := newReceiver(t, nil)
	hook := addHook(t, pool, "webhook", rc.URL+"/in?key=1")
	dispatch(t, pool)
	die(t, pool, 1, "emails.send", "connection refused")
	eventually.True(t, "the delivery", func() bool {
		return value[int](t, pool, `select count(*) from soniq_hook_deliveries where hook_id = $1 and state = 'delivered'`, hook) == 1
	})
	got := rc.requests()
	if len(got) != 1 {
		t.Fatalf("%d requests", len(got))
	}
	r := got[0]
	key, _ := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(r.id() + "." + r.header.Get("Webhook-Timestamp") + "." + string(r.body)))
	if want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)); r.header.Get("Webhook-Signature") != want {
		t.Errorf("signature %q, want %q", r.header.Get("Webhook-Signature"), want)
	}
	type body struct {
		Type string
		Data map[string]any
	}
	b := decode[body](t, r.body)
	if b.Type != "job.dead_lettered" || b.Data["job_name"] != "emails.send" || b.Data["error"] != "connection refused" {
		t.Errorf("%s", r.body)
	}
	if strings.Contains(string(r.body), "4111") {
		t.Errorf("the arguments were sent: %s", r.body)
	}
}

func TestDispatcher_failure_isTriedAgainWithTheSameID(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	rc := newReceiver(t, func(n int, w http.ResponseWriter, _ *http.Request) {
		if n == 1 {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	addHook(t, pool, "webhook", rc.URL)
	dispatch(t, pool)
	die(t, pool, 1, "j", "boom")
	eventually.True(t, "the failure", func() bool {
		return value[int](t, pool, `select count(*) from soniq_hook_deliveries where last_status = 500 and lease is null`) == 1
	})
	exec(t, pool, `update soniq_hook_deliveries set next_attempt_at = now()`)
	exec(t, pool, `select pg_notify('soniq_hook', '')`)
	eventually.True(t, "the second try", func() bool { return len(rc.requests()) == 2 })
	if got := rc.requests(); got[0].id() != got[1].id() {
		t.Errorf("ids %s and %s", got[0].id(), got[1].id())
	}
}

func TestDispatcher_gone_disablesTheHook(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	rc := newReceiver(t, func(_ int, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusGone) })
	hook := addHook(t, pool, "webhook", rc.URL)
	dispatch(t, pool)
	die(t, pool, 1, "j", "boom")
	eventually.True(t, "the hook to be disabled", func() bool {
		return !value[bool](t, pool, `select enabled from soniq_hooks where id = $1`, hook)
	})
	die(t, pool, 1, "j", "boom")
	if n := value[int](t, pool, `select count(*) from soniq_hook_deliveries`); n != 1 {
		t.Errorf("%d deliveries; a disabled hook gets none", n)
	}
}

func TestDispatcher_retryAfter_isHonoured(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	rc := newReceiver(t, func(_ int, w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "3600")
		w.WriteHeader(http.StatusTooManyRequests)
	})
	addHook(t, pool, "slack", rc.URL)
	dispatch(t, pool)
	die(t, pool, 1, "j", "boom")
	eventually.True(t, "the pause", func() bool {
		return value[int](t, pool, `
			select count(*) from soniq_hooks h join soniq_hook_deliveries d on d.hook_id = h.id
			where h.blocked_until > now() + interval '59 minutes' and d.next_attempt_at > now() + interval '59 minutes'
			  and d.last_status = 429 and h.sender is null`) == 1
	})
}

// A person who says 'now' means now, whatever the hook waits for: the next try, the pause after
// failures, or that of a Retry-After. A hook's own pace is kept.
func TestStore_RetryDeliveries_hookPauses_sendsNow(t *testing.T) {
	t.Parallel()
	for name, pause := range map[string]string{
		"after failures":        `failures = 9, failing_since = now() - interval '1 hour', last_failed_at = now(), blocked_until = now() + interval '1 hour'`,
		"that was asked for":    `blocked_until = now() + interval '1 day'`,
		"that ends never":       `blocked_until = 'infinity'`,
		"of a second, for pace": `blocked_until = now() + interval '1 second'`,
	} {
		for _, kind := range []string{"webhook", "slack"} {
			t.Run(kind+" pauses "+name, func(t *testing.T) {
				t.Parallel()
				pool := testdb.New(t)
				rc := newReceiver(t, nil)
				addHook(t, pool, kind, rc.URL)
				exec(t, pool, `update soniq_hooks set `+pause)
				die(t, pool, 1, "j", "boom")
				exec(t, pool, `update soniq_hook_deliveries set attempts = 3, next_attempt_at = now() + interval '1 hour'`)
				dispatch(t, pool)
				id := value[uuid.UUID](t, pool, `select id from soniq_hook_deliveries`)
				if n, err := storeOf(t, pool, nil).RetryDeliveries(t.Context(), []uuid.UUID{id}, ""); n != 1 || err != nil {
					t.Fatalf("%d due, %v", n, err)
				}
				eventually.True(t, "the delivery", func() bool {
					return value[int](t, pool, `select count(*) from soniq_hook_deliveries where state = 'delivered'`) == 1
				})
			})
		}
	}
}

// A dispatcher that was frozen comes back to a delivery that another one has sent, or that was removed: its
// own failure is no news of the hook, whatever the answer was, and the other's turn stays the other's.
func TestDispatcher_failureAfterItsLease_saysNothingOfTheHook(t *testing.T) {
	t.Parallel()
	for name, taken := range map[string]string{
		"delivered by another":    `update soniq_hook_deliveries set state = 'delivered', lease = null, delivered_at = now()`,
		"being sent by another":   `update soniq_hook_deliveries set lease = gen_random_uuid(), next_attempt_at = now() + interval '1 minute'`,
		"removed with its letter": `delete from soniq_hook_deliveries`,
	} {
		for _, status := range []int{http.StatusInternalServerError, http.StatusGone, http.StatusTooManyRequests} {
			t.Run(fmt.Sprintf("%s, then %d", name, status), func(t *testing.T) {
				t.Parallel()
				pool := testdb.New(t)
				other := uuid.New()
				rc := newReceiver(t, func(n int, w http.ResponseWriter, _ *http.Request) {
					if n > 1 {
						return
					}
					if _, err := pool.Exec(context.Background(), taken); err != nil {
						t.Error(err)
					}
					if _, err := pool.Exec(context.Background(), `update soniq_hooks set sender = $1`, other); err != nil {
						t.Error(err)
					}
					w.Header().Set("Retry-After", "3600")
					w.WriteHeader(status)
				})
				hook := addHook(t, pool, "webhook", rc.URL)
				log := &logged{}
				dispatchWith(t, pool, hooks.Config{Logger: log.logger()})
				die(t, pool, 1, "j", "boom")
				eventually.True(t, "the failure", func() bool { return strings.Contains(log.String(), "after the end of its lease") })
				die(t, pool, 1, "j", "boom")
				eventually.True(t, "the next one", func() bool { return len(rc.requests()) == 2 })
				if !value[bool](t, pool, `select enabled and failures = 0 and failing_since is null and blocked_until is null and sender = $2 from soniq_hooks where id = $1`, hook, other) {
					t.Error("the failure counts")
				}
			})
		}
	}
}

func TestWebhook_redirect_isNotFollowed(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	target := newReceiver(t, nil)
	rc := newReceiver(t, func(_ int, w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, target.URL, http.StatusTemporaryRedirect)
	})
	addHook(t, pool, "webhook", rc.URL)
	dispatch(t, pool)
	die(t, pool, 1, "j", "boom")
	eventually.True(t, "the failure", func() bool {
		return value[int](t, pool, `select count(*) from soniq_hook_deliveries where last_status = 307 and state = 'pending'`) == 1
	})
	if n := len(target.requests()); n != 0 {
		t.Errorf("the redirect was followed %d times", n)
	}
}

func TestWebhook_privateAddress_isRefusedAtTheDial(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	rc := newReceiver(t, nil)
	addHook(t, pool, "webhook", rc.URL)
	exec(t, pool, `update soniq_hooks set settings = '{}'`)
	dispatch(t, pool)
	die(t, pool, 1, "j", "boom")
	eventually.True(t, "the refusal", func() bool {
		return value[int](t, pool, `select count(*) from soniq_hook_deliveries where last_error like '%127.0.0.1 is not a public address%--allow%'`) == 1
	})
	if n := len(rc.requests()); n != 0 {
		t.Errorf("%d requests came through", n)
	}
}

func TestDispatcher_fiveOfThem_deliverEachOnce(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	rc := newReceiver(t, nil)
	addHook(t, pool, "webhook", rc.URL)
	for range 5 {
		dispatch(t, pool)
	}
	die(t, pool, 500, "j", "boom")
	die(t, pool, 500, "k", "bang")
	eventually.Count(t, "deliveries", 1000, func() int {
		return value[int](t, pool, `select count(*) from soniq_hook_deliveries where state = 'delivered'`)
	})
	ids := map[string]bool{}
	for _, r := range rc.requests() {
		ids[r.id()] = true
	}
	if n := len(rc.requests()); n != 1000 || len(ids) != 1000 {
		t.Errorf("%d requests with %d ids, want 1000 of each", n, len(ids))
	}
}

func TestDispatcher_diedHoldingALease_isSentAgainWithTheSameID(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	rc := newReceiver(t, nil)
	addHook(t, pool, "webhook", rc.URL)
	die(t, pool, 1, "j", "boom")
	id := value[uuid.UUID](t, pool, `
		update soniq_hook_deliveries
		set lease = gen_random_uuid(), attempts = 1, next_attempt_at = clock_timestamp() + interval '300 ms'
		returning id`)
	dispatch(t, pool)
	eventually.True(t, "the delivery", func() bool { return len(rc.requests()) == 1 })
	if got := rc.requests()[0].id(); got != id.String() {
		t.Errorf("id %s, want %s", got, id)
	}
}

func TestDispatcher_ownHookThatPanics_harmsNoOther(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	rc := newReceiver(t, nil)
	addHook(t, pool, "webhook", rc.URL)
	var calls atomic.Int32
	dispatch(t, pool, func(d *hooks.Dispatcher) {
		for name, f := range map[string]hookFunc{
			"panics": func(context.Context, *hooks.Delivery) error { calls.Add(1); panic("boom") },
			"exits":  func(context.Context, *hooks.Delivery) error { calls.Add(1); runtime.Goexit(); return nil },
			"fails":  func(context.Context, *hooks.Delivery) error { calls.Add(1); return errors.New("no") },
			"hangs":  func(ctx context.Context, _ *hooks.Delivery) error { calls.Add(1); <-ctx.Done(); return ctx.Err() },
		} {
			if err := d.Register(t.Context(), name, f, hooks.RegisterOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	})
	die(t, pool, 1, "j", "boom")
	eventually.True(t, "all five", func() bool { return calls.Load() == 4 && len(rc.requests()) == 1 })
	eventually.True(t, "the panic to be kept", func() bool {
		return value[int](t, pool, `select count(*) from soniq_hook_deliveries where last_error like '%panicked: boom%'`) == 1
	})
}

func TestLog_death_isOneRecord(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	addHook(t, pool, "log", "")
	var out strings.Builder
	d := dispatcherOf(t, pool, hooks.Config{Logger: slog.New(slog.NewJSONHandler(&out, nil))})
	die(t, pool, 1, "emails.send", "refused")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	eventually.True(t, "the delivery", func() bool {
		return value[int](t, pool, `select count(*) from soniq_hook_deliveries where state = 'delivered'`) == 1
	})
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(out.String(), `"job_name":"emails.send"`); n != 1 {
		t.Errorf("%d records: %s", n, out.String())
	}
}

func TestOutbox_filter_choosesTheHooks(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	for name, set := range map[string]string{
		"glob": `jobs = '{emails.*}'`, "other": `jobs = '{reports}'`, "percent": `jobs = '{%}'`, "backslash": `jobs = '{"x\\\\"}'`,
		"queue": `queues = '{default}'`, "reason": `reasons = '{timeout}'`, "tags": `tags = '{"team": "a"}'`, "off": `enabled = false`,
		"resolved": `events = '{job.resolved}'`,
	} {
		exec(t, pool, `insert into soniq_hooks (name, kind) values ($1, 'log')`, name)
		exec(t, pool, `update soniq_hooks set `+set+` where name = $1`, name)
	}
	die(t, pool, 1, "emails.send", "boom")
	exec(t, pool, `update soniq_dead_letter_jobs set state = 'resolved'`)
	got := value[[]string](t, pool, `
		select array_agg(h.name order by h.name) from soniq_hook_deliveries d join soniq_hooks h on h.id = d.hook_id`)
	if want := []string{"glob", "queue", "resolved"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestOutbox_broken_neverFailsTheMove(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	addHook(t, pool, "log", "")
	exec(t, pool, `drop table soniq_hook_deliveries cascade`)
	die(t, pool, 1, "j", "boom")
	if n := value[int](t, pool, `select count(*) from soniq_dead_letter_jobs`); n != 1 {
		t.Errorf("%d dead letters", n)
	}
}

func TestOutbox_silent_tellsNobody(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	addHook(t, pool, "log", "")
	conn, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	if _, err := conn.Exec(t.Context(), `listen soniq_dead_letter`); err != nil {
		t.Fatal(err)
	}
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	for _, sql := range []string{
		`set local soniq.silent = on`,
		`insert into soniq_dead_letter_jobs (id, job_name, args, queue, priority, max_attempts, attempts, dead_letter_reason,
		  original_created_at, moved_to_dead_letter_at)
		values (gen_random_uuid(), 'j', '{}', 'default', 1, 1, 1, 'timeout', now(), now())`,
		`update soniq_dead_letter_jobs set moved_to_dead_letter_at = now() + interval '1 second'`,
	} {
		if _, err := tx.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := value[int](t, pool, `select count(*) from soniq_hook_deliveries`); n != 0 {
		t.Errorf("%d deliveries", n)
	}
	// What was announced before would arrive before.
	exec(t, pool, `select pg_notify('soniq_dead_letter', 'marker')`)
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	n, err := conn.Conn().WaitForNotification(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if n.Payload != "marker" {
		t.Errorf("announced: %s", n.Payload)
	}
	if _, err := conn.Exec(t.Context(), `unlisten *`); err != nil {
		t.Fatal(err)
	}
}

func TestDispatcher_failingForFiveDays_disablesTheHook(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	rc := newReceiver(t, func(_ int, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	addHook(t, pool, "webhook", rc.URL)
	exec(t, pool, `update soniq_hooks set failures = 19, failing_since = now() - interval '121 hours', last_failed_at = now() - interval '1 hour'`)
	dispatch(t, pool)
	die(t, pool, 1, "j", "boom")
	eventually.True(t, "the hook to be disabled", func() bool {
		return value[int](t, pool, `select count(*) from soniq_hooks where not enabled and disabled_reason like '%five days%'`) == 1
	})
}

func TestDispatcher_fifthFailure_leavesTheHookAlone(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	rc := newReceiver(t, func(_ int, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	addHook(t, pool, "webhook", rc.URL)
	exec(t, pool, `update soniq_hooks set failures = 4`)
	dispatch(t, pool)
	die(t, pool, 3, "j", "boom")
	eventually.True(t, "the pause", func() bool {
		return value[int](t, pool, `
			select count(*) from soniq_hooks
			where enabled and failures = 5 and blocked_until > now() + interval '50 seconds'`) == 1
	})
	if n := len(rc.requests()); n != 1 {
		t.Errorf("%d requests, want the one that failed", n)
	}
}

// A side that asks for a pause has not failed.
func TestDispatcher_throttled_isNoFailureAndChargesNoAttempt(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	rc := newReceiver(t, func(n int, w http.ResponseWriter, _ *http.Request) {
		if n <= 8 {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
		}
	})
	addHook(t, pool, "webhook", rc.URL)
	dispatch(t, pool)
	die(t, pool, 8, "j", "boom")
	eventually.True(t, "all deliveries", func() bool {
		return value[int](t, pool, `select count(*) from soniq_hook_deliveries where state = 'delivered' and attempts = 1`) == 8
	})
	if n := value[int](t, pool, `select count(*) from soniq_hooks where failures = 0 and failing_since is null`); n != 1 {
		t.Error("the hook counts as failing")
	}
}

// Eight deliveries that meet one bad moment are one failure.
func TestDispatcher_burstFails_isOneFailureOfTheHook(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	rc := newReceiver(t, func(_ int, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	addHook(t, pool, "webhook", rc.URL)
	die(t, pool, 8, "j", "boom")
	dispatch(t, pool)
	eventually.True(t, "all failures", func() bool {
		return value[int](t, pool, `select count(*) from soniq_hook_deliveries where last_status = 502`) == 8
	})
	eventually.True(t, "the count", func() bool {
		return value[int](t, pool, `select count(*) from soniq_hooks where failures = 1 and enabled`) == 1
	})
}

func TestDispatcher_variableMissingHere_leavesItToOthers(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	exec(t, pool, `insert into soniq_hooks (name, kind, url) values ('elsewhere', 'webhook', 'env:SONIQ_TEST_NOT_SET_ANYWHERE')`)
	exec(t, pool, `insert into soniq_hooks (name, kind) values ('log', 'log')`)
	dispatch(t, pool)
	die(t, pool, 1, "j", "boom")
	eventually.True(t, "the other hook's delivery", func() bool {
		return value[int](t, pool, `select count(*) from soniq_hook_deliveries where state = 'delivered'`) == 1
	})
	if n := value[int](t, pool, `
		select count(*) from soniq_hook_deliveries d join soniq_hooks h on h.id = d.hook_id
		where h.name = 'elsewhere' and h.failures = 0 and d.state = 'pending' and d.attempts = 0 and d.lease is null`); n != 1 {
		t.Error("what it can't send was touched")
	}
}

// Python stores tags as a string. Tags that can't be read count as a match.
func TestOutbox_tagsThatPythonStored_areSeen(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	exec(t, pool, `insert into soniq_hooks (name, kind, tags) values ('billing', 'log', '{"team": "billing"}')`)
	const dieSQL = `
		insert into soniq_dead_letter_jobs (id, job_name, args, queue, priority, max_attempts, attempts,
		  dead_letter_reason, original_created_at, moved_to_dead_letter_at, tags)
		values (gen_random_uuid(), 'j', '{}', 'q', 1, 3, 3, 'timeout', now(), now(), $1)`
	for _, tags := range []string{`{"team": "billing"}`, `"{\"team\": \"billing\"}"`, `"not JSON"`, `"{\"team\": \"other\"}"`, `{}`} {
		exec(t, pool, dieSQL, tags)
	}
	if n := value[int](t, pool, `select count(*) from soniq_hook_deliveries`); n != 3 {
		t.Errorf("%d deliveries, want those of the tag, both ways, and of what is not JSON", n)
	}
}

func TestOutbox_anotherDeathAndReplay_areEventsOfTheirOwn(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	exec(t, pool, `insert into soniq_hooks (name, kind, events) values ('all', 'log', '{job.dead_lettered,job.resurrected,job.resolved}')`)
	die(t, pool, 1, "j", "boom")
	if _, err := newQueue(t, pool).Replay(t.Context(), value[uuid.UUID](t, pool, `select id from soniq_dead_letter_jobs`), deadletter.ReplayOptions{}); err != nil {
		t.Fatal(err)
	}
	exec(t, pool, `update soniq_dead_letter_jobs set moved_to_dead_letter_at = now() + interval '1 second'`)
	exec(t, pool, `update soniq_jobs set status = 'done'`)
	got := value[[]hooks.EventType](t, pool, `select array_agg(event order by seq) from soniq_hook_deliveries`)
	if want := []hooks.EventType{hooks.Dead, hooks.Resurrected, hooks.Dead, hooks.Resolved}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestWebhook_deadLetterDeletedMeanwhile_saysSo(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	rc := newReceiver(t, nil)
	addHook(t, pool, "webhook", rc.URL)
	die(t, pool, 1, "emails.send", "boom")
	exec(t, pool, `delete from soniq_dead_letter_jobs`)
	dispatch(t, pool)
	eventually.True(t, "the delivery", func() bool { return len(rc.requests()) == 1 })
	b := string(rc.requests()[0].body)
	if !strings.Contains(b, `"gone":true`) || !strings.Contains(b, "emails.send") || strings.Contains(b, "boom") {
		t.Errorf("%s", b)
	}
}

// No secret that is recognised by its look or its key leaves the system.
func TestHooks_secretsInTheDeadLetter_areNotSent(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	file := filepath.Join(t.TempDir(), "event")
	for _, kind := range []string{"webhook", "slack", "exec", "log"} {
		rc := newReceiver(t, nil)
		hook := addHook(t, pool, kind, rc.URL)
		exec(t, pool, `update soniq_hooks set settings = settings || jsonb_build_object('args', true, 'command', 'cat > ' || $1) where id = $2`, file, hook)
		defer func() {
			for _, r := range rc.requests() {
				if strings.Contains(string(r.body), "hunter2") {
					t.Errorf("%s: %s", kind, r.body)
				}
			}
		}()
	}
	var out strings.Builder
	d := dispatcherOf(t, pool, hooks.Config{Logger: slog.New(slog.NewJSONHandler(&out, nil)), AllowExec: true, Allow: loopback})
	exec(t, pool, `
		insert into soniq_dead_letter_jobs (id, job_name, args, queue, priority, max_attempts, attempts, last_error,
		  dead_letter_reason, original_created_at, moved_to_dead_letter_at, tags)
		values (gen_random_uuid(), 'j', '{"password": "hunter2", "to": "ada"}', 'q', 100, 3, 3,
		  'dial postgres://app:hunter2@db/x failed', 'timeout', now(), now(), '{"api_key": "hunter2"}')`)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	eventually.True(t, "all deliveries", func() bool {
		return value[int](t, pool, `select count(*) from soniq_hook_deliveries where state = 'delivered'`) == 4
	})
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	event, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if all := string(event) + out.String(); strings.Contains(all, "hunter2") || !strings.Contains(string(event), `"to":"ada"`) {
		t.Errorf("%s", all)
	}
}

func TestRegister_digest_stormIsAHandfulThatAddUp(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	var reported, calls atomic.Int32
	for range 2 {
		dispatch(t, pool, func(d *hooks.Dispatcher) {
			hooks.SetFirstDelay(d, time.Second)
			err := d.Register(t.Context(), "mine", hookFunc(func(_ context.Context, d *hooks.Delivery) error {
				calls.Add(1)
				for _, g := range d.Groups {
					reported.Add(int32(g.Count))
				}
				return nil
			}), hooks.RegisterOptions{Digest: true})
			if err != nil {
				t.Fatal(err)
			}
		})
	}
	for range 10 {
		die(t, pool, 50, "j", "boom")
	}
	eventually.Count(t, "deaths reported", 500, func() int { return int(reported.Load()) })
	if n := calls.Load(); n > 5 {
		t.Errorf("%d messages", n)
	}
}

// newQueue returns the dead-letter queue of a test's database.
var newQueue = testclient.Queue
