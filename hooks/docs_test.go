package hooks_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"soniq/hooks"
)

// docs/hooks.md says of each key which kinds have it; so does the table of kinds.
func TestDocs_keysOfEachKind(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../docs/hooks.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| ([a-z, ]+) \\| ").FindAllStringSubmatch(string(text), -1) {
		documented[m[1]] = m[2]
	}
	for _, field := range []hooks.Field{hooks.FieldSecret, hooks.FieldHeaders, hooks.FieldArgs, hooks.FieldAllow, hooks.FieldBaseURL} {
		var kinds []string
		for _, kind := range hooks.KindsWith(field) {
			kinds = append(kinds, string(kind))
		}
		if want := strings.Join(kinds, ", "); documented[string(field)] != want {
			t.Errorf("%s is for %q, and documented for %q", field, want, documented[string(field)])
		}
	}
	for _, e := range hooks.EventTypes() {
		if !strings.Contains(string(text), "| `"+string(e)+"` |") {
			t.Errorf("%s is not documented", e)
		}
	}
}
