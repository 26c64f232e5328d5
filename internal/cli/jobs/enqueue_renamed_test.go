package jobs_test

import (
	"strings"
	"testing"

	"soniq/internal/cli/clitest"
	"soniq/internal/testdb"
)

// After 'alter schema ... rename' the functions have the old name inside: what fails then says it, in one line.
func TestEnqueue_schemaRenamed_saysWhatToDo(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ to, quoted, again string }{
		{"app2", "app2", ""},
		{"Job's Data", `"Job's Data"`, "create schema app"},
	} {
		pool := testdb.NewInSchema(t, "app")
		s := clitest.NewShell(t, pool.Config().ConnString())
		clitest.Exec(t, pool, `alter schema app rename to `+c.quoted)
		if c.again != "" {
			clitest.Exec(t, pool, c.again)
		}
		for _, args := range [][]string{{"x"}, {"x", "--from", "-"}} {
			s.Stdin = "{}\n{}\n"
			r := s.Run(append([]string{"enqueue", "--schema", c.to}, args...)...)
			if r.Code == 0 || strings.Count(r.Err, "\n") != 1 || strings.Count(r.Err, "alter schema") != 1 || !strings.Contains(r.Err, "run 'soniq setup' with --schema "+c.to) {
				t.Errorf("%q: %+v", args, r)
			}
		}
		s.OK("setup", "--schema", c.to)
		s.OK("enqueue", "--schema", c.to, "x")
	}
}
