package cli_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"soniq/internal/cli/app"
	"soniq/internal/roles"
)

// command is a line of the table: a command, and who may run it.
type roleLine struct {
	path string
	// may are the kinds of role for which it works. The owner may do everything.
	may string
	// perhaps are those for which it works while what another one has read is there to be shared.
	perhaps string
	// line is the command line, with something of its own to work on.
	line func(p *place) []string
	// says is what a command says that goes on until it is stopped.
	says string
}

const (
	all     = "nobody scaler metrics producer unique-producer viewer operator worker dispatcher"
	readers = "viewer operator worker"
)

func words(line string) func(*place) []string {
	return func(*place) []string { return strings.Fields(line) }
}

// with is a command line with an id, or a name, at its end.
func with(what func(*place) string, line string) func(*place) []string {
	return func(p *place) []string {
		parts := strings.Fields(line)
		for i := range parts {
			if parts[i] == "ID" {
				parts[i] = what(p)
			}
		}
		return parts
	}
}

var commands = []roleLine{
	{path: "version", may: all, line: words("version")},
	{path: "completion", may: all, line: words("completion bash")},
	{path: "__complete", may: all, line: words("__complete -- job")},
	{path: "migrate sql", may: all, line: words("migrate sql")},
	{path: "grants", may: all, line: words("grants --viewer x")},
	{path: "grants", may: "", line: func(p *place) []string { return []string{"grants", "--run", "--viewer", p.names[roles.Viewer]} }},
	{path: "grants", may: "", line: func(p *place) []string { return []string{"grants", "--run", "--revoke", "--viewer", p.names[nobody]} }},
	{path: "hooks keygen", may: all, line: words("hooks keygen")},
	{path: "worker run-once", may: all, line: words("worker run-once j --handle j=exec:true")},
	{path: "setup", may: "worker dispatcher", line: words("setup")},
	{path: "migrate list", may: "worker dispatcher", line: words("migrate list")},
	{path: "migrate check", may: "worker dispatcher", line: words("migrate check")},
	{path: "migrate up", may: "worker dispatcher", line: words("migrate up")},
	{path: "migrate down", may: "worker dispatcher", line: words("migrate down --to 0160 --dry-run")},
	{path: "migrate prebuild", may: "", line: words("migrate prebuild")},
	{path: "adopt", may: "", line: words("adopt --yes")},
	{path: "status", may: readers, line: words("status")},
	{path: "metrics", may: "metrics viewer operator worker", perhaps: "dispatcher", line: words("metrics --once")},
	{path: "dashboard", may: "metrics viewer operator worker dispatcher", says: "serving the dashboard", line: words("dashboard --port 0 --log-format text")},
	{path: "worker list", may: readers, line: words("worker list")},
	{path: "worker run", may: "worker", says: "worker started", line: words("worker --no-hooks --handle none=exec:true --log-format text")},
	{path: "enqueue", may: "producer unique-producer operator", line: words("enqueue j --delay 1d")},
	{path: "enqueue", may: "producer unique-producer operator", line: func(*place) []string {
		return []string{"enqueue", "j", "--delay", "1d", "--unique", "--args", `{"k":"` + uuid.NewString() + `"}`}
	}},
	{path: "enqueue", may: "unique-producer operator", line: func(p *place) []string {
		key := uuid.NewString()
		p.run(owner, "", "enqueue", "j", "--delay", "1d", "--dedup-key", key)
		return []string{"enqueue", "j", "--delay", "1d", "--dedup-key", key}
	}},
	{path: "enqueue", may: "producer unique-producer operator", line: func(p *place) []string {
		return []string{"enqueue", "--from", p.file(uuid.NewString(), `{"name": "j", "delay": "1d"}`+"\n"+`{"name": "j", "delay": "1d"}`)}
	}},
	{path: "job show", may: readers, line: with((*place).job, "job ID")},
	{path: "job list", may: readers, line: words("job list")},
	{path: "job cancel", may: "operator worker", line: with((*place).job, "job cancel ID")},
	{path: "job retry", may: "operator worker", line: func(p *place) []string {
		id := p.job()
		p.exec("update soniq_jobs set status = 'cancelled' where id = '" + id + "'")
		return []string{"job", "retry", id}
	}},
	{path: "job delete", may: "operator worker", line: with((*place).job, "job delete ID")},
	{path: "job bury", may: "operator", line: with((*place).job, "job bury ID")},
	{path: "queue list", may: readers, line: words("queue list")},
	{path: "queue pause", may: "operator", line: func(*place) []string { return []string{"queue", "pause", uuid.NewString()} }},
	{path: "queue resume", may: "operator worker", line: func(*place) []string { return []string{"queue", "resume", uuid.NewString()} }},
	{path: "dead-letter list", may: "viewer operator worker dispatcher", line: words("dead-letter list")},
	{path: "dead-letter show", may: readers, line: with((*place).letter, "dead-letter show ID")},
	{path: "dead-letter show", may: "operator", line: with((*place).letter, "dead-letter show ID --reveal")},
	{path: "dead-letter groups", may: "viewer operator worker dispatcher", line: words("dead-letter groups")},
	{path: "dead-letter stats", may: "viewer operator worker dispatcher", line: words("dead-letter stats")},
	{path: "dead-letter history", may: readers, line: words("dead-letter history")},
	{path: "dead-letter check", may: "viewer operator worker dispatcher", line: words("dead-letter check --max 100000")},
	{path: "dead-letter export", may: "viewer operator worker dispatcher", line: words("dead-letter export --format jsonl -o -")},
	{path: "dead-letter watch", may: "viewer operator worker", says: "watching", line: words("dead-letter watch")},
	{path: "dead-letter import", may: "operator", line: func(p *place) []string {
		return []string{"dead-letter", "import", p.file(uuid.NewString()+".json", strings.ReplaceAll(record, "ID", uuid.NewString()))}
	}},
	{path: "dead-letter tag", may: "operator", line: with((*place).letter, "dead-letter tag ID a=b")},
	{path: "dead-letter replay", may: "operator", line: with((*place).letter, "dead-letter replay ID --delay 1d")},
	{path: "dead-letter replay", may: "operator", line: with((*place).named, "dead-letter replay --job ID --yes --delay 1d")},
	{path: "dead-letter replay", may: "viewer operator worker", line: with((*place).named, "dead-letter replay --job ID --dry-run")},
	{path: "dead-letter delete", may: "operator", line: with((*place).letter, "dead-letter delete ID")},
	{path: "dead-letter delete", may: "operator worker", line: with((*place).named, "dead-letter delete --job ID --yes")},
	{path: "dead-letter cleanup", may: "operator worker", line: with((*place).named, "dead-letter cleanup --days 30 --job ID")},
	{path: "hooks list", may: "viewer operator dispatcher", line: words("hooks list")},
	{path: "hooks show", may: "viewer operator dispatcher", line: with((*place).hook, "hooks show ID")},
	{path: "hooks deliveries", may: "viewer operator dispatcher", line: words("hooks deliveries")},
	{path: "hooks add log", may: "dispatcher", line: func(*place) []string {
		return []string{"hooks", "add", "log", "--job", "nothing", "--name", uuid.NewString()}
	}},
	{path: "hooks add exec", may: "dispatcher", line: func(*place) []string {
		return []string{"hooks", "add", "exec", "true", "--job", "nothing", "--name", uuid.NewString()}
	}},
	{path: "hooks add slack", may: "dispatcher", line: func(*place) []string {
		return []string{"hooks", "add", "slack", "https://hooks.slack.com/services/T/B/x", "--job", "nothing", "--name", uuid.NewString()}
	}},
	{path: "hooks add webhook", may: "dispatcher", line: func(*place) []string {
		return []string{"hooks", "add", "webhook", "https://example.com", "--job", "nothing", "--name", uuid.NewString()}
	}},
	{path: "hooks enable", may: "dispatcher", line: with((*place).hook, "hooks enable ID")},
	{path: "hooks disable", may: "dispatcher", line: with((*place).hook, "hooks disable ID")},
	{path: "hooks test", may: "dispatcher", line: with((*place).hook, "hooks test ID")},
	{path: "hooks rotate-secret", may: "dispatcher", line: with((*place).webhook, "hooks rotate-secret ID")},
	{path: "hooks retry", may: "dispatcher", line: with((*place).hook, "hooks retry --hook ID")},
	{path: "hooks seal", may: "dispatcher", line: func(p *place) []string {
		p.webhook()
		return []string{"hooks", "seal", "--hook-key-file", p.file(uuid.NewString(), "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=\n")}
	}},
	{path: "hooks remove", may: "dispatcher", line: with((*place).hook, "hooks remove ID")},
	{path: "hooks run", may: "dispatcher", says: "sending hooks", line: words("hooks run --log-format text")},
}

const record = `[{"id": "ID", "job_name": "j", "args": {}, "dead_letter_reason": "timeout", "original_created_at": "2026-01-02T03:04:05Z", "moved_to_dead_letter_at": "2026-01-02T03:04:05Z"}]`

// apart are the commands that are not in the table, and why.
var apart = map[string]string{
	"doctor":     "it goes on where the role may not look, and has the rights that lack among its findings",
	"health":     "it asks a process, and no database",
	"demo":       "it has a database of its own",
	"bench":      "it has databases of its own",
	"dev up":     "it is about the private database",
	"dev status": "it is about the private database",
	"dev psql":   "it is about the private database",
	"dev url":    "it is about the private database",
	"dev stop":   "it is about the private database",
	"dev reset":  "it is about the private database",
}

// owners are commands that only the owner of the tables runs. What they say to others names the owner.
const owners = "setup, migrate up, migrate prebuild, adopt, grants"

var (
	lack     = regexp.MustCompile(`the role (\w+) lacks ([a-z, ]+) on public\.(soniq_\w+): ('soniq grants --[a-z-]+ \w+'|only the owner)`)
	readOnly = regexp.MustCompile(`the role \w+ needs select on public\.(soniq_\w+): 'soniq grants --[a-z-]+ \w+'`)
	owned    = regexp.MustCompile(`run this as their owner, \w+|run it as that role`)
	atStart  = regexp.MustCompile(`role lacks rights that it can't work without: grant [a-z, ]+ on public\.soniq_\w+ to \w+.*'soniq grants --(worker|dispatcher) ROLE'`)
)

// Each command works for the kinds of role that the table names, and for the owner. Every other one
// is refused in a line that names the right that lacks, which it does lack, and what grants it.
func TestCommands_eachKindOfRole_mayWhatTheTableSays(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	for _, kind := range everybody() {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			for _, c := range commands {
				if c.may == all && kind != nobody && kind != owner {
					continue // it opens no database
				}
				c.check(p.within(t), kind)
			}
		})
	}
}

func (c roleLine) check(p *place, kind roles.Kind) {
	p.t.Helper()
	if strings.HasPrefix(c.path, "hooks seal") || strings.HasPrefix(c.path, "hooks rotate") {
		p.sealing.Lock() // one changes what the other is about, from when its line makes it on
		defer p.sealing.Unlock()
	}
	line := c.line(p)
	r := p.run(kind, c.says, line...)
	said := r.Out + r.Err
	may := kind == owner || slices.Contains(strings.Fields(c.may), string(kind))
	may = may || r.Code == app.ExitDone && strings.Contains(c.perhaps, string(kind))
	switch {
	case may && r.Code == app.ExitDone && !strings.Contains(said, "permission denied"):
		return
	case may:
		p.t.Errorf("soniq %s as %s: exit %d: %s", strings.Join(line, " "), kind, r.Code, said)
		return
	case r.Code != app.ExitFailed && r.Code != app.ExitUnknown:
		p.t.Errorf("soniq %s as %s is not refused: exit %d: %s", strings.Join(line, " "), kind, r.Code, said)
		return
	}
	found := lack.FindStringSubmatch(said)
	switch {
	case found != nil:
		p.wantLacking(c.path, found[1], found[3], strings.Split(found[2], ", "))
	case readOnly.MatchString(said), atStart.MatchString(said), strings.Contains(owners, c.path) && owned.MatchString(said):
	case strings.Contains(said, "to find it the role needs select (id, job_name, args_hash, dedup_key, status, unique_job) on soniq_jobs: 'soniq grants --unique-producer ROLE'"):
	default:
		p.t.Errorf("soniq %s as %s names no right: %s", strings.Join(line, " "), kind, said)
	}
}

// A command that is new needs a line in the table.
func TestCommands_areAllInTheTable(t *testing.T) {
	t.Parallel()
	known := map[string]bool{}
	for _, c := range commands {
		known[c.path] = true
	}
	for _, path := range commandPaths(t) {
		if known[path] == (apart[path] != "") {
			t.Errorf("'soniq %s' must be in the table of commands, or among those apart", path)
		}
		delete(known, path)
	}
	for path := range known {
		t.Errorf("there is no 'soniq %s'", path)
	}
}
