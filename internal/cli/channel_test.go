package cli_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/internal/cli/clitest"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
)

// snippet is the last block of code of a language under a heading of
// docs/channel.md.
func snippet(t *testing.T, heading, language string) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/channel.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(text), "\n### "+heading+"\n")
	if !found {
		t.Fatalf("docs/channel.md has no section %s", heading)
	}
	section, _, _ = strings.Cut(section, "\n### ")
	blocks := regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```$").FindAllStringSubmatch(section, -1)
	if len(blocks) == 0 {
		t.Fatalf("section %s has no %s", heading, language)
	}
	return blocks[len(blocks)-1][1]
}

// The snippets of docs/channel.md, as they stand there: each tells what died
// before it came, what dies then, and what died while its connection was gone,
// once. What a machine lacks is named in the test's log.
func TestChannel_snippets_missNothing(t *testing.T) {
	t.Parallel()
	for _, s := range []struct {
		heading, language, file string
		// needs is a command that fails where the snippet can't be run.
		needs []string
		run   []string
		// silent says that it does not listen.
		silent bool
	}{
		{heading: "Go", language: "go", file: "main.go", needs: []string{"go", "version"}},
		// NODE_PATH names a folder of packages; .ci/run obtains this one.
		{heading: "Node", language: "js", file: "main.js", needs: []string{"node", "-e", "require('pg')"}, run: []string{"node"}},
		{heading: "Python", language: "python", file: "main.py", needs: []string{"python3", "-c", "import asyncpg"}, run: []string{"python3", "-u"}},
		{heading: "psql", language: "sh", file: "main.sh", needs: []string{"psql", "--version"}, run: []string{"sh"}, silent: true},
	} {
		t.Run(s.heading, func(t *testing.T) {
			t.Parallel()
			if err := exec.Command(s.needs[0], s.needs[1:]...).Run(); err != nil {
				t.Logf("the snippet was not run: this fails here (%v): %s", err, strings.Join(s.needs, " "))
				return
			}
			dir := t.TempDir()
			file := filepath.Join(dir, s.file)
			if err := os.WriteFile(file, []byte(snippet(t, s.heading, s.language)), 0o600); err != nil {
				t.Fatal(err)
			}
			command := append(s.run, file)
			if s.run == nil {
				binary := filepath.Join(dir, "main")
				if out, err := exec.Command("go", "build", "-o", binary, file).CombinedOutput(); err != nil {
					t.Fatalf("build: %v: %s", err, out)
				}
				command = []string{binary}
			}
			followsAll(t, command, s.silent)
		})
	}
}

func followsAll(t *testing.T, command []string, silent bool) {
	t.Helper()
	url := testdb.NewURL(t)
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	config.MaxConns = 1 // whose backend is the one that asks
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	p := &clitest.Program{Cmd: exec.Command(command[0], command[1:]...)}
	p.Env = append(os.Environ(), "DATABASE_URL="+url)
	p.Stdout, p.Stderr = &p.Out, &p.Err
	ids := []uuid.UUID{clitest.Seed(t, pool, clitest.Letter{Job: "before"})}
	p.Begin(t)
	told := func(what string, id uuid.UUID) {
		t.Helper()
		eventually.True(t, what+" "+id.String()+"; it says "+p.Err.String(), func() bool {
			return strings.Contains(p.Out.String(), what+" "+id.String())
		})
	}
	told("dead letter", ids[0])
	if !silent {
		// Until it listens.
		eventually.True(t, "an announcement", func() bool {
			ids = append(ids, clitest.Seed(t, pool, clitest.Letter{Job: "then"}))
			return strings.Contains(p.Out.String(), "announced ")
		})
	}
	clitest.Count(t, pool, `
		select count(pg_terminate_backend(pid)) from pg_stat_activity
		where datname = current_database() and pid <> pg_backend_pid()`)
	for _, job := range []string{"away", "again\n1 x"} {
		ids = append(ids, clitest.Seed(t, pool, clitest.Letter{Job: job}))
		told("dead letter", ids[len(ids)-1])
	}
	for _, id := range ids {
		if n := strings.Count(p.Out.String(), "dead letter "+id.String()); n != 1 {
			t.Errorf("%s is told %d times: %s", id, n, p.Out.String())
		}
	}
}
