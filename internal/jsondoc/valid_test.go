package jsondoc_test

import (
	"encoding/json"
	"strings"
	"testing"

	"soniq/internal/jsondoc"
)

// FuzzValid: what encoding/json takes for valid is valid here, and nothing else is.
func FuzzValid(f *testing.F) {
	for _, doc := range []string{
		"", " ", "null", "nul", "true false", "0", "-0", "-", "01", "1.", "1.5e", "1.5e+9", "1E-2", ".5", "+1", `"a"`, `"a`, `"\u00e9\n\/"`, `"\u00g0"`, `"\x"`, `"\"`, `"\u12"`, "\"\x01\"",
		"[]", "[1,]", "[,1]", "[1 2]", "{}", `{"a":1}`, `{"a" : [ {} , null ] }`, `{"a":1,}`, `{"a"}`, `{a:1}`, `{"a":1 "b":2}`, "[}", "{]", "]", "[[[[]]]", "[\"\xff\"]", "\ufeff1", "1\x00",
	} {
		f.Add([]byte(doc))
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		if got, want := jsondoc.Valid(doc), json.Valid(doc); got != want {
			t.Errorf("%q: %t, by encoding/json %t", doc, got, want)
		}
	})
}

func TestValid_depthOfADatabase(t *testing.T) {
	t.Parallel()
	deep := strings.Repeat(`[{"a":`, 50_000) + "1" + strings.Repeat("}]", 50_000)
	if !jsondoc.Valid([]byte(deep)) || jsondoc.Valid([]byte(deep[:len(deep)-1])) || jsondoc.Valid([]byte(deep+"]")) {
		t.Error("100,000 levels")
	}
}
