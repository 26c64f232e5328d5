package database_test

import (
	"context"
	"encoding/json"
	"net/url"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq"
	"soniq/internal/cli/clitest"
	"soniq/internal/testdb"
)

// oddRole makes a role with a name that only quotes can hold, and returns the name.
func oddRole(t *testing.T, pool *pgxpool.Pool) string {
	t.Helper()
	name := `O'dd "role"; drop table x -- ü ` + uuid.NewString()[:8]
	quoted := pgx.Identifier{name}.Sanitize()
	sqlExec(t, pool, "create role "+quoted)
	t.Cleanup(func() {
		if _, err := pool.Exec(context.Background(), "drop owned by "+quoted+"; drop role "+quoted, pgx.QueryExecModeSimpleProtocol); err != nil {
			t.Error(err)
		}
	})
	return name
}

// privileges are those that a role has to Soniq's tables by grants of its own, and on columns.
func privileges(t *testing.T, pool *pgxpool.Pool, role string) (n int) {
	t.Helper()
	const sql = `
		select (select count(*) from pg_class c, aclexplode(c.relacl) x where x.grantee = $1::text::regrole) +
		  (select count(*) from pg_attribute a, aclexplode(a.attacl) x where x.grantee = $1::text::regrole)`
	if err := pool.QueryRow(t.Context(), sql, pgx.Identifier{role}.Sanitize()).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

var allKinds = []string{"--producer", "--unique-producer", "--worker", "--dispatcher", "--operator", "--viewer", "--metrics", "--scaler"}

// What is printed is what --run runs, it may run twice, and --revoke leaves nothing. In any schema, for any name.
func TestGrants_printed_andRun_areTheSame(t *testing.T) {
	t.Parallel()
	address := testdb.EmptyURL(t)
	pool := poolOn(t, address)
	const schema = `My "own"`
	if _, err := soniq.Setup(t.Context(), pool, soniq.Config{Schema: schema}); err != nil {
		t.Fatal(err)
	}
	role := oddRole(t, pool)
	none, sh := clitest.NewShell(t, ""), clitest.NewShell(t, address)
	for _, kind := range allKinds {
		line := []string{"grants", kind, role, "--schema", schema}
		printed := none.OK(line...)
		if !strings.HasPrefix(printed.Out, "begin;\n") || !strings.HasSuffix(printed.Out, "commit;\n") {
			t.Errorf("%s: it is no transaction: %s", kind, printed.Out)
		}
		ran := sh.OK(append(line, "--run")...)
		if "begin;\n"+ran.Out+"commit;\n" != printed.Out {
			t.Errorf("%s: printed\n%s\nran\n%s", kind, printed.Out, ran.Out)
		}
		had := privileges(t, pool, role)
		sh.OK(append(line, "--run")...)
		sqlExec(t, pool, printed.Out)
		if again := privileges(t, pool, role); again != had || had == 0 {
			t.Errorf("%s: %d rights, and then %d", kind, had, again)
		}
		sqlExec(t, pool, none.OK(append(line, "--revoke")...).Out)
		if left := privileges(t, pool, role); left != 0 {
			t.Errorf("%s: %d rights are left", kind, left)
		}
		sh.OK(append(line, "--run", "--revoke")...) // there is nothing left to revoke
	}
}

func TestGrants_json(t *testing.T) {
	t.Parallel()
	var got struct {
		Schema      string
		Revoke, Run bool
		Roles       []struct{ Kind, Role string }
		Statements  []string
	}
	r := clitest.NewShell(t, "").OK("grants", "--worker", "w", "--dispatcher", "w", "--producer", "p", "--json")
	if err := json.Unmarshal([]byte(r.Out), &got); err != nil {
		t.Fatal(err)
	}
	if got.Schema != "public" || got.Run || got.Revoke || len(got.Roles) != 3 || got.Roles[0].Kind != "producer" || got.Statements[1] != `grant insert on public.soniq_jobs to "p"` {
		t.Errorf("%+v", got)
	}
	if n := strings.Count(r.Out, `usage on schema public to \"w\"`); n != 1 {
		t.Errorf("the use of the schema is granted %d times to one role", n)
	}
}

// Each mistake is one line, and nothing is granted.
func TestGrants_badInput_isOneLine(t *testing.T) {
	t.Parallel()
	address := testdb.NewURL(t)
	pool := poolOn(t, address)
	viewer, login := loginURL(t, pool, address)
	sqlExec(t, pool, "grant select on all tables in schema public to "+viewer)
	role := oddRole(t, pool)
	before := privileges(t, pool, role)
	for name, c := range map[string]struct {
		url  string
		args []string
		code int
		says string
	}{
		"no role":              {"", nil, 2, "name a role, such as --producer ROLE"},
		"empty role":           {"", []string{"--viewer", ""}, 2, "--viewer is empty"},
		"a name that is cut":   {"", []string{"--viewer", strings.Repeat("r", 64)}, 2, "PostgreSQL cuts names to 63"},
		"a bad schema":         {"", []string{"--viewer", "x", "--schema", "pg_x"}, 2, "PostgreSQL reserves it for itself"},
		"no database":          {"", []string{"--viewer", "x", "--run"}, 2, "no database"},
		"a missing role":       {address, []string{"--viewer", role, "--worker", "nobody_here", "--run"}, 1, "the role nobody_here does not exist: create it first"},
		"two missing roles":    {address, []string{"--viewer", "nobody_1", "--worker", "nobody_2", "--run"}, 1, "the roles nobody_1, nobody_2 do not exist"},
		"PUBLIC":               {address, []string{"--viewer", "public", "--run"}, 1, "the role public does not exist"},
		"no owner":             {login, []string{"--viewer", role, "--run"}, 1, "the role " + viewer + " may not grant rights to Soniq's tables: run this as their owner"},
		"no owner, to revoke":  {login, []string{"--viewer", role, "--run", "--revoke"}, 1, "may not grant rights"},
		"no tables":            {testdb.EmptyURL(t), []string{"--viewer", role, "--run"}, 1, "run 'soniq setup'"},
		"a schema that is not": {address, []string{"--viewer", role, "--run", "--schema", "nope"}, 1, `schema "nope" does not exist; Soniq tables are in: public`},
	} {
		r := clitest.NewShell(t, c.url).Run(append([]string{"grants"}, c.args...)...)
		if r.Code != c.code || !strings.Contains(r.Err, c.says) || strings.Count(strings.TrimSpace(r.Err), "\n") > 0 || r.Out != "" {
			t.Errorf("%s: exit %d, want %d and %q: %s%s", name, r.Code, c.code, c.says, r.Out, r.Err)
		}
	}
	if after := privileges(t, pool, role); after != before {
		t.Errorf("%d rights were granted", after-before)
	}
}

// What another role has granted only that one can take back, which is said.
func TestGrants_revoke_ofWhatAnotherRoleGranted_isRefused(t *testing.T) {
	t.Parallel()
	address := testdb.NewURL(t)
	pool := poolOn(t, address)
	middle, login := loginURL(t, pool, address)
	role := oddRole(t, pool)
	sqlExec(t, pool, "grant select on soniq_queues to "+middle+" with grant option")
	u, err := url.Parse(login)
	if err != nil {
		t.Fatal(err)
	}
	sqlExec(t, poolOn(t, u.String()), "grant select on soniq_queues to "+pgx.Identifier{role}.Sanitize())
	r := clitest.NewShell(t, address).Run("grants", "--viewer", role, "--run", "--revoke")
	if r.Code != 1 || !strings.Contains(r.Err, "keeps select on soniq_queues, which "+middle+" has granted") {
		t.Errorf("exit %d: %s", r.Code, r.Err)
	}
	sqlExec(t, pool, "revoke select on soniq_queues from "+middle+" cascade")
}
