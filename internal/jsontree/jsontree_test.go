package jsontree_test

import (
	"encoding/json"
	"strings"
	"testing"

	"soniq/internal/jsontree"
)

func TestOf_keepsDigits_andIsBounded(t *testing.T) {
	t.Parallel()
	tree := jsontree.Of(json.RawMessage(`{"big": 12345678901234567890.10, "list": [true, "x"], "odd": "a\u202eb"}`))
	if len(tree.Children) != 3 || tree.Kind != "object" || tree.Children[0].Text != "12345678901234567890.10" || tree.Children[1].Size != 2 {
		t.Errorf("the tree: %+v", tree)
	}
	if text := tree.Children[2].Text; strings.ContainsRune(text, '\u202e') {
		t.Errorf("an override got through: %q", text)
	}
	many := jsontree.Of(json.RawMessage("[" + strings.Repeat("1,", 50_000) + "1]"))
	if len(many.Children) > 2000 || len(many.Children)+many.More != 50_001 {
		t.Errorf("%d children and %d more", len(many.Children), many.More)
	}
	for doc, kind := range map[string]string{"": "word", "{": "string", "null": "word", `"` + strings.Repeat("x", 5000) + `"`: "string", strings.Repeat(`{"a":`, 900) + "1" + strings.Repeat("}", 900): "object"} {
		if n := jsontree.Of(json.RawMessage(doc)); n.Kind != kind || len(n.Text) > 4010 {
			t.Errorf("%.20q: %s, %d bytes", doc, n.Kind, len(n.Text))
		}
	}
}
