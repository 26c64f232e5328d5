package cli_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"soniq/internal/cli/app"
	"soniq/internal/cli/clitest"
	"soniq/internal/testdb"
)

// randomName is a name that no compression makes short.
func randomName(n int) string {
	random := rand.New(rand.NewPCG(1, 2))
	name := make([]byte, n)
	for i := range name {
		name[i] = byte('!' + random.IntN(90))
	}
	return string(name)
}

// What a dry run says yes to is then done, and what it refuses is refused. A command
// that gets a --dry-run needs cases here.
func TestDryRun_saysWhatTheCommandDoes(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	folder := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(folder, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	// Each case has a dead letter of its own.
	fresh := func() string { return clitest.Seed(t, pool, clitest.Letter{}).String() }
	replaying := clitest.Seed(t, pool, clitest.Letter{State: "replaying"}).String()
	deep := clitest.Seed(t, pool, clitest.Letter{Args: strings.Repeat(`{"a":`, 6000) + "1" + strings.Repeat("}", 6000)}).String()
	missing := uuid.NewString()
	queued := func() string { return strings.TrimSpace(s.OK("enqueue", "n").Out) }
	running := queued()
	if _, err := pool.Exec(t.Context(), `update soniq_jobs set status = 'processing' where id = $1`, running); err != nil {
		t.Fatal(err)
	}
	long := fresh()
	if _, err := pool.Exec(t.Context(), `update soniq_dead_letter_jobs set whole_queue = $2 where id = $1`, long, randomName(4000)); err != nil {
		t.Fatal(err)
	}
	lines := map[string][][]string{
		"dead-letter replay": {
			{"ID"},
			{"ID", "--set", "q=1e999999"},
			{"ID", "--set", "q=1e-20000"},
			{"ID", "--set", `q={"a":1e131071}`},
			{"ID", "--set", "a.b.c=1"},
			{"ID", "--unset", "nothing"},
			{"ID", "--args", `{"q":1e999999}`},
			{"ID", "--args", strings.Repeat(`{"a":`, 7000) + "1" + strings.Repeat("}", 7000)},
			{"ID", "--set", "q=" + strings.Repeat("[", 7000) + strings.Repeat("]", 7000)},
			{"ID", "--new-queue", strings.Repeat("q", 2000)},
			{"ID", "--new-queue", randomName(4000)},
			{"ID", "--keep-attempts"},
			{"ID", "--keep-attempts", "--new-max-attempts", "9"},
			{"ID", "--delay", "36500d"},
			{"ID", "--delay", "36501d"},
			{replaying},
			{missing},
			{deep, "--set", "q=1"},
			{deep},
			{"ID", missing},
			{long},
			{long, "--new-queue", "q"},
			{"--job", "none", "--set", "q=1e999999"},
			{"--job", "none"},
			{"--all", "--limit", "1", "--set", "q=1e999999"},
			{"--all", "--limit", "1", "--set", "q=" + strings.Repeat("[", 7000) + strings.Repeat("]", 7000)},
			{"--all", "--limit", "1", "--new-queue", randomName(4000)},
			{"--all", "--limit", "1", "--unset", "nothing"},
			{"--all", "--limit", "1"},
			{"--all", "--limit", "1", "--keep-attempts"},
		},
		"dead-letter delete":  {{"ID"}, {missing}, {replaying}, {"ID", missing}, {"--job", "none"}, {"--all", "--limit", "1"}},
		"dead-letter cleanup": {{"--days", "1"}, {"--days", "0"}, {"--state", "replaying"}, {"--export", file("there.json", "[]")}, {"--export", filepath.Join(folder, "no", "such.json")}, {"--export", filepath.Join(folder, "new.json")}},
		"dead-letter import":  {{file("none.json", "[]")}, {file("half.json", "[")}},
		"adopt":               {{}},
		"job bury":            {{queued()}, {queued(), missing}, {missing}, {replaying}, {running}, {queued()[:18]}, {queued(), "--comment", "why"}},
		"migrate up":          {{}, {"--to", "9999"}},
		"migrate down":        {{"--to", "9999"}},
	}
	_, all := leaves(t)
	for _, command := range all {
		path := strings.Join(command.path, " ")
		dry := slices.ContainsFunc(command.Flags, func(f *kongFlag) bool { return f.Name == "dry-run" })
		if dry != (len(lines[path]) > 0) {
			t.Errorf("%s has a --dry-run: %t, and %d cases here", path, dry, len(lines[path]))
		}
		for _, line := range lines[path] {
			line = slices.Clone(line)
			if i := slices.Index(line, "ID"); i >= 0 {
				line[i] = fresh()
			}
			line = append(slices.Clone(command.path), line...)
			said := s.Run(append(slices.Clone(line), "--dry-run")...)
			if slices.ContainsFunc(command.Flags, func(f *kongFlag) bool { return f.Name == "yes" }) {
				line = append(line, "--yes")
			}
			did := s.Run(line...)
			if said.Code != did.Code || (said.Err == "") != (did.Err == "") && did.Code != app.ExitDone {
				t.Errorf("%.200s:\n dry run: exit code %d, %.300q\n  command: exit code %d, %.300q", fmt.Sprint(line), said.Code, said.Err, did.Code, did.Err)
			}
		}
	}
}
