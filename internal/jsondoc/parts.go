// Package jsondoc reads and edits JSON documents in place: what it doesn't change
// keeps its digits, its spelling and its order.
//
// Documents must be valid JSON by encoding/json.
package jsondoc

import (
	"bytes"
	"encoding/json"
	"fmt"
	"iter"

	"soniq/internal/pg"
)

// Members returns the keys and values of an object, as they stand in it. The keys
// have their quotes.
func Members(object []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(key, value []byte) bool) {
		var key []byte
		for part := range Elements(object) {
			if key == nil {
				key = part
				continue
			}
			if !yield(key, part) {
				return
			}
			key = nil
		}
	}
}

// Elements returns the values of an array as they stand in it. Of an object it
// returns the keys and values in turns.
func Elements(whole []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		// Past the bracket.
		i := bytes.IndexAny(whole, "[{") + 1
		for i < len(whole) {
			switch whole[i] {
			case ' ', '\t', '\r', '\n', ',', ':':
				i++
				continue
			case ']', '}':
				return
			}
			end := valueEnd(whole, i)
			if !yield(whole[i:end]) {
				return
			}
			i = end
		}
	}
}

// valueEnd returns the end of the value that begins at i.
func valueEnd(doc []byte, i int) int {
	depth := 0
	for ; i < len(doc); i++ {
		switch doc[i] {
		case '"':
			i = pg.StringEnd(doc, i)
		case '{', '[':
			depth++
			continue
		case '}', ']':
			depth--
		default:
			n := wordLength(doc[i:])
			if n == 0 {
				continue
			}
			i += n - 1
		}
		if depth == 0 {
			return i + 1
		}
	}
	return len(doc)
}

// wordLength returns the length of the number or the word that doc begins with.
func wordLength(doc []byte) int {
	for n, c := range doc {
		switch c {
		case ',', ':', ']', '}', ' ', '\t', '\r', '\n':
			return n
		}
	}
	return len(doc)
}

// Append appends the JSON of v to b, without escapes for HTML and without a line
// break at the end.
//
// Errors: those of encoding/json; b is unchanged then.
func Append(b []byte, v any) ([]byte, error) {
	out := bytes.NewBuffer(b)
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		return b, err
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), nil
}

// Inner returns the document inside of a JSON string, if there is one, else doc:
// Python Soniq stores tags as a JSON string that holds the object.
func Inner(doc []byte) []byte {
	var inner string
	if len(doc) == 0 || doc[0] != '"' || json.Unmarshal(doc, &inner) != nil || !json.Valid([]byte(inner)) {
		return doc
	}
	return []byte(inner)
}

// MaxDepth is how deep a document may be nested to be shown. encoding/json reads and
// writes 10,000 levels, and with line breaks a document of that depth has 200 MB.
const MaxDepth = 1_000

// Shown returns doc or, where it is nested too deep to be encoded, a JSON string that
// says so: a row that holds it must not hide the others. what is the noun, such as
// 'arguments'.
func Shown(doc []byte, what string) []byte {
	depth, deepest := 0, 0
	inString := false
	for i := 0; i < len(doc); i++ {
		switch c := doc[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '{' || c == '[':
			depth++
			deepest = max(deepest, depth)
		case c == '}' || c == ']':
			depth--
		}
	}
	if deepest <= MaxDepth {
		return doc
	}
	return fmt.Appendf(nil, `"%s nested %d levels deep are not shown"`, what, deepest)
}
