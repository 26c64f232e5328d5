package hooks_test

import (
	"context"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq"
	"soniq/hooks"
	"soniq/internal/eventually"
	"soniq/internal/pg"
	"soniq/internal/testdb"
)

// pathless returns a pool on an empty database whose sessions have no search_path:
// a statement finds only what it names with its schema.
func pathless(t *testing.T) *pgxpool.Pool {
	t.Helper()
	config, err := pgxpool.ParseConfig(testdb.EmptyURL(t))
	if err != nil {
		t.Fatal(err)
	}
	config.MaxConns = 10
	config.ConnConfig.RuntimeParams["search_path"] = ""
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// Everything that hooks do, in two schemas of one database.
func TestSchema_twoOfThem_knowNothingOfEachOther(t *testing.T) {
	t.Parallel()
	pool := pathless(t)
	names := []string{`Jobs "of" A's`, "b"}
	receivers := map[string]*receiver{}
	channels := map[string]string{}
	listener, err := pgx.ConnectConfig(t.Context(), pool.Config().ConnConfig)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close(context.Background()) })
	dieIn := func(name, job string) {
		t.Helper()
		schema, err := pg.NewSchema(name)
		if err != nil {
			t.Fatal(err)
		}
		exec(t, pool, schema.SQL(`
			insert into public.soniq_dead_letter_jobs (id, job_name, args, queue, priority, max_attempts, attempts, last_error,
			  dead_letter_reason, original_created_at, moved_to_dead_letter_at)
			values (gen_random_uuid(), $1, '{}', 'default', 100, 3, 3, 'boom', 'timeout', now(), now())`), job)
	}
	for _, name := range names {
		schema, err := pg.NewSchema(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := soniq.Setup(t.Context(), pool, soniq.Config{Schema: name}); err != nil {
			t.Fatal(err)
		}
		ring := keys(t, hooks.NewKey())
		store, err := hooks.NewStore(pool, hooks.StoreConfig{Schema: name, Keys: ring})
		if err != nil {
			t.Fatal(err)
		}
		rc := newReceiver(t, nil)
		receivers[name] = rc
		for _, spec := range []hooks.Spec{
			{Name: "h", Kind: "webhook", URL: rc.URL, Secrets: hooks.NewSecret(), Allow: []string{"127.0.0.0/8"}},
			{Name: "removed", Kind: "log"},
		} {
			if _, err := store.Add(t.Context(), spec, nil); err != nil {
				t.Fatal(err)
			}
		}
		for step, err := range []error{
			store.RotateSecret(t.Context(), "h", hooks.NewSecret(), true, nil),
			store.Disable(t.Context(), "h"),
			store.Enable(t.Context(), "h"),
			store.Remove(t.Context(), "removed"),
		} {
			if err != nil {
				t.Fatalf("step %d: %v", step, err)
			}
		}
		if _, err := store.Seal(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := store.RetryDeliveries(t.Context(), []uuid.UUID{uuid.New()}, "h"); err != nil {
			t.Fatal(err)
		}
		channel := schema.Channel("soniq_hook")
		channels[channel] = name
		if _, err := listener.Exec(t.Context(), "listen "+pgx.Identifier{channel}.Sanitize()); err != nil {
			t.Fatal(err)
		}
		dispatchWith(t, pool, hooks.Config{Schema: name, Keys: ring}, func(d *hooks.Dispatcher) {
			hooks.SetFirstDelay(d, 0)
			declare(t, hooks.Spec{Name: "declared", Kind: "log"})(d)
			if err := d.Register(t.Context(), "own", hookFunc(func(context.Context, *hooks.Delivery) error { return nil }), hooks.RegisterOptions{Digest: true}); err != nil {
				t.Fatal(err)
			}
		})
		if d, err := store.Test(t.Context(), dispatcherOf(t, pool, hooks.Config{Schema: name, Allow: loopback, Keys: ring}), "h"); err != nil || d.Status != 200 {
			t.Fatalf("%+v, %v", d, err)
		}
	}
	for i, name := range names {
		job := "of." + string(rune('a'+i))
		dieIn(name, job)
		rc := receivers[name]
		eventually.True(t, "the delivery in "+name, func() bool { return len(rc.requests()) == 2 })
		if body := string(rc.requests()[1].body); !strings.Contains(body, job) || !strings.Contains(body, "boom") {
			t.Errorf("%s: %s", name, body)
		}
		store, err := hooks.NewStore(pool, hooks.StoreConfig{Schema: name})
		if err != nil {
			t.Fatal(err)
		}
		eventually.True(t, "all deliveries in "+name, func() bool {
			list, err := store.Deliveries(t.Context(), hooks.DeliveryFilter{State: hooks.Delivered, Limit: 10})
			return err == nil && len(list) == 3
		})
		if list, err := store.List(t.Context()); err != nil || len(list) != 3 {
			t.Errorf("%s has %d hooks: %v", name, len(list), err)
		}
		// Whoever listens to the other schema's channel hears nothing.
		for heard := false; !heard; {
			ctx, cancel := context.WithTimeout(t.Context(), deadline)
			n, err := listener.WaitForNotification(ctx)
			cancel()
			if err != nil {
				t.Fatal(err)
			}
			if heard = channels[n.Channel] == name; !heard && i > 0 {
				continue // of the schema before
			} else if !heard {
				t.Errorf("a death in %q is announced on %q", name, n.Channel)
			}
		}
	}
}

// A name that no schema can have is an error that names the field.
func TestConfig_schemaName_isChecked(t *testing.T) {
	t.Parallel()
	pool := pathless(t)
	if _, err := hooks.NewStore(pool, hooks.StoreConfig{Schema: "pg_jobs"}); err == nil || !strings.Contains(err.Error(), "Schema") {
		t.Errorf("%v", err)
	}
	if _, err := hooks.NewDispatcher(pool, hooks.Config{Schema: "pg_jobs", Logger: slog.Default()}); err == nil || !strings.Contains(err.Error(), "Schema") {
		t.Errorf("%v", err)
	}
}
