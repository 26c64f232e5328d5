package jsondoc

import (
	"bytes"
	"encoding/json"
	"testing"
)

// The elements are those that encoding/json finds, byte by byte.
func FuzzElements(f *testing.F) {
	for _, doc := range []string{
		`[]`, ` [ 1 , "a,]" , {"b": [2, {}]} , null ] `, `["\"", "\\", "[", -1.5e3,true]`, "[[],[[]],\n{}]", `[{"a":"}"}]`, `["é"]`,
	} {
		f.Add([]byte(doc))
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		var want []json.RawMessage
		if bytes.HasPrefix(bytes.TrimLeft(doc, " \t\r\n"), []byte("n")) || json.Unmarshal(doc, &want) != nil {
			return
		}
		n := 0
		for got := range Elements(doc) {
			if n >= len(want) || string(got) != string(want[n]) {
				t.Fatalf("%q: element %d is %q, want %q", doc, n, got, want)
			}
			n++
		}
		if n != len(want) {
			t.Errorf("%q: %d elements, want %d", doc, n, len(want))
		}
	})
}

func TestMembers_keysAndValues_standAsInTheObject(t *testing.T) {
	t.Parallel()
	var got []string
	for key, value := range Members([]byte(` {"a" : 1.0, "b\"}": {"c": [2]},"":null}`)) {
		got = append(got, string(key)+"="+string(value))
	}
	want := []string{`"a"=1.0`, `"b\"}"={"c": [2]}`, `""=null`}
	if len(got) != len(want) {
		t.Fatalf("%q, want %q", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("%q, want %q", got[i], want[i])
		}
	}
}

func TestInner_onlyADocumentInAString_isTakenOut(t *testing.T) {
	t.Parallel()
	for doc, want := range map[string]string{
		`"{\"a\": 1}"`: `{"a": 1}`, `"text"`: `"text"`, `{"a": 1}`: `{"a": 1}`, ``: ``, `""`: `""`, `"1"`: `1`,
	} {
		if got := string(Inner([]byte(doc))); got != want {
			t.Errorf("%s: %s, want %s", doc, got, want)
		}
	}
}
