package interop

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"soniq"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

// Whoever comes first, both have what they need, and neither undoes anything.
func TestSetup_eitherOrder_bothWork(t *testing.T) {
	t.Parallel()
	eachRelease(t, func(t *testing.T, py *python) {
		ours := func(t *testing.T, pool *pgxpool.Pool) []string {
			t.Helper()
			result, err := soniq.Setup(t.Context(), pool, soniq.Config{})
			if err != nil {
				t.Fatal(err)
			}
			return result.Applied
		}
		theirs := func(t *testing.T, pool *pgxpool.Pool) string {
			t.Helper()
			out, err := py.soniq(t, pool.Config().ConnString(), "setup")
			if err != nil {
				t.Fatal(err)
			}
			return out
		}
		const nothing = "Database setup completed (no migrations needed)"

		t.Run("PythonFirst", func(t *testing.T) {
			t.Parallel()
			pool := emptyPool(t)
			if out := theirs(t, pool); !strings.Contains(out, "Applied 5 migrations") {
				t.Errorf("Python's setup: %s", out)
			}
			applied := ours(t, pool)
			if len(applied) == 0 || slices.ContainsFunc(applied, func(m string) bool { return m < "0150" }) {
				t.Errorf("ours applied %q after Python's, want our own alone", applied)
			}
			if out := theirs(t, pool); !strings.Contains(out, nothing) {
				t.Errorf("Python's setup after ours: %s", out)
			}
			if applied := ours(t, pool); len(applied) != 0 {
				t.Errorf("ours applied %q again", applied)
			}
			bothEnqueue(t, py, pool)
		})
		t.Run("GoFirst", func(t *testing.T) {
			t.Parallel()
			pool := emptyPool(t)
			ours(t, pool)
			// The scheduler's, the webhooks' and the logs' tables are Python's alone.
			if out := theirs(t, pool); !strings.Contains(out, "Applied 3 migrations") {
				t.Errorf("Python's setup after ours: %s", out)
			}
			if applied := ours(t, pool); len(applied) != 0 {
				t.Errorf("ours applied %q after Python's", applied)
			}
			out, err := py.soniq(t, pool.Config().ConnString(), "migrate-status")
			if err != nil || !strings.Contains(out, "Up to date") {
				t.Errorf("migrate-status: %v: %s", err, out)
			}
			bothEnqueue(t, py, pool)
		})
	})
}

// Python's setup makes its table of migrations before it takes the lock, so two
// of them at once may fail on an empty database; ours must get through that.
func TestSetup_bothAtOnce_oursSucceeds(t *testing.T) {
	t.Parallel()
	byTurns(t, func(t *testing.T, py *python) {
		for range testkit.Size(1, 3) {
			pool := emptyPool(t)
			c := py.console(t, pool)
			// The connection is there: what is left is the race.
			eval[any](t, c, `await app.ensure_initialized()`, nil)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			var g errgroup.Group
			for range 2 {
				g.Go(func() error {
					_, err := soniq.Setup(ctx, pool, soniq.Config{})
					return err
				})
			}
			// What 'soniq setup' does: the status without the lock, and then
			// the migrations under it.
			_, theirs := try[any](t, c, `[await app._get_migration_status(version_filter="000"), await app._run_migrations(version_filter="000")]`, nil)
			if err := g.Wait(); err != nil {
				t.Error(err)
			}
			if theirs != nil {
				t.Logf("Python's failed, as two of Python's may: %v", theirs)
				eval[int](t, c, `await app._run_migrations(version_filter="000")`, nil)
			}
			if err := soniq.Check(ctx, pool, soniq.Config{}); err != nil {
				t.Error(err)
			}
			if got := column[string](t, pool, `select version from soniq_migrations where version < '0100' order by version`); !slices.Equal(got, []string{"0001", "0002", "0003", "0004", "0005"}) {
				t.Errorf("Python's migrations: %q", got)
			}
			c.kill(t)
		}
	})
}

func emptyPool(t *testing.T) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), testdb.EmptyURL(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

func bothEnqueue(t *testing.T, py *python, pool *pgxpool.Pool) {
	t.Helper()
	client := newClient(t, pool)
	mine := enqueue(t, client, "shared.echo", map[string]any{"n": 1})
	c := py.console(t, pool)
	theirs := eval[string](t, c, `await app.enqueue("shared.echo", args={"n": 2})`, nil)
	for _, id := range []string{mine.String(), theirs} {
		job := eval[struct {
			Status string
			Args   json.RawMessage
		}](t, c, `await app.get_job(id)`, with{"id": id})
		if job.Status != "queued" {
			t.Errorf("Python sees job %s as %+v", id, job)
		}
	}
}
