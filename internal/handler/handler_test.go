package handler

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"soniq/internal/testdb"
)

func TestMain(m *testing.M) { testdb.Main(m) }

// A spec that ends up in a log line or in an error shows no secret.
func TestSpec_printed_showsNoSecret(t *testing.T) {
	t.Parallel()
	spec := Spec{
		Exec: Exec{Env: []string{"PASSWORD=hunter2"}},
		HTTP: HTTP{
			URL: "https://hunter2:hunter2@example.com/jobs?token=hunter2", Secret: "hunter2",
			Headers: map[string]string{"Authorization": "hunter2"},
		},
	}
	command := spec
	command.Exec.Command = "./send"
	for _, v := range []any{spec, &spec, spec.Exec, spec.HTTP, []Spec{spec, command}, struct{ Spec Spec }{spec}, command} {
		encoded, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x"} {
			encoded = fmt.Appendf(encoded, "\n"+verb, v)
		}
		if strings.Contains(string(encoded), "hunter2") {
			t.Errorf("%T shows a secret: %s", v, encoded)
		}
	}
	if got := fmt.Sprint(spec, command); got != "http https://example.com/jobs?... exec ./send" {
		t.Errorf("%q", got)
	}
	hidden := HTTP{URL: "https://example.com/hunter2", Reference: "env:CRM_URL"}
	if got := fmt.Sprint(hidden); got != "http env:CRM_URL" {
		t.Errorf("%q", got)
	}
}
