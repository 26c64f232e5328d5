package soniq_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"soniq"
	"soniq/internal/testdb"
)

// A function or trigger that somebody dropped, and a trigger that is disabled, are seen by
// the status, and made anew by setup.
func TestSetup_whatIsMissing_isMadeAnew(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	for sql, missing := range map[string][]string{
		`drop function soniq_waiting(text)`: {"function soniq_waiting(text)"},
		`drop function soniq_replay_ended() cascade`: {
			"function soniq_replay_ended()", "trigger soniq_replay_deleted of soniq_jobs", "trigger soniq_replay_ended of soniq_jobs",
		},
		`drop trigger soniq_hook_changes on soniq_dead_letter_jobs`: {"trigger soniq_hook_changes of soniq_dead_letter_jobs"},
		`alter table soniq_jobs disable trigger soniq_jobs_inserted`: {
			"trigger soniq_jobs_inserted of soniq_jobs",
		},
	} {
		exec(t, pool, sql)
		status, err := soniq.ReadStatus(t.Context(), pool, soniq.Config{})
		if err != nil || status.UpToDate() || !slices.Equal(status.Missing, missing) {
			t.Errorf("%s: missing %q, up to date %t, %v; want %q", sql, status.Missing, status.UpToDate(), err, missing)
		}
		var want []string
		for _, what := range missing {
			want = append(want, "made "+what+" anew")
		}
		if got := setup(t, pool); !slices.Equal(got.Mended, want) {
			t.Errorf("%s: setup mended %q, want %q", sql, got.Mended, want)
		}
		status, err = soniq.ReadStatus(t.Context(), pool, soniq.Config{})
		if err != nil || !status.UpToDate() {
			t.Errorf("%s: after setup %+v, %v", sql, status, err)
		}
	}
}

// A program that stands still within a migration, because it is stopped or its network is
// gone, keeps its locks for two seconds and no longer.
func TestSetup_standsStill_losesItsLocks(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err := soniq.InMigration(ctx, pool, func(tx pgx.Tx) error {
		exec(t, tx, `lock table public.soniq_jobs in access exclusive mode`)
		pid := tx.Conn().PgConn().PID()
		await(t, pool, "the end of its session", `select not exists (select from pg_stat_activity where pid = $1)`, pid)
		exec(t, pool, `insert into soniq_jobs (id, job_name, args) values (gen_random_uuid(), 'after', '{}')`)
		_, err := tx.Exec(ctx, `select 1`)
		return err
	})
	if err == nil || !strings.Contains(err.Error(), "nothing of it was done: run it again") {
		t.Errorf("the error is %v", err)
	}
	setup(t, pool)
}
