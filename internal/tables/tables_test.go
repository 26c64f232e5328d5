package tables

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"soniq"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

func TestMain(m *testing.M) { testdb.Main(m) }

// start runs a monitor of a schema of its own, which looks and tells again at once.
func start(t *testing.T, m *Monitor) {
	t.Helper()
	m.lookEvery, m.firstAgain = time.Millisecond, time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = m.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	eventually.True(t, "the monitor to run", m.running.Load)
}

// Whatever part of a program meets it, one line says that the tables are gone and what to do, again at a distance
// that grows; and one that they are back.
func TestMonitor_tablesGone_tellsWhatToDo(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ sql, want string }{
		"dropped":       {"drop schema app cascade", `schema "app" has no Soniq tables any more: run 'soniq setup'`},
		"migrated down": {"delete from app.soniq_migrations where version > '0178'", `schema "app" lacks 0179_soniq_go_hook_health`},
		"in part":       {"drop table app.soniq_kept_outcomes", `schema "app" lacks table soniq_kept_outcomes, which this program needs: run 'soniq setup'`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := testkit.Open(t, testdb.EmptyURL(t))
			cfg := soniq.Config{Schema: "app"}
			if _, err := soniq.Setup(t.Context(), pool, cfg); err != nil {
				t.Fatal(err)
			}
			log := &testkit.Log{}
			m := NewMonitor(pool, "app", log.Logger(slog.LevelInfo))
			start(t, m)
			testkit.Exec(t, pool, c.sql)
			for _, part := range []string{"heartbeat", "claim", "settle"} {
				m.Logger().With("worker", 1).Warn("trying again", "part", part, "error",
					errors.Join(&pgconn.PgError{Code: "42P01", Message: `relation "app.soniq_jobs" does not exist`}))
			}
			eventually.True(t, "it tells again", func() bool { return strings.Count(log.String(), strings.ReplaceAll(c.want, `"`, `\"`)) >= 3 })
			if text := log.String(); strings.Contains(text, "trying again") || !strings.Contains(text, "app.soniq_jobs") {
				t.Errorf("it logged %s", text)
			}
			if _, err := soniq.Setup(t.Context(), pool, cfg); err != nil {
				t.Fatal(err)
			}
			eventually.True(t, "it tells that they are back", func() bool { return strings.Contains(log.String(), "Soniq's tables are there again") })
		})
	}
}

// What an application's own trigger lacks, and what is there again when the monitor looks, is logged as it is.
func TestMonitor_otherErrors_areLoggedAsTheyAre(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	log := &testkit.Log{}
	m := NewMonitor(pool, "", log.Logger(slog.LevelInfo))
	m.Logger().Warn("before it runs", "error", &pgconn.PgError{Code: "42P01", Message: `relation "soniq_jobs" does not exist`})
	start(t, m)
	m.Logger().Warn("not ours", "error", &pgconn.PgError{Code: "42P01", Message: `relation "orders" does not exist`})
	m.Logger().Warn("no error")
	m.Logger().Warn("back already", "error", &pgconn.PgError{Code: "42P01", Message: `relation "soniq_jobs" does not exist`})
	for _, want := range []string{"before it runs", "not ours", "no error", "back already"} {
		eventually.True(t, want, func() bool { return strings.Contains(log.String(), want) })
	}
	if strings.Contains(log.String(), "soniq setup") {
		t.Errorf("it logged %s", log)
	}
}
