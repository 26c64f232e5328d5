package jsondoc

import (
	"encoding/json"
	"slices"

	"soniq/internal/redact"
)

// Redacted returns the edit with what looks like a secret replaced. A value under the
// key of a secret is replaced as a whole.
func (e Edit) Redacted() Edit {
	if e.Value == nil {
		e.Path = redact.Text(e.Path)
		return e
	}
	hidden := Edit{Path: redact.Text(e.Path), Value: json.RawMessage(`"` + redact.Placeholder + `"`)}
	steps, err := parsePath(e.Path)
	if err != nil {
		return hidden
	}
	// The value is redacted in the objects that it belongs in.
	doc := e.Value
	for _, s := range slices.Backward(steps) {
		if s.listed {
			continue
		}
		if doc, err = json.Marshal(map[string]json.RawMessage{s.key: doc}); err != nil {
			return hidden
		}
	}
	doc = redact.JSON(doc)
	for _, s := range steps {
		if s.listed {
			continue
		}
		parts, kind := partsOf(doc)
		if kind != "object" || len(parts) != 1 {
			break // redacted as a whole
		}
		doc = doc[parts[0].from:parts[0].to]
	}
	return Edit{Path: redact.Text(e.Path), Value: doc, Remove: e.Remove}
}
