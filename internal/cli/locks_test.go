package cli_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"soniq/internal/cli/clitest"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
)

// A command that waits for a lock says for whom, be it a session or a prepared transaction, and goes on when that
// ends.
func TestLocks_commandWaits_saysForWhom(t *testing.T) {
	t.Parallel()
	for name, prepared := range map[string]bool{"session": false, "prepared transaction": true} {
		for table, lock := range map[string]string{
			"soniq_dead_letter_jobs": "update soniq_dead_letter_jobs set tags = tags", // a row
			"soniq_jobs":             "lock table soniq_jobs in share mode",
		} {
			t.Run(name+" of "+table, func(t *testing.T) {
				t.Parallel()
				pool := testdb.New(t)
				id := clitest.Seed(t, pool, clitest.Letter{}).String()
				conn, err := pgx.Connect(t.Context(), pool.Config().ConnString())
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = conn.Close(t.Context()) }()
				gid := uuid.NewString()
				sql, end, want := "begin; "+lock, "rollback", fmt.Sprintf("process %d", conn.PgConn().PID())
				if prepared {
					sql, end, want = sql+"; prepare transaction '"+gid+"'", "rollback prepared '"+gid+"'", "the prepared transaction '"+gid+"'"
				}
				execute := func(sql string) {
					t.Helper()
					if _, err := conn.Exec(t.Context(), sql, pgx.QueryExecModeSimpleProtocol); err != nil {
						t.Fatal(err)
					}
				}
				execute(sql)
				r := clitest.NewShell(t, pool.Config().ConnString()).Start("dead-letter", "replay", id)
				eventually.True(t, "the command says for whom it waits", func() bool { return strings.Contains(r.Err.String(), want) })
				if said := r.Err.String(); !strings.Contains(said, "waiting for a lock") || !strings.Contains(said, table) || strings.Contains(said, "idx_") {
					t.Errorf("it said %q", said)
				}
				execute(end)
				if code := r.Wait(t); code != 0 {
					t.Errorf("exit %d: %s", code, r.Err.String())
				}
			})
		}
	}
}
