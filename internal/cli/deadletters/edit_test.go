package deadletters_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/deadletter"
	"soniq/internal/cli/app"
	"soniq/internal/cli/clitest"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
)

// argsOfReplays are the arguments of the jobs that replay a dead letter.
func argsOfReplays(t *testing.T, pool *pgxpool.Pool, id string) string {
	t.Helper()
	var args *string
	const sql = `select string_agg(args::text, ' ' order by created_at) from soniq_jobs where replay_of = $1`
	if err := pool.QueryRow(t.Context(), sql, id).Scan(&args); err != nil {
		t.Fatal(err)
	}
	if args == nil {
		return ""
	}
	return *args
}

func TestReplay_set_changesTheNewJobAlone(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	const stored = `{"id": 12345678901234567890, "user": {"email": "ada@exmaple.com", "zip": "01234"}, "items": [{"n": 1}], "a.b": 1.50}`
	id := clitest.Seed(t, pool, clitest.Letter{Args: stored}).String()
	set := []string{
		"dead-letter", "replay", id, "--set", "user.email=ada@example.com", "--set", `items[0].n={"x": [1]}`, "--set", "user.zip=1234",
		"--set", "note=a=b é 😀", "--unset", `a\.b`,
	}
	const changes = `
  - user.email: "ada@exmaple.com"
  + user.email: "ada@example.com"
  - user.zip: "01234"
  + user.zip: 1234  (was a string)
  - items[0].n: 1
  + items[0].n: {"x":[1]}
  - a\.b: 1.50
  + note: "a=b é 😀"
`
	preview := s.OK(append(set, "--dry-run")...)
	if sortedLines(preview.Out) != sortedLines("Would replay "+id+" (emails.send, max_retries_exceeded)"+changes) || clitest.CountJobs(t, pool) != 0 {
		t.Errorf("dry run: %s, %d jobs", preview.Out, clitest.CountJobs(t, pool))
	}
	if r := s.OK(set...); !strings.HasPrefix(r.Out, "Replayed "+id+" as ") || sortedLines(r.Out[strings.Index(r.Out, "\n"):]) != sortedLines(changes) {
		t.Errorf("%+v", r)
	}
	const want = `{"id": 12345678901234567890, "note": "a=b é 😀", "user": {"zip": 1234, "email": "ada@example.com"}, "items": [{"n": {"x": [1]}}]}`
	if got := argsOfReplays(t, pool, id); got != want {
		t.Errorf("the job: %s", got)
	}
	show := s.OK("dead-letter", "show", id).Out
	clitest.WantIn(t, "show", show, `"email": "ada@exmaple.com"`, "with other arguments", `    + user.email: "ada@example.com"`)

	got := clitest.Decode[struct {
		Edits []shownEdit
	}](t, s.OK("dead-letter", "replay", id, "--force", "--set", "note=1", "--json").Out)
	if len(got.Edits) != 1 || got.Edits[0].ID.String() != id || len(got.Edits[0].Changes) != 1 || string(got.Edits[0].Changes[0].New) != "1" {
		t.Errorf("--json: %+v", got)
	}
}

// shownEdit is what --json says of a replay with other arguments.
type shownEdit struct {
	ID      uuid.UUID
	Changes []deadletter.ArgsChange
}

// sortedLines makes no difference of the order in which jsonb keeps keys.
func sortedLines(text string) string {
	return strings.Join(slices.Sorted(strings.SplitSeq(strings.Trim(text, "\n"), "\n")), "\n")
}

// What a person typed as a secret, or what was one, is not printed back.
func TestReplay_set_showsNoSecret(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	id := clitest.Seed(t, pool, clitest.Letter{Args: `{"auth": {"key": "hunter1"}, "url": "postgres://u:hunter2@h/d", "name": "x\u001b[2J"}`}).String()
	args := []string{"dead-letter", "replay", id, "--set", "auth.key=hunter3", "--set", "url=postgres://u:hunter4@h/e", "--set", "name=y", "--dry-run"}
	for _, more := range [][]string{nil, {"--json"}} {
		r := s.OK(append(args, more...)...)
		if strings.Contains(r.Out+r.Err, "hunter") {
			t.Errorf("a secret: %+v", r)
		}
		clitest.CheckSafe(t, r.Out)
		clitest.WantIn(t, "changes", r.Out, "auth.key", "[redacted]", "u:[redacted]@h/e")
	}
	clitest.WantIn(t, "--reveal", s.OK(append(args, "--reveal")...).Out, `- auth.key: "hunter1"`, `+ auth.key: "hunter3"`)
}

func TestReplay_args_fromAFileOrStandardInput(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	path := filepath.Join(t.TempDir(), "args.json")
	if err := os.WriteFile(path, []byte("{\"user_id\": 43}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, source := range []string{"@" + path, "-", "@-", `{"user_id": 43}`} {
		id := clitest.Seed(t, pool, clitest.Letter{}).String()
		s.Stdin = `{"user_id": 43}`
		clitest.WantIn(t, "changes", s.OK("dead-letter", "replay", id, "--args", source).Out, "- user_id: 42", "+ user_id: 43")
		if got := argsOfReplays(t, pool, id); got != `{"user_id": 43}` {
			t.Errorf("--args %s: %s", source, got)
		}
	}
	id := clitest.Seed(t, pool, clitest.Letter{}).String()
	clitest.WantIn(t, "no change", s.OK("dead-letter", "replay", id, "--args", `{"user_id":42}`).Out, "the arguments stay as they are")
}

// edit runs 'replay --edit' with an editor that is a shell script. answers are
// what the person types.
func edit(t *testing.T, s *clitest.Shell, id, script, answers string, more ...string) clitest.Result {
	t.Helper()
	path := filepath.Join(t.TempDir(), "my editor")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	s.Env["VISUAL"] = "'" + path + "' --wait"
	s.Stdin = answers
	return s.Run(append([]string{"dead-letter", "replay", id, "--edit"}, more...)...)
}

func TestReplay_edit_showsWhatChangedAndAsks(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	s.TTY = true
	id := clitest.Seed(t, pool, clitest.Letter{Args: `{"user_id": 42, "password": "hunter2"}`}).String()
	// $1 is --wait, as the variable says.
	const mend = `sed 's/42/43/' "$2" >"$2.new" && mv "$2.new" "$2"`
	for _, tt := range []struct {
		name, script, answers, want string
	}{
		{"no", mend, "n\n", "aborted; nothing was changed"},
		{"no answer", mend, "", "aborted; nothing was changed"},
		{"unchanged", "true", "y\n", "the arguments are as they were; nothing was replayed"},
		{"laid out anew", `printf '{"password":"hunter2",  "user_id":42}' >"$2"`, "y\n", "the arguments are as they were"},
		{"the editor failed", mend + "; exit 3", "y\n", "exit status 3; nothing was replayed"},
		{"no JSON, and given up", `echo '{"a": 1,' >"$2"`, "n\n", "not valid JSON"},
		{"no object", `echo '[1]' >"$2"`, "n\n", "must be a JSON object"},
		{"no file", `rm "$2"`, "", "no such file"},
	} {
		r := edit(t, s, id, tt.script, tt.answers)
		clitest.WantCode(t, r, app.ExitFailed)
		clitest.WantIn(t, tt.name, r.Err, tt.want)
	}
	if n := clitest.CountJobs(t, pool); n != 0 {
		t.Fatalf("%d jobs were made", n)
	}
	// A mistake is mended in a second go.
	const clumsy = `if grep -q 42 "$2"; then echo '{"user_id": 43' >"$2"; else echo '{"user_id": 43, "password": "hunter2"}' >"$2"; fi`
	r := edit(t, s, id, clumsy, "y\ny\n")
	clitest.WantCode(t, r, app.ExitDone)
	clitest.WantIn(t, "stderr", r.Err, "line 2", "Edit them again? [y/N]", "  - user_id: 42\n  + user_id: 43\n", "queue emails.send again, with these arguments. Continue? [y/N]")
	if got := argsOfReplays(t, pool, id); got != `{"user_id": 43, "password": "hunter2"}` {
		t.Errorf("the job: %s", got)
	}
	if strings.Contains(r.Out+r.Err, "hunter2") {
		t.Errorf("a secret was shown: %+v", r)
	}
	// A line of its own for each colour: nothing is coloured beyond it.
	s.Env["TERM"] = "xterm"
	colours := s.OK("dead-letter", "replay", clitest.Seed(t, pool, clitest.Letter{}).String(), "--set", "user_id=1").Out
	clitest.WantIn(t, "colours", colours, "\x1b[31m  - user_id: 42\x1b[0m\n\x1b[32m  + user_id: 1\x1b[0m\n")
	// Before a person types anything, they know that it is in vain.
	r = edit(t, s, id, "exit 9", "y\n")
	clitest.WantCode(t, r, app.ExitFailed)
	clitest.WantIn(t, "stderr", r.Err, "a replay is under way")
}

func TestReplay_edit_withoutATerminal(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	id := clitest.Seed(t, pool, clitest.Letter{}).String()
	left := filepath.Join(t.TempDir(), "left")
	script := `echo "$2" >` + left + `; stat -c %a "$2" >>` + left + ` 2>/dev/null; sed -i.old 's/42/43/' "$2" && rm -f "$2.old"`
	r := edit(t, s, id, script, "")
	clitest.WantCode(t, r, app.ExitUsage)
	clitest.WantIn(t, "stderr", r.Err, "nobody is there to confirm it: add --yes")
	r = edit(t, s, id, script, "", "--dry-run")
	clitest.WantCode(t, r, app.ExitDone)
	clitest.WantIn(t, "dry run", r.Out, "Would replay "+id, "+ user_id: 43")
	r = edit(t, s, id, script, "", "--yes")
	clitest.WantCode(t, r, app.ExitDone)
	if got := argsOfReplays(t, pool, id); got != `{"user_id": 43}` {
		t.Errorf("the job: %s", got)
	}
	// The file was the person's alone, and is gone.
	data, err := os.ReadFile(left)
	if err != nil {
		t.Fatal(err)
	}
	path, mode, _ := strings.Cut(strings.TrimSpace(string(data)), "\n")
	if _, err := os.Stat(path); !os.IsNotExist(err) || mode != "" && mode != "600" {
		t.Errorf("%s with the mode %s: %v", path, mode, err)
	}
}

// Ctrl-C is the editor's while it runs.
func TestReplay_edit_interruptsAreTheEditors(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	id := clitest.Seed(t, pool, clitest.Letter{}).String()
	dir := t.TempDir()
	path := filepath.Join(dir, "editor")
	script := "#!/bin/sh\necho $$ >" + dir + "/pid && mv " + dir + "/pid " + dir + "/open\nwhile ! [ -e " + dir + "/close ]; do sleep 0.05; done\necho '{\"user_id\": 43}' >\"$1\"\n"
	if err := os.WriteFile(path, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	s.Env["EDITOR"] = "WRAP=72 " + path
	running := s.Start("dead-letter", "replay", id, "--edit", "--yes")
	eventually.True(t, "the editor", func() bool { _, err := os.Stat(dir + "/open"); return err == nil })
	s.Signals <- os.Interrupt
	eventually.True(t, "the signal to be taken", func() bool { return len(s.Signals) == 0 })
	if err := os.WriteFile(dir+"/close", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if code := running.Wait(t); code != app.ExitDone {
		t.Errorf("exit %d: %s", code, running.Err.String())
	}
	if got := argsOfReplays(t, pool, id); got != `{"user_id": 43}` {
		t.Errorf("the job: %s", got)
	}
	// Being told to stop ends both.
	if err := os.Remove(dir + "/open"); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(dir + "/close"); err != nil {
		t.Fatal(err)
	}
	running = s.Start("dead-letter", "replay", id, "--force", "--edit", "--yes")
	eventually.True(t, "the editor", func() bool { _, err := os.Stat(dir + "/open"); return err == nil })
	text, err := os.ReadFile(dir + "/open")
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	s.Signals <- syscall.SIGTERM
	if code := running.Wait(t); code != app.ExitFailed || clitest.CountJobs(t, pool) != 1 {
		t.Errorf("exit %d: %s; %d jobs", code, running.Err.String(), clitest.CountJobs(t, pool))
	}
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the editor runs on: %v", err)
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

func TestReplay_bulk_set_previewsASampleAndKeepsEachItsOwn(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	for _, n := range []string{"1", "2", "3", "4", "5"} {
		clitest.Seed(t, pool, clitest.Letter{Args: `{"n": ` + n + `, "region": null}`})
	}
	odd := clitest.Seed(t, pool, clitest.Letter{Job: "odd", Args: `{"n": {}}`}).String()
	r := s.Run("dead-letter", "replay", "--all", "--set", "n.x.y=1", "--yes")
	clitest.WantCode(t, r, app.ExitFailed)
	clitest.WantIn(t, "stderr", r.Err, "n.x.y: n is a number; nothing was changed")
	r = s.Run("dead-letter", "replay", "--all", "--unset", "region", "--dry-run")
	clitest.WantCode(t, r, app.ExitFailed)
	clitest.WantIn(t, "stderr", r.Err, odd+": region: the top level has no region; it has n; nothing was changed")

	bulk := []string{"dead-letter", "replay", "--job", "emails.send", "--set", "region=eu"}
	r = s.OK(append(bulk, "--dry-run")...)
	clitest.WantIn(t, "preview", r.Out, "Would replay 5 dead letters.", "\nArguments of the first 3\n")
	if strings.Count(r.Out, "  - region: null\n  + region: \"eu\"  (now a string)\n") != 3 || clitest.CountJobs(t, pool) != 0 {
		t.Errorf("preview: %s", r.Out)
	}
	var preview struct {
		Count int
		Edits []shownEdit
	}
	if err := json.Unmarshal([]byte(s.OK(append(bulk, "--dry-run", "--json")...).Out), &preview); err != nil || preview.Count != 5 || len(preview.Edits) != 3 {
		t.Errorf("%+v, %v", preview, err)
	}
	s.TTY, s.Stdin = true, "y\n"
	r = s.OK(bulk...)
	clitest.WantIn(t, "question", r.Err, "  + region: \"eu\"", "queue 5 dead letters again, with their arguments changed")
	if n := clitest.Count(t, pool, `select count(*) from soniq_jobs j join soniq_dead_letter_jobs d on d.id = j.replay_of where j.args = d.args || '{"region": "eu"}'`); n != 5 {
		t.Errorf("%d jobs with their own arguments but for the region, want 5", n)
	}
}
