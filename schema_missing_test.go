package soniq_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

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

// What else somebody drops, or a dump leaves out: each table, column, index, view and so on, is seen by the status,
// and made anew by setup, as it was.
func TestSetup_anyObjectMissing_isSeenAndMadeAnew(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	want := catalog(t, pool)
	objects, lost := soniq.Objects()
	// What was dropped together, by what it is.
	dropped := map[string][]string{}
	statements := map[string][]string{}
	columns := 0
	for _, o := range objects {
		kind, name, table := o[0], o[1], o[2]
		what, sql := kind, "drop "+kind+" "+name+" cascade"
		full := kind + " " + name
		if table != "" {
			full += " of " + table
		}
		switch {
		case lost[full], kind == "table" && slices.Contains([]string{"soniq_jobs", "soniq_migrations", "soniq_dead_letter_jobs"}, name):
			continue
		case kind == "column" && table == "soniq_migrations": // which the status itself reads
			continue
		case kind == "column":
			what, sql = "columns of "+table, "alter table "+table+" drop column "+name+" cascade"
			columns++
		case kind == "primary key":
			sql = "alter table " + table + " drop constraint " + name + " cascade"
			if table == "soniq_dead_letter_operations" { // its foreign key goes with it
				continue
			}
		}
		statements[what] = append(statements[what], sql)
		dropped[what] = append(dropped[what], full)
	}
	if columns < 80 {
		t.Fatalf("only %d columns are looked at", columns)
	}
	for what, list := range statements {
		exec(t, pool, strings.Join(list, ";\n"))
		status, err := soniq.ReadStatus(t.Context(), pool, soniq.Config{})
		if err != nil || status.UpToDate() {
			t.Errorf("%s: up to date %t, %v", what, status.UpToDate(), err)
		}
		// With a table go its columns and indexes.
		for _, full := range dropped[what] {
			if !slices.Contains(status.Missing, full) {
				t.Errorf("%s: the status does not name %s, but %q", what, full, status.Missing)
			}
		}
		mended := setup(t, pool).Mended
		for _, full := range status.Missing {
			if !slices.Contains(mended, "made "+full+" anew") {
				t.Errorf("%s: setup mended %q, and not %s", what, mended, full)
			}
		}
		expectCatalog(t, what+" were dropped", pool, want)
		if status, err := soniq.ReadStatus(t.Context(), pool, soniq.Config{}); err != nil || !status.UpToDate() {
			t.Errorf("%s: after setup %+v, %v", what, status.Missing, err)
		}
	}
}

// What CREATE INDEX CONCURRENTLY began and did not finish looks like an index, and is never read. Prebuild builds it
// while programs go on; so it does with one that is gone.
func TestSetup_indexNotFinished_isSeenAndBuiltAnew(t *testing.T) {
	t.Parallel()
	for name, mend := range map[string]func(*pgxpool.Pool) ([]string, error){
		"setup": func(pool *pgxpool.Pool) ([]string, error) { return setup(t, pool).Mended, nil },
		"prebuild": func(pool *pgxpool.Pool) ([]string, error) {
			result, err := soniq.Prebuild(t.Context(), pool, soniq.Config{})
			return result.Built, err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := testdb.New(t)
			want := catalog(t, pool)
			exec(t, pool, `
				update pg_index set indisvalid = false where indexrelid = 'idx_soniq_jobs_claim'::regclass;
				drop index idx_soniq_dead_letter_jobs_feed`)
			missing := []string{
				"index idx_soniq_dead_letter_jobs_feed of soniq_dead_letter_jobs",
				"index idx_soniq_jobs_claim of soniq_jobs, which was begun and not finished",
			}
			status, err := soniq.ReadStatus(t.Context(), pool, soniq.Config{})
			if err != nil || !slices.Equal(status.Missing, missing) {
				t.Errorf("missing %q, %v", status.Missing, err)
			}
			if mended, err := mend(pool); err != nil || len(mended) != len(missing) {
				t.Errorf("mended %q, %v", mended, err)
			}
			expectCatalog(t, "in the end", pool, want)
		})
	}
}

// A column that had a value in each row can't be made up.
func TestSetup_columnThatCantBeMadeUp_isTold(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	exec(t, pool, `alter table soniq_jobs drop column args`)
	for range 2 {
		result := setup(t, pool)
		told := slices.ContainsFunc(result.Findings, func(f soniq.Finding) bool {
			return strings.Contains(f.String(), "column args of soniq_jobs is missing")
		})
		if len(result.Mended) != 0 || !told {
			t.Errorf("setup: %+v", result)
		}
	}
	status, err := soniq.ReadStatus(t.Context(), pool, soniq.Config{})
	if err != nil || !slices.Equal(status.Missing, []string{"column args of soniq_jobs"}) {
		t.Errorf("missing %q, %v", status.Missing, err)
	}
}

// A program that stands still within a migration, because it is stopped, its network is gone or its machine is
// busy, keeps its locks for two seconds and no longer. It begins anew by itself, and tells of it once.
func TestSetup_standsStill_losesItsLocksAndBeginsAnew(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var lines progress
	const still = 2
	tries := 0
	err := soniq.InMigration(ctx, pool, soniq.Config{OnProgress: lines.add}, func(tx pgx.Tx) error {
		exec(t, tx, `lock table public.soniq_jobs in access exclusive mode`)
		if tries++; tries > still {
			return nil
		}
		pid := tx.Conn().PgConn().PID()
		await(t, pool, "the end of its session", `select not exists (select from pg_stat_activity where pid = $1)`, pid)
		exec(t, pool, `insert into soniq_jobs (id, job_name, args) values (gen_random_uuid(), 'after', '{}')`)
		_, err := tx.Exec(ctx, `select 1`)
		return err
	})
	if err != nil || tries != still+1 {
		t.Errorf("after %d tries: %v", tries, err)
	}
	if len(lines.lines) != 1 || !strings.Contains(lines.lines[0], "stood still for over 2s") || !strings.Contains(lines.lines[0], "it tries again") {
		t.Errorf("it told %q", lines.lines)
	}
	setup(t, pool)
}

// A machine that never gets on is told of, and does not keep others out for ever.
func TestSetup_standsStillEachTime_givesUp(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	var lines progress
	tries := 0
	err := soniq.InMigration(t.Context(), pool, soniq.Config{OnProgress: lines.add}, func(pgx.Tx) error {
		tries++
		return &pgconn.PgError{Code: "25P03"}
	})
	if err == nil || !strings.Contains(err.Error(), "5 times") || !strings.Contains(err.Error(), "run it again") || tries != 5 || len(lines.lines) != 1 {
		t.Errorf("after %d tries, told %q: %v", tries, lines.lines, err)
	}
}
