package hooks_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/hooks"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
)

func addCommand(t *testing.T, pool *pgxpool.Pool, name, line string) {
	t.Helper()
	if _, err := storeOf(t, pool, nil).Add(t.Context(), hooks.Spec{Name: name, Kind: "exec", Command: line}, nil); err != nil {
		t.Fatal(err)
	}
}

func TestExec_death_isOnStandardInput_exitCodeIsTheVerdict(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	file := filepath.Join(t.TempDir(), "event")
	addCommand(t, pool, "well", `cat > '`+file+`'; echo "$SONIQ_HOOK $SONIQ_EVENT $SONIQ_ATTEMPT $SONIQ_DELIVERY_ID $SONIQ_DEAD_LETTER_ID"`)
	addCommand(t, pool, "fails", `printf 'no \033[31mroute\000\377' >&2; exit 3`)
	addCommand(t, pool, "useless", `exit 78`)
	addCommand(t, pool, "missing", `no-such-command-anywhere`)
	addCommand(t, pool, "silent", `exec 0<&-`)
	dispatchWith(t, pool, hooks.Config{AllowExec: true})
	die(t, pool, 1, "emails.send", "boom")
	type outcome struct{ name, state, answer, problem string }
	var got map[string]outcome
	eventually.True(t, "all verdicts", func() bool {
		got = map[string]outcome{}
		rows, err := pool.Query(t.Context(), `
			select h.name, d.state, coalesce(d.last_answer, ''), coalesce(d.last_error, '') || coalesce(' ' || d.last_status, '')
			from soniq_hook_deliveries d join soniq_hooks h on h.id = d.hook_id
			where d.lease is null and d.attempts = 1`)
		if err != nil {
			t.Fatal(err)
		}
		for rows.Next() {
			var o outcome
			if err := rows.Scan(&o.name, &o.state, &o.answer, &o.problem); err != nil {
				t.Fatal(err)
			}
			got[o.name] = o
		}
		return rows.Err() == nil && len(got) == 5
	})
	delivery := value[uuid.UUID](t, pool, `
		select d.id from soniq_hook_deliveries d join soniq_hooks h on h.id = d.hook_id where h.name = 'well'`)
	letter := value[uuid.UUID](t, pool, `select id from soniq_dead_letter_jobs`)
	if o := got["well"]; o.state != "delivered" || o.answer != "well job.dead_lettered 1 "+delivery.String()+" "+letter.String() {
		t.Errorf("%+v", o)
	}
	if o := got["silent"]; o.state != "delivered" || o.answer != "" || o.problem != "" {
		t.Errorf("%+v", o)
	}
	if o := got["fails"]; o.state != "pending" || o.problem != "exit status 3: no \x1b[31mroute�� 3" {
		t.Errorf("%+q", o)
	}
	if o := got["useless"]; o.state != "failed" || o.problem != "exit status 78 78" {
		t.Errorf("%+v", o)
	}
	if o := got["missing"]; o.state != "pending" || !strings.Contains(o.problem, "exit status 127: ") || !strings.Contains(o.answer, "no-such-command-anywhere") {
		t.Errorf("%+v", o)
	}
	event, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	b := decode[struct {
		Type string
		Data map[string]any
	}](t, event)
	if b.Type != string(hooks.Dead) || b.Data["job_name"] != "emails.send" || b.Data["id"] != letter.String() || strings.Contains(string(event), "4111") {
		t.Errorf("standard input: %s", event)
	}
}

// A row alone must not run anything.
func TestExec_notAllowed_isLeftToOthers(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	file := filepath.Join(t.TempDir(), "ran")
	addCommand(t, pool, "planted", `touch '`+file+`'`)
	addHook(t, pool, "log", "")
	stop := dispatch(t, pool)
	die(t, pool, 1, "j", "boom")
	eventually.True(t, "the other hook's delivery", func() bool {
		return value[int](t, pool, `select count(*) from soniq_hook_deliveries where state = 'delivered'`) == 1
	})
	stop()
	if n := value[int](t, pool, `
		select count(*) from soniq_hook_deliveries d join soniq_hooks h on h.id = d.hook_id
		where h.name = 'planted' and h.failures = 0 and d.state = 'pending' and d.attempts = 0`); n != 1 {
		t.Error("what it may not run was touched")
	}
	if _, err := os.Stat(file); !os.IsNotExist(err) {
		t.Errorf("the command has run: %v", err)
	}
	dispatchWith(t, pool, hooks.Config{AllowExec: true})
	eventually.True(t, "the delivery", func() bool {
		return value[int](t, pool, `select count(*) from soniq_hook_deliveries where state = 'delivered'`) == 2
	})
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
}
