package workerfile

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"soniq/internal/suggest"
	"soniq/internal/unit"

	"soniq/hooks"
)

// referencePrefix begins a value that stands in the environment, so that the file
// can be shown to anybody.
const referencePrefix = "env:"

// maxKey is the longest key, in bytes: what a job's name may have.
const maxKey = 2000

// A reader walks the nodes of a YAML file and notes what is wrong. Its methods return
// a zero value for what is wrong. where is the place of a value in words: 'jobs',
// 'emails.send: timeout'.
type reader struct {
	path     string
	options  Options
	mistakes []mistake
	// more are the mistakes beyond maxMistakes.
	more int
	// queues are those that the file says are served, and the line that does; nil
	// where it says nothing.
	queues     map[string]bool
	queuesLine int
	// secrets are the variables that were read for what is sent to endpoints.
	secrets []string
}

// wrong notes a mistake at the line of n.
func (r *reader) wrong(n *yaml.Node, format string, args ...any) {
	r.wrongAt(n.Line, format, args...)
}

func (r *reader) wrongAt(line int, format string, args ...any) {
	if len(r.mistakes) == maxMistakes {
		r.more++
		return
	}
	r.mistakes = append(r.mistakes, mistake{line, fmt.Sprintf(format, args...)})
}

// resolve follows an alias to what it stands for.
func resolve(n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}

func isNull(n *yaml.Node) bool {
	n = resolve(n)
	return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null"
}

// kind is what a node is, in words.
func kind(n *yaml.Node) string {
	switch n = resolve(n); {
	case n.Kind == yaml.MappingNode:
		return "a mapping"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case isNull(n):
		return "nothing"
	case n.ShortTag() == "!!int" || n.ShortTag() == "!!float":
		return "a number"
	case n.ShortTag() == "!!bool":
		return "true or false"
	case n.ShortTag() == "!!timestamp":
		return "a date"
	default:
		return "text"
	}
}

// An entry is one 'key: value'.
type entry struct {
	key            string
	keyNode, value *yaml.Node
}

// entries are the entries of a mapping, each key once.
func (r *reader) entries(n *yaml.Node, where string) (found []entry) {
	n = resolve(n)
	if n.Kind != yaml.MappingNode {
		r.wrong(n, "%s must be a mapping ('key: value' lines), not %s", whereOr(where, "the file"), kind(n))
		return nil
	}
	if len(n.Content) == 0 {
		r.wrong(n, "%s has no entries", whereOr(where, "the file"))
	}
	lines := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		keyNode, value := n.Content[i], n.Content[i+1]
		key := resolve(keyNode)
		switch {
		case key.ShortTag() == "!!merge":
			r.wrong(keyNode, "%s'<<' is not supported: write the keys out, or use an &anchor for single values", prefix(where))
		case key.Kind != yaml.ScalarNode || kind(key) != "text":
			r.wrong(keyNode, "%sa key must be text, not %s; put it in quotes", prefix(where), kind(key))
		case len(key.Value) > maxKey:
			r.wrong(keyNode, "%sa key has %d bytes; at most %d are allowed", prefix(where), len(key.Value), maxKey)
		case lines[key.Value] != 0:
			r.wrong(keyNode, "%s%q is in line %d already", prefix(where), key.Value, lines[key.Value])
		default:
			lines[key.Value] = keyNode.Line
			found = append(found, entry{key.Value, keyNode, value})
		}
	}
	return found
}

func whereOr(where, other string) string {
	if where = strings.TrimSuffix(where, ": "); where != "" {
		return where
	}
	return other
}

func prefix(where string) string {
	if where = whereOr(where, ""); where != "" {
		return where + ": "
	}
	return ""
}

// fields reads a mapping whose keys are known. It returns known keys that unknown
// ones were probably meant to be.
func (r *reader) fields(n *yaml.Node, where string, known map[string]func(*yaml.Node)) (meant []string) {
	names := slices.Sorted(maps.Keys(known))
	for _, entry := range r.entries(n, where) {
		read, ok := known[entry.key]
		switch {
		case ok && isNull(entry.value):
			r.wrong(entry.keyNode, "%s%s has no value", where, entry.key)
		case ok:
			read(entry.value)
		default:
			if guess := closest(entry.key, names); guess != "" {
				meant = append(meant, guess)
				r.wrong(entry.keyNode, "%sunknown key %q; did you mean %q?", where, entry.key, guess)
			} else {
				r.wrong(entry.keyNode, "%sunknown key %q; known are %s", where, entry.key, strings.Join(names, ", "))
			}
		}
	}
	return meant
}

// items are the values of a list, which must not be empty.
func (r *reader) items(n *yaml.Node, where string) []*yaml.Node {
	n = resolve(n)
	if n.Kind != yaml.SequenceNode {
		r.wrong(n, "%s must be a list such as [a, b], not %s", where, kind(n))
		return nil
	}
	if len(n.Content) == 0 {
		r.wrong(n, "%s is an empty list", where)
	}
	return n.Content
}

// names reads a list of texts, each of them once.
func (r *reader) names(n *yaml.Node, where string) (names []string) {
	seen := map[string]bool{}
	for _, item := range r.items(n, where) {
		name := r.text(item, where)
		if seen[name] {
			r.wrong(item, "%s: %q is there twice", where, name)
		} else if name != "" {
			seen[name] = true
			names = append(names, name)
		}
	}
	return names
}

// text reads text that is not empty.
func (r *reader) text(n *yaml.Node, where string) string {
	value := r.scalar(n, where)
	if strings.ContainsRune(value, 0) {
		r.wrong(n, "%s must not contain a NUL byte", where)
		return ""
	}
	return value
}

func (r *reader) scalar(n *yaml.Node, where string) string {
	value := resolve(n)
	switch {
	case kind(value) != "text":
		hint := ""
		if value.Kind == yaml.ScalarNode && !isNull(value) {
			hint = "; put it in quotes"
		}
		r.wrong(n, "%s must be text, not %s%s", where, kind(value), hint)
		return ""
	case strings.TrimSpace(value.Value) == "":
		r.wrong(n, "%s must not be empty", where)
		return ""
	}
	return value.Value
}

// anyScalar reads a value as it is written, whether YAML takes it for text, a number
// or something else.
func (r *reader) anyScalar(n *yaml.Node, where string) (string, bool) {
	value := resolve(n)
	if value.Kind != yaml.ScalarNode || isNull(value) {
		r.wrong(n, "%s must be text, not %s", where, kind(value))
		return "", false
	}
	return value.Value, true
}

// reference reads text, or the variable of the environment that it refers to.
func (r *reader) reference(n *yaml.Node, where string) string {
	if r.text(n, where) == "" {
		return ""
	}
	return r.resolveReference(n, where)
}

func (r *reader) resolveReference(n *yaml.Node, where string) string {
	text := resolve(n).Value
	name, ok := strings.CutPrefix(text, referencePrefix)
	if !ok {
		return text
	}
	value := hooks.Unterminated(r.options.Getenv(name))
	if value == "" {
		r.wrong(n, "%s: the environment variable %s is not set, or empty", where, name)
	}
	return value
}

func (r *reader) integer(n *yaml.Node, where string) (int, bool) {
	value := resolve(n)
	var i int
	if value.Kind != yaml.ScalarNode || value.ShortTag() != "!!int" || value.Decode(&i) != nil {
		r.wrong(n, "%s must be a whole number, not %s", where, shown(value))
		return 0, false
	}
	return i, true
}

// count reads a number from 1.
func (r *reader) count(n *yaml.Node, where string, most int) *int {
	i, ok := r.integer(n, where)
	if !ok {
		return nil
	}
	if i < 1 || i > most {
		r.wrong(n, "%s must be from 1 to %d, not %d", where, most, i)
		return nil
	}
	return &i
}

// upTo reads a number from 0.
func (r *reader) upTo(n *yaml.Node, where string, most int) *int {
	i, ok := r.integer(n, where)
	if !ok {
		return nil
	}
	if i < 0 || i > most {
		r.wrong(n, "%s must be from 0 to %d, not %d", where, most, i)
		return nil
	}
	return &i
}

func (r *reader) boolean(n *yaml.Node, where string) (value, ok bool) {
	node := resolve(n)
	if node.Kind != yaml.ScalarNode || node.ShortTag() != "!!bool" || node.Decode(&value) != nil {
		r.wrong(n, "%s must be true or false, not %s", where, shown(node))
		return false, false
	}
	return value, true
}

// duration reads a Go duration. Only 0 needs no unit.
func (r *reader) duration(n *yaml.Node, where string) *time.Duration {
	const form = "a duration such as 90s, 5m, 1h30m or 7d"
	value := resolve(n)
	if value.Kind != yaml.ScalarNode || isNull(value) {
		r.wrong(n, "%s must be %s, not %s", where, form, kind(value))
		return nil
	}
	text := value.Value
	d, err := unit.ParseDuration(text)
	switch {
	case err == nil && d >= 0:
		return &d
	case err == nil:
		r.wrong(n, "%s must not be negative: %s", where, text)
	case kind(value) == "a number":
		r.wrong(n, "%s: %s has no unit: write %[2]ss, %[2]sm, %[2]sh or %[2]sd", where, text)
	default:
		r.wrong(n, "%s must be %s (the units are ms, s, m, h, d and w), not %q", where, form, text)
	}
	return nil
}

func (r *reader) positive(n *yaml.Node, where string) *time.Duration {
	d := r.duration(n, where)
	if d != nil && *d == 0 {
		r.wrong(n, "%s must be longer than 0", where)
		return nil
	}
	return d
}

// size reads a number of bytes.
func (r *reader) size(n *yaml.Node, where string) *int64 {
	text, ok := r.anyScalar(n, where)
	if !ok {
		return nil
	}
	bytes, err := unit.ParseSize(text)
	if err != nil {
		r.wrong(n, "%s %s", where, err)
		return nil
	}
	return &bytes
}

// synonyms are what other programs call the keys of a configuration file.
var synonyms = map[string]string{
	"command": "exec", "cmd": "exec", "run": "exec", "shell": "exec",
	"url": "http", "endpoint": "http", "https": "http", "webhook": "http",
	"handlers": "jobs", "tasks": "jobs", "job": "jobs",
	"attempts": "max_attempts", "retries": "retry", "backoff": "retry",
	"environment": "env", "cwd": "dir", "workdir": "dir", "exit_codes": "permanent_exit_codes",
}

// closest returns the key of known that word was probably meant to be, or "".
func closest(word string, known []string) string {
	if meant := synonyms[strings.ToLower(word)]; slices.Contains(known, meant) {
		return meant
	}
	return suggest.Closest(word, known)
}

// shown is a scalar's text, or what else the node is.
func shown(n *yaml.Node) string {
	if n.Kind == yaml.ScalarNode && !isNull(n) {
		return strconv.Quote(n.Value)
	}
	return kind(n)
}
