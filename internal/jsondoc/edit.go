package jsondoc

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"soniq/internal/pg"
)

// An Edit changes one value of a document.
type Edit struct {
	// Path leads to the value: keys with dots between them, and indexes of list
	// elements, from 0, in brackets: user.emails[0].address. A backslash takes the next
	// character as it is, such as a dot in a key.
	//
	// The last key of an object may be new. All before it must exist, so that a typing
	// error makes no new objects. No list grows.
	Path string `json:"path"`
	// Value is the new value, any JSON.
	Value json.RawMessage `json:"value,omitempty"`
	// Remove removes the value from its object or list. It must exist.
	Remove bool `json:"remove,omitempty"`
}

// A PathError says why a document has no place for an edit.
type PathError struct {
	// Path is the edit's.
	Path string
	// Why completes a sentence that begins with the path.
	Why string
}

func (e *PathError) Error() string { return e.Path + ": " + e.Why }

// A step is one part of a path: a key or, in brackets, the index of a list element. A
// key of digits alone can be an index too: items.0 is items[0].
type step struct {
	key    string
	index  int // -1 for a key that is no index
	listed bool
}

var errNoPath = errors.New("a path is keys with dots between them and indexes of lists in brackets, such as user.emails[0]")

// parsePath reads a path.
func parsePath(path string) ([]step, error) {
	if pg.CheckText(path) != nil {
		return nil, errNoPath
	}
	var steps []step
	for rest := path; ; {
		if index, after, ok := cutBrackets(rest); ok {
			steps = append(steps, step{index: index, listed: true})
			rest = after
		} else {
			var key string
			if key, rest = cutKey(rest); key == "" {
				return nil, errNoPath
			}
			steps = append(steps, step{key: key, index: indexOf(key)})
		}
		switch {
		case rest == "":
			return steps, nil
		case rest[0] == '.':
			if rest = rest[1:]; strings.HasPrefix(rest, "[") {
				return nil, errNoPath
			}
		case rest[0] != '[':
			return nil, errNoPath
		}
	}
}

// cutBrackets cuts [12] off.
func cutBrackets(s string) (index int, rest string, ok bool) {
	if s == "" || s[0] != '[' {
		return 0, s, false
	}
	digits, rest, closed := strings.Cut(s[1:], "]")
	index = indexOf(digits)
	return index, rest, closed && index >= 0
}

// cutKey cuts a key off, up to a dot or a bracket without a backslash before it.
func cutKey(s string) (key, rest string) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '.', '[':
			return b.String(), s[i:]
		case '\\':
			if i++; i == len(s) {
				return "", ""
			}
		}
		b.WriteByte(s[i])
	}
	return b.String(), ""
}

// indexOf returns a number as the index of a list element, or -1.
func indexOf(digits string) int {
	n, err := strconv.ParseUint(digits, 10, 31)
	if err != nil || strconv.FormatUint(n, 10) != digits {
		return -1
	}
	return int(n)
}

func (s step) String() string {
	if s.listed {
		return "[" + strconv.Itoa(s.index) + "]"
	}
	return strings.NewReplacer(`\`, `\\`, `.`, `\.`, `[`, `\[`, `=`, `\=`).Replace(s.key)
}

// pathOf writes steps as a path.
func pathOf(steps []step) string {
	var b strings.Builder
	for i, s := range steps {
		if i > 0 && !s.listed {
			b.WriteByte('.')
		}
		b.WriteString(s.String())
	}
	return b.String()
}

// Validate checks the path, and that the value is JSON that can be stored.
//
// Errors: one that names the path.
func (e Edit) Validate() error {
	if _, err := parsePath(e.Path); err != nil {
		return fmt.Errorf("%q: %w", e.Path, err)
	}
	if e.Remove {
		if e.Value != nil {
			return fmt.Errorf("%s: it can't be both removed and set", e.Path)
		}
		return nil
	}
	if !json.Valid(e.Value) {
		return fmt.Errorf("%s: the value is not valid JSON", e.Path)
	}
	if err := pg.CheckJSON(e.Value); err != nil {
		return fmt.Errorf("%s: %w", e.Path, err)
	}
	return nil
}

// Apply returns the document with the edits made, one after the other. It doesn't
// change doc.
//
// Errors: *PathError for an edit that the document has no place for, and those of
// [Edit.Validate].
func Apply(doc json.RawMessage, edits []Edit) (json.RawMessage, error) {
	for _, e := range edits {
		if err := e.Validate(); err != nil {
			return nil, err
		}
		steps, _ := parsePath(e.Path)
		edited, why := e.apply(doc, steps, 0)
		if why != "" {
			return nil, &PathError{Path: e.Path, Why: why}
		}
		doc = edited
	}
	return doc, nil
}

// apply makes the edit at steps[at:] of value, a part of the document. why says why
// that isn't possible.
func (e Edit) apply(value json.RawMessage, steps []step, at int) (edited json.RawMessage, why string) {
	s, last := steps[at], at == len(steps)-1
	here := "the top level"
	if at > 0 {
		here = pathOf(steps[:at])
	}
	parts, kind := partsOf(value)
	i := s.index
	switch {
	case kind == "list" && s.index < 0:
		return nil, fmt.Sprintf("%s is a list, whose first element is [0]", here)
	case kind == "list" && s.index >= len(parts):
		return nil, fmt.Sprintf("%s is a list of %d, whose first element is [0]", here, len(parts))
	case kind == "list":
	case kind != "object" || s.listed:
		return nil, fmt.Sprintf("%s is %s", here, article(kind))
	default:
		i = slices.IndexFunc(parts, func(p part) bool { return p.key == s.key })
	}
	switch {
	case i < 0 && last && !e.Remove:
		return addMember(value, parts, s.key, e.Value), ""
	case i < 0:
		return nil, fmt.Sprintf("%s has no %s%s", here, s, keysOf(parts))
	case last && e.Remove:
		return removePart(value, parts, i), ""
	}
	replacement := e.Value
	if !last {
		if replacement, why = e.apply(value[parts[i].from:parts[i].to], steps, at+1); why != "" {
			return nil, why
		}
	}
	return slices.Concat(value[:parts[i].from], replacement, value[parts[i].to:]), ""
}

// A part is a member of an object or an element of a list: where its value
// stands.
type part struct {
	key      string
	from, to int
}

// partsOf returns the parts of a value, and its kind. Of members with the same key
// only the last one counts, as for PostgreSQL and Go.
func partsOf(value json.RawMessage) (parts []part, kind string) {
	if kind = kindOf(value); kind != "object" && kind != "list" {
		return nil, kind
	}
	dec := json.NewDecoder(bytes.NewReader(value))
	_, _ = dec.Token()
	for dec.More() {
		var p part
		if kind == "object" {
			key, _ := dec.Token()
			p.key, _ = key.(string)
		}
		var raw json.RawMessage
		if dec.Decode(&raw) != nil {
			break
		}
		p.to = int(dec.InputOffset())
		p.from = p.to - len(raw)
		parts = append(parts, p)
	}
	if kind == "object" {
		seen := map[string]int{}
		for i, p := range parts {
			seen[p.key] = i
		}
		for i := range parts {
			if seen[parts[i].key] != i {
				// No path has this key. The part is only needed for its commas.
				parts[i].key = shadowed
			}
		}
	}
	return parts, kind
}

// keysOf lists the keys, for a person who misspelt one.
func keysOf(parts []part) string {
	const most = 10
	var keys []string
	for _, p := range parts {
		if p.key != shadowed {
			keys = append(keys, step{key: p.key}.String())
		}
	}
	switch {
	case len(keys) == 0:
		return "; it is empty"
	case len(keys) > most:
		return "; it has " + strings.Join(keys[:most], ", ") + " ..."
	default:
		return "; it has " + strings.Join(keys, ", ")
	}
}

// shadowed is the key of a part that a later one with the same key hides. A path
// can't have it, since it is not valid UTF-8.
const shadowed = "\xff"

// kindOf names the type of a JSON value, for people.
func kindOf(value json.RawMessage) string {
	value = bytes.TrimLeft(value, " \t\r\n")
	if len(value) == 0 {
		return "nothing"
	}
	switch value[0] {
	case '{':
		return "object"
	case '[':
		return "list"
	case '"':
		return "string"
	case 't', 'f':
		return "boolean"
	case 'n':
		return "null"
	default:
		return "number"
	}
}

// article returns the kind with its article: 'an object', but 'null'.
func article(kind string) string {
	switch kind {
	case "object":
		return "an object"
	case "null", "nothing":
		return kind
	default:
		return "a " + kind
	}
}

func addMember(value json.RawMessage, parts []part, key string, added json.RawMessage) json.RawMessage {
	at, before := bytes.IndexByte(value, '{')+1, ""
	if len(parts) > 0 {
		at, before = parts[len(parts)-1].to, ", "
	}
	name, _ := Append(nil, key) // a string always has a JSON
	return slices.Concat(value[:at], []byte(before), name, []byte(": "), added, value[at:])
}

// removePart removes a part with the comma before it or, for the first part, the comma
// after it.
func removePart(value json.RawMessage, parts []part, i int) json.RawMessage {
	from, to := bytes.IndexAny(value, "{[")+1, parts[i].to
	if i > 0 {
		from = parts[i-1].to
	} else if len(parts) > 1 {
		to += bytes.IndexByte(value[to:], ',') + 1
	}
	return slices.Concat(value[:from], value[to:])
}
