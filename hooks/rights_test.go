package hooks_test

import (
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"soniq/hooks"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

// logged is a log that one goroutine writes and another reads.
type logged struct{ testkit.Log }

func (l *logged) logger() *slog.Logger {
	return slog.New(slog.NewJSONHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// A row gets no variable and no network that its dispatcher was not given. What
// is due waits, uncharged, and goes on with the flag that the warning names.
func TestRow_asksForMoreThanTheDispatcherHas_waitsForTheFlag(t *testing.T) {
	t.Parallel()
	const token = "aws-secret-value"
	for name, c := range map[string]struct {
		set   string // of the row
		flag  string
		grant hooks.Config
	}{
		"header": {
			`settings = settings || '{"headers": {"X-Token": "env:AWS_SECRET_ACCESS_KEY"}}'`,
			"--hook-env AWS_SECRET_ACCESS_KEY",
			hooks.Config{Env: []string{"AWS_SECRET_ACCESS_KEY"}},
		},
		"secret": {`secrets = 'env:SIGNING'`, "--hook-env SIGNING", hooks.Config{Env: []string{"SIGNING"}}},
		"url":    {`url = 'env:ADDRESS'`, "--hook-env ADDRESS", hooks.Config{Env: []string{"ADDRESS"}}},
		"network": {
			`settings = '{"allow": ["10.0.0.0/8", "127.0.0.0/8"]}'`,
			"--hook-allow 10.0.0.0/8",
			hooks.Config{Allow: append([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, loopback...)},
		},
		"wider network": {
			`settings = '{"allow": ["126.0.0.0/7"]}'`,
			"--hook-allow 126.0.0.0/7",
			hooks.Config{Allow: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := testdb.New(t)
			rc := newReceiver(t, nil)
			env := map[string]string{"AWS_SECRET_ACCESS_KEY": token, "SIGNING": secret, "ADDRESS": rc.URL}
			hook := addHook(t, pool, "webhook", rc.URL)
			exec(t, pool, `update soniq_hooks set `+c.set+` where id = $1`, hook)
			die(t, pool, 1, "j", "boom")
			// It has been due for so long that the table may say why it waits.
			exec(t, pool, `update soniq_hook_deliveries set next_attempt_at = now() - interval '2 minutes'`)
			var log logged
			d := hooks.Config{Logger: log.logger()}
			stop := dispatchWith(t, pool, d, func(d *hooks.Dispatcher) { hooks.SetEnv(d, env) })
			eventually.True(t, "the warning", func() bool { return strings.Contains(log.String(), c.flag+`"`) })
			eventually.True(t, "the note", func() bool {
				infos, err := storeOf(t, pool, nil).List(t.Context())
				return err == nil && strings.HasSuffix(infos[0].Unavailable, c.flag)
			})
			stop()
			if n := len(rc.requests()); n != 0 || strings.Count(log.String(), c.flag) != 1 {
				t.Errorf("%d requests; log %s", n, log.String())
			}
			if n := value[int](t, pool, `select count(*) from soniq_hook_deliveries where state = 'pending' and attempts = 0`); n != 1 {
				t.Error("the delivery was charged")
			}
			if infos, _ := storeOf(t, pool, nil).List(t.Context()); !slices.Equal(infos[0].Needs(), []string{c.flag}) &&
				!slices.Contains(infos[0].Needs(), c.flag) {
				t.Errorf("needs %q", infos[0].Needs())
			}
			dispatchWith(t, pool, c.grant, func(d *hooks.Dispatcher) { hooks.SetEnv(d, env) })
			eventually.True(t, "the delivery", func() bool {
				return value[int](t, pool, `select count(*) from soniq_hook_deliveries where state = 'delivered'`) == 1
			})
			if lacks := value[*string](t, pool, `select lacks from soniq_hooks`); lacks != nil {
				t.Errorf("it still waits: %s", *lacks)
			}
		})
	}
}

// Names of its own need no flag; but for those of Soniq itself, which no flag
// gives either.
func TestRow_variablesNamedForHooks(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	rc := newReceiver(t, nil)
	hook := addHook(t, pool, "webhook", rc.URL)
	env := map[string]string{"SONIQ_HOOK_TOKEN": "tok", "SONIQ_HOOK_KEY": "the key", "SONIQ_HOOKS_ALLOW": "x"}
	test := func(reference string) error {
		exec(t, pool, `update soniq_hooks set settings = settings || jsonb_build_object('headers', jsonb_build_object('X-Token', $2::text)) where id = $1`, hook, reference)
		d := dispatcherOf(t, pool, hooks.Config{Allow: loopback, Env: []string{"SONIQ_HOOK_KEY", "OTHER"}})
		hooks.SetEnv(d, env)
		store := storeOf(t, pool, nil)
		infos, err := store.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_, err = store.Test(t.Context(), d, infos[0].Name)
		return err
	}
	if err := test("env:SONIQ_HOOK_TOKEN"); err != nil || rc.requests()[0].header.Get("X-Token") != "tok" {
		t.Errorf("%v", err)
	}
	for _, reference := range []string{"env:SONIQ_HOOK_KEY", "env:SONIQ_HOOK_ENV", "env:SONIQ_HOOKS_ALLOW", "env:OTHER", "env:", "env:A=B"} {
		if err := test(reference); err == nil {
			t.Errorf("%s was looked up", reference)
		}
	}
	if n := len(rc.requests()); n != 1 {
		t.Errorf("%d requests", n)
	}
}

// What a program or a file declares is bound by nothing of that.
func TestDeclare_hook_mayNameEveryVariableAndNetwork(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	rc := newReceiver(t, nil)
	spec := hooks.Spec{
		Name: "w", Kind: "webhook", URL: "env:ADDRESS", Secrets: "env:SIGNING", Headers: map[string]string{"X-Token": "env:AWS"},
		Allow: []string{"127.0.0.0/8", "10.0.0.0/8"},
	}
	dispatchWith(t, pool, hooks.Config{Allow: []netip.Prefix{}}, func(d *hooks.Dispatcher) {
		hooks.SetEnv(d, map[string]string{"ADDRESS": rc.URL, "SIGNING": secret, "AWS": "tok"})
		declare(t, spec)(d)
	})
	die(t, pool, 1, "j", "boom")
	eventually.True(t, "the request", func() bool { return len(rc.requests()) == 1 })
	if got := rc.requests()[0].header.Get("X-Token"); got != "tok" {
		t.Errorf("%q", got)
	}
}

// Whatever a configuration has in the clear, the table has it not, and what a
// dispatcher of release 0.1.0 has written there goes at the next start.
func TestDeclare_table_hasNoSecret(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	specs := []hooks.Spec{
		{
			Name: "w", Kind: "webhook", URL: "https://example.com:8443/hunter2?hunter2", Secrets: secret,
			Headers: map[string]string{"Authorization": "Bearer hunter2", "X-Ref": "env:TOKEN"},
		},
		{Name: "s", Kind: "slack", URL: "https://hooks.slack.com/services/hunter2"},
		{Name: "e", Kind: "exec", Command: "notify --token=hunter2hunter2"},
	}
	d := dispatcherOf(t, pool, hooks.Config{})
	declare(t, specs...)(d)
	exec(t, pool, `update soniq_hooks set url = 'https://example.com/hunter2', secrets = $1`, secret)
	declare(t, specs...)(d)
	table := value[string](t, pool, `select string_agg(h::text, ' ') from soniq_hooks h`)
	if strings.Contains(table, "hunter2") || strings.Contains(table, secret) {
		t.Errorf("a secret is in the table: %s", table)
	}
	h, err := storeOf(t, pool, nil).Get(t.Context(), "w")
	if err != nil || h.Target != "https://example.com:8443/…" || h.SecretFrom != "configuration" || !h.Signed || h.Headers["X-Ref"] != "env:TOKEN" ||
		h.Headers["Authorization"] != hooks.Hidden || h.Needs() != nil {
		t.Errorf("%+v, %v", h, err)
	}
	// It can be tested where its configuration is, and only there.
	rc := newReceiver(t, nil)
	mine := hooks.Spec{Name: "w", Kind: "webhook", URL: rc.URL, Allow: []string{"127.0.0.1"}}
	if _, err := storeOf(t, pool, nil).Test(t.Context(), d, "s", mine); !errors.Is(err, hooks.ErrDeclared) {
		t.Errorf("%v", err)
	}
	if _, err := storeOf(t, pool, nil).Test(t.Context(), d, "w", mine); err != nil || len(rc.requests()) != 1 {
		t.Errorf("%v", err)
	}
}

// What SQL can write and 'hooks add' refuses reaches no further: headers that
// are Soniq's own are not sent, a row of many megabytes is not read, and the
// others go on.
func TestRow_writtenBySQL_staysWithinItsBounds(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	rc := newReceiver(t, nil)
	addHook(t, pool, "webhook", rc.URL)
	exec(t, pool, `update soniq_hooks set settings = settings || '{"headers": {
		"Host": "evil.example.com", "content-length": "1", "Transfer-Encoding": "chunked", "webhook-id": "mine", "Connection": "close",
		"Upgrade": "h2c", "X-Fine": "yes"}}'`)
	huge := addHook(t, pool, "webhook", rc.URL)
	exec(t, pool, `update soniq_hooks set settings = settings || jsonb_build_object('headers', jsonb_build_object('X', repeat('x', 3000000))) where id = $1`, huge)
	broken := addHook(t, pool, "webhook", rc.URL)
	exec(t, pool, `update soniq_hooks set settings = settings || '{"headers": {"X-A": "a\r\nX-B: b"}}' where id = $1`, broken)
	odd := addHook(t, pool, "slack", rc.URL)
	exec(t, pool, `update soniq_hooks set settings = '{"headers": ["hunter2"], "allow": 12345678}' where id = $1`, odd)
	dispatch(t, pool)
	die(t, pool, 1, "j", "boom")
	eventually.True(t, "one request, three failures", func() bool {
		return len(rc.requests()) == 1 && value[int](t, pool, `select count(*) from soniq_hook_deliveries where last_error is not null and lease is null`) == 3
	})
	h := rc.requests()[0].header
	if h.Get("X-Fine") != "yes" || h.Get("Webhook-Id") == "mine" || h.Get("Upgrade") != "" || h.Get("Host") != "" {
		t.Errorf("%v", h)
	}
	for id, want := range map[string]string{huge.String(): "larger than", broken.String(): "invalid header field value", odd.String(): "can't be read"} {
		if got := value[string](t, pool, `select last_error from soniq_hook_deliveries where hook_id = $1`, id); !strings.Contains(got, want) || strings.Contains(got, "hunter2") {
			t.Errorf("%q lacks %q", got, want)
		}
	}
	// And the view shows all of them.
	if infos, err := storeOf(t, pool, nil).List(t.Context()); err != nil || len(infos) != 4 {
		t.Errorf("%d hooks, %v", len(infos), err)
	}
}

func TestSpec_Check_bounds(t *testing.T) {
	t.Parallel()
	long := func(n int) string { return strings.Repeat("x", n) }
	for name, s := range map[string]hooks.Spec{
		"name":          {Name: long(201), Kind: "log"},
		"command":       {Name: "h", Kind: "exec", Command: long(20_000)},
		"url":           {Name: "h", Kind: "webhook", URL: "https://example.com/" + long(5000)},
		"reference":     {Name: "h", Kind: "webhook", URL: "env:sealed:v1:"},
		"no name":       {Name: "h", Kind: "webhook", URL: "https://example.com", Headers: map[string]string{"X": "env:"}},
		"own header":    {Name: "h", Kind: "webhook", URL: "https://example.com", Headers: map[string]string{"transfer-encoding": "chunked"}},
		"signature":     {Name: "h", Kind: "webhook", URL: "https://example.com", Headers: map[string]string{"webhook-signature": "v1,x"}},
		"line break":    {Name: "h", Kind: "webhook", URL: "https://example.com", Headers: map[string]string{"X": "a\r\nY: b"}},
		"header":        {Name: "h", Kind: "webhook", URL: "https://example.com", Headers: map[string]string{"X": long(5000)}},
		"filter":        {Name: "h", Kind: "log", Jobs: []string{long(1001)}},
		"many":          {Name: "h", Kind: "log", Queues: make([]string, 201)},
		"zone":          {Name: "h", Kind: "webhook", URL: "https://example.com", Allow: []string{"fe80::1%eth0"}},
		"base url":      {Name: "h", Kind: "slack", URL: "https://example.com", BaseURL: "https://example.com/> <!channel"},
		"base url line": {Name: "h", Kind: "slack", URL: "https://example.com", BaseURL: "https://example.com/a\tb"},
	} {
		if s.Check() == nil {
			t.Errorf("%s: it is good enough", name)
		}
	}
}

// What no dispatcher could ever send to is refused when it is added.
func TestSpec_Check_whatNobodyCouldSendTo(t *testing.T) {
	t.Parallel()
	for _, spec := range []hooks.Spec{
		{Name: "h", Kind: "webhook", URL: "https://example.com:99999/x"},
		{Name: "h", Kind: "webhook", URL: "https://example.com:0/x"},
		{Name: "h", Kind: "slack", URL: "env:SONIQ_HOOK_KEY"},
		{Name: "h", Kind: "webhook", URL: "https://example.com/x", Secrets: "env:SONIQ_HOOK_KEY"},
		{Name: "h", Kind: "webhook", URL: "https://example.com/x", Headers: map[string]string{"X-A": "env:SONIQ_HOOK_ENV"}},
	} {
		if err := spec.Check(); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%+v: %v", spec, err)
		}
	}
	for _, address := range []string{"https://example.com/x", "https://example.com:/x", "http://10.0.0.1:8080", "https://[2001:db8::1]:8443/x"} {
		spec := hooks.Spec{Name: "h", Kind: "webhook", URL: address}
		if err := spec.Check(); err != nil {
			t.Errorf("%s: %v", address, err)
		}
	}
}
