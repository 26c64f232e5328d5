// Package jsontree makes a tree of a JSON document, for a page to show: bounded, with the digits of
// its numbers, and without characters that are no text.
package jsontree

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"

	"soniq/internal/jsondoc"
	"soniq/internal/safetext"
)

const (
	// mostNodes bounds how many values of a document a page shows, and mostText the
	// characters of one string. The download has all.
	mostNodes = 2000
	mostText  = 4000
	// mostTree bounds the documents that are shown as a tree, and mostLevels its depth: each
	// level reads its part once more.
	mostTree   = 2 << 20
	mostLevels = 64
	// openLevels is how deep a tree is open at first.
	openLevels = 2
)

// A Node is a value of a JSON document, as a page shows it. Numbers keep their digits.
type Node struct {
	Key      string // with its quotes, or the index
	Path     string
	Kind     string // object, array, string, number, word
	Text     string
	Children []*Node
	Open     bool
	Size     int
	// More is how many children are left out.
	More int
}

// Of reads a document. A document that is none is shown as it is.
func Of(doc json.RawMessage) *Node {
	left := mostNodes
	if len(doc) == 0 {
		return &Node{Kind: "word", Text: "none"}
	}
	if len(doc) > mostTree || !jsondoc.Valid(doc) {
		return cutNode(doc)
	}
	return readNode(bytes.TrimSpace(doc), 0, &left)
}

// cutNode shows the beginning of a value as it is.
func cutNode(doc []byte) *Node {
	n := &Node{Kind: "string", Text: visible(doc[:min(len(doc), 4*mostText)])}
	if short := beginning(n.Text, mostText); short != n.Text || len(doc) > 4*mostText {
		n.Text, n.More = short+"…", len(doc)-len(short)
	}
	return n
}

func readNode(doc []byte, level int, left *int) *Node {
	*left--
	if level >= mostLevels {
		return cutNode(doc)
	}
	n := &Node{Open: level < openLevels}
	switch doc[0] {
	case '{':
		n.Kind = "object"
		for key, value := range jsondoc.Members(doc) {
			n.add(visible(key), value, level, left)
		}
	case '[':
		n.Kind = "array"
		for value := range jsondoc.Elements(doc) {
			n.add(strconv.Itoa(n.Size), value, level, left)
		}
	case '"':
		n = cutNode(doc)
	case 't', 'f', 'n':
		n.Kind, n.Text = "word", string(doc)
	default:
		n.Kind, n.Text = "number", string(doc)
	}
	return n
}

func (n *Node) add(key string, value []byte, level int, left *int) {
	n.Size++
	if *left <= 0 {
		n.More++
		return
	}
	child := readNode(bytes.TrimSpace(value), level+1, left)
	child.Key = key
	n.Children = append(n.Children, child)
}

// visible is a part of a document whose unsafe characters are escapes of JSON.
func visible(doc []byte) string {
	var b strings.Builder
	_, _ = safetext.NewJSONWriter(&b).Write(doc)
	return b.String()
}

// beginning is that of a text, of at most n characters.
func beginning(s string, n int) string {
	if runes := []rune(s); len(runes) > n {
		return string(runes[:n])
	}
	return s
}
