package soniq_test

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"soniq"
	"soniq/internal/testdb"
)

// A conflict or a deadlock within a trigger reaches whoever wrote the row, who runs it again. Any other error is a
// warning, and the write goes on.
func TestTriggers_conflictsPassOn_otherErrorsDoNot(t *testing.T) {
	t.Parallel()
	const raising = `
		create schema broken;
		create function broken.fails() returns trigger language plpgsql as $$
		begin
		  raise exception 'broken' using errcode = '%[1]s';
		end
		$$;
		create trigger fails before insert or update or delete on %[2]s for each statement execute function broken.fails()`
	const noEpoch = `
		create or replace function soniq_begin_epoch() returns bigint language plpgsql as $$
		begin
		  raise exception 'broken' using errcode = '%[1]s';
		end
		$$`
	const hook = `insert into soniq_hooks (name, kind, url, events) values ('h', 'webhook', 'https://example.com', '{job.dead_lettered,job.replayed}');`
	for name, c := range map[string]struct{ before, broken, statement string }{
		"soniq_worker_changed": {
			broken:    fmt.Sprintf(raising, "%[1]s", "soniq_waiters"),
			statement: `insert into soniq_workers (id, hostname, pid) values (gen_random_uuid(), 'h', 1)`,
		},
		"soniq_dead_letter_epoch":     {broken: noEpoch, statement: deathSQL},
		"soniq_dead_letters_inserted": {before: hook, broken: fmt.Sprintf(raising, "%[1]s", "soniq_hook_deliveries"), statement: deathSQL},
		"soniq_dead_letter_died_again": {
			before: deathSQL, broken: noEpoch,
			statement: `update soniq_dead_letter_jobs set moved_xid = pg_current_xact_id(), moved_to_dead_letter_at = now() + interval '1 hour'`,
		},
		"soniq_hook_changes": {
			before: hook + deathSQL, broken: fmt.Sprintf(raising, "%[1]s", "soniq_hook_deliveries"),
			statement: `update soniq_dead_letter_jobs set resurrection_count = 1`,
		},
	} {
		for _, code := range []string{"40001", "40P01", "P0001"} {
			t.Run(name+" "+code, func(t *testing.T) {
				t.Parallel()
				pool := testdb.New(t)
				exec(t, pool, c.before+fmt.Sprintf(";\n"+c.broken, code))
				_, err := pool.Exec(t.Context(), c.statement)
				var pgErr *pgconn.PgError
				switch passed := errors.As(err, &pgErr) && pgErr.Code == code; {
				case code == "P0001" && err != nil:
					t.Errorf("an error of another kind: %v", err)
				case code != "P0001" && !passed:
					t.Errorf("it was swallowed: %v", err)
				}
			})
		}
	}
}

// No function swallows a conflict, but for those that do the safe thing then.
func TestFunctions_noneSwallowsConflicts(t *testing.T) {
	t.Parallel()
	allowed := map[string]string{
		"soniq_jobs_inserted": "notifies then", "soniq_jobs_requeued": "notifies then", "soniq_hook_matches": "reads no table",
	}
	seen := 0
	for _, f := range regexp.MustCompile(`(?s)create or replace function public\.(\w+)\(.*?\n\$\$;`).FindAllStringSubmatch(soniq.SchemaSQL(), -1) {
		handlers := strings.Count(f[0], "when others then")
		if handlers == 0 || allowed[f[1]] != "" {
			continue
		}
		seen++
		if strings.Count(f[0], "when serialization_failure or deadlock_detected then\n") != handlers || strings.Count(f[0], "raise; --") != handlers {
			t.Errorf("%s takes conflicts for other errors", f[1])
		}
	}
	if seen < 5 {
		t.Errorf("only %d functions were looked at", seen)
	}
}
