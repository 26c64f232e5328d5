package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"soniq/internal/cli/app"
	"soniq/internal/eventually"
)

// The private database from its first use to its reset, by real processes.
func TestDev_fromNothingToReset(t *testing.T) {
	t.Parallel()
	dir := devDir(t)
	prepare := func(args ...string) *process {
		p := program(t, dir, "postgres://elsewhere.invalid/x", args...)
		p.Env = append(p.Env, "SONIQ_DEV_DIR="+dir, "PGSSLMODE=require", "PGHOSTADDR=192.0.2.1")
		return p
	}
	soniq := func(code int, args ...string) result {
		t.Helper()
		p := prepare(args...)
		_ = p.Run()
		r := result{p.ProcessState.ExitCode(), p.out.String(), p.err.String()}
		wantCode(t, r, code)
		return r
	}
	type status struct {
		Folder          string
		Exists, Running bool
		Port            int
	}

	wantIn(t, "before", soniq(app.ExitDone, "dev").out, dir, "not made yet")
	wantIn(t, "reset of nothing", soniq(app.ExitDone, "dev", "reset").err, "there is none in "+dir)

	up := prepare("dev", "up")
	up.begin(t)
	eventually.True(t, "the server", func() bool { return strings.Contains(up.err.String(), "until Ctrl-C") })
	if s := decode[status](t, soniq(app.ExitDone, "dev", "--json").out); !s.Exists || !s.Running || s.Port == 0 || !strings.HasPrefix(s.Folder, dir) {
		t.Errorf("status: %+v", s)
	}
	shown := soniq(app.ExitDone, "dev").out
	wantIn(t, "while it runs", shown, "running, process ", "dev psql")
	url := strings.TrimSpace(soniq(app.ExitDone, "dev", "url").out)
	wantIn(t, "the URL", url, "postgres://soniq:", "@127.0.0.1:")
	_, password, _ := strings.Cut(url, "soniq:")
	password, _, _ = strings.Cut(password, "@")
	if strings.Contains(shown+up.out.String()+up.err.String(), password) {
		t.Error("'dev' or 'dev up' shows the password")
	}
	newShell(t, url).ok("enqueue", "j")
	if _, err := exec.LookPath("psql"); err != nil {
		wantIn(t, "without psql", soniq(app.ExitFailed, "dev", "psql").err, "psql is not installed")
	} else {
		if r := soniq(app.ExitDone, "dev", "psql", "-tAc", "select job_name from soniq_jobs"); r.out != "j\n" {
			t.Errorf("psql: %+v", r)
		}
		soniq(1, "dev", "psql", "-c", "bogus")
	}
	wantIn(t, "reset in use", soniq(app.ExitFailed, "dev", "reset", "--yes").err, "is in use", "--force")

	wantIn(t, "stop", soniq(app.ExitDone, "dev", "stop").out, "Stopped")
	_ = up.Wait()
	wantIn(t, "up, stopped by another", up.err.String(), "was stopped")
	wantIn(t, "stop again", soniq(app.ExitDone, "dev", "stop").err, "wasn't running")
	wantIn(t, "reset without a person", soniq(app.ExitUsage, "dev", "reset").err, "add --yes")
	if s := decode[status](t, soniq(app.ExitDone, "dev", "--json").out); !s.Exists || s.Running {
		t.Errorf("status: %+v", s)
	}
	soniq(app.ExitDone, "dev", "reset", "--yes")
	if s := decode[status](t, soniq(app.ExitDone, "dev", "--json").out); s.Exists {
		t.Errorf("status after the reset: %+v", s)
	}
	if _, err := os.Stat(dir); err != nil {
		t.Error(err)
	}
}
