package database_test

import (
	"context"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"soniq/internal/cli/app"
	"soniq/internal/cli/clitest"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

// What 'soniq setup' mends of a database of 0.1.0 it says, and what a person has
// to end.
func TestSetup_databaseOf010_tellsWhatItMended(t *testing.T) {
	t.Parallel()
	schema, err := os.ReadFile("../../../testdata/schema_0_1_0.sql")
	if err != nil {
		t.Fatal(err)
	}
	for name, flags := range map[string][]string{"text": nil, "json": {"--json"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := testdb.EmptyURL(t)
			pool := testkit.Open(t, url)
			for _, sql := range []string{
				string(schema), `grant create on schema public to public`,
				`create table soniq_migrations (id serial primary key, version varchar(255) not null unique, name text not null, applied_at timestamp default now(), checksum text)`,
				`create index idx_soniq_migrations_version on soniq_migrations (version)`,
				`insert into soniq_migrations (version, name)
					select v, 'n' from unnest('{0001,0002,0150,0151,0152,0153,0154,0155,0156,0157,0160}'::text[]) v`,
			} {
				if _, err := pool.Exec(t.Context(), sql); err != nil {
					t.Fatal(err)
				}
			}
			sh := clitest.NewShell(t, url)
			if r := sh.Run("hooks", "run"); r.Code != app.ExitFailed || !strings.Contains(r.Err, "it lacks 0161_soniq_go_trust, ") || !strings.Contains(r.Err, "ANY ROLE THAT MAY LOG IN") {
				t.Errorf("before it, 'hooks run' says %d: %s", r.Code, r.Err)
			}
			const remedy = "revoke create on schema public from public"
			r := sh.OK(append([]string{"setup"}, flags...)...)
			if flags == nil {
				clitest.WantIn(t, "setup", r.Out, "Applied 0161_soniq_go_trust", "Mended: revoked EXECUTE on 20 functions from PUBLIC",
					"Mended: pinned the search_path of 20 functions to pg_catalog")
				clitest.WantIn(t, "setup's notes", r.Err, "Warning: any role may create objects in schema public", remedy)
				return
			}
			var told struct {
				Applied, Dropped, Mended []string
				Findings                 []struct{ Problem, Remedy string }
			}
			if err := json.Unmarshal([]byte(r.Out), &told); err != nil {
				t.Fatalf("%s: %v", r.Out, err)
			}
			if !slices.Contains(told.Applied, "0161_soniq_go_trust") || len(told.Mended) != 2 || len(told.Findings) != 1 || told.Findings[0].Remedy != remedy {
				t.Errorf("%s", r.Out)
			}
			// A dispatcher of its own says it in its log, once.
			run := sh.Start("hooks", "run")
			for end := time.Now().Add(clitest.Deadline); !strings.Contains(run.Err.String(), "sending hooks"); {
				select {
				case code := <-run.Code:
					t.Fatalf("it ended with %d: %s", code, run.Err.String())
				case <-time.After(5 * time.Millisecond):
				}
				if time.Now().After(end) {
					t.Fatalf("it did not start: %s", run.Err.String())
				}
			}
			sh.Signals <- os.Interrupt
			if code := run.Wait(t); code != app.ExitDone {
				t.Errorf("exit %d", code)
			}
			if n := strings.Count(run.Err.String(), remedy); n != 1 {
				t.Errorf("%d warnings: %s", n, run.Err.String())
			}
		})
	}
}

// Something of another role's in the way is one line, and changes nothing.
func TestSetup_objectOfAnotherRole_isOneLine(t *testing.T) {
	t.Parallel()
	url := testdb.EmptyURL(t)
	pool := testkit.Open(t, url)
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
	r := clitest.NewShell(t, url).Run("setup")
	if r.Code != app.ExitFailed || strings.Count(strings.TrimSpace(r.Err), "\n") != 0 || r.Out != "" ||
		!strings.Contains(r.Err, "view public.soniq_hooks belongs to role \""+role+"\"") || !strings.Contains(r.Err, "nothing was changed") {
		t.Errorf("exit %d: %s%s", r.Code, r.Out, r.Err)
	}
}

// A schema that setup creates may be a misspelt name.
func TestSetup_newSchema_isNamed(t *testing.T) {
	t.Parallel()
	sh := clitest.NewShell(t, testdb.EmptyURL(t))
	if r := sh.OK("setup", "--schema", "jbos"); !strings.HasPrefix(r.Out, "Made the schema jbos\nApplied 0001_core\n") {
		t.Errorf("setup: %s", r.Out)
	}
	if r := sh.OK("setup", "--schema", "jbos"); strings.Contains(r.Out, "Made") {
		t.Errorf("setup again: %s", r.Out)
	}
	sh.OK("migrate", "down", "--schema", "jbos", "--to", "0160", "--yes")
	if r := sh.Run("dead-letter", "history", "--schema", "jbos"); r.Code != app.ExitFailed {
		t.Errorf("the history of an older schema: exit %d: %s", r.Code, r.Err)
	} else {
		clitest.WantIn(t, "history", r.Err, "it lacks 0161_soniq_go_trust", "(soniq setup --schema jbos)")
	}
	clitest.WantIn(t, "up", sh.OK("migrate", "up", "--schema", "other", "--json").Out, `"created_schema": "other"`)
}
