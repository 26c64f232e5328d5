package hooks_test

import (
	"log/slog"
	"strings"
	"testing"

	"soniq/deadletter/classify"
	"soniq/hooks"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

// Two configurations have a hook of one name, and differ. Each is told where; every death
// that either of them asks for is told to somebody. Once one is gone, the other's filter
// counts alone.
func TestDeclare_configurationsDiffer_areToldAndLoseNothing(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	one, two := newReceiver(t, nil), newReceiver(t, nil)
	const firstFile, secondFile = "first:/etc/soniq.yaml", "second:/etc/soniq.yaml"
	spec := func(url string, jobs ...string) hooks.Spec {
		return hooks.Spec{Name: "h", Kind: hooks.Webhook, URL: url, Secrets: secret, Allow: []string{"127.0.0.0/8"}, Jobs: jobs}
	}
	logs := map[string]*testkit.Log{firstFile: {}, secondFile: {}}
	run := func(origin string, s hooks.Spec) (stop func()) {
		return dispatchWith(t, pool, hooks.Config{Origin: origin, Logger: logs[origin].Logger(slog.LevelWarn)}, declare(t, s))
	}
	stop := run(firstFile, spec(one.URL, "a", "both"))
	if logs[firstFile].String() != "" {
		t.Errorf("alone: %s", logs[firstFile].String())
	}
	run(secondFile, spec(two.URL, "b", "both"))
	for _, want := range []string{"another configuration", "hook=h", "here=" + secondFile, "there=" + firstFile, "jobs: [b both] here, [a both] there", "url: "} {
		if !strings.Contains(logs[secondFile].String(), want) {
			t.Errorf("the log lacks %q: %s", want, logs[secondFile].String())
		}
	}
	for _, job := range []string{"a", "b", "both", "none"} {
		die(t, pool, 1, job, "boom")
	}
	eventually.True(t, "three deliveries", func() bool { return len(one.requests())+len(two.requests()) == 3 })
	// The first one starts again: it is told of the second, whose deaths stay told.
	stop()
	run(firstFile, spec(one.URL, "a", "both"))
	if !strings.Contains(logs[firstFile].String(), "there="+secondFile) {
		t.Errorf("the log of the first: %s", logs[firstFile].String())
	}
	if got := value[string](t, pool, `select jobs::text from soniq_hooks`); got != "{a,b,both}" {
		t.Errorf("the hook receives %s", got)
	}
	// What no dispatcher has renewed counts no longer.
	exec(t, pool, `
		update soniq_hooks
		set declarations = (
		  select jsonb_object_agg(key, case when value ->> 'origin' = $1 then value else jsonb_set(value, '{seen_at}', '"2020-01-01T00:00:00Z"') end)
		  from jsonb_each(declarations))`, firstFile)
	declare(t, spec(one.URL, "a", "both"))(dispatcherOf(t, pool, hooks.Config{Origin: firstFile}))
	if got := value[string](t, pool, `select jobs::text from soniq_hooks`); got != "{a,both}" {
		t.Errorf("alone the hook receives %s", got)
	}
	if value[bool](t, pool, `select declarations::text like '%whsec%'`+` from soniq_hooks`) {
		t.Error("a secret is in the table")
	}
}

// Whatever two configurations say of one hook, it receives each death that either of them
// asks for: what a hook of its own with that filter receives. Where they differ in one
// thing, it receives nothing else.
func TestDeclare_configurationsDiffer_receivesTheUnion(t *testing.T) {
	t.Parallel()
	type spec = hooks.Spec
	red, blue := map[string]string{"team": "red"}, map[string]string{"team": "blue"}
	for name, c := range map[string]struct {
		one, two spec
		exact    bool
	}{
		"jobs":                    {spec{Jobs: []string{"a"}}, spec{Jobs: []string{"b"}}, true},
		"globs":                   {spec{Jobs: []string{"a*"}}, spec{Jobs: []string{"?"}}, true},
		"all jobs":                {spec{}, spec{Jobs: []string{"b"}}, true},
		"queues":                  {spec{Queues: []string{"x"}}, spec{Queues: []string{"y"}}, true},
		"reasons":                 {spec{Reasons: []classify.Reason{classify.Timeout}}, spec{Reasons: []classify.Reason{classify.PermanentFailure}}, true},
		"tags":                    {spec{Tags: red}, spec{Tags: blue}, false},
		"no tags":                 {spec{Tags: red}, spec{}, true},
		"jobs and queues":         {spec{Jobs: []string{"a"}, Queues: []string{"x"}}, spec{Jobs: []string{"b"}, Queues: []string{"y"}}, false},
		"events":                  {spec{Events: []hooks.EventType{hooks.Dead}}, spec{Events: []hooks.EventType{hooks.Resolved}, Jobs: []string{"b"}}, false},
		"events, one by default":  {spec{}, spec{Events: []hooks.EventType{hooks.Resolved}}, true},
		"nothing; all of the two": {spec{}, spec{}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := testdb.New(t)
			named := func(s spec, name string) spec {
				s.Name, s.Kind, s.URL, s.Allow = name, hooks.Webhook, "http://127.0.0.1:1", []string{"127.0.0.0/8"}
				return s
			}
			quiet := slog.New(slog.DiscardHandler)
			for i, s := range []spec{c.one, c.two} {
				d := dispatcherOf(t, pool, hooks.Config{Origin: []string{"one", "two"}[i], Logger: quiet})
				declare(t, named(s, "both"), named(s, []string{"one", "two"}[i]))(d)
			}
			exec(t, pool, `
				insert into soniq_dead_letter_jobs (id, job_name, args, queue, priority, max_attempts, attempts, dead_letter_reason, tags,
				  original_created_at, moved_to_dead_letter_at)
				select gen_random_uuid(), j, '{}', q, 1, 1, 1, r, t::jsonb, now(), now()
				from unnest(array['a', 'b', 'aa', 'cc']) j, unnest(array['x', 'y', 'z']) q,
				  unnest(array['timeout', 'permanent_failure', 'max_retries_exceeded']) r,
				  unnest(array['{"team": "red"}', '{"team": "blue"}', '{}']) t`)
			exec(t, pool, `update soniq_dead_letter_jobs set state = 'resolved' where queue = 'x'`)
			const receivedSQL = `
				select count(*) filter (where a.n is null), count(*) filter (where b.n is null), count(*)
				from (
				  select d.event, d.dead_letter_id, 1 n from soniq_hook_deliveries d join soniq_hooks h on h.id = d.hook_id where h.name = 'both'
				) a
				full join (
				  select distinct d.event, d.dead_letter_id, 1 n from soniq_hook_deliveries d join soniq_hooks h on h.id = d.hook_id where h.name in ('one', 'two')
				) b using (event, dead_letter_id)`
			var lost, more, all int
			if err := pool.QueryRow(t.Context(), receivedSQL).Scan(&lost, &more, &all); err != nil {
				t.Fatal(err)
			}
			if lost > 0 || c.exact && more > 0 || all == 0 {
				t.Errorf("of %d events %d are lost and %d nobody asked for", all, lost, more)
			}
		})
	}
}

// Changing a hook keeps what waits for it, its secret and its id.
func TestStore_Replace_keepsDeliveriesAndSecret(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	store := storeOf(t, pool, nil)
	spec := hooks.Spec{Name: "h", Kind: hooks.Webhook, URL: "https://old.example.com", Secrets: secret}
	id, err := store.Add(t.Context(), spec, nil)
	if err != nil {
		t.Fatal(err)
	}
	die(t, pool, 2, "j", "boom")
	exec(t, pool, `update soniq_hooks set failures = 9, failing_since = now(), last_failed_at = now(), blocked_until = now() + interval '1 hour'`)
	spec.URL, spec.Secrets, spec.Queues, spec.Allow = "https://new.example.com", "", []string{"q"}, []string{"10.0.0.0/8"}
	if err := store.Replace(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	h, err := store.Get(t.Context(), "h")
	if err != nil || h.ID != id || h.Target != "https://new.example.com/…" || h.Secrets != 1 || h.Pending != 2 || h.Failures != 0 || h.BlockedUntil != nil || h.Allow[0] != "10.0.0.0/8" {
		t.Errorf("%+v, %v", h, err)
	}
	if err := store.Replace(t.Context(), hooks.Spec{Name: "h", Kind: hooks.Log}); err == nil {
		t.Error("a webhook became a log")
	}
	if err := store.Replace(t.Context(), hooks.Spec{Name: "h", Kind: hooks.Webhook, URL: spec.URL, Reasons: []classify.Reason{"timout"}}); err == nil || !strings.Contains(err.Error(), `did you mean "timeout"?`) {
		t.Errorf("a misspelt reason: %v", err)
	}
}
