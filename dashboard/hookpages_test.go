package dashboard_test

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"

	"soniq/hooks"
	"soniq/internal/testkit"
)

// addHook adds a hook.
func addHook(t *testing.T, s *site, spec hooks.Spec) {
	t.Helper()
	store, err := hooks.NewStore(s.pool, hooks.StoreConfig{})
	if err == nil {
		_, err = store.Add(t.Context(), spec, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// addDelivery adds a delivery of a hook.
func addDelivery(t *testing.T, s *site, hook, state, problem string) uuid.UUID {
	t.Helper()
	return testkit.Value[uuid.UUID](t, s.pool, `
		insert into soniq_hook_deliveries (hook_id, event, dead_letter_id, state, attempts, last_error, facts, group_key, next_attempt_at)
		select id, 'job.dead_lettered', gen_random_uuid(), $2, 3, $3, '{"job_name": "mail"}', 'g', now() + interval '1 hour' from soniq_hooks where name = $1
		returning id`, hook, state, problem)
}

func TestHooks_areDisabledEnabledAndSentAgain(t *testing.T) {
	t.Parallel()
	s := open(t, seeAndDo)
	wantIn(t, "no hooks", s.page("/hooks"), "No hook is told of dead letters", "soniq hooks add")
	const odd = "a/b?c#d%e"
	for _, name := range []string{"orders", odd} {
		addHook(t, s, hooks.Spec{Name: name, Kind: hooks.Webhook, URL: "https://example.com/in", Jobs: []string{"mail.*"}})
	}
	wantIn(t, "no deliveries", s.page("/hooks"), "No delivery yet", "job mail.*", "example.com")
	failed, waits := addDelivery(t, s, "orders", "failed", "the answer was 500"), addDelivery(t, s, "orders", "pending", "")
	delivered := addDelivery(t, s, "orders", "delivered", "")
	text := s.page("/hooks")
	wantIn(t, "the deliveries", text, "the answer was 500", ">failed<", ">pending<", ">delivered<", ">mail</a>", "Send the rest now")
	wantIn(t, "one state", s.page("/hooks?hook=orders&state=failed"), "the answer was 500", "Deliveries of orders")
	wantIn(t, "another hook", s.page("/hooks?hook="+url.QueryEscape(odd)), "No delivery matches")
	s.get("/hooks?state=gone").wantStatus(t, "a state", http.StatusBadRequest)

	for _, name := range []string{"orders", odd} {
		enabled := func() bool {
			return testkit.Value[bool](t, s.pool, `select enabled from soniq_hooks where name = $1`, name)
		}
		query := "?" + url.Values{"hook": {name}}.Encode()
		wantIn(t, "its form", text, `action="/admin/soniq/hooks/disable`+query+`"`)
		for range 2 {
			if wantIn(t, "disabled", s.page(s.follow(t, "/hooks/disable"+query, url.Values{})), "Disabled.", ">disabled<", "by hand"); enabled() {
				t.Errorf("%s is enabled", name)
			}
		}
		if wantIn(t, "enabled", s.page(s.follow(t, "/hooks/enable"+query, url.Values{})), "Enabled."); !enabled() {
			t.Errorf("%s is disabled", name)
		}
	}
	due := func(id uuid.UUID) bool {
		return testkit.Value[bool](t, s.pool, `select state = 'pending' and attempts = 0 and next_attempt_at <= now() from soniq_hook_deliveries where id = $1`, id)
	}
	one := url.Values{"token": {uuid.NewString()}, "id": {failed.String()}}
	wantIn(t, "sent again", s.page(s.follow(t, "/hooks/retry", one)), "Made due now: 1.")
	if !due(failed) || due(waits) {
		t.Error("another one was made due")
	}
	testkit.Exec(t, s.pool, `update soniq_hook_deliveries set state = 'failed' where id = $1`, failed)
	s.follow(t, "/hooks/retry", one)
	if due(failed) {
		t.Error("the same form again does it again")
	}
	wantIn(t, "all of a hook", s.page(s.follow(t, "/hooks/retry?hook=orders", url.Values{"token": {uuid.NewString()}})), "Made due now: 2.")
	if !due(failed) || !due(waits) || due(delivered) {
		t.Error("not what waited and had failed")
	}
	for name, test := range map[string]struct {
		path string
		form url.Values
	}{
		"no such hook":      {"/hooks/disable?hook=gone", url.Values{}},
		"test no such hook": {"/hooks/test?hook=gone", url.Values{"token": {uuid.NewString()}}},
		"no token":          {"/hooks/test?hook=orders", url.Values{}},
		"no delivery":       {"/hooks/retry", url.Values{"token": {uuid.NewString()}}},
		"an id":             {"/hooks/retry", url.Values{"token": {uuid.NewString()}, "id": {"x"}}},
	} {
		s.post(test.path, test.form).wantStatus(t, name, http.StatusBadRequest)
	}
	s.user.Rights = onlySee
	wantNotIn(t, "who may only look", s.page("/hooks"), `<form method="post" action="/admin/soniq/hooks`)
}

// A test sends one sample, however often its form is sent, and no page has what the hook hides.
func TestHooks_test_sendsOneSample_andShowsNoSecret(t *testing.T) {
	t.Parallel()
	s := open(t, seeAndDo)
	var got, status atomic.Int32
	status.Store(http.StatusOK)
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got.Add(1)
		w.WriteHeader(int(status.Load()))
		_, _ = w.Write([]byte("you sent " + r.Header.Get("X-Key") + " to " + r.URL.Path))
	}))
	t.Cleanup(receiver.Close)
	closed := "http://" + testkit.ClosedAddress(t)
	signed := hooks.NewSecret()
	headers := map[string]string{"X-Key": secret}
	addHook(t, s, hooks.Spec{Name: "orders", Kind: hooks.Webhook, URL: receiver.URL + "/" + secret, Headers: headers, Secrets: signed, Allow: []string{"127.0.0.0/8"}})
	addHook(t, s, hooks.Spec{Name: "closed", Kind: hooks.Webhook, URL: closed + "/" + secret, Headers: headers, Allow: []string{"127.0.0.0/8"}})
	addHook(t, s, hooks.Spec{Name: "command", Kind: hooks.Exec, Command: "notify " + secret})
	addHook(t, s, hooks.Spec{Name: "slack", Kind: hooks.Slack, URL: "https://hooks.slack.com/services/T0/B0/" + secret})
	secrets := []string{secret, signed, strings.TrimPrefix(signed, "whsec_")}
	for _, path := range []string{"/hooks", "/hooks?hook=orders"} {
		wantNotIn(t, path, s.page(path), secrets...)
	}
	// The dashboard may reach no private network by itself.
	text := s.page(s.follow(t, "/hooks/test?hook=orders", url.Values{"token": {uuid.NewString()}}))
	wantIn(t, "without the network", text, "orders was not delivered", "soniq hooks test")
	s.d.AllowHooks(netip.MustParsePrefix("127.0.0.0/8"))
	form := url.Values{"token": {uuid.NewString()}}
	to := s.follow(t, "/hooks/test?hook=orders", form)
	if again := s.follow(t, "/hooks/test?hook=orders", form); again != to || got.Load() != 1 {
		t.Errorf("the same form again leads to %s, %d samples", again, got.Load())
	}
	wantIn(t, "delivered", s.page(to), "orders took the sample, and answered 200")
	status.Store(http.StatusInternalServerError)
	for hook, want := range map[string]string{"orders": "500", "closed": "not delivered", "command": "soniq hooks test"} {
		text := s.page(s.follow(t, "/hooks/test?hook="+hook, url.Values{"token": {uuid.NewString()}}))
		wantIn(t, hook, text, want)
		wantNotIn(t, hook, text, secrets...)
	}
	wantNotIn(t, "a sample of nobody", s.page("/hooks?sample=x"), "sample to")
}
