package workerfile

import (
	"slices"
	"strings"
	"testing"
)

func TestConfigHooks_everyMistake_isNamedByItsLine(t *testing.T) {
	t.Parallel()
	got := mistakesIn(t, `hooks:
  a: https://example.com/hunter2
  b: {}
  c: {webhook: "https://u:hunter2@example.com", secret: env:NOT_SET}
  d: {webhook: "https://example.com/hunter2", secret: whsec_hunter2}
  e: {slack: "env:NOT_SET"}
  f: {slack: "ftp://hunter2", secret: "env:X", include_args: true}
  g: {exec: x, log: true}
  h: {log: false, allow: [10.0.0.0/8]}
  i: {webhok: "https://example.com/hunter2"}
  j: {exec: "", jobs: [], reasons: [timeout, timeout], events: [job.died]}
  k: {webhook: "https://example.com", headers: {webhook-id: a, "a b": c, X: "a\nb", x: d}}
  l: {slack: "https://example.com", allow: [10.0.0.0/8, here], base_url: there, tags: {team: 3}}
  l: {log: true}
  "": {log: true}
  m: {jobs: [x]}
`)
	want := []string{
		`2: a: must be a mapping with webhook: URL, slack: URL, exec: COMMAND or log: true, not text`,
		`3: b has no entries`,
		`3: b: has no destination: give it webhook: URL, slack: URL, exec: COMMAND or log: true`,
		`4: c: webhook: the URL must not hold a user name or password; use a header`,
		`4: c: secret: the environment variable NOT_SET is not set, or empty`,
		`5: d: secret: the secret must be base64 after whsec_, with the standard alphabet and padding`,
		`5: d: secret must be env:NAME: put the secret into the environment, not into the file`,
		`6: e: slack: the environment variable NOT_SET is not set, or empty`,
		`7: f: slack: the URL must begin with https:// or http://`,
		`7: f: secret: the environment variable X is not set, or empty`,
		`7: f: include_args is for webhook and exec, not for slack`,
		`7: f: secret is for webhook, not for slack`,
		`8: g: has both exec and log; remove one of them`,
		`9: h: log must be true; to stop a hook, remove it from the file, or use 'soniq hooks disable'`,
		`9: h: allow is for webhook and slack, not for log`,
		`10: i: unknown key "webhok"; did you mean "webhook"?`,
		`11: j: exec must not be empty`,
		`11: j: jobs is an empty list`,
		`11: j: reasons: "timeout" is there twice`,
		`11: j: events must be job.dead_lettered, job.resurrected or job.resolved, not "job.died"`,
		`12: k: headers: webhook-id: Webhook-Id is set by Soniq itself`,
		`12: k: headers: a b: "a b" can't be the name of a header`,
		`12: k: headers: X: the value of X has a line break or NUL`,
		`12: k: headers: "x" is in line 12 already`,
		`12: k: needs secret: env:NAME to sign with; make one with: echo whsec_$(openssl rand -base64 32)`,
		`13: l: allow: "here" is neither an address nor a network such as 10.0.0.0/8`,
		`13: l: base_url: the base URL must be an address such as https://soniq.example.com/dead-letters`,
		`13: l: tags: team must be text, not a number; put it in quotes`,
		`14: hooks: "l" is in line 13 already`,
		`15: a hook's name must not be empty`,
		`16: m: has no destination: give it webhook: URL, slack: URL, exec: COMMAND or log: true`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if strings.Contains(strings.Join(got, "\n"), "hunter2") {
		t.Error("a secret is shown")
	}
}
