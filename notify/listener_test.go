package notify_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"soniq/internal/eventually"
	"soniq/internal/testdb"
	"soniq/notify"
)

func TestListener_notified_handlerOfTheChannelIsTold(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	jobs, letters := newRecorder(), newRecorder()
	l, _ := listen(t, config(pool), map[string]notify.Handler{notify.NewJob: jobs, notify.DeadLetter: letters})

	jobs.expect(t, connected)
	letters.expect(t, connected)
	eventually.True(t, "Connected() is true", l.Connected)
	exec(t, pool, `select pg_notify('soniq_new_job', 'emails')`)
	exec(t, pool, `select pg_notify('soniq_dead_letter', '{"v":1}')`)
	exec(t, pool, `select pg_notify('soniq_new_job', '')`)
	jobs.expect(t, "emails", "")
	letters.expect(t, `{"v":1}`)
}

func TestListener_plainInsert_announcedByTheSchema(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	jobs := newRecorder()
	listen(t, config(pool), map[string]notify.Handler{notify.NewJob: jobs})

	jobs.expect(t, connected)
	// A live worker that has declared no waiters, so the trigger notifies.
	exec(t, pool, `insert into soniq_workers (id, hostname, pid) values (gen_random_uuid(), 'h', 1)`)
	exec(t, pool, `insert into soniq_jobs (id, job_name, args) values (gen_random_uuid(), 'emails.send', '{}')`)
	jobs.expect(t, "default")
}

func TestListener_oddChannelName_isQuoted(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	const channel = `Probe "7"; select 1`
	r := newRecorder()
	listen(t, config(pool), map[string]notify.Handler{channel: r})

	r.expect(t, connected)
	exec(t, pool, `select pg_notify($1, 'hello')`, channel)
	r.expect(t, "hello")
}

func TestListener_burst_nothingLostAndInOrder(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	r := newRecorder()
	listen(t, config(pool), map[string]notify.Handler{notify.DeadLetter: r})
	r.expect(t, connected)

	const transactions, each = 20, 500
	go func() {
		for i := range transactions {
			// The error, if any, shows as notifications that are missing.
			_, _ = pool.Exec(context.Background(),
				`select pg_notify('soniq_dead_letter', n::text) from generate_series($1::int, $2::int) n`,
				i*each, (i+1)*each-1)
		}
	}()
	for i := range transactions * each {
		if got, want := r.next(t), fmt.Sprint(i); got != want {
			t.Fatalf("notification %d = %q", i, got)
		}
	}
}

func TestListener_handlerPanics_listenerGoesOn(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	var log journal
	r := newRecorder()
	cfg := config(pool)
	cfg.Logger = log.logger()
	listen(t, cfg, map[string]notify.Handler{
		notify.NewJob: r,
		notify.DeadLetter: funcs{
			connected: func(context.Context) {
				r <- connected
				panic("on connect")
			},
			notify: func(_ context.Context, p string) {
				if p == "bad" {
					panic("on notify")
				}
				r <- p
			},
		},
	})

	// Once for each channel, in whatever order they are listened on.
	r.expect(t, connected, connected)
	exec(t, pool, `select pg_notify('soniq_dead_letter', 'bad')`)
	exec(t, pool, `select pg_notify('soniq_dead_letter', 'good')`)
	exec(t, pool, `select pg_notify('soniq_new_job', 'emails')`)
	r.expect(t, "good", "emails")
	for _, what := range []string{"on connect", "on notify"} {
		if n := len(log.lines("level=ERROR", "panicked", what, "soniq_dead_letter", "listener_test.go")); n != 1 {
			t.Errorf("%d log lines about the panic %q, want 1 with the channel and the stack:\n%s", n, what, &log)
		}
	}
	if n := listeners(t, pool); n != 1 {
		t.Errorf("%d listener sessions, want the one that there was", n)
	}
}

func TestListener_applicationName_setUnlessTheConfigHasOne(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	cfg := config(pool)
	own := cfg
	own.ConnConfig = cfg.ConnConfig.Copy()
	own.ConnConfig.RuntimeParams["application_name"] = "billing"
	first, second := newRecorder(), newRecorder()
	listen(t, cfg, map[string]notify.Handler{notify.NewJob: first})
	listen(t, own, map[string]notify.Handler{notify.NewJob: second})

	first.expect(t, connected)
	second.expect(t, connected)
	var names string
	err := pool.QueryRow(t.Context(), `
select string_agg(application_name, ' ' order by application_name)
from pg_stat_activity
where datname = current_database()
  and query ilike 'listen %'`).Scan(&names)
	if err != nil {
		t.Fatal(err)
	}
	if names != "billing soniq-listener" {
		t.Errorf("application names = %q", names)
	}
	if got := cfg.ConnConfig.RuntimeParams["application_name"]; got == "soniq-listener" {
		t.Error("the caller's ConnConfig was changed")
	}
}

func TestNewListener_badConfig_errorNamesTheField(t *testing.T) {
	t.Parallel()
	good := elsewhere(t, "postgres://127.0.0.1:1/x").ConnConfig
	for want, cfg := range map[string]notify.Config{
		"ConnConfig is required": {},
		"pgx.ParseConfig":        {ConnConfig: good.Copy()},
		"MinBackoff is negative": {ConnConfig: good, MinBackoff: -time.Second},
		"MaxBackoff 1s is below": {ConnConfig: good, MinBackoff: time.Minute, MaxBackoff: time.Second},
	} {
		if strings.Contains(want, "ParseConfig") {
			cfg.ConnConfig.DialFunc = nil
		}
		if _, err := notify.NewListener(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("NewListener = %v, want an error with %q", err, want)
		}
	}
}

func TestListener_badHandlers_runRefuses(t *testing.T) {
	t.Parallel()
	for want, handle := range map[string]func(*notify.Listener){
		"no channel has a handler": func(*notify.Listener) {},
		`"soniq_new_job" is nil`:   func(l *notify.Listener) { l.Handle(notify.NewJob, nil) },
		"1 to 63 bytes":            func(l *notify.Listener) { l.Handle(strings.Repeat("c", 64), newRecorder()) },
		`channel name ""`:          func(l *notify.Listener) { l.Handle("", newRecorder()) },
	} {
		cfg := elsewhere(t, "postgres://127.0.0.1:1/x")
		cfg.Logger = slog.New(slog.DiscardHandler)
		l, err := notify.NewListener(cfg)
		if err != nil {
			t.Fatal(err)
		}
		handle(l)
		if err := l.Run(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Run = %v, want an error with %q", err, want)
		}
	}
}

func TestListener_secondRun_refusedWhileTheFirstGoesOn(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	r := newRecorder()
	l, stop := listen(t, config(pool), map[string]notify.Handler{notify.NewJob: r})
	r.expect(t, connected)

	if err := l.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "running already") {
		t.Fatalf("second Run = %v, want an error that says so", err)
	}
	exec(t, pool, `select pg_notify('soniq_new_job', 'still here')`)
	r.expect(t, "still here")

	stop()
	ctx, cancel := context.WithCancel(t.Context())
	again := make(chan error, 1)
	go func() { again <- l.Run(ctx) }()
	r.expect(t, connected)
	cancel()
	if err := <-again; err != nil {
		t.Fatalf("Run after the first has ended = %v, want nil", err)
	}
}
