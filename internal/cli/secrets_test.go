package cli_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/lmittmann/tint"

	"soniq/deadletter"
	"soniq/engine"
	"soniq/hooks"
	"soniq/internal/cli"
	"soniq/internal/cli/clitest"
	"soniq/internal/eventually"
	"soniq/internal/testclient"
	"soniq/internal/testdb"
)

// plant is a secret as it stands in a text, with what must not be seen of it.
type plant struct{ kind, text, secret string }

const (
	lower      = "abcdefghijklmnopqrstuvwxyz0123456789"
	alphabet62 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
)

// random is n characters of an alphabet; one of them is a digit, and one is not.
func random(n int, alphabet string) string {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	for i := range b {
		b[i] = alphabet[int(b[i])%len(alphabet)]
	}
	b[1], b[n-2] = '7', alphabet[0]
	return string(b)
}

// plants are secrets of every kind, in the form of real ones; each run makes
// others.
func plants() []plant {
	var all []plant
	add := func(kind, secret, format string) {
		all = append(all, plant{kind, strings.ReplaceAll(format, "%s", secret), secret})
	}
	word := func() string { return random(16, alphabet62) }
	for _, named := range []string{
		`{"password":"%s","n":1}`, `{'password': '%s', 'n': 1}`, `{\"password\":\"%s\",\"n\":1}`, "password: %s", "password=%s", `Password = "%s"`, "access_token=%s", "refresh_token: %s", "client_secret=%s&a=b",
		"PGPASSWORD=%s psql", "AWS_SECRET_ACCESS_KEY=%s", "X-Api-Key: %s", "Authorization: Basic %s=", "Authorization: Bearer %s", `Authorization: Digest username="a", response="%s"`,
		"Authorization: AWS4-HMAC-SHA256 Credential=a/b, Signature=%s", "Proxy-Authorization: Negotiate %s", "Cookie: a=b; c=%s", "Set-Cookie: sid=%s; Path=/",
		"postgres://ann:%s@db.internal:5432/app", "redis://:%s@cache:6379", "amqp://ann:a%40%s@mq", "https://%s@git.internal/a.git", "GET /a?token=%s&b=c", "GET /a?b=c&sig=%s", "https://s3/a?X-Amz-Credential=%s%2F2&X-Amz-Date=1", "https://s3/a?X-Amz-Date=1&X-Amz-Signature=%s", "https://a/b?code=%s", "https://a/b?key=%s",
		"host=db user=ann password='%s x' dbname=a", "jdbc:postgresql://db/a?user=ann&password=%s", "Server=db;Uid=a;Pwd=%s;Encrypt=true", "AccountName=a;AccountKey=%s==;E=core", "Endpoint=sb://a/;SharedAccessKey=%s=", "ann:%s@tcp(db:3306)/app",
		"map[Password:%s User:ann]", "<password>%s</password>", "mysql --password %s -h db", `["--token", "%s"]`, `[{"name": "DB_PASSWORD", "value": "%s"}]`, `("Authorization", "Bearer %s")`, "ALTER ROLE ann PASSWORD '%s'", "bearer %s",
	} {
		add(named, word(), named)
	}
	jwt := func() string {
		part := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
		return part(`{"alg":"HS256"}`) + "." + part(`{"sub":"`+word()+`"}`) + "." + random(43, alphabet62)
	}
	for kind, secret := range map[string]string{
		"Slack webhook": "hooks.slack.com/services/T0" + random(9, lower) + "/B0" + random(9, lower) + "/" + random(24, alphabet62),
		"Discord":       "discord.com/api/webhooks/1234567890/" + random(60, alphabet62),
		"Teams":         "acme.webhook.office.com/webhookb2/" + random(32, lower),
		"signing":       "whsec_" + random(32, alphabet62), "GitHub": "github_pat_" + random(60, alphabet62), "GitHub old": "ghp_" + random(36, alphabet62),
		"GitLab": "glpat-" + random(20, alphabet62), "Slack": "xoxb-123456789012-" + random(24, alphabet62), "Slack app": "xapp-1-A0-" + random(40, lower), "npm": "npm_" + random(36, alphabet62),
		"PyPI": "pypi-AgEIcHlwaS5vcmc" + random(60, alphabet62), "Docker": "dckr_pat_" + random(27, alphabet62), "Hugging Face": "hf_" + random(34, alphabet62), "Stripe": "sk_live_" + random(24, alphabet62),
		"Anthropic": "sk-ant-api03-" + random(60, alphabet62), "OpenAI": "sk-proj-" + random(60, alphabet62), "Google": "AIza" + random(35, alphabet62), "Google OAuth": "ya29." + random(60, alphabet62),
		"AWS": "AKIA" + strings.ToUpper(random(16, lower)), "SendGrid": "SG." + random(22, alphabet62) + "." + random(43, alphabet62), "JWT": jwt(),
	} {
		add(kind, secret, "it said %s, and stopped")
	}
	key := make([]byte, 300)
	_, _ = rand.Read(key)
	block := strings.TrimSpace(string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: key})))
	lines := strings.Split(block, "\n")
	all = append(all,
		plant{"PEM", block, lines[2]},
		plant{"PEM in JSON", `{"k":"` + strings.ReplaceAll(block, "\n", `\n`) + `"}`, lines[3]},
		plant{"PEM without its end", strings.Join(lines[:4], "\n") + "\n", lines[1]},
		plant{"PEM without its beginning", "cut:\n" + strings.Join(lines[4:], "\n"), lines[5]},
		plant{"card", "card 4111 1111 1111 1111 was refused", "4111 1111 1111"},
		plant{"card in one", "card 5500005555555559 was refused", "5500005555555559"},
	)
	return all
}

// planted are secrets and where they can be put.
type planted struct {
	all []plant
	// text has all of them; short are as many texts for columns with names.
	text  string
	short []string
	// doc is a JSON object with all of them, by name, by look, in lists, pairs
	// and texts that are JSON themselves.
	doc string
	use int
}

func newPlanted(t *testing.T) *planted {
	t.Helper()
	p := &planted{all: plants()}
	named := map[string]string{"password": "", "api_key": "", "userPassword2": "", "client-secret": "", "db.token": "", "Authorization": "", "private_key": ""}
	for key := range named {
		named[key] = random(12, alphabet62)
		p.all = append(p.all, plant{"the value of " + key, "", named[key]})
	}
	inner, _ := json.Marshal(map[string]any{"login": named})
	outer, _ := json.Marshal(map[string]any{"body": string(inner)})
	texts := []string{}
	for _, one := range p.all {
		if one.text != "" {
			texts = append(texts, one.text)
		}
	}
	p.text = "it failed:\n" + strings.Join(texts, "\n")
	p.short = texts
	doc, err := json.Marshal(map[string]any{
		"texts": texts, "all": p.text, "config": named, "inner": string(inner), "outer": string(outer),
		"headers": map[string][]string{"Cookie": {"a=" + named["password"]}}, "raw_headers": []string{"X-Api-Key", named["api_key"]},
		"env": []map[string]string{{"name": "DB_PASSWORD", "value": named["password"]}}, "command": []string{"psql", "--password", named["password"]},
		"user_id": 42,
	})
	if err != nil {
		t.Fatal(err)
	}
	p.doc = string(doc)
	return p
}

// one is a text with one of the secrets, another each time.
func (p *planted) one() string {
	p.use++
	return p.short[p.use%len(p.short)]
}

// wantNone fails if an output has a secret in it, or a part of one.
func (p *planted) wantNone(t *testing.T, what, out string) {
	t.Helper()
	for _, one := range p.all {
		s := one.secret
		const part = 10
		windows := []string{s[len(s)-min(part, len(s)):], s[max(0, len(s)/2-part/2):min(len(s), len(s)/2+part/2)]}
		for _, w := range windows {
			at := strings.Index(out, w)
			if at < 0 {
				continue
			}
			t.Errorf("%s shows a secret (%s): ...%s...", what, one.kind, out[max(0, at-150):min(len(out), at+len(w)+50)])
			break
		}
	}
}

const plantSQL = `
insert into soniq_jobs (id, job_name, args, status, attempts, max_attempts, queue, dedup_key, last_error, result, producer_id, worker_id, errors, scheduled_at)
values ($1, $2, $3::jsonb, $4, 1, 3, $5, $6, $7, $8::jsonb, $9, $10, $11::jsonb, now() + interval '1 day')`

const plantLetterSQL = `
insert into soniq_dead_letter_jobs (
  id, job_name, args, queue, priority, max_attempts, attempts, last_error, dead_letter_reason, original_created_at, moved_to_dead_letter_at,
  tags, error_kind, error_type, error_code, decided_by, dedup_key, producer_id, errors
)
values ($1, $2, $3::jsonb, $4, 100, 3, 3, $5, 'permanent_failure', now() - interval '60 days', now() - interval '50 days', $6::jsonb, 'error', $7, $8, $9, $10, $11, $12::jsonb)`

// put plants secrets in every column that a job, a producer, a worker or an
// operator can write, and returns a job and dead alphabet62.
func (p *planted) put(t *testing.T, pool *pgxpool.Pool) (job uuid.UUID, dead []uuid.UUID) {
	t.Helper()
	put := func(sql string, args ...any) {
		t.Helper()
		if _, err := pool.Exec(t.Context(), sql, args...); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	failures, _ := json.Marshal([]map[string]any{{
		"attempt": 1, "failed_at": "2026-01-02T03:04:05Z", "message": p.text, "stack": p.text, "type": p.one(), "code": p.one(), "kind": "error", "decided_by": p.one(),
	}})
	worker := uuid.New()
	put(`insert into soniq_workers (id, hostname, pid, queues, version, metadata) values ($1, $2, 7, $3, $4, $5::jsonb)`,
		worker, "host "+p.one(), []string{p.one(), p.one()}, p.one(), p.doc)
	put(`insert into soniq_task_registry (task_name, worker_id, last_seen_at, args_model_repr) values ($1, $2, now(), $3)`, p.one(), worker.String(), p.text)
	for _, status := range []string{"queued", "done", "cancelled", "queued"} {
		job = uuid.Must(uuid.NewV7())
		put(plantSQL, job, "job "+p.one(), p.doc, status, "queue "+p.one(), p.one()+status+job.String(), p.text, p.doc, p.one(), worker, failures)
	}
	for range 4 {
		id := uuid.Must(uuid.NewV7())
		dead = append(dead, id)
		put(plantLetterSQL, id, "job "+p.one(), p.doc, "queue "+p.one(), p.text, p.doc, p.one(), p.one(), p.one(), p.one(), p.one(), failures)
		// As 0.1.0 recorded it.
		put(`insert into soniq_dead_letter_audit (dead_letter_id, action, actor, because, detail) values ($1, 'replay', $2, $3, jsonb_build_object('args', $4::jsonb))`,
			id, p.one(), p.text, p.doc)
	}
	put(`insert into soniq_queues (name, paused_at, paused_by) values ($1, now(), $2)`, "paused "+p.one(), p.one())
	put(`insert into soniq_dead_letter_operations (id, action, state, stopped_by, actor, because, filter, options) values (gen_random_uuid(), 'replay', 'stopped', $1, $2, $3, $4::jsonb, $4::jsonb)`,
		p.text, p.one(), p.text, p.doc)
	for _, name := range []string{"error_like", "job_names", "queues", "tags", "source"} {
		filter, _ := json.Marshal(map[string]any{name: []string{p.text}})
		put(`insert into soniq_dead_letter_operations (id, action, state, filter) values (gen_random_uuid(), 'import', 'done', $1::jsonb)`, filter)
	}
	hook := uuid.New()
	put(`insert into soniq_hooks (id, name, kind, url, secrets, settings, jobs, queues, disabled_reason) values ($1, 'w', 'webhook', $2, $3, '{}', $4, $4, $5)`,
		hook, "https://127.0.0.1:1/services/"+random(20, alphabet62), "whsec_"+random(32, alphabet62), []string{p.one()}, p.text)
	for _, state := range []string{"pending", "failed", "delivered"} {
		put(`insert into soniq_hook_deliveries (hook_id, event, dead_letter_id, facts, group_key, state, last_answer, last_error) values ($1, 'job.dead_lettered', $2, $3::jsonb, 'g', $4, $5, $5)`,
			hook, dead[0], p.doc, state, p.text)
	}
	return job, dead
}

// commandPaths are all commands of the grammar.
func commandPaths(t *testing.T) (paths []string) {
	t.Helper()
	var g cli.Grammar
	parser, err := kong.New(&g, kong.ExplicitGroups(cli.Groups), kong.Vars{"version": "x"})
	if err != nil {
		t.Fatal(err)
	}
	var walk func(*kong.Node)
	walk = func(n *kong.Node) {
		if n.Leaf() {
			path := n.Name
			for up := n.Parent; up != nil && up.Parent != nil; up = up.Parent {
				path = up.Name + " " + path
			}
			paths = append(paths, path)
		}
		for _, child := range n.Children {
			walk(child)
		}
	}
	walk(parser.Model.Node)
	return paths
}

// Whatever a job, a producer, an endpoint or an operator has written into the
// tables: no command shows the secrets in it, unless it is asked to. A command
// that is new needs a case here.
func TestSecrets_noCommandShowsThem(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	p := newPlanted(t)
	job, dead := p.put(t, pool)
	s := clitest.NewShell(t, pool.Config().ConnString())
	folder := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(folder, name)
		if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
		return path
	}
	lines := file("jobs.jsonl", `{"job_name": "a", "args": `+p.doc+`, "oops": 1}`+"\n"+`{"job_name": "a", "delay": `+quoteJSON(p.text)+"}\n")
	script := file("handler", "#!/bin/sh\ncat >/dev/null\ncat <<'END' >&2\n"+p.text+"\nEND\nexit 1\n")
	good := file("good", "#!/bin/sh\ncat\n")
	config := file("soniq.yaml", "jobs:\n  a:\n    http: https://ann:"+random(12, alphabet62)+"@127.0.0.1:1/x\n")
	key := file("hook.key", hooks.NewKey())
	id, letter := job.String(), dead[0].String()

	// Of each command the command lines to try; none is for the reason given.
	type lineup struct {
		reason string
		lines  [][]string
	}
	lines2 := func(all ...[]string) lineup { return lineup{lines: all} }
	cases := map[string]lineup{
		"demo":                     {reason: "it has a database of its own"},
		"bench":                    {reason: "it has databases of its own"},
		"dev status":               {reason: "it looks at the private database's folder alone"},
		"dev up":                   {reason: "it looks at the private database's folder alone"},
		"dev psql":                 {reason: "it is another program"},
		"dev url":                  {reason: "its answer is the secret"},
		"dev stop":                 {reason: "it looks at the private database's folder alone"},
		"dev reset":                {reason: "it looks at the private database's folder alone"},
		"dead-letter export":       {reason: "it is an archive: what it leaves out can't be brought back"},
		"dead-letter import":       {reason: "its errors have a test of their own, beside what they quote"},
		"dead-letter watch":        {reason: "TestSecrets_watch"},
		"worker run":               {reason: "TestSecrets_noLogOfAWorkerHasThem"},
		"hooks run":                {reason: "TestSecrets_noLogOfAWorkerHasThem: a worker sends hooks as well"},
		"hooks add webhook":        {reason: "its answer is a new secret, shown once"},
		"hooks rotate-secret":      {reason: "its answer is a new secret, shown once"},
		"hooks keygen":             {reason: "its answer is a new key, shown once"},
		"setup":                    lines2([]string{"setup"}),
		"adopt":                    lines2([]string{"adopt"}, []string{"adopt", "--yes"}, []string{"adopt", "--deliveries", p.short[0]}),
		"migrate list":             lines2([]string{"migrate", "list"}),
		"migrate up":               lines2([]string{"migrate", "up"}, []string{"migrate", "up", "--to", p.short[0]}),
		"migrate down":             lines2([]string{"migrate", "down", "--to", "0160", "--dry-run"}, []string{"migrate", "down", "--to", p.short[0]}),
		"migrate check":            lines2([]string{"migrate", "check"}),
		"migrate prebuild":         lines2([]string{"migrate", "prebuild"}),
		"migrate sql":              lines2([]string{"migrate", "sql"}, []string{"migrate", "sql", "--from", p.short[0]}),
		"metrics":                  lines2([]string{"metrics", "--once"}, []string{"metrics", "--listen", p.short[0]}),
		"dashboard":                lines2([]string{"dashboard", "--host", p.short[0]}, []string{"dashboard", "--allow-host", p.text}, []string{"dashboard", "--port", p.short[0]}),
		"grants":                   lines2([]string{"grants", "--viewer", "soniq"}, []string{"grants", "--run", "--viewer", p.short[0]}, []string{"grants", "--viewer", p.text}),
		"status":                   lines2([]string{"status"}),
		"version":                  lines2([]string{"version"}),
		"completion":               lines2([]string{"completion", "bash"}),
		"__complete":               lines2([]string{"__complete", "--", "job", ""}),
		"enqueue":                  lines2([]string{"enqueue", "--from", lines}, []string{"enqueue", "a", "--args", p.doc + "x"}, []string{"enqueue", "a", "--args", p.doc, "--max-args-bytes", "10"}, []string{"enqueue", "a", "--at", p.text}, []string{"enqueue", p.text, "--args", p.doc}),
		"worker run-once":          lines2([]string{"worker", "run-once", "a", "--handle", "a=exec:" + script, "--args", p.doc}, []string{"worker", "run-once", "a", "--handle", "a=exec:" + good, "--args", p.doc}, []string{"worker", "run-once", "a", "--config", config}),
		"doctor":                   lines2([]string{"doctor"}, []string{"doctor", "--sql"}, []string{"doctor", "--only", p.short[0]}, []string{"doctor", "--timeout", p.text}),
		"health":                   lines2([]string{"health", "--from-database", "--host", "host " + p.short[0]}, []string{"health", p.text}, []string{"health", "--from-database", "--timeout", p.text}),
		"worker list":              lines2([]string{"worker", "list"}),
		"job show":                 lines2([]string{"job", id}, []string{"job", letter}, []string{"job", letter, "--wait"}, []string{"job", p.text}),
		"job list":                 lines2([]string{"job", "list"}, []string{"job", "list", "--job", p.text}, []string{"job", "list", "--status", p.text}),
		"job cancel":               lines2([]string{"job", "cancel", id}, []string{"job", "cancel", letter}, []string{"job", "cancel", p.text}),
		"job retry":                lines2([]string{"job", "retry", id}),
		"job bury":                 lines2([]string{"job", "bury", id, "--dry-run", "--comment", p.text}, []string{"job", "bury", letter, "--comment", p.text}, []string{"job", "bury", id, "--comment", p.text}, []string{"job", "bury", p.text}),
		"job delete":               lines2([]string{"job", "delete", uuid.NewString(), id}),
		"queue list":               lines2([]string{"queue", "list"}),
		"queue pause":              lines2([]string{"queue", "pause", p.short[0]}),
		"queue resume":             lines2([]string{"queue", "resume", p.short[0]}),
		"dead-letter list":         lines2([]string{"dead-letter", "list"}, []string{"dead-letter", "list", "--error", "it failed"}, []string{"dead-letter", "list", "--since", p.text}),
		"dead-letter groups":       lines2([]string{"dead-letter", "groups"}),
		"dead-letter show":         lines2([]string{"dead-letter", "show", letter}, []string{"dead-letter", "show", "--group", p.text}),
		"dead-letter tag":          lines2([]string{"dead-letter", "tag", letter, "note=" + p.text, "token=" + p.one()}, []string{"dead-letter", "tag", letter, "x\x00=" + p.text}),
		"dead-letter history":      lines2([]string{"dead-letter", "history"}, []string{"dead-letter", "history", letter}, []string{"dead-letter", "history", dead[1].String()}),
		"dead-letter stats":        lines2([]string{"dead-letter", "stats"}),
		"dead-letter check":        lines2([]string{"dead-letter", "check", "--max", "0"}, []string{"dead-letter", "check", "--max", "0", "--reason", p.text}),
		"dead-letter cleanup":      lines2([]string{"dead-letter", "cleanup", "--dry-run"}, []string{"dead-letter", "cleanup", "--error", p.short[0], "--comment", p.text}),
		"dead-letter delete":       lines2([]string{"dead-letter", "delete", "--all", "--dry-run"}, []string{"dead-letter", "delete", dead[3].String(), "--comment", p.text}, []string{"dead-letter", "delete", "--all"}),
		"dead-letter replay":       lines2([]string{"dead-letter", "replay", "--all", "--dry-run", "--set", "config.password=" + random(9, lower)}, []string{"dead-letter", "replay", letter, "--dry-run", "--set", "config.password=x", "--set", "note=" + p.text}, []string{"dead-letter", "replay", letter, "--force", "--args", `{"password": "` + p.all[0].secret + `", "all": ` + quoteJSON(p.text) + `}`, "--comment", p.text}, []string{"dead-letter", "replay", dead[1].String(), "--force", "--set", "config.api_key=" + p.all[1].secret}, []string{"dead-letter", "replay", letter, "--force", "--set", p.text}, []string{"dead-letter", "replay", letter, "--force", "--unset", "texts.password"}),
		"hooks add slack":          lines2([]string{"hooks", "add", "slack", "https://hooks.slack.com/services/" + random(20, alphabet62), "--name", "s"}, []string{"hooks", "add", "slack", p.short[0]}),
		"hooks add log":            lines2([]string{"hooks", "add", "log", "--queue", p.one()}),
		"hooks add exec":           lines2([]string{"hooks", "add", "exec", "echo " + p.one(), "--name", "x"}),
		"hooks list":               lines2([]string{"hooks", "list"}),
		"hooks show":               lines2([]string{"hooks", "show", "w"}),
		"hooks seal":               lines2([]string{"hooks", "seal"}, []string{"hooks", "seal", "--hook-key-file", key}, []string{"hooks", "seal", "--hook-key-file", script}),
		"hooks test":               lines2([]string{"hooks", "test", "x", "--allow-exec-hooks"}),
		"hooks enable":             lines2([]string{"hooks", "enable", "w"}),
		"hooks disable":            lines2([]string{"hooks", "disable", "w"}),
		"hooks deliveries":         lines2([]string{"hooks", "deliveries"}, []string{"hooks", "deliveries", "w"}),
		"hooks retry":              lines2([]string{"hooks", "retry", "w"}),
		"hooks remove":             lines2([]string{"hooks", "remove", "x"}, []string{"hooks", "remove", p.short[0]}),
		"dead-letter (as a story)": lines2([]string{"dead-letter", "show", letter}, []string{"dead-letter", "history", letter}, []string{"job", letter}),
	}
	if len(p.all) < 30 {
		t.Errorf("only %d kinds of secrets", len(p.all))
	}
	order := commandPaths(t)
	for _, path := range order {
		if c, ok := cases[path]; !ok || c.reason == "" && len(c.lines) == 0 {
			t.Errorf("'soniq %s' has no case here, and no reason to have none", path)
		}
	}
	for _, path := range append(order, "dead-letter (as a story)") {
		for _, line := range cases[path].lines {
			for _, way := range [][]string{nil, {"--json", "--log-format", "text", "--log-level", "debug"}} {
				r := s.Run(append(way, line...)...)
				p.wantNone(t, fmt.Sprintf("%.60q", append(line, way...)), r.Out+r.Err)
				wantTimes(t, fmt.Sprintf("%.60q", append(line, way...)), r.Out+r.Err)
			}
			// On a terminal texts are cut.
			tty := *s
			tty.TTY, tty.Width = true, 100
			tty.Env = map[string]string{"SONIQ_DATABASE_URL": s.Env["SONIQ_DATABASE_URL"], "TERM": "xterm"}
			r := tty.Run(line...)
			p.wantNone(t, fmt.Sprintf("%.60q on a terminal", line), r.Out+r.Err)
		}
	}
	// Nor is there one in what is kept of them from now on: the record of a year.
	n := clitest.Count(t, pool, `select count(*) from soniq_dead_letter_audit where detail ? 'changed'`)
	if n == 0 {
		t.Error("no replay with other arguments was recorded")
	}
	var kept string
	if err := pool.QueryRow(t.Context(), `select coalesce(string_agg(detail::text, ' '), '') from soniq_dead_letter_audit where detail ? 'changed' or detail ? 'tags'`).Scan(&kept); err != nil {
		t.Fatal(err)
	}
	p.wantNone(t, "the audit", kept)
}

func quoteJSON(s string) string {
	b, _ := json.Marshal(s)
	return string(b)
}

// A database URL with a password, in every way in which it can be wrong.
func TestSecrets_databaseURL_isNeverShown(t *testing.T) {
	t.Parallel()
	word := random(14, alphabet62)
	p := &planted{all: []plant{{"password of the database", "", word}}}
	for _, url := range []string{
		"postgres://ann:%s@127.0.0.1:1/app?connect_timeout=1", "postgres://ann:%s@127.0.0.1:notaport/app", "postgres://ann:a%zz%s@h/app", "postgres://ann:a/%s@h/app",
		"host=127.0.0.1 port=1 user=ann password=%s", "host=127.0.0.1 port=1 user=ann password='%s", "postgres://127.0.0.1:1/app?password=%s&sslmode=nope",
		"mysql://ann:%s@h/app", "ann:%s@h", "postgres://ann:%s@[::1/app", "postgres://ann:%s@127.0.0.1:1/app?sslrootcert=/no/such&sslmode=verify-full",
	} {
		url = strings.ReplaceAll(url, "%s", word)
		for _, args := range [][]string{{"status"}, {"status", "--json"}, {"worker", "--handle", "a=exec:true"}, {"dead-letter", "check", "--max", "1"}} {
			r := clitest.NewShell(t, url).Run(append(args, "--log-level", "debug")...)
			if r.Code == 0 {
				t.Errorf("%v on %s: exit 0", args, url)
			}
			p.wantNone(t, fmt.Sprint(args, " on ", url), r.Out+r.Err)
		}
	}
}

func TestSecrets_watch(t *testing.T) {
	t.Parallel()
	for _, way := range [][]string{nil, {"--json"}} {
		pool := testdb.New(t)
		s := clitest.NewShell(t, pool.Config().ConnString())
		p := newPlanted(t)
		r := s.Start(append([]string{"dead-letter", "watch"}, way...)...)
		eventually.True(t, "the watch", func() bool { return strings.Contains(r.Err.String(), "watching") })
		_, dead := p.put(t, pool)
		eventually.True(t, "the last one", func() bool { return strings.Contains(r.Out.String(), dead[len(dead)-1].String()) })
		s.Signals <- syscall.SIGTERM
		r.Wait(t)
		p.wantNone(t, "watch", r.Out.String()+r.Err.String())
	}
}

// What commands print and endpoints answer is in no log, however it ends, and
// not in what the one who waits for a job is shown.
func TestSecrets_noLogOfAWorkerHasThem(t *testing.T) {
	t.Parallel()
	for _, format := range []string{"text", "json"} {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			pool := testdb.New(t)
			p := newPlanted(t)
			p.put(t, pool)
			s := clitest.NewShell(t, pool.Config().ConnString())
			endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch r.URL.Path {
				case "/done":
					w.Header().Set("Content-Type", "application/json")
					_, _ = io.WriteString(w, p.doc)
				case "/gone":
					http.Error(w, p.text, http.StatusNotFound)
				default:
					http.Error(w, p.text, http.StatusBadRequest)
				}
			}))
			defer endpoint.Close()
			folder := t.TempDir()
			script := func(name, end string) string {
				path := filepath.Join(folder, name)
				text := "#!/bin/sh\ncat > /dev/null\ncat <<'END' >&2\n" + p.text + "\nEND\ncat <<'END'\n" + p.doc + "\nEND\n" + end + "\n"
				if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
					t.Fatal(err)
				}
				return "=exec:" + path
			}
			worker := s.Start("worker", "--log-format", format, "--log-level", "debug",
				"--handle", "fails"+script("fails", "exit 1"), "--handle", "dies"+script("dies", "exit 65"), "--handle", "missing"+script("missing", "exit 127"),
				"--handle", "prints"+script("prints", "exit 0"), "--handle", "talks="+endpoint.URL+"/done?token="+p.all[0].secret, "--handle", "refuses="+endpoint.URL+"/refuse", "--handle", "gone="+endpoint.URL+"/gone")
			var shown strings.Builder
			for _, name := range []string{"fails", "dies", "missing", "prints", "talks", "refuses", "gone"} {
				for _, way := range [][]string{nil, {"--json"}} {
					r := s.Run(append([]string{"enqueue", name, "--args", p.doc, "--max-attempts", "1", "--wait", "--wait-timeout", "30s"}, way...)...)
					if strings.Contains(r.Err, "not done after") {
						t.Errorf("%s: %s", name, r.Err)
					}
					shown.WriteString(r.Out + r.Err)
				}
			}
			s.Signals <- syscall.SIGTERM
			worker.Wait(t)
			p.wantNone(t, "the log", worker.Out.String()+worker.Err.String())
			p.wantNone(t, "enqueue --wait", shown.String())
			if !strings.Contains(worker.Err.String(), "dead letter") || !strings.Contains(shown.String(), "42") {
				t.Errorf("nothing was logged: %s%s", worker.Err.String(), shown.String())
			}
			if format == "json" {
				for line := range strings.Lines(worker.Err.String()) {
					if line[0] == '{' && !json.Valid([]byte(line)) {
						t.Errorf("not JSON: %s", line)
					}
				}
			}
		})
	}
}

// A handler in Go, in a worker with a logger of its own, that panics or returns
// errors with secrets; and what the Go API has for people.
func TestSecrets_handlersInGo(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	p := newPlanted(t)
	var log clitest.Stream
	logs := slog.New(slog.NewMultiHandler(
		slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}), slog.NewTextHandler(&log, nil), tint.NewTextHandler(&log, nil)))
	registry := engine.NewRegistry()
	for name, fail := range map[string]func() error{
		"panics": func() error { panic(p.text) }, "fails": func() error { return errors.New(p.text) }, "dies": func() error { return engine.Permanent(errors.New(p.text)) },
	} {
		engine.HandleRaw(registry, name, func(context.Context, *engine.Job) (any, error) { return nil, fail() })
	}
	engine.HandleRaw(registry, "answers", func(context.Context, *engine.Job) (any, error) { return json.RawMessage(p.doc), nil })
	worker, err := engine.NewWorker(pool, registry, engine.WorkerConfig{Logger: logs})
	if err != nil {
		t.Fatal(err)
	}
	client, err := engine.NewClient(pool, engine.ClientConfig{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- worker.Run(ctx) }()
	var shown bytes.Buffer
	for _, name := range registry.Names() {
		j, err := client.Enqueue(t.Context(), name, json.RawMessage(p.doc), engine.MaxAttempts(1))
		if err != nil {
			t.Fatal(err)
		}
		var job *engine.Job
		eventually.True(t, name, func() bool {
			job, err = client.Job(t.Context(), j.ID)
			return err == nil && (job.Status == engine.StatusDone || job.Status == engine.StatusDeadLetter)
		})
		_ = json.NewEncoder(&shown).Encode(job.Redacted())
		if raw, _ := json.Marshal(job); bytes.Contains(raw, []byte("[redacted]")) {
			t.Error("Redacted changed the job")
		}
	}
	queue := newQueue(t, pool)
	dead, err := queue.List(t.Context(), deadletter.Filter{})
	if err != nil || len(dead) != 3 {
		t.Fatalf("%d dead alphabet62, %v", len(dead), err)
	}
	for _, l := range dead {
		_ = json.NewEncoder(&shown).Encode(l.Redacted())
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	p.wantNone(t, "the log", log.String())
	p.wantNone(t, "Redacted", shown.String())
	if !strings.Contains(log.String(), "dead letter") {
		t.Errorf("nothing was logged: %s", log.String())
	}
}

// newQueue returns the dead-letter queue of a test's database.
var newQueue = testclient.Queue
