package hooks_test

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"soniq/hooks"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

// hidden is in every secret that the test plants.
const hidden = "hunter2"

// Secrets are planted in every column and field that may hold one. However a struct of
// this package is printed, none of them shows.
func TestStructs_printed_showNoSecret(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	key := hooks.NewKey()
	signing := hooks.NewSecret()
	spec := hooks.Spec{
		Name: "w", Kind: hooks.Webhook, URL: "https://example.com/hunter2?k=hunter2", Secrets: signing,
		Headers: map[string]string{"Authorization": "Bearer hunter2"}, Command: "notify --token=hunter2hunter2",
	}
	store, err := hooks.NewStore(pool, hooks.StoreConfig{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Add(t.Context(), spec, nil); err != nil {
		t.Fatal(err)
	}
	sealing := storeOf(t, pool, keys(t, key))
	spec.Name = "sealed"
	if _, err := sealing.Add(t.Context(), spec, nil); err != nil {
		t.Fatal(err)
	}
	exec(t, pool, `insert into soniq_hooks (name, kind, settings) values ('e', 'exec', '{"command": "notify --token=hunter2hunter2"}')`)
	exec(t, pool, `update soniq_hooks set lacks = 'password=hunter2', lacks_at = now(), disabled_reason = 'Authorization: Bearer hunter2',
		settings = settings || '{"base_url": "https://ann:hunter2@example.com/"}'`)
	exec(t, pool, `
		insert into soniq_hook_deliveries (hook_id, event, dead_letter_id, facts, group_key, last_answer, last_error)
		select id, 'job.dead_lettered', gen_random_uuid(), '{"password": "hunter2"}', 'hunter2', 'Authorization: Bearer hunter2', 'password=hunter2'
		from soniq_hooks`)
	infos, err := store.List(t.Context())
	if err != nil || len(infos) != 3 {
		t.Fatalf("%d hooks, %v", len(infos), err)
	}
	deliveries, err := store.Deliveries(t.Context(), hooks.DeliveryFilter{})
	if err != nil || len(deliveries) != 3 {
		t.Fatalf("%d deliveries, %v", len(deliveries), err)
	}
	config := hooks.Config{Keys: keys(t, key), Env: []string{"TOKEN"}}
	d := dispatcherOf(t, pool, config)
	spec.Name = "declared"
	if err := d.Declare(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	rc := newReceiver(t, nil)
	delivery, err := store.Test(t.Context(), dispatcherOf(t, pool, hooks.Config{}), "declared", hooks.Spec{
		Name: "declared", Kind: hooks.Webhook, URL: rc.URL + "/hunter2", Allow: []string{"127.0.0.1"},
		Headers: map[string]string{"Authorization": "Bearer hunter2"},
	})
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := sealing.Seal(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	wrong := d.Declare(t.Context(), hooks.Spec{Name: "x", Kind: hooks.Webhook, URL: "https://ann:hunter2@example.com", Headers: spec.Headers})
	values := []any{
		spec,
		&spec,
		[]hooks.Spec{spec},
		map[string]hooks.Spec{"x": spec},
		struct{ Spec hooks.Spec }{spec},
		infos, &infos[0], deliveries, &deliveries[0], config, &config, *config.Keys,
		hooks.StoreConfig{Keys: config.Keys},
		d, store, sealing, delivery, *delivery,
		sealed, wrong,
		hooks.DeclareError{Hook: "x", Err: wrong},
		&hooks.VoidError{Err: wrong},
		hooks.VoidError{Err: wrong},
		hooks.NeedsError{Flags: spec.Needs()},
		hooks.AnswerError{Status: 500},
		hooks.Group{First: time.Now()},
		hooks.Event{},
		hooks.DeliveryFilter{},
		hooks.RegisterOptions{},
		hooks.DeliveryTrace{Delivery: delivery, Outcome: hooks.DeliveryRetried, Err: errors.New("token=hunter2")},
	}
	printed := map[string]bool{}
	for _, v := range values {
		typ := reflect.TypeOf(v)
		for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice {
			typ = typ.Elem()
		}
		printed[typ.Name()] = true
		for form, text := range testkit.Printed(v, "%s", "%q", "%x", "%d") {
			for _, secret := range []string{hidden, strings.TrimPrefix(signing, "whsec_"), key} {
				if testkit.Shows(text, secret) {
					t.Errorf("%T as %s shows %q: %s", v, form, secret, text)
				}
			}
		}
	}
	for _, name := range testkit.ExportedStructs(t) {
		if !printed[name] {
			t.Errorf("%s is not among the values: add one", name)
		}
	}
	// It is no proof unless there was something to show.
	table := value[string](t, pool, `select string_agg(h::text, ' ') from soniq_hooks h`)
	if !strings.Contains(table, hidden) || !strings.Contains(rc.requests()[0].header.Get("Authorization"), hidden) {
		t.Errorf("no secret was planted: %s", table)
	}
	if got := fmt.Sprintf("%+v", spec); !strings.Contains(got, "URL:https://example.com/...") || !strings.Contains(got, "Authorization:"+hooks.Hidden) {
		t.Errorf("the rest is not shown: %s", got)
	}
}
