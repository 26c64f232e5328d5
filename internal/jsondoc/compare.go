package jsondoc

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"slices"
)

// A Change is one difference between two documents.
type Change struct {
	// Path leads to it, as in an [Edit]. It is empty if the whole document differs.
	Path string
	// Old and New are the values, nil where there is none.
	Old, New json.RawMessage
}

// Compare returns the differences between two documents, in the order of the first.
// It compares lists of one length element by element, and other lists as a whole.
// Layout and the order of keys are no difference. 1.0 and 1 differ.
func Compare(from, to json.RawMessage) []Change {
	return compare(nil, nil, bytes.TrimSpace(from), bytes.TrimSpace(to))
}

// comparedDepth limits how deep Compare goes. Each level is read again.
const comparedDepth = 100

func compare(changes []Change, at []step, from, to json.RawMessage) []Change {
	old, oldKind := partsOf(from)
	now, newKind := partsOf(to)
	if len(at) == comparedDepth {
		oldKind, newKind = "", ""
	}
	switch {
	case oldKind == newKind && oldKind == "object":
		return compareObjects(changes, at, from, to, old, now)
	case oldKind == newKind && oldKind == "list" && len(old) == len(now):
		for i := range old {
			changes = compare(changes, slices.Concat(at, []step{{index: i, listed: true}}),
				from[old[i].from:old[i].to], to[now[i].from:now[i].to])
		}
		return changes
	case Equal(from, to):
		return changes
	default:
		return append(changes, Change{Path: pathOf(at), Old: from, New: to})
	}
}

func compareObjects(changes []Change, at []step, from, to json.RawMessage, old, now []part) []Change {
	added := map[string]part{}
	for _, n := range now {
		added[n.key] = n
	}
	for _, o := range old {
		if o.key == shadowed {
			continue
		}
		path := slices.Concat(at, []step{{key: o.key}})
		if n, ok := added[o.key]; ok {
			delete(added, o.key)
			changes = compare(changes, path, from[o.from:o.to], to[n.from:n.to])
		} else {
			changes = append(changes, Change{Path: pathOf(path), Old: from[o.from:o.to]})
		}
	}
	for _, n := range now {
		if _, ok := added[n.key]; ok && n.key != shadowed {
			changes = append(changes, Change{Path: pathOf(slices.Concat(at, []step{{key: n.key}})), New: to[n.from:n.to]})
		}
	}
	return changes
}

// Equal reports whether two documents are the same but for their layout, the order of
// keys and the escapes in strings.
func Equal(a, b json.RawMessage) bool { return compacted(a) == compacted(b) }

// compacted returns a value without spaces, with sorted keys, and with strings in one
// spelling.
func compacted(value json.RawMessage) string {
	dec := json.NewDecoder(bytes.NewReader(value))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return string(value)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return string(value)
	}
	text, err := json.Marshal(v)
	if err != nil {
		return string(value)
	}
	return string(text)
}

// Value returns the value that a path leads to, or nil if there is none.
func Value(doc json.RawMessage, path string) json.RawMessage {
	steps, err := parsePath(path)
	if err != nil {
		return nil
	}
	for _, s := range steps {
		parts, kind := partsOf(doc)
		i := s.index
		if kind != "list" {
			if s.listed {
				return nil
			}
			i = slices.IndexFunc(parts, func(p part) bool { return p.key == s.key })
		}
		if i < 0 || i >= len(parts) {
			return nil
		}
		doc = doc[parts[i].from:parts[i].to]
	}
	return doc
}
