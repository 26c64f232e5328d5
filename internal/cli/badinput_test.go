package cli_test

import (
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"soniq/internal/cli/clitest"
	"soniq/internal/testdb"
)

// Each mistake gets one line on standard error, its exit code, and changes
// nothing.
func TestBadInput_oneLineAndNothingChanged(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	database := pool.Config().ConnString()
	id := clitest.Seed(t, pool, clitest.Letter{}).String()
	dir := t.TempDir()
	missing := uuid.Must(uuid.NewV7()).String()
	tooLong := `{"a": "` + strings.Repeat("x", 1<<20) + `"}`
	for _, test := range []struct {
		name  string
		args  []string
		stdin string
		code  int
		want  string
	}{
		{name: "unknown command", args: []string{"lst"}, code: 2, want: "unexpected argument lst"},
		{name: "unknown subcommand", args: []string{"dead-letter", "lst"}, code: 2, want: `did you mean "list"`},
		{name: "no subcommand", args: []string{"dead-letter"}, code: 2, want: `expected one of "list"`},
		{name: "unknown flag", args: []string{"dead-letter", "list", "--limits", "3"}, code: 2, want: "unknown flag --limits, did you mean \"--limit\"? (see 'soniq dead-letter list --help')"},
		{name: "control characters in a flag", args: []string{"dead-letter", "list", "--\x1b[2J"}, code: 2, want: `\x1b[2J`},
		{name: "negative limit", args: []string{"dead-letter", "list", "--limit=-1"}, code: 2, want: "--limit must not be negative"},
		{name: "log level", args: []string{"status", "--log-level", "loud"}, code: 2, want: "--log-level must be one of"},
		{name: "beginning of no id", args: []string{"dead-letter", "replay", "abc123-def456"}, code: 1, want: "abc123-def456: no such dead letter"},
		{name: "bad id after a good one", args: []string{"dead-letter", "delete", id, "abc"}, code: 2, want: `"abc" is not a job id`},
		{name: "bad id to show", args: []string{"dead-letter", "show", "42"}, code: 2, want: `"42" is not a job id`},
		{name: "bad job id", args: []string{"job", "42"}, code: 2, want: `"42" is not a job id`},
		{name: "nothing to show", args: []string{"dead-letter", "show"}, code: 2, want: "give its id, or --group"},
		{name: "id and group to show", args: []string{"dead-letter", "show", missing, "--group", "x"}, code: 2, want: "give either an id or --group"},
		{name: "empty group to show", args: []string{"dead-letter", "show", "--group="}, code: 2, want: "--group is empty"},
		{name: "missing group to show", args: []string{"dead-letter", "show", "--group", "x"}, code: 1, want: "no dead letter is of this group"},
		{name: "missing to show", args: []string{"dead-letter", "show", missing}, code: 1, want: missing + ": no such dead letter"},
		{name: "missing job", args: []string{"job", missing}, code: 1, want: missing + ": no such job"},
		{name: "missing to replay", args: []string{"dead-letter", "replay", missing}, code: 1, want: missing + ": no such dead letter"},
		{name: "missing to delete", args: []string{"dead-letter", "delete", missing}, code: 1, want: missing + ": no such dead letter"},
		{name: "delete what", args: []string{"dead-letter", "delete", "--yes"}, code: 2, want: "which dead letters?"},
		{name: "replay what", args: []string{"dead-letter", "replay", "--limit", "3"}, code: 2, want: "which dead letters?"},
		{name: "ids and all", args: []string{"dead-letter", "delete", id, "--all"}, code: 2, want: "either ids, or --all"},
		{name: "ids and a filter", args: []string{"dead-letter", "replay", id, "--reason", "timeout"}, code: 2, want: "either ids, or --all"},
		{name: "ids and a limit", args: []string{"dead-letter", "delete", id, "--limit", "1"}, code: 2, want: "either ids, or --all"},
		{name: "empty filter", args: []string{"dead-letter", "delete", "--yes", "--filter", ""}, code: 2, want: "--filter is empty"},
		{name: "empty job", args: []string{"dead-letter", "delete", "--yes", "--job", ""}, code: 2, want: "--job is empty"},
		{name: "empty queue filter", args: []string{"dead-letter", "delete", "--yes", "--queue="}, code: 2, want: "--queue is empty"},
		{name: "empty since", args: []string{"dead-letter", "delete", "--yes", "--job", "x", "--since", ""}, code: 2, want: "--since is empty"},
		{name: "empty until", args: []string{"dead-letter", "delete", "--yes", "--job", "x", "--until="}, code: 2, want: "--until is empty"},
		{name: "empty state", args: []string{"dead-letter", "delete", "--yes", "--job", "x", "--state="}, code: 2, want: "--state is empty"},
		{name: "empty reason", args: []string{"dead-letter", "delete", "--yes", "--reason="}, code: 2, want: "--reason is empty"},
		{name: "empty group", args: []string{"dead-letter", "delete", "--yes", "--group="}, code: 2, want: "--group is empty"},
		{name: "empty error text", args: []string{"dead-letter", "delete", "--yes", "--error="}, code: 2, want: "--error is empty"},
		{name: "less than no groups", args: []string{"dead-letter", "groups", "--limit=-1"}, code: 2, want: "--limit must not be negative"},
		{name: "after no id", args: []string{"dead-letter", "list", "--after", "x"}, code: 2, want: "not a job id"},
		{name: "after a missing one", args: []string{"dead-letter", "list", "--after", missing}, code: 1, want: missing + ": no such dead letter"},
		{name: "unknown reason", args: []string{"dead-letter", "delete", "--yes", "--reason", "bad_luck"}, code: 2, want: "bad_luck"},
		{name: "unknown state", args: []string{"dead-letter", "list", "--state", "zombie"}, code: 2, want: "--state must be"},
		{name: "bad tag", args: []string{"dead-letter", "list", "--tag", "team"}, code: 2, want: "KEY=VALUE"},
		{name: "bad since", args: []string{"dead-letter", "list", "--since", "yesterday"}, code: 2, want: "--since must be"},
		{name: "until before since", args: []string{"dead-letter", "list", "--since", "1h", "--until", "2h"}, code: 2, want: "--until is before --since"},
		{name: "limit 0 in bulk", args: []string{"dead-letter", "delete", "--all", "--yes", "--limit", "0"}, code: 2, want: "--limit must be at least 1, not 0; leave it out for no limit"},
		{name: "bulk without a terminal", args: []string{"dead-letter", "delete", "--all"}, stdin: "y\n", code: 2, want: "permanently delete 1 dead letter. This cannot be undone. Nobody is there to confirm it: add --yes"},
		{name: "bulk replay without a terminal", args: []string{"dead-letter", "replay", "--all"}, stdin: "y\n", code: 2, want: "queue 1 dead letter again"},
		{name: "nothing to delete", args: []string{"dead-letter", "delete", "--filter", "nope", "--yes"}, code: 3, want: "no dead letter matches"},
		{name: "nothing to replay", args: []string{"dead-letter", "replay", "--filter", "nope", "--yes"}, code: 3, want: "no dead letter matches"},
		{name: "nothing to preview", args: []string{"dead-letter", "delete", "--state", "resolved", "--dry-run"}, code: 3, want: "no dead letter matches"},
		{name: "cleanup 0", args: []string{"dead-letter", "cleanup", "--days", "0"}, code: 2, want: "--days must be from 1"},
		{name: "cleanup -1", args: []string{"dead-letter", "cleanup", "--days", "-1"}, code: 2, want: "--days"},
		{name: "cleanup =-1", args: []string{"dead-letter", "cleanup", "--days=-1"}, code: 2, want: "--days must be from 1"},
		{name: "cleanup a million", args: []string{"dead-letter", "cleanup", "--days", "1000000"}, code: 2, want: "--days must be from 1"},
		{name: "cleanup days and age", args: []string{"dead-letter", "cleanup", "--days", "7", "--older-than", "7d"}, code: 2, want: "give one of them"},
		{name: "delay of no unit", args: []string{"enqueue", "j", "--delay", "10x"}, code: 2, want: `--delay: must be a duration such as 90s, 10m, 2h or 7d, not "10x"`},
		{name: "time of no zone", args: []string{"dead-letter", "list", "--since", "2026-11-30 10:29 EST"}, code: 2, want: "--since must be an age"},
		{name: "at no time", args: []string{"enqueue", "j", "--at", "tomorrow"}, code: 2, want: "--at must be a time such as"},
		{name: "cleanup no age", args: []string{"dead-letter", "cleanup", "--older-than", "old"}, code: 2, want: "--older-than must be a duration"},
		{name: "cleanup age 0", args: []string{"dead-letter", "cleanup", "--older-than", "0d"}, code: 2, want: "--older-than must be above 0"},
		{name: "cleanup empty age", args: []string{"dead-letter", "cleanup", "--older-than="}, code: 2, want: "--older-than is empty"},
		{name: "cleanup empty filter", args: []string{"dead-letter", "cleanup", "--queue="}, code: 2, want: "--queue is empty"},
		{name: "cleanup replaying", args: []string{"dead-letter", "cleanup", "--state", "replaying"}, code: 2, want: "is never cleaned up"},
		{name: "cleanup to stdout", args: []string{"dead-letter", "cleanup", "--export", "-"}, code: 2, want: "--export must be a file"},
		{name: "cleanup to no name", args: []string{"dead-letter", "cleanup", "--export="}, code: 2, want: "--export is empty"},
		{name: "cleanup to a picture", args: []string{"dead-letter", "cleanup", "--export", "x.png"}, code: 2, want: "must end with .json"},
		{name: "cleanup to a folder", args: []string{"dead-letter", "cleanup", "--export", dir}, code: 2, want: "must end with .json"},
		{name: "cleanup to a device", args: []string{"dead-letter", "cleanup", "--export", os.DevNull}, code: 2, want: "must end with .json"},
		{name: "cleanup to nowhere", args: []string{"dead-letter", "cleanup", "--export", filepath.Join(dir, "no", "such.json")}, code: 1, want: "no such file or directory"},
		{name: "bench jobs", args: []string{"bench", "--jobs", "0"}, code: 2, want: "--jobs must be from 1"},
		{name: "bench workers", args: []string{"bench", "--workers", "0"}, code: 2, want: "--workers must be from 1"},
		{name: "bench for", args: []string{"bench", "--for", "10ms"}, code: 2, want: "--for must be from 1s"},
		{name: "bench only", args: []string{"bench", "--only", "burn"}, code: 2, want: "there is no workload \"burn\""},
		{name: "stats", args: []string{"dead-letter", "stats", "--hours=-1"}, code: 2, want: "--hours must be"},
		{name: "stats of 0 hours", args: []string{"dead-letter", "stats", "--hours", "0"}, code: 2, want: "--hours must be from 1 to 876000, not 0; leave it out for all"},
		{name: "replay attempts", args: []string{"dead-letter", "replay", id, "--new-max-attempts", "0"}, code: 2, want: "--new-max-attempts must be"},
		{name: "replay queue", args: []string{"dead-letter", "replay", id, "--new-queue", ""}, code: 2, want: "--new-queue is empty"},
		{name: "replay without attempts left", args: []string{"dead-letter", "replay", id, "--keep-attempts"}, code: 1, want: "needs --new-max-attempts above 3"},
		{name: "bulk replay without attempts left", args: []string{"dead-letter", "replay", "--all", "--yes", "--keep-attempts"}, code: 1, want: "nothing was changed"},
		{name: "force in bulk", args: []string{"dead-letter", "replay", "--all", "--yes", "--force"}, code: 2, want: "--force is for ids"},
		{name: "replay rate", args: []string{"dead-letter", "replay", "--all", "--yes", "--rate", "fast"}, code: 2, want: "--rate must be a number"},
		{name: "replay no rate", args: []string{"dead-letter", "replay", "--all", "--yes", "--rate", "0/s"}, code: 2, want: "--rate must be a number"},
		{name: "replay canary", args: []string{"dead-letter", "replay", "--all", "--yes", "--canary=-1"}, code: 2, want: "--canary must be"},
		{name: "replay breaker", args: []string{"dead-letter", "replay", "--all", "--yes", "--breaker", "150%"}, code: 2, want: "--breaker must be"},
		{name: "replay max replays", args: []string{"dead-letter", "replay", "--all", "--yes", "--max-replays=-1"}, code: 2, want: "--max-replays must not"},
		{name: "replay delay", args: []string{"dead-letter", "replay", id, "--delay", "soon"}, code: 2, want: "--delay must be"},
		{name: "replay in a century", args: []string{"dead-letter", "replay", id, "--delay", "1000000h"}, code: 2, want: "--delay must be at most 36500d, not 1000000h"},
		{name: "bulk replay in a century", args: []string{"dead-letter", "replay", "--all", "--yes", "--delay", "1000000h"}, code: 2, want: "--delay must be at most 36500d, not 1000000h"},
		{name: "replay into a long queue", args: []string{"dead-letter", "replay", id, "--new-queue", strings.Repeat("q", 2001)}, code: 2, want: "--new-queue must be at most 2000 bytes, not 2001"},
		{name: "bulk replay into a long queue", args: []string{"dead-letter", "replay", "--all", "--yes", "--new-queue", strings.Repeat("q", 2001)}, code: 2, want: "--new-queue must be at most 2000 bytes, not 2001"},
		{name: "pause what no index holds", args: []string{"queue", "pause", noise(9000)}, code: 2, want: "queue can't be stored: index row requires"},
		{name: "migrate up to no version", args: []string{"migrate", "up", "--to", "zz"}, code: 2, want: "no such migration"},
		{name: "set nothing", args: []string{"dead-letter", "replay", id, "--set", "user_id"}, code: 2, want: "--set must be PATH=VALUE"},
		{name: "set no path", args: []string{"dead-letter", "replay", id, "--set", "a..b=1"}, code: 2, want: "a path is keys with dots"},
		{name: "set a NUL", args: []string{"dead-letter", "replay", id, "--set", `a="\u0000"`}, code: 2, want: "can't be stored"},
		{name: "unset no path", args: []string{"dead-letter", "replay", id, "--unset", ""}, code: 2, want: "--unset is empty"},
		{name: "set where there is no place", args: []string{"dead-letter", "replay", id, "--set", "user.id=1"}, code: 1, want: id + ": user.id: the top level has no user; it has user_id"},
		{name: "unset what isn't there", args: []string{"dead-letter", "replay", id, "--unset", "user"}, code: 1, want: id + ": user: the top level has no user; it has user_id"},
		{name: "replay args no object", args: []string{"dead-letter", "replay", id, "--args", "[1]"}, code: 2, want: "must be a JSON object"},
		{name: "replay args no JSON", args: []string{"dead-letter", "replay", id, "--args", "{x"}, code: 2, want: "--args: not valid JSON"},
		{name: "replay args NUL", args: []string{"dead-letter", "replay", id, "--args", "-"}, stdin: `{"a": "\u0000"}`, code: 2, want: "can't be stored"},
		{name: "replay args file", args: []string{"dead-letter", "replay", id, "--args", "@" + filepath.Join(dir, "none.json")}, code: 2, want: "no such file"},
		{name: "replay args in bulk", args: []string{"dead-letter", "replay", "--all", "--yes", "--args", "{}"}, code: 2, want: "--args is for one id"},
		{name: "edit two", args: []string{"dead-letter", "replay", id, missing, "--edit", "--yes"}, code: 2, want: "--edit is for one id"},
		{name: "edit and set", args: []string{"dead-letter", "replay", id, "--edit", "--yes", "--set", "a=1"}, code: 2, want: "--edit gives all of the arguments"},
		{name: "edit and args", args: []string{"dead-letter", "replay", id, "--edit", "--yes", "--args", "{}"}, code: 2, want: "exclude each other"},
		{name: "edit without an editor", args: []string{"dead-letter", "replay", id, "--edit", "--yes"}, code: 2, want: "set VISUAL or EDITOR"},
		{name: "edit without an editor, as a trial", args: []string{"dead-letter", "replay", id, "--edit", "--dry-run"}, code: 2, want: "set VISUAL or EDITOR"},
		{name: "edit a missing one", args: []string{"dead-letter", "replay", missing, "--edit", "--yes"}, code: 1, want: missing + ": no such dead letter"},
		{name: "resume and set", args: []string{"dead-letter", "replay", "--resume", missing, "--set", "a=1"}, code: 2, want: "give it alone"},
		{name: "rate of an id", args: []string{"dead-letter", "replay", id, "--rate", "5/s"}, code: 2, want: "--rate is for a bulk replay"},
		{name: "resume and all", args: []string{"dead-letter", "replay", "--all", "--resume", missing}, code: 2, want: "give it alone"},
		{name: "resume no operation", args: []string{"dead-letter", "replay", "--resume", "x"}, code: 2, want: "the id of an operation"},
		{name: "resume an unknown one", args: []string{"dead-letter", "replay", "--resume", missing}, code: 1, want: "no such operation"},
		{name: "tag without a tag", args: []string{"dead-letter", "tag", id}, code: 2, want: "as KEY=VALUE"},
		{name: "tag without an id", args: []string{"dead-letter", "tag", "a=b"}, code: 2, want: "give ids"},
		{name: "tag a missing one", args: []string{"dead-letter", "tag", missing, "a=b"}, code: 1, want: "no such dead letter"},
		{name: "history of nothing", args: []string{"dead-letter", "history", missing}, code: 1, want: "nothing is known of it"},
		{name: "history of no id", args: []string{"dead-letter", "history", "x"}, code: 2, want: "not a job id"},
		{name: "history limit", args: []string{"dead-letter", "history", "--limit=-1"}, code: 2, want: "--limit must not be negative"},
		{name: "export format", args: []string{"dead-letter", "export", "--format", "xml"}, code: 2, want: "--format must be json, jsonl or csv"},
		{name: "export to nowhere", args: []string{"dead-letter", "export", "--output", filepath.Join(dir, "no", "such.json")}, code: 1, want: "no such file or directory"},
		{name: "export to a folder", args: []string{"dead-letter", "export", "--output", dir}, code: 1, want: "is a directory"},

		{name: "import what", args: []string{"dead-letter", "import"}, code: 2, want: `expected "<file>"`},
		{name: "import no name", args: []string{"dead-letter", "import", ""}, code: 2, want: "the name of the file is empty"},
		{name: "import a missing file", args: []string{"dead-letter", "import", filepath.Join(dir, "none.json")}, code: 2, want: "no such file"},
		{name: "import a folder", args: []string{"dead-letter", "import", dir, "--format", "csv"}, code: 2, want: "is a folder"},
		{name: "import a picture", args: []string{"dead-letter", "import", "x.png"}, code: 2, want: "say --format"},
		{name: "import format", args: []string{"dead-letter", "import", "x.json", "--format", "xml"}, code: 2, want: "--format must be json, jsonl or csv"},
		{name: "import standard input", args: []string{"dead-letter", "import", "-"}, code: 2, want: "of standard input --format must say"},
		{name: "import no JSON", args: []string{"dead-letter", "import", "-", "--format", "json"}, stdin: "[\n{]", code: 2, want: "standard input: line 2, record 1: not valid JSON"},
		{name: "import control characters", args: []string{"dead-letter", "import", "-", "--format", "jsonl"}, stdin: `{"id": "\u001b[2J", "job_name": "a", "args": {}, "dead_letter_reason": "timeout", "moved_to_dead_letter_at": "2026-01-02"}`, code: 2, want: `id: "\u001b[2J" is not a UUID`},
		{name: "import a password", args: []string{"dead-letter", "import", "-", "--format", "csv"}, stdin: "id,postgres://u:hunter2@h/x\n", code: 2, want: "standard input: line 1: the column job_name is missing"},

		{name: "no name", args: []string{"enqueue"}, code: 2, want: "which job? give its NAME"},
		{name: "empty name", args: []string{"enqueue", ""}, code: 2, want: "<name> is empty"},
		{name: "args an array", args: []string{"enqueue", "j", "--args", "[1]"}, code: 2, want: "must be a JSON object"},
		{name: "args a string", args: []string{"enqueue", "j", "--args", `"x"`}, code: 2, want: "must be a JSON object"},
		{name: "args no JSON", args: []string{"enqueue", "j", "--args", "{user_id: 42}"}, code: 2, want: "not valid JSON"},
		{name: "args empty", args: []string{"enqueue", "j", "--args", ""}, code: 2, want: "empty"},
		{name: "args NUL escape", args: []string{"enqueue", "j", "--args", `{"a": "\u0000"}`}, code: 2, want: `\u0000`},
		{name: "args NUL byte", args: []string{"enqueue", "j", "--args", "-"}, stdin: "{\"a\": \"\x00\"}", code: 2, want: "not valid JSON"},
		{name: "args invalid UTF-8", args: []string{"enqueue", "j", "--args", "{\"a\": \"\xff\"}"}, code: 2, want: "not valid UTF-8"},
		{name: "args invalid UTF-8 from stdin", args: []string{"enqueue", "j", "--args", "-"}, stdin: "{\"a\": \"\xff\"}", code: 2, want: "not valid UTF-8"},
		{name: "args over 1 MiB", args: []string{"enqueue", "j", "--args", "-"}, stdin: tooLong, code: 2, want: "over the limit of 1048576"},
		{name: "args over a limit", args: []string{"enqueue", "j", "--args", `{"a":1}`, "--max-args-bytes", "6"}, code: 2, want: "over the limit of 6 bytes; store large data elsewhere and enqueue a reference to it, or allow more with --max-args-bytes"},
		{name: "args file", args: []string{"enqueue", "j", "--args", "@" + filepath.Join(dir, "none.json")}, code: 2, want: "no such file"},
		{name: "empty queue", args: []string{"enqueue", "j", "--queue", ""}, code: 2, want: "--queue is empty"},
		{name: "empty dedup key", args: []string{"enqueue", "j", "--dedup-key", ""}, code: 2, want: "--dedup-key is empty"},
		{name: "no attempts", args: []string{"enqueue", "j", "--max-attempts", "0"}, code: 2, want: "max attempts must be"},
		{name: "huge priority", args: []string{"enqueue", "j", "--priority", "3000000000"}, code: 2, want: "priority must fit"},
		{name: "negative delay", args: []string{"enqueue", "j", "--delay=-1s"}, code: 2, want: "delay must not be negative"},
		{name: "bad delay", args: []string{"enqueue", "j", "--delay", "soon"}, code: 2, want: "--delay"},
		{name: "bad time", args: []string{"enqueue", "j", "--at", "noon"}, code: 2, want: "--at must be a time"},
		{name: "time that the clocks skip", args: []string{"enqueue", "j", "--at", "2026-03-29 02:30 Europe/Berlin"}, code: 2, want: "--at: \"2026-03-29 02:30:00\" does not exist in Europe/Berlin"},
		{name: "time that the clocks show twice", args: []string{"enqueue", "j", "--at", "2026-10-25 02:30 Europe/Berlin"}, code: 2, want: "give '2026-10-25 02:30:00 +02:00' or '2026-10-25 02:30:00 +01:00'"},
		{name: "since a time that the clocks show twice", args: []string{"dead-letter", "list", "--since", "2026-10-25 02:30 Europe/Berlin"}, code: 2, want: "--since: \"2026-10-25 02:30:00\" comes twice"},
		{name: "until a time that the clocks skip", args: []string{"dead-letter", "list", "--until", "2026-03-29 02:30 Europe/Berlin"}, code: 2, want: "--until: \"2026-03-29 02:30:00\" does not exist"},
		{name: "delay and time", args: []string{"enqueue", "j", "--delay", "1s", "--at", "2026-01-01T00:00:00Z"}, code: 2, want: "can't be used together"},

		{name: "no handler", args: []string{"worker"}, code: 2, want: "no handler"},
		{name: "handler without =", args: []string{"worker", "--handle", "j"}, code: 2, want: "has no '='"},
		{name: "handler without name", args: []string{"worker", "--handle", "=exec:true"}, code: 2, want: "has no name"},
		{name: "handler of no kind", args: []string{"worker", "--handle", "j=true"}, code: 2, want: `is followed by "true", not by exec:`},
		{name: "handler without command", args: []string{"worker", "--handle", "j=exec: "}, code: 2, want: "has no command"},
		{name: "handler twice", args: []string{"worker", "--handle", "j=exec:a", "--handle", "j=exec:b"}, code: 2, want: `names "j" twice`},
		{name: "empty queues", args: []string{"worker", "--handle", "j=exec:a", "--queues", "a,,b"}, code: 2, want: "--queues is empty"},
		{name: "no slots", args: []string{"worker", "--handle", "j=exec:a", "--concurrency", "0"}, code: 2, want: "--concurrency must be"},
		{name: "negative timeout", args: []string{"worker", "--handle", "j=exec:a", "--timeout=-1s"}, code: 2, want: "--timeout must not be negative"},
		{name: "negative limit of the dead", args: []string{"worker", "--handle", "j=exec:a", "--warn-dead=-1"}, code: 2, want: "--warn-dead must be from 0"},
		{name: "size without a unit that exists", args: []string{"worker", "--handle", "j=exec:a", "--max-args-size", "3 XB"}, code: 2, want: "--max-args-size must be a size such as"},
		{name: "size beyond PostgreSQL's", args: []string{"worker", "--handle", "j=exec:a", "--max-args-size", "2GiB"}, code: 2, want: "--max-args-size must be at most 1GiB"},
		{name: "no memory", args: []string{"worker", "--handle", "j=exec:a", "--max-args-memory", "0"}, code: 2, want: "--max-args-memory must be a size"},
		{name: "memory for less than one job", args: []string{"worker", "--handle", "j=exec:a", "--max-args-memory", "1MiB"}, code: 2, want: "--max-args-memory must be at least --max-args-size"},
		{name: "negative limit of attempts", args: []string{"worker", "--handle", "j=exec:a", "--max-attempts-limit=-1"}, code: 2, want: "--max-attempts-limit must be from 0"},
		{name: "no age of the dead", args: []string{"worker", "--handle", "j=exec:a", "--warn-dead-age", "old"}, code: 2, want: "--warn-dead-age must be a duration"},
		{name: "bad listen URL", args: []string{"worker", "--handle", "j=exec:a", "--listen-url", "postgres://u:hunter2@h:x/y"}, code: 2, want: "--listen-url is not a database URL"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := clitest.NewShell(t, database)
			s.Stdin = test.stdin
			if !strings.HasPrefix(test.name, "edit without an editor") {
				s.Env["EDITOR"] = "true"
			}
			r := s.Run(test.args...)
			clitest.WantCode(t, r, test.code)
			clitest.WantIn(t, "stderr", r.Err, "soniq: ", test.want)
			clitest.CheckComplaint(t, r)
		})
	}
	if n := clitest.CountLetters(t, pool); n != 1 {
		t.Errorf("%d dead letters, want 1", n)
	}
	if n := clitest.CountJobs(t, pool); n != 0 {
		t.Errorf("%d jobs, want none", n)
	}
	if n := clitest.Count(t, pool, `select count(*) from soniq_dead_letter_jobs where state = 'dead' and resurrection_count = 0`); n != 1 {
		t.Error("the dead letter was touched")
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("files were left behind: %v, %v", entries, err)
	}
}

// noise is a text that can't be compressed.
func noise(n int) string {
	random := rand.New(rand.NewPCG(1, 2))
	text := make([]byte, n)
	for i := range text {
		text[i] = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ-_"[random.IntN(64)]
	}
	return string(text)
}

// A mistake that can be seen without a server is told where none answers.
func TestBadInput_noServer_theInputIsToldFirst(t *testing.T) {
	t.Parallel()
	const id = "01890a5d-ac96-774b-bcce-b302099a8057"
	s := clitest.NewShell(t, "postgres://soniq:hunter2@"+clitest.ClosedPort(t)+"/x")
	for _, test := range []struct {
		stdin, want string
		args        []string
	}{
		{want: "not valid JSON", args: []string{"enqueue", "j", "--args", "{"}},
		{want: "not valid JSON", args: []string{"enqueue", "j", "--args", "-"}, stdin: "{"},
		{want: "priority must fit", args: []string{"enqueue", "j", "--priority", "3000000000"}},
		{want: "max attempts must be", args: []string{"enqueue", "j", "--max-attempts", "0"}},
		{want: "delay must not be negative", args: []string{"enqueue", "j", "--delay=-1s"}},
		{want: "can't be stored", args: []string{"enqueue", "j", "--args", `{"a": "\u0000"}`}},
		{want: "line 2: not valid JSON", args: []string{"enqueue", "j", "--from", "-"}, stdin: "{}\n{\n"},
		{want: "line 1: priority must fit", args: []string{"enqueue", "j", "--from", "-"}, stdin: `{"priority": 3000000000}`},
		{want: "line 1: scheduled_at: \"2026-03-29 02:30:00\" does not exist", args: []string{"enqueue", "j", "--from", "-"}, stdin: `{"scheduled_at": "2026-03-29 02:30 Europe/Berlin"}`},
		{want: "not valid JSON", args: []string{"dead-letter", "replay", id, "--args", "{"}},
		{want: "--set must be PATH=VALUE", args: []string{"dead-letter", "replay", id, "--set", "a"}},
		{want: "--delay must be at most", args: []string{"dead-letter", "replay", id, "--delay", "1000000h"}},
		{want: "--delay must be at most", args: []string{"dead-letter", "replay", "--all", "--delay", "1000000h", "--dry-run"}},
		{want: "--new-queue must be at most", args: []string{"dead-letter", "replay", id, "--new-queue", strings.Repeat("q", 2001)}},
		{want: "--max-replays must not", args: []string{"dead-letter", "replay", "--all", "--max-replays=-1"}},
		{want: "KEY=VALUE", args: []string{"dead-letter", "tag", id, "=x"}},
		{want: "--limit must be at least 1", args: []string{"dead-letter", "delete", "--all", "--limit", "0"}},
		{want: "not a job id", args: []string{"dead-letter", "show", "zz"}},
		{want: "--since must be", args: []string{"dead-letter", "list", "--since", "zz"}},
		{want: "--since must be", args: []string{"dead-letter", "history", "--since", "zz"}},
		{want: "--from: cursor", args: []string{"dead-letter", "watch", "--from", "zz"}},
		{want: "say --format", args: []string{"dead-letter", "export", "-o", "x.png"}},
		{want: "no such file", args: []string{"dead-letter", "import", "none.json"}},
		{want: "--days must be", args: []string{"dead-letter", "cleanup", "--days", "0"}},
		{want: "the URL must begin with", args: []string{"hooks", "add", "webhook", "ftp://x"}},
		{want: "not the id of a delivery", args: []string{"hooks", "retry", "zz"}},
		{want: "not a job id", args: []string{"job", "cancel", "zz"}},
		{want: "--status must be", args: []string{"job", "list", "--status", "zz"}},
		{want: "name is empty", args: []string{"queue", "pause", ""}},
		{want: "no such migration", args: []string{"migrate", "up", "--to", "zz"}},
		{want: "no such migration", args: []string{"migrate", "down", "--to", "zz"}},
		{want: "has no '='", args: []string{"worker", "--handle", "j", "--log-format", "text"}},
	} {
		s.Stdin = test.stdin
		r := s.Run(test.args...)
		if r.Code != 2 || !strings.Contains(r.Err, test.want) || strings.Contains(r.Err, "reach") {
			t.Errorf("%.200q: exit %d: %.300s; want %q", test.args, r.Code, r.Err, test.want)
		}
	}
}

func TestBadDatabase_oneLineWithoutThePassword(t *testing.T) {
	t.Parallel()
	empty := testdb.EmptyURL(t)
	good, err := url.Parse(empty)
	if err != nil {
		t.Fatal(err)
	}
	noDatabase := *good
	noDatabase.Path = "/no_such"
	secret, _ := good.User.Password()
	closed := clitest.ClosedPort(t)
	for _, test := range []struct {
		name, url string
		code      int
		want      string
	}{
		{"malformed", "postgres://soniq:hunter2@h:port/x", 2, "--database-url is not a database URL"},
		{"malformed password", "postgres://soniq:hunter2 /@:%zz@h/x", 2, "--database-url is not a database URL"},
		{"malformed keywords", "host=h user='x password=hunter2", 2, "--database-url is not a database URL"},
		{"another database's", "mysql://soniq:hunter2@h/x", 2, "does not begin with postgres://"},
		{"bad sslmode", "postgres://soniq:hunter2@h/x?sslmode=perhaps", 2, "sslmode is invalid"},
		{"bad pool size", "postgres://soniq:hunter2@h/x?pool_max_conns=many", 2, "pool_max_conns"},
		{"nobody listens", "postgres://soniq:hunter2@" + closed + "/x", 1, "cannot reach PostgreSQL at " + closed + ": connection refused"},
		{"no such host", "postgres://soniq:hunter2@soniq.invalid/x", 1, "cannot reach PostgreSQL at soniq.invalid:5432: "},
		{"no such socket", "postgres://soniq:hunter2@/x?host=/no/such/folder", 1, "cannot reach PostgreSQL at /no/such/folder: no such file or directory"},
		{"no such database", noDatabase.String(), 1, `has no database "no_such"`},
		{"wrong password", "postgres://soniq:hunter2@" + clitest.RefusingServer(t) + "/x?sslmode=disable", 1, `refused user "soniq": password authentication failed`},
		{"no tables", empty, 1, "run 'soniq setup'"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			for _, command := range [][]string{
				{"dead-letter", "list"}, {"status"}, {"enqueue", "j"}, {"worker", "--handle", "j=exec:true", "--log-format", "text"},
			} {
				s := clitest.NewShell(t, "")
				r := s.Run(append(command, "--database-url", test.url, "--log-level", "error")...)
				clitest.WantCode(t, r, test.code)
				clitest.WantIn(t, "stderr", r.Err, test.want)
				clitest.CheckComplaint(t, r)
				if secret != "" && strings.Contains(r.Err, secret) {
					t.Errorf("the password was printed: %q", r.Err)
				}
			}
		})
	}
}
