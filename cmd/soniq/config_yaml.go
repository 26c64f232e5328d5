package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"soniq/internal/suggest"
	"soniq/internal/unit"
)

// referencePrefix begins a value that stands in the environment, so that the
// file can be shown to anybody.
const referencePrefix = "env:"

// configReader walks the nodes of a YAML file and notes what is wrong, instead
// of stopping at the first mistake as decoding into a struct would. Its methods
// return a zero value for what is wrong.
type configReader struct {
	path     string
	getenv   func(string) string
	mistakes []mistake
	// more are the mistakes beyond maxMistakes.
	more int
	// What the file is read for.
	runsJobs, sendsHooks bool
	// queues are those that the file says are served, if it does.
	queues     map[string]bool
	queuesLine int
	// requestSecrets are the variables that were read for what is sent to
	// endpoints.
	requestSecrets []string
}

func (r *configReader) wrong(n *yaml.Node, format string, args ...any) {
	r.wrongAt(n.Line, format, args...)
}

func (r *configReader) wrongAt(line int, format string, args ...any) {
	if len(r.mistakes) == maxMistakes {
		r.more++
		return
	}
	r.mistakes = append(r.mistakes, mistake{line, fmt.Sprintf(format, args...)})
}

// document parses the one document of a file. It returns nil if there is
// nothing to read.
func (r *configReader) document(data []byte) *yaml.Node {
	if !r.isText(data) {
		return nil
	}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var first, second yaml.Node
	err := decoder.Decode(&first)
	switch {
	case errors.Is(err, io.EOF):
		r.wrongAt(1, "the file is empty")
		return nil
	case err != nil:
		r.syntax(data, err)
		return nil
	}
	if err := decoder.Decode(&second); err == nil {
		r.wrongAt(second.Line, "a second document begins here; a file is one")
	} else if !errors.Is(err, io.EOF) {
		r.syntax(data, err)
		return nil
	}
	root := first.Content[0]
	if isNull(root) {
		r.wrongAt(1, "the file is empty")
		return nil
	}
	return root
}

// expands reports whether the file is of a reasonable size with each *alias
// written out as what it stands for. Aliases of aliases are more than any memory
// holds in a few lines, and what reads the file meets each of their values.
func (r *configReader) expands(root *yaml.Node) bool {
	x := &expansion{of: map[*yaml.Node]extent{}}
	x.measure(root, 1)
	if x.why != "" {
		r.wrongAt(x.line, "%s", x.why)
	}
	return x.why == ""
}

// An extent is how much a value is, with all that is in it.
type extent struct{ values, text, depth int }

// An expansion measures a file, and stops where it is too much.
type expansion struct {
	// of has the values with an &anchor; it is empty for those that the walk is in.
	of   map[*yaml.Node]extent
	sum  extent
	line int
	why  string
}

func (x *expansion) measure(n *yaml.Node, depth int) (e extent) {
	e = extent{1, len(n.Value), 1}
	if n.Kind == yaml.AliasNode {
		var known bool
		if e, known = x.of[n.Alias]; known && e == (extent{}) {
			x.stop(n, "the alias *"+n.Value+" is part of what it stands for")
			return e
		}
	}
	x.sum.values += e.values
	x.sum.text += e.text
	switch {
	case depth+e.depth-1 > maxConfigDepth:
		x.stop(n, fmt.Sprintf("it is nested deeper than %d", maxConfigDepth))
	case x.sum.values > maxConfigValues:
		x.stop(n, fmt.Sprintf("the file has more than %d values, each *alias being written out", maxConfigValues))
	case x.sum.text > maxConfigText:
		x.stop(n, fmt.Sprintf("the file has more than %d bytes of text, each *alias being written out", maxConfigText))
	}
	if n.Anchor != "" {
		x.of[n] = extent{}
	}
	for _, part := range n.Content {
		if x.why != "" {
			return e
		}
		of := x.measure(part, depth+1)
		e = extent{e.values + of.values, e.text + of.text, max(e.depth, of.depth+1)}
	}
	if n.Anchor != "" {
		x.of[n] = e
	}
	return e
}

func (x *expansion) stop(n *yaml.Node, why string) {
	if x.why == "" {
		x.line, x.why = n.Line, why
	}
}

// isText finds the bytes that the parser refuses without telling their line,
// and line breaks that would make its count differ from an editor's.
func (r *configReader) isText(data []byte) bool {
	before := len(r.mistakes)
	for number, line := range strings.Split(string(data), "\n") {
		line = strings.TrimSuffix(line, "\r")
		if !utf8.ValidString(line) {
			r.wrongAt(number+1, "is not valid UTF-8")
			continue
		}
		i := strings.IndexFunc(line, func(c rune) bool {
			return c != '\t' && unicode.IsControl(c) || c == '\u2028' || c == '\u2029'
		})
		if i >= 0 {
			c, _ := utf8.DecodeRuneInString(line[i:])
			r.wrongAt(number+1, "has a control character (%q)", c)
		}
	}
	return len(r.mistakes) == before
}

// syntax names what the parser could not read. Of tabs, the most common cause,
// it names every line.
func (r *configReader) syntax(data []byte, err error) {
	lines := bytes.SplitAfter(data, []byte("\n"))
	tabs := false
	for i, line := range lines {
		text := bytes.TrimLeft(line, " \t")
		if bytes.ContainsRune(line[:len(line)-len(text)], '\t') && len(bytes.TrimSpace(text)) > 0 {
			r.wrongAt(i+1, "is indented with a tab; YAML wants spaces")
			tabs = true
		}
	}
	if tabs {
		return
	}
	// The parser tells where the construct began that it could not finish. The
	// line that it stopped at is the first with which it fails in that way.
	line := 1 + sort.Search(len(lines)-1, func(i int) bool {
		partial := parseAll(bytes.Join(lines[:i+1], nil))
		return partial != nil && partial.Error() == err.Error()
	})
	what := yamlErrorPlace.ReplaceAllString(err.Error(), "")
	if strings.Contains(what, "mapping values are not allowed") {
		// Mostly a command that prints an error.
		what += "; a text that has a colon and a space in it needs quotes, or lines of its own after |"
	}
	r.wrongAt(line, "not YAML: %s", what)
}

// yamlErrorPlace begins the parser's errors.
var yamlErrorPlace = regexp.MustCompile(`^yaml: (line \d+: )?`)

// parseAll is the error of parsing all documents in data.
func parseAll(data []byte) error {
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var n yaml.Node
		if err := decoder.Decode(&n); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
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

// configEntry is one 'key: value'.
type configEntry struct {
	key            string
	keyNode, value *yaml.Node
}

// entries are those of a mapping, each key once.
func (r *configReader) entries(n *yaml.Node, where string) (entries []configEntry) {
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
			r.wrong(keyNode, "%s'<<' is not supported: write the keys out, or give one value an &anchor", prefix(where))
		case key.Kind != yaml.ScalarNode || kind(key) != "text":
			r.wrong(keyNode, "%sa key must be text, not %s; put it in quotes", prefix(where), kind(key))
		case len(key.Value) > maxConfigKey:
			r.wrong(keyNode, "%sa key has %d bytes; %d are the most", prefix(where), len(key.Value), maxConfigKey)
		case lines[key.Value] != 0:
			r.wrong(keyNode, "%s%q stands in line %d already", prefix(where), key.Value, lines[key.Value])
		default:
			lines[key.Value] = keyNode.Line
			entries = append(entries, configEntry{key.Value, keyNode, value})
		}
	}
	return entries
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

// fields reads a mapping whose keys are known. It returns the keys that those
// not known were probably meant to be.
func (r *configReader) fields(n *yaml.Node, where string, known map[string]func(*yaml.Node)) (meant []string) {
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

// items are those of a list, which must not be empty.
func (r *configReader) items(n *yaml.Node, where string) []*yaml.Node {
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

// names reads a list of different texts.
func (r *configReader) names(n *yaml.Node, where string) (names []string) {
	seen := map[string]bool{}
	for _, item := range r.items(n, where) {
		name := r.text(item, where)
		if seen[name] {
			r.wrong(item, "%s: %q stands there twice", where, name)
		} else if name != "" {
			seen[name] = true
			names = append(names, name)
		}
	}
	return names
}

// text reads text that is not empty.
func (r *configReader) text(n *yaml.Node, where string) string {
	value := r.scalar(n, where)
	if strings.ContainsRune(value, 0) {
		r.wrong(n, "%s must not contain a NUL byte", where)
		return ""
	}
	return value
}

func (r *configReader) scalar(n *yaml.Node, where string) string {
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

// anyScalar reads a value as it is written, whatever YAML takes it for.
func (r *configReader) anyScalar(n *yaml.Node, where string) (string, bool) {
	value := resolve(n)
	if value.Kind != yaml.ScalarNode || isNull(value) {
		r.wrong(n, "%s must be text, not %s", where, kind(value))
		return "", false
	}
	return value.Value, true
}

// reference reads text, or what a variable of the environment says.
func (r *configReader) reference(n *yaml.Node, where string) string {
	if r.text(n, where) == "" {
		return ""
	}
	return r.resolveReference(n, where)
}

func (r *configReader) resolveReference(n *yaml.Node, where string) string {
	text := resolve(n).Value
	name, ok := strings.CutPrefix(text, referencePrefix)
	if !ok {
		return text
	}
	value := r.getenv(name)
	if value == "" {
		r.wrong(n, "%s: the environment has no %s, or it is empty", where, name)
	}
	return value
}

func (r *configReader) integer(n *yaml.Node, where string) (int, bool) {
	value := resolve(n)
	var i int
	if value.Kind != yaml.ScalarNode || value.ShortTag() != "!!int" || value.Decode(&i) != nil {
		r.wrong(n, "%s must be a whole number, not %s", where, shown(value))
		return 0, false
	}
	return i, true
}

// count reads a number from 1.
func (r *configReader) count(n *yaml.Node, where string, most int) *int {
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
func (r *configReader) upTo(n *yaml.Node, where string, most int) *int {
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

func (r *configReader) boolean(n *yaml.Node, where string) (value, ok bool) {
	node := resolve(n)
	if node.Kind != yaml.ScalarNode || node.ShortTag() != "!!bool" || node.Decode(&value) != nil {
		r.wrong(n, "%s must be true or false, not %s", where, shown(node))
		return false, false
	}
	return value, true
}

// duration reads a Go duration. Only 0 needs no unit.
func (r *configReader) duration(n *yaml.Node, where string) *time.Duration {
	const form = "a duration such as 90s, 5m or 1h30m"
	value := resolve(n)
	if value.Kind != yaml.ScalarNode || isNull(value) {
		r.wrong(n, "%s must be %s, not %s", where, form, kind(value))
		return nil
	}
	text := value.Value
	d, err := time.ParseDuration(text)
	switch {
	case err == nil && d >= 0:
		return &d
	case err == nil:
		r.wrong(n, "%s must not be negative: %s", where, text)
	case kind(value) == "a number":
		r.wrong(n, "%s: %s has no unit: write %[2]ss, %[2]sm or %[2]sh", where, text)
	default:
		r.wrong(n, "%s must be %s (the units are ms, s, m and h), not %q", where, form, text)
	}
	return nil
}

// age reads a duration that may be of days or weeks.
func (r *configReader) age(n *yaml.Node, where string) *time.Duration {
	value := resolve(n)
	if value.Kind == yaml.ScalarNode && kind(value) == "text" {
		if d, err := unit.ParseAge(value.Value); err == nil && d >= 0 {
			return &d
		}
		r.wrong(n, "%s must be an age such as 90m, 24h or 7d, not %q", where, value.Value)
		return nil
	}
	return r.duration(n, where)
}

func (r *configReader) positive(n *yaml.Node, where string) *time.Duration {
	d := r.duration(n, where)
	if d != nil && *d == 0 {
		r.wrong(n, "%s must be longer than 0", where)
		return nil
	}
	return d
}

// size reads a number of bytes.
func (r *configReader) size(n *yaml.Node, where string) *int64 {
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

// shown is a scalar's own text, or what else the node is.
func shown(n *yaml.Node) string {
	if n.Kind == yaml.ScalarNode && !isNull(n) {
		return strconv.Quote(n.Value)
	}
	return kind(n)
}
