package dev_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"soniq/internal/cli/app"
	"soniq/internal/cli/clitest"
	"soniq/internal/eventually"
)

// The private database from its first use to its reset, by real processes.
func TestDev_fromNothingToReset(t *testing.T) {
	t.Parallel()
	dir := clitest.DevDir(t)
	prepare := func(args ...string) *clitest.Program {
		p := clitest.NewProgram(t, dir, "postgres://elsewhere.invalid/x", args...)
		p.Env = append(p.Env, "SONIQ_DEV_DIR="+dir, "PGSSLMODE=require", "PGHOSTADDR=192.0.2.1")
		return p
	}
	soniq := func(code int, args ...string) clitest.Result {
		t.Helper()
		p := prepare(args...)
		_ = p.Run()
		r := clitest.Result{Code: p.ProcessState.ExitCode(), Out: p.Out.String(), Err: p.Err.String()}
		clitest.WantCode(t, r, code)
		return r
	}
	type status struct {
		Folder          string
		Exists, Running bool
		Port            int
	}

	clitest.WantIn(t, "before", soniq(app.ExitDone, "dev").Out, dir, "not made yet")
	clitest.WantIn(t, "reset of nothing", soniq(app.ExitDone, "dev", "reset").Err, "there is none in "+dir)

	up := prepare("dev", "up")
	up.Begin(t)
	eventually.True(t, "the server", func() bool { return strings.Contains(up.Err.String(), "until Ctrl-C") })
	if s := clitest.Decode[status](t, soniq(app.ExitDone, "dev", "--json").Out); !s.Exists || !s.Running || s.Port == 0 || !strings.HasPrefix(s.Folder, dir) {
		t.Errorf("status: %+v", s)
	}
	shown := soniq(app.ExitDone, "dev").Out
	clitest.WantIn(t, "while it runs", shown, "running, process ", "dev psql")
	url := strings.TrimSpace(soniq(app.ExitDone, "dev", "url").Out)
	clitest.WantIn(t, "the URL", url, "postgres://soniq:", "@127.0.0.1:")
	_, password, _ := strings.Cut(url, "soniq:")
	password, _, _ = strings.Cut(password, "@")
	if strings.Contains(shown+up.Out.String()+up.Err.String(), password) {
		t.Error("'dev' or 'dev up' shows the password")
	}
	clitest.NewShell(t, url).OK("enqueue", "j")
	if _, err := exec.LookPath("psql"); err != nil {
		clitest.WantIn(t, "without psql", soniq(app.ExitFailed, "dev", "psql").Err, "psql is not installed")
	} else {
		if r := soniq(app.ExitDone, "dev", "psql", "-tAc", "select job_name from soniq_jobs"); r.Out != "j\n" {
			t.Errorf("psql: %+v", r)
		}
		soniq(1, "dev", "psql", "-c", "bogus")
	}
	clitest.WantIn(t, "reset in use", soniq(app.ExitFailed, "dev", "reset", "--yes").Err, "is in use", "--force")

	clitest.WantIn(t, "stop", soniq(app.ExitDone, "dev", "stop").Out, "Stopped")
	_ = up.Wait()
	clitest.WantIn(t, "up, stopped by another", up.Err.String(), "was stopped")
	clitest.WantIn(t, "stop again", soniq(app.ExitDone, "dev", "stop").Err, "wasn't running")
	clitest.WantIn(t, "reset without a person", soniq(app.ExitUsage, "dev", "reset").Err, "add --yes")
	if s := clitest.Decode[status](t, soniq(app.ExitDone, "dev", "--json").Out); !s.Exists || s.Running {
		t.Errorf("status: %+v", s)
	}
	soniq(app.ExitDone, "dev", "reset", "--yes")
	if s := clitest.Decode[status](t, soniq(app.ExitDone, "dev", "--json").Out); s.Exists {
		t.Errorf("status after the reset: %+v", s)
	}
	if _, err := os.Stat(dir); err != nil {
		t.Error(err)
	}
}
