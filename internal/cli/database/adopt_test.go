package database_test

import (
	"encoding/json"
	"strings"
	"testing"

	"soniq/internal/cli/app"
	"soniq/internal/cli/clitest"
	"soniq/internal/eventually"
	"soniq/internal/incarnation"
	"soniq/internal/pg"
	"soniq/internal/testdb"
)

// On a copy the commands say that hooks hold, 'soniq adopt' says what it would do, does it, and then has
// nothing to do.
func TestAdopt_ofACopy(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	sh := clitest.NewShell(t, pool.Config().ConnString())
	clitest.WantIn(t, "adopt of a new database", sh.OK("adopt").Out, "There is nothing to do")
	sh.OK("hooks", "add", "webhook", "https://example.com/x", "--name", "ops")
	clitest.Exec(t, pool, `insert into soniq_incarnations (system_identifier, database_oid, timeline, how) values ('1', 1, 1, 'first')`)
	clitest.Exec(t, pool, `insert into soniq_hook_deliveries (hook_id, event, dead_letter_id, facts, group_key) select id, 'job.dead_lettered', gen_random_uuid(), '{}', 'g' from soniq_hooks`)
	clitest.Exec(t, pool, `insert into soniq_dead_letter_audit (id, dead_letter_id, action) overriding system value values (100, gen_random_uuid(), 'tag')`)
	clitest.Exec(t, pool, `drop trigger soniq_dead_letters_inserted on soniq_dead_letter_jobs`)

	for _, args := range [][]string{{"status"}, {"hooks", "list"}, {"hooks", "deliveries"}, {"hooks", "show", "ops"}} {
		clitest.WantIn(t, strings.Join(args, " "), sh.OK(args...).Err, "Hooks hold: this database is a copy of another one", "soniq adopt")
	}
	clitest.WantIn(t, "hooks list", sh.OK("hooks", "list").Out, "held: the database was moved")
	if r := sh.Run("adopt"); r.Code != app.ExitUsage || !strings.Contains(r.Err, "--yes") || !strings.Contains(r.Err, "the 1 deliveries that are pending are sent") {
		t.Errorf("without --yes: %d %s", r.Code, r.Err)
	}
	if r := sh.Run("adopt", "--deliveries", "burn"); r.Code != app.ExitUsage {
		t.Errorf("a wrong --deliveries: %d %s", r.Code, r.Err)
	}
	clitest.WantIn(t, "the dry run", sh.OK("adopt", "--dry-run").Out, "Would be done: hooks go on", "trigger soniq_dead_letters_inserted of soniq_dead_letter_jobs made anew",
		"the identity column soniq_dead_letter_audit.id goes on from 100; it was at 0")
	var told struct {
		Held    string
		Setup   []string
		Dropped int `json:"dropped_deliveries"`
	}
	out := sh.OK("adopt", "--yes", "--json", "--deliveries", "drop").Out
	if err := json.Unmarshal([]byte(out), &told); err != nil || told.Held == "" || told.Dropped != 1 || len(told.Setup) != 1 {
		t.Errorf("%s: %v", out, err)
	}
	clitest.WantIn(t, "adopt again", sh.OK("adopt").Out, "There is nothing to do")
	if r := sh.OK("hooks", "list"); strings.Contains(r.Err+r.Out, "hold") || strings.Contains(r.Out, "held") {
		t.Errorf("afterwards: %s%s", r.Out, r.Err)
	}
}

// Of two operators at once the second finds nothing to do: above all it drops nothing of what the first one
// has let go on, nor what is from after that.
func TestAdopt_twoAtOnce_theSecondDropsNothing(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	sh := clitest.NewShell(t, pool.Config().ConnString())
	sh.OK("hooks", "add", "webhook", "https://example.com/x", "--name", "ops")
	clitest.Exec(t, pool, `insert into soniq_incarnations (system_identifier, database_oid, timeline, how) values ('1', 1, 1, 'first')`)
	const deliver = `insert into soniq_hook_deliveries (hook_id, event, dead_letter_id, facts, group_key) select id, 'job.dead_lettered', gen_random_uuid(), '{}', 'g' from soniq_hooks`
	clitest.Exec(t, pool, deliver)

	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(t.Context()) }()
	if p, _, err := incarnation.Adopt(t.Context(), tx, pg.Schema{}, incarnation.Options{}); err != nil || p.Held == "" || p.Pending != 1 {
		t.Fatalf("%+v, %v", p, err)
	}
	second := sh.Start("adopt", "--yes", "--deliveries", "drop")
	eventually.True(t, "the second one, which waits", func() bool {
		var n int
		err := pool.QueryRow(t.Context(), `select count(*) from pg_locks where not granted and relation = 'soniq_incarnations'::regclass`).Scan(&n)
		return err == nil && n == 1
	})
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	clitest.Exec(t, pool, deliver)
	if code := second.Wait(t); code != 0 || !strings.Contains(second.Out.String(), "There is nothing to do") || strings.Contains(second.Out.String(), "dropped") {
		t.Errorf("exit %d: %s%s", code, second.Out.String(), second.Err.String())
	}
	var pending int
	if err := pool.QueryRow(t.Context(), `select count(*) from soniq_hook_deliveries where state = 'pending'`).Scan(&pending); err != nil || pending != 2 {
		t.Errorf("%d deliveries wait, %v", pending, err)
	}
}

// What is pending where no hook held is from after the move: it is never dropped.
func TestAdopt_hooksDontHold_dropsNothing(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	sh := clitest.NewShell(t, pool.Config().ConnString())
	sh.OK("hooks", "add", "webhook", "https://example.com/x", "--name", "ops")
	clitest.Exec(t, pool, `insert into soniq_hook_deliveries (hook_id, event, dead_letter_id, facts, group_key) select id, 'job.dead_lettered', gen_random_uuid(), '{}', 'g' from soniq_hooks`)
	clitest.Exec(t, pool, `insert into soniq_dead_letter_audit (id, dead_letter_id, action) overriding system value values (100, gen_random_uuid(), 'tag')`)
	r := sh.OK("adopt", "--yes", "--deliveries", "drop")
	clitest.WantIn(t, "what was done", r.Out, "goes on from 100")
	if strings.Contains(r.Out+r.Err, "drop") {
		t.Errorf("%s%s", r.Out, r.Err)
	}
	var pending int
	if err := pool.QueryRow(t.Context(), `select count(*) from soniq_hook_deliveries where state = 'pending'`).Scan(&pending); err != nil || pending != 1 {
		t.Errorf("%d deliveries wait, %v", pending, err)
	}
}
