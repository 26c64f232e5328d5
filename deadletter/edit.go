package deadletter

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"soniq/internal/jsondoc"
	"soniq/internal/pg"
)

// An ArgsEdit changes one value of a job's arguments, for a replay. Whatever
// stands beside the value keeps its digits and its spelling.
type ArgsEdit struct {
	// Path leads to the value: keys with dots between them, and the places of
	// list elements, from 0, in brackets: user.emails[0].address. A backslash
	// takes the next character as it is, such as the dot of a key.
	//
	// The last key of an object may be new. What comes before it must be there,
	// so that a typing error makes no new objects; and no list grows.
	Path string `json:"path"`
	// Value is the new value, any JSON.
	Value json.RawMessage `json:"value,omitempty"`
	// Remove takes the value out of its object or list; it must be there.
	Remove bool `json:"remove,omitempty"`
}

// An EditError says that arguments have no place for an edit.
type EditError struct {
	// ID is the dead letter, where there is one.
	ID uuid.UUID
	// Path is that of the edit.
	Path string
	// Why completes a sentence that begins with the path.
	Why string
}

func (e *EditError) Error() string {
	s := e.Path + ": " + e.Why
	if e.ID != uuid.Nil {
		s = "dead letter " + e.ID.String() + ": " + s
	}
	return s
}

// A step is one part of a path: a key or, in brackets, a place of a list. A key
// of digits alone can be a place too: items.0 is items[0].
type step struct {
	key    string
	place  int // -1 for what can't be one
	listed bool
}

var errNoPath = errors.New("a path is keys with dots between them and places of lists in brackets, such as user.emails[0]")

// parsePath reads a path.
func parsePath(path string) ([]step, error) {
	if pg.CheckText(path) != nil {
		return nil, errNoPath
	}
	var steps []step
	for rest := path; ; {
		if place, after, ok := cutBrackets(rest); ok {
			steps = append(steps, step{place: place, listed: true})
			rest = after
		} else {
			var key string
			if key, rest = cutKey(rest); key == "" {
				return nil, errNoPath
			}
			steps = append(steps, step{key: key, place: placeOf(key)})
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
func cutBrackets(s string) (place int, rest string, ok bool) {
	if s == "" || s[0] != '[' {
		return 0, s, false
	}
	digits, rest, closed := strings.Cut(s[1:], "]")
	place = placeOf(digits)
	return place, rest, closed && place >= 0
}

// cutKey cuts a key off, up to a dot or a bracket that no backslash protects.
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

// placeOf is a number as a place of a list, or -1.
func placeOf(digits string) int {
	n, err := strconv.ParseUint(digits, 10, 31)
	if err != nil || strconv.FormatUint(n, 10) != digits {
		return -1
	}
	return int(n)
}

func (s step) String() string {
	if s.listed {
		return "[" + strconv.Itoa(s.place) + "]"
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

// Validate returns an error for a path that is none, or a value that is no JSON
// which can be stored.
func (e ArgsEdit) Validate() error {
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

// EditArgs returns the arguments with the edits made, one after the other. The
// error of an edit for which there is no place is an *EditError. It doesn't
// change args.
func EditArgs(args json.RawMessage, edits []ArgsEdit) (json.RawMessage, error) {
	if err := checkArgs(args); err != nil {
		return nil, err
	}
	for _, e := range edits {
		if err := e.Validate(); err != nil {
			return nil, err
		}
		steps, _ := parsePath(e.Path)
		edited, why := e.apply(args, steps, 0)
		if why != "" {
			return nil, &EditError{Path: e.Path, Why: why}
		}
		args = edited
	}
	return args, nil
}

// apply makes the edit at steps[at:] of value, a part of valid JSON. why says
// why it can't be made.
func (e ArgsEdit) apply(value json.RawMessage, steps []step, at int) (edited json.RawMessage, why string) {
	s, last := steps[at], at == len(steps)-1
	here := "the top level"
	if at > 0 {
		here = pathOf(steps[:at])
	}
	parts, kind := partsOf(value)
	i := s.place
	switch {
	case kind == "list" && s.place < 0:
		return nil, fmt.Sprintf("%s is a list, whose first element is [0]", here)
	case kind == "list" && s.place >= len(parts):
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

// partsOf returns the parts of a value, and its kind. Of members with one key
// only the last one counts, as it does for PostgreSQL and for Go.
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
				// No path has it: it is there for its commas alone.
				parts[i].key = shadowed
			}
		}
	}
	return parts, kind
}

// keysOf names the keys that there are, for a person who misspelt one.
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

// shadowed is no key: a path is valid UTF-8.
const shadowed = "\xff"

// kindOf is what a JSON value is, in words for people.
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

// article is the kind with its article: 'an object', but 'null'.
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
	name, _ := jsondoc.Append(nil, key) // a string always has a JSON
	return slices.Concat(value[:at], []byte(before), name, []byte(": "), added, value[at:])
}

// removePart takes a part out with the comma before it or, of the first one,
// the comma after it.
func removePart(value json.RawMessage, parts []part, i int) json.RawMessage {
	from, to := bytes.IndexAny(value, "{[")+1, parts[i].to
	if i > 0 {
		from = parts[i-1].to
	} else if len(parts) > 1 {
		to += bytes.IndexByte(value[to:], ',') + 1
	}
	return slices.Concat(value[:from], value[to:])
}

// An ArgsChange is one difference between two arguments.
type ArgsChange struct {
	// Path is where it is, as an ArgsEdit has it; empty if all is different.
	Path string `json:"path"`
	// Old and New are the values; nil where there was, or is, none.
	Old json.RawMessage `json:"old,omitempty"`
	New json.RawMessage `json:"new,omitempty"`
}

// CompareArgs returns what is different between two JSON documents, in the
// order of the first. Lists of one length are compared element by element, and
// others as a whole. How a document is laid out, and the order of its keys, is
// no difference; 1.0 and 1 are one.
func CompareArgs(from, to json.RawMessage) []ArgsChange {
	return compare(nil, nil, bytes.TrimSpace(from), bytes.TrimSpace(to))
}

// comparedDepth bounds how deep CompareArgs goes; each level is read again.
const comparedDepth = 100

func compare(changes []ArgsChange, at []step, from, to json.RawMessage) []ArgsChange {
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
			changes = compare(changes, slices.Concat(at, []step{{place: i, listed: true}}),
				from[old[i].from:old[i].to], to[now[i].from:now[i].to])
		}
		return changes
	case compacted(from) == compacted(to):
		return changes
	default:
		return append(changes, ArgsChange{Path: pathOf(at), Old: from, New: to})
	}
}

func compareObjects(changes []ArgsChange, at []step, from, to json.RawMessage, old, now []part) []ArgsChange {
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
			changes = append(changes, ArgsChange{Path: pathOf(path), Old: from[o.from:o.to]})
		}
	}
	for _, n := range now {
		if _, ok := added[n.key]; ok && n.key != shadowed {
			changes = append(changes, ArgsChange{Path: pathOf(slices.Concat(at, []step{{key: n.key}})), New: to[n.from:n.to]})
		}
	}
	return changes
}

// compacted is a value in one spelling: without spaces, with sorted keys, and
// with strings decoded.
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

// ArgsValue returns the value that a path leads to, or nil if it leads nowhere.
func ArgsValue(args json.RawMessage, path string) json.RawMessage {
	steps, err := parsePath(path)
	if err != nil {
		return nil
	}
	for _, s := range steps {
		parts, kind := partsOf(args)
		i := s.place
		if kind != "list" {
			if s.listed {
				return nil
			}
			i = slices.IndexFunc(parts, func(p part) bool { return p.key == s.key })
		}
		if i < 0 || i >= len(parts) {
			return nil
		}
		args = args[parts[i].from:parts[i].to]
	}
	return args
}
