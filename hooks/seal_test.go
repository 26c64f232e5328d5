package hooks_test

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"soniq/hooks"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
)

func keys(t *testing.T, texts ...string) *hooks.Keyring {
	t.Helper()
	ring, err := hooks.ParseKeys(strings.Join(texts, ","))
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

func TestParseKeys_forms(t *testing.T) {
	t.Parallel()
	raw := []byte("0123456789abcdef0123456789abcde\xff")
	for _, text := range []string{
		base64.StdEncoding.EncodeToString(raw), base64.RawURLEncoding.EncodeToString(raw), hex.EncodeToString(raw),
		"\n" + hooks.NewKey() + " ,\n" + hooks.NewKey() + "\n",
	} {
		if ring, err := hooks.ParseKeys(text); err != nil || ring == nil {
			t.Errorf("%q: %v", text, err)
		}
	}
	for _, text := range []string{"hunter2", hooks.NewKey() + ",hunter2", hex.EncodeToString(raw[:31]), base64.StdEncoding.EncodeToString(append(raw, 0))} {
		if _, err := hooks.ParseKeys(text); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v", text, err)
		}
	}
	if ring, err := hooks.ParseKeys(" \n"); ring != nil || err != nil {
		t.Errorf("%v, %v", ring, err)
	}
}

// From 'add' over 'rotate-secret' and a new key to the request: the table has
// no secret at any time, and the endpoint gets all.
func TestSealed_hook_isSentToByWhoeverHasTheKey(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	rc := newReceiver(t, nil)
	first, second := hooks.NewKey(), hooks.NewKey()
	spec := hooks.Spec{
		Name: "w", Kind: "webhook", URL: rc.URL + "/hunter2", Secrets: secret, Allow: []string{"127.0.0.0/8"},
		Headers: map[string]string{"Authorization": "Bearer hunter2"},
	}
	store := storeOf(t, pool, keys(t, first))
	if _, err := store.Add(t.Context(), spec, nil); err != nil {
		t.Fatal(err)
	}
	noSecret := func() {
		t.Helper()
		table := value[string](t, pool, `select string_agg(h::text, ' ') from soniq_hooks h`)
		if strings.Contains(table, "hunter2") || strings.Contains(table, "whsec_") {
			t.Errorf("a secret is in the table: %s", table)
		}
	}
	noSecret()
	h, err := store.Get(t.Context(), "w")
	if err != nil || h.Target != rc.URL+"/…" || h.SecretFrom != "sealed" || h.Secrets != 1 || h.Headers["Authorization"] != hooks.Sealed {
		t.Errorf("%+v, %v", h, err)
	}
	// Without the key, and with another, it is left alone.
	var log logged
	die(t, pool, 1, "j", "boom")
	stop := dispatchWith(t, pool, hooks.Config{Logger: log.logger(), Keys: keys(t, second)})
	eventually.True(t, "the warning", func() bool { return strings.Contains(log.String(), "SONIQ_HOOK_KEY") })
	stop()
	if err := storeOf(t, pool, nil).RotateSecret(t.Context(), "w", hooks.NewSecret(), true, nil); !errors.Is(err, hooks.ErrSealed) {
		t.Errorf("rotated without a key: %v", err)
	}
	// A new key: for a while both are there.
	both := keys(t, second, first)
	if err := storeOf(t, pool, both).RotateSecret(t.Context(), "w", hooks.NewSecret(), false, nil); err != nil {
		t.Fatal(err)
	}
	if h, err := store.Get(t.Context(), "w"); err != nil || h.Secrets != 2 {
		t.Errorf("%+v, %v", h, err)
	}
	result, err := storeOf(t, pool, both).Seal(t.Context())
	if err != nil || !slices.Equal(result.Sealed, []string{"w"}) || len(result.Failed) > 0 {
		t.Errorf("%+v, %v", result, err)
	}
	noSecret()
	if result, err := storeOf(t, pool, both).Seal(t.Context()); err != nil || len(result.Sealed) > 0 || result.Kept != 1 {
		t.Errorf("again: %+v, %v", result, err)
	}
	if result, err := store.Seal(t.Context()); err != nil || !slices.Equal(result.Failed, []string{"w"}) {
		t.Errorf("by the old key: %+v, %v", result, err)
	}
	dispatchWith(t, pool, hooks.Config{Keys: keys(t, second)})
	eventually.True(t, "the request", func() bool { return len(rc.requests()) == 1 })
	r := rc.requests()[0]
	if r.header.Get("Authorization") != "Bearer hunter2" || len(strings.Fields(r.header.Get("Webhook-Signature"))) != 2 {
		t.Errorf("%v", r.header)
	}
}

// Rows in the clear, as release 0.1.0 has written them, keep working until they
// are sealed, and after it.
func TestSeal_rowInTheClear_isSealedAndGoesOn(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	rc := newReceiver(t, nil)
	addHook(t, pool, "webhook", rc.URL+"/hunter2")
	exec(t, pool, `update soniq_hooks set settings = settings || '{"headers": {"X-A": "hunter2", "X-B": "env:SONIQ_HOOK_B"}, "of the future": 1}'`)
	ring := keys(t, hooks.NewKey())
	env := func(d *hooks.Dispatcher) { hooks.SetEnv(d, map[string]string{"SONIQ_HOOK_B": "b"}) }
	dispatchWith(t, pool, hooks.Config{Keys: ring}, env)
	die(t, pool, 1, "j", "boom")
	eventually.True(t, "the request", func() bool { return len(rc.requests()) == 1 })
	if _, err := storeOf(t, pool, ring).Seal(t.Context()); err != nil {
		t.Fatal(err)
	}
	if table := value[string](t, pool, `select h::text from soniq_hooks h`); strings.Contains(table, "hunter2") || !strings.Contains(table, "of the future") {
		t.Errorf("%s", table)
	}
	die(t, pool, 1, "j", "boom")
	eventually.True(t, "the request", func() bool { return len(rc.requests()) == 2 })
	got := rc.requests()
	if got[1].header.Get("X-A") != "hunter2" || got[1].header.Get("X-B") != "b" {
		t.Errorf("%v", got[1].header)
	}
}

// What is sealed opens in its place alone: whoever may write to the table can't
// have it sent elsewhere, by another hook, under another name or to another
// address.
func TestSealed_valueInAnotherPlace_isNotOpened(t *testing.T) {
	t.Parallel()
	ring := keys(t, hooks.NewKey())
	for name, move := range map[string]string{
		"to another hook":    `update soniq_hooks o set settings = v.settings, url = v.url from soniq_hooks v where v.name = 'victim' and o.name = 'other'`,
		"to another address": `update soniq_hooks v set url = o.url, settings = v.settings || '{"allow": ["127.0.0.0/8"]}' from soniq_hooks o where v.name = 'victim' and o.name = 'other'`,
		"header as the URL":  `update soniq_hooks set url = settings -> 'headers' ->> 'X-A' where name = 'victim'`,
		"header's name":      `update soniq_hooks set settings = settings || jsonb_build_object('headers', jsonb_build_object('X-B', settings -> 'headers' ->> 'X-A')) where name = 'victim'`,
		"what is shown":      `update soniq_hooks set url = replace(url, ':https://example.com', ':https://evil.example.com') where name = 'victim'`,
		"cut":                `update soniq_hooks set url = left(url, 60) where name = 'victim'`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := testdb.New(t)
			rc := newReceiver(t, nil)
			store := storeOf(t, pool, ring)
			for _, spec := range []hooks.Spec{
				{Name: "victim", Kind: "webhook", URL: "https://example.com/x", Headers: map[string]string{"X-A": "hunter2"}},
				{Name: "other", Kind: "webhook", URL: rc.URL, Allow: []string{"127.0.0.0/8"}},
			} {
				if _, err := store.Add(t.Context(), spec, nil); err != nil {
					t.Fatal(err)
				}
			}
			exec(t, pool, `update soniq_hooks set url = $1 where name = 'other'`, rc.URL) // in the clear, to be moved
			exec(t, pool, move)
			changed := "victim"
			if strings.Contains(name, "hook") {
				changed = "other"
			}
			d := dispatcherOf(t, pool, hooks.Config{Allow: loopback, Keys: ring})
			if _, err := store.Test(t.Context(), d, changed); !errors.Is(err, hooks.ErrSealed) {
				t.Errorf("%v", err)
			}
			if n := len(rc.requests()); n != 0 {
				t.Errorf("%d requests", n)
			}
		})
	}
}

// A dispatcher of release 0.1.0 takes a sealed value for a reference to a
// variable that it lacks, and leaves the hook alone.
func TestSealed_value_isAReferenceToRelease010(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	store := storeOf(t, pool, keys(t, hooks.NewKey()))
	spec := hooks.Spec{Name: "w", Kind: "webhook", URL: "https://example.com/x", Secrets: secret, Headers: map[string]string{"X-A": "a"}}
	if _, err := store.Add(t.Context(), spec, nil); err != nil {
		t.Fatal(err)
	}
	columns := value[map[string]string](t, pool, `select jsonb_build_object('url', url, 'secrets', secrets, 'header', settings -> 'headers' ->> 'X-A') from soniq_hooks`)
	for column, text := range maps.All(columns) {
		if !strings.HasPrefix(text, "env:sealed:v1:") {
			t.Errorf("%s is %q", column, text)
		}
	}
}
