package main

import (
	"context"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/internal/cli/app"
	"soniq/internal/testdb"
)

// What 'soniq setup' mends of a database of 0.1.0 it says, and what a person has
// to end.
func TestSetup_databaseOf010_tellsWhatItMended(t *testing.T) {
	t.Parallel()
	schema, err := os.ReadFile("../../testdata/schema_0_1_0.sql")
	if err != nil {
		t.Fatal(err)
	}
	for name, flags := range map[string][]string{"text": nil, "json": {"--json"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := testdb.EmptyURL(t)
			pool, err := pgxpool.New(t.Context(), url)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(pool.Close)
			for _, sql := range []string{
				string(schema), `grant create on schema public to public`,
				`create table soniq_migrations (id serial primary key, version varchar(255) not null unique, name text not null, applied_at timestamp default now(), checksum text)`,
				`insert into soniq_migrations (version, name)
					select v, 'n' from unnest('{0001,0002,0150,0151,0152,0153,0154,0155,0156,0157,0160}'::text[]) v`,
			} {
				if _, err := pool.Exec(t.Context(), sql); err != nil {
					t.Fatal(err)
				}
			}
			sh := newShell(t, url)
			if r := sh.run("hooks", "run"); r.code != app.ExitFailed || !strings.Contains(r.err, "it lacks 0161_soniq_go_trust, ") || !strings.Contains(r.err, "ANY ROLE THAT MAY LOG IN") {
				t.Errorf("before it, 'hooks run' says %d: %s", r.code, r.err)
			}
			const remedy = "revoke create on schema public from public"
			r := sh.ok(append([]string{"setup"}, flags...)...)
			if flags == nil {
				wantIn(t, "setup", r.out, "Applied 0161_soniq_go_trust", "Mended: revoked EXECUTE on 20 functions from PUBLIC",
					"Mended: pinned the search_path of 20 functions to pg_catalog")
				wantIn(t, "setup's notes", r.err, "Warning: any role may create objects in schema public", remedy)
				return
			}
			var told struct {
				Applied, Dropped, Mended []string
				Findings                 []struct{ Problem, Remedy string }
			}
			if err := json.Unmarshal([]byte(r.out), &told); err != nil {
				t.Fatalf("%s: %v", r.out, err)
			}
			if !slices.Contains(told.Applied, "0161_soniq_go_trust") || len(told.Mended) != 2 || len(told.Findings) != 1 || told.Findings[0].Remedy != remedy {
				t.Errorf("%s", r.out)
			}
			// A dispatcher of its own says it in its log, once.
			run := sh.start("hooks", "run")
			for end := time.Now().Add(deadline); !strings.Contains(run.err.String(), "sending hooks"); {
				select {
				case code := <-run.code:
					t.Fatalf("it ended with %d: %s", code, run.err.String())
				case <-time.After(5 * time.Millisecond):
				}
				if time.Now().After(end) {
					t.Fatalf("it did not start: %s", run.err.String())
				}
			}
			sh.signals <- os.Interrupt
			if code := run.wait(t); code != app.ExitDone {
				t.Errorf("exit %d", code)
			}
			if n := strings.Count(run.err.String(), remedy); n != 1 {
				t.Errorf("%d warnings: %s", n, run.err.String())
			}
		})
	}
}

// Something of another role's in the way is one line, and changes nothing.
func TestSetup_objectOfAnotherRole_isOneLine(t *testing.T) {
	t.Parallel()
	url := testdb.EmptyURL(t)
	pool, err := pgxpool.New(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	// Roles are the whole server's.
	role := "soniq_r_" + strings.ReplaceAll(uuid.NewString(), "-", "")
	t.Cleanup(func() {
		if _, err := pool.Exec(context.Background(), "drop owned by "+role+"; drop role "+role); err != nil {
			t.Error(err)
		}
	})
	if _, err := pool.Exec(t.Context(), "create role "+role+"; create view soniq_hooks as select 1; alter view soniq_hooks owner to "+role); err != nil {
		t.Fatal(err)
	}
	r := newShell(t, url).run("setup")
	if r.code != app.ExitFailed || strings.Count(strings.TrimSpace(r.err), "\n") != 0 || r.out != "" ||
		!strings.Contains(r.err, "view public.soniq_hooks belongs to role \""+role+"\"") || !strings.Contains(r.err, "nothing was changed") {
		t.Errorf("exit %d: %s%s", r.code, r.out, r.err)
	}
}
