package cli_test

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/internal/cli/clitest"
	"soniq/internal/eventually"
	"soniq/internal/roles"
	"soniq/internal/testdb"
)

// owner and nobody are the two ends of the table: who owns the tables, and who may only log in.
const (
	owner  roles.Kind = "owner"
	nobody roles.Kind = "nobody"
)

// everybody are all kinds of the table.
func everybody() []roles.Kind { return append(append([]roles.Kind{nobody}, roles.Kinds()...), owner) }

// place is a database in which each kind of role may log in.
type place struct {
	t     *testing.T
	pool  *pgxpool.Pool // of the owner
	urls  map[roles.Kind]string
	names map[roles.Kind]string
	dir   string
	// sealing is held by what changes the secrets of hooks.
	sealing *sync.Mutex
}

// within is the place for a subtest.
func (p *place) within(t *testing.T) *place {
	other := *p
	other.t = t
	return &other
}

func newPlace(t *testing.T) *place {
	t.Helper()
	p := &place{t: t, pool: testdb.New(t), urls: map[roles.Kind]string{}, names: map[roles.Kind]string{}, dir: t.TempDir(), sealing: &sync.Mutex{}}
	p.urls[owner] = p.pool.Config().ConnString()
	for _, kind := range append([]roles.Kind{nobody}, roles.Kinds()...) {
		p.urls[kind], p.names[kind] = p.login(kind)
	}
	return p
}

// login makes a role with the rights of a kind.
func (p *place) login(kind roles.Kind) (address, name string) {
	p.t.Helper()
	name = "soniq_kind_" + strings.ReplaceAll(uuid.NewString(), "-", "")
	statements := []string{fmt.Sprintf("create role %s login password '%s'", name, name)}
	if kind != nobody {
		statements = append(statements, roles.SQL(kind, "public", name)...)
	}
	p.exec(strings.Join(statements, ";"))
	p.t.Cleanup(func() {
		if _, err := p.pool.Exec(context.Background(), "drop owned by "+name+"; drop role "+name, pgx.QueryExecModeSimpleProtocol); err != nil {
			p.t.Errorf("drop role: %v", err)
		}
	})
	u, err := url.Parse(p.pool.Config().ConnString())
	if err != nil {
		p.t.Fatal(err)
	}
	u.User = url.UserPassword(name, name)
	return u.String(), name
}

func (p *place) exec(sql string) {
	p.t.Helper()
	if _, err := p.pool.Exec(context.Background(), sql, pgx.QueryExecModeSimpleProtocol); err != nil {
		p.t.Fatalf("%s: %v", sql, err)
	}
}

// letter is the id of a dead letter that nothing has been done to.
func (p *place) letter() string { return clitest.Seed(p.t, p.pool, clitest.Letter{}).String() }

// named is the name of a job of which there is one dead letter, of long ago.
func (p *place) named() string {
	name := "n" + uuid.NewString()
	clitest.Seed(p.t, p.pool, clitest.Letter{Job: name, Age: 40 * 24 * time.Hour})
	return name
}

// wantLacking checks that a role has none of the rights that it is said to lack.
func (p *place) wantLacking(what, role, table string, rights []string) {
	p.t.Helper()
	var has []string
	err := p.pool.QueryRow(p.t.Context(), `select coalesce(array_agg(r), '{}') from unnest($3::text[]) r where has_table_privilege($1::name, $2::text, r)`,
		role, table, rights).Scan(&has)
	if err != nil || len(has) > 0 {
		p.t.Errorf("%s: %s is said to lack %v on %s, of which it has %v: %v", what, role, rights, table, has, err)
	}
}

// job is the id of a job that isn't due.
func (p *place) job() string {
	id := uuid.Must(uuid.NewV7())
	if _, err := p.pool.Exec(context.Background(), `insert into soniq_jobs (id, job_name, args, scheduled_at) values ($1, 'j', '{}', now() + interval '1 day')`, id); err != nil {
		p.t.Fatal(err)
	}
	return id.String()
}

// hook is the name of a hook that has a delivery which failed.
func (p *place) hook() string {
	name := "h" + uuid.NewString()[:8]
	p.exec(fmt.Sprintf(`with h as (insert into soniq_hooks (id, name, kind, settings, jobs) values (gen_random_uuid(), '%s', 'log', '{}', '{nothing}') returning id)
		insert into soniq_hook_deliveries (hook_id, event, dead_letter_id, facts, group_key, state)
		select id, 'job.dead_lettered', gen_random_uuid(), '{}', 'g', 'failed' from h`, name))
	return name
}

// webhook is the name of a hook that has a secret.
func (p *place) webhook() string {
	name := "w" + uuid.NewString()[:8]
	p.exec(fmt.Sprintf(`insert into soniq_hooks (id, name, kind, url, secrets, settings, jobs)
		values (gen_random_uuid(), '%s', 'webhook', 'https://example.com', 'whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=', '{}', '{nothing}')`, name))
	return name
}

func (p *place) file(name, text string) string {
	p.t.Helper()
	path := filepath.Join(p.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		p.t.Fatal(err)
	}
	return path
}

// run runs a command line as a kind of role. One that says started goes on until it is stopped.
func (p *place) run(kind roles.Kind, started string, line ...string) clitest.Result {
	p.t.Helper()
	s := clitest.NewShell(p.t, p.urls[kind])
	s.Env["SONIQ_DEV_DIR"] = p.dir
	if started == "" {
		return s.Run(line...)
	}
	running := s.Start(line...)
	eventually.True(p.t, strings.Join(line, " ")+": its start or its end", func() bool {
		return len(running.Code) > 0 || strings.Contains(running.Err.String()+running.Out.String(), started)
	})
	if len(running.Code) == 0 {
		s.Signals <- syscall.SIGTERM
	}
	code := running.Wait(p.t)
	return clitest.Result{Code: code, Out: running.Out.String(), Err: running.Err.String()}
}
