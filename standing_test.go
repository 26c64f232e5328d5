package soniq_test

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

// as is a pool whose sessions run as a role of the test's own, which may connect, and
// read what grants says.
func as(t *testing.T, url, role string, parameters map[string]string) *pgxpool.Pool {
	t.Helper()
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	config.MaxConns = 2
	for name, value := range parameters {
		config.ConnConfig.RuntimeParams[name] = value
	}
	if role != "" {
		config.ConnConfig.RuntimeParams["role"] = role
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// Where nothing is to be done, setup does nothing, whoever asks. Where something is, one
// line says who can do it.
func TestSetup_whoCantChangeTheTables(t *testing.T) {
	t.Parallel()
	url := testdb.NewURL(t)
	admin := testkit.Open(t, url)
	reader := "soniq_standing_" + strings.ToLower(strings.ReplaceAll(testkit.Value[string](t, admin, `select gen_random_uuid()::text`), "-", ""))
	testkit.Exec(t, admin, "create role "+reader)
	defer func() { // the role is the server's, which other tests share
		testkit.Exec(t, admin, "drop owned by "+reader)
		testkit.Exec(t, admin, "drop role "+reader)
	}()
	owner := testkit.Value[string](t, admin, `select tableowner from pg_tables where tablename = 'soniq_jobs'`)
	pools := map[string]struct {
		pool *pgxpool.Pool
		want string
	}{
		"another role":             {as(t, url, reader, nil), `which belong to role "` + owner + `": run it as that role or as a member of it`},
		"default_transaction_read": {as(t, url, "", map[string]string{"default_transaction_read_only": "on"}), "run it as a role that may write"},
	}
	another := pools["another role"].pool
	if _, err := soniq.Setup(t.Context(), another, soniq.Config{}); err == nil ||
		!strings.Contains(err.Error(), "grant select on public.soniq_migrations to it") || strings.Contains(err.Error(), "\n") {
		t.Errorf("without any right: %v", err)
	}
	testkit.Exec(t, admin, "grant select on soniq_migrations to "+pgx.Identifier{reader}.Sanitize())
	for name, test := range pools {
		result, err := soniq.Setup(t.Context(), test.pool, soniq.Config{})
		if err != nil || len(result.Applied)+len(result.Mended) > 0 {
			t.Errorf("%s, and nothing is to be done: %+v, %v", name, result, err)
		}
	}
	all := soniq.Migrations()
	newest := all[len(all)-1]
	for what, undo := range map[string]string{
		newest.String(): `delete from soniq_migrations where version = '` + newest.Version + `'`,
		"the mending of what is missing or was changed": `drop trigger soniq_jobs_inserted on soniq_jobs`,
	} {
		testkit.Exec(t, admin, undo)
		for name, test := range pools {
			_, err := soniq.Setup(t.Context(), test.pool, soniq.Config{})
			if err == nil || !strings.Contains(err.Error(), what+" is pending, and ") || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s, and %s is to be done: %v", name, what, err)
			}
		}
		if _, err := soniq.Setup(t.Context(), admin, soniq.Config{}); err != nil {
			t.Fatal(err)
		}
	}
}

// Applied twice, a migration would change what later ones have changed since.
func TestWriteMigrations_appliedTwice_isRefused(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	for _, m := range soniq.Migrations() {
		var text strings.Builder
		if err := soniq.WriteMigrations(&text, soniq.SQLOptions{From: m.Version, To: m.Version, Tool: soniq.GolangMigrate}); err != nil {
			t.Fatal(err)
		}
		_, err := pool.Exec(t.Context(), text.String(), pgx.QueryExecModeSimpleProtocol)
		switch pythons := m.Version <= "0002"; {
		case pythons && err != nil:
			t.Errorf("%s, which may be applied again: %v", m, err)
		case !pythons && (err == nil || !strings.Contains(err.Error(), m.String()+" is applied already")):
			t.Errorf("%s: %v", m, err)
		}
	}
}

// A role that may not act as the owner is told what to grant.
func TestPrebuild_mayNotBecomeOwner_saysWhatToGrant(t *testing.T) {
	t.Parallel()
	pool := emptyPool(t)
	other, owner := newRole(t, pool), newRole(t, pool)
	exec(t, pool, "create schema app authorization "+owner.name+"; grant usage on schema app to "+other.name)
	cfg := soniq.Config{Schema: "app"}
	if _, err := soniq.Setup(t.Context(), owner.pool(t, pool), cfg); err != nil {
		t.Fatal(err)
	}
	_, err := soniq.Prebuild(t.Context(), other.pool(t, pool), cfg)
	if err == nil || !strings.Contains(err.Error(), "run it as that role, or grant \""+owner.name+"\" to \""+other.name+"\"") || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v", err)
	}
}
