package workerfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"sort"
	"strings"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"soniq/internal/input"
)

const (
	// maxValues and maxText are how many values a file may have, and how many bytes
	// of text, once each *alias is written out as what it stands for. A thousand
	// handlers have ten thousand values. A few lines of aliases can stand for more
	// than any memory holds.
	maxValues = 100_000
	maxText   = 4 << 20
	// maxDepth is how deep values may be nested; none that has a meaning is nested
	// deeper than ten.
	maxDepth = 64
)

// document parses a file, which is one YAML document. It returns nil if there is
// nothing to read.
func (r *reader) document(data []byte) *yaml.Node {
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
		r.wrongAt(second.Line, "a second YAML document begins here; a file has one")
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

// expands reports whether the file has a reasonable size once each *alias is
// written out as what it stands for: whatever reads the file meets each of those
// values.
func (r *reader) expands(root *yaml.Node) bool {
	x := &expansion{of: map[*yaml.Node]extent{}}
	x.measure(root, 1)
	if x.why != "" {
		r.wrongAt(x.line, "%s", x.why)
	}
	return x.why == ""
}

// An extent is the size of a value, with all that is in it.
type extent struct{ values, text, depth int }

// An expansion measures a file, and stops where that becomes too large.
type expansion struct {
	// of has the extents of values with an &anchor. It is zero for a value that the
	// walk is inside of.
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
	case depth+e.depth-1 > maxDepth:
		x.stop(n, fmt.Sprintf("it is nested deeper than %d", maxDepth))
	case x.sum.values > maxValues:
		x.stop(n, fmt.Sprintf("the file has more than %d values, each *alias written out", maxValues))
	case x.sum.text > maxText:
		x.stop(n, fmt.Sprintf("the file has more than %d bytes of text, each *alias written out", maxText))
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

// isText finds the bytes that the parser refuses without naming their line, and line
// breaks that an editor doesn't count.
func (r *reader) isText(data []byte) bool {
	if input.IsUTF16(data) {
		r.wrongAt(1, "%s", input.ErrUTF16)
		return false
	}
	before := len(r.mistakes)
	for number, line := range strings.Split(string(data), "\n") {
		line = strings.TrimSuffix(line, "\r")
		if !utf8.ValidString(line) {
			r.wrongAt(number+1, "not valid UTF-8")
			continue
		}
		i := strings.IndexFunc(line, func(c rune) bool {
			return c != '\t' && unicode.IsControl(c) || c == '\u2028' || c == '\u2029'
		})
		if i >= 0 {
			c, _ := utf8.DecodeRuneInString(line[i:])
			r.wrongAt(number+1, "control character %q", c)
		}
	}
	return len(r.mistakes) == before
}

// syntax notes what the parser could not read. Tabs are the most common cause: they
// are noted in each of their lines.
func (r *reader) syntax(data []byte, err error) {
	lines := bytes.SplitAfter(data, []byte("\n"))
	tabs := false
	for i, line := range lines {
		text := bytes.TrimLeft(line, " \t")
		if bytes.ContainsRune(line[:len(line)-len(text)], '\t') && len(bytes.TrimSpace(text)) > 0 {
			r.wrongAt(i+1, "indented with a tab; YAML wants spaces")
			tabs = true
		}
	}
	if tabs {
		return
	}
	// The parser names the line where the unfinished construct begins. The line that
	// it stopped at is the first one with which it fails in the same way.
	line := 1 + sort.Search(len(lines)-1, func(i int) bool {
		partial := parseAll(bytes.Join(lines[:i+1], nil))
		return partial != nil && partial.Error() == err.Error()
	})
	what := yamlErrorPlace.ReplaceAllString(err.Error(), "")
	if strings.Contains(what, "mapping values are not allowed") {
		// Mostly a command that prints an error.
		what += "; put text that has a colon and a space in it in quotes, or in lines of its own after |"
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
