package classify

import (
	"fmt"
	"iter"
	"reflect"
)

// maxErrors limits how many errors of one tree are read. A tree that is larger, or
// that contains itself, is a mistake that must not stop a worker.
const maxErrors = 256

// A Tree is an error with all that it wraps. It is read once for a failed attempt:
// each error is unwrapped once, and asked once what it says of itself. All that
// [Decide] wants to know is then answered from the nodes. A caller with questions of
// its own reads the tree with [ReadTree], looks at [Tree.All], and calls
// [Tree.Decide].
//
// The nodes are in the order in which errors.Is visits them: an error, then what
// it wraps, depth first. So the errors below a node follow it directly:
//
//	join(a(b), c)    nodes  join a b c
//	                 end    4    3 3 4
type Tree struct {
	nodes []node
}

type node struct {
	err error
	// end is the index after the last node below this one.
	end int
	// wraps is how many errors it wraps directly.
	wraps int
	// marked is set for an error with a method Permanent() bool, and permanent is
	// its answer.
	marked, permanent bool
	// code is what ErrorCode() string or SQLState() string returns.
	code string
	// fingerprint is what Fingerprint() string returns.
	fingerprint string
	// typeName is what ErrorType() string returns, which replaces the Go type.
	typeName string
	// text is what Error() returns once asked is set, and ok is false where that
	// panicked.
	text      string
	asked, ok bool
}

// ReadTree reads an error and all that it wraps, of at most 256 errors. The tree of a
// nil error is empty. It doesn't panic, whatever the methods of the errors do.
func ReadTree(err error) *Tree {
	t := &Tree{nodes: make([]node, 0, 4)}
	t.read(err)
	return t
}

// Err is the error that the tree was read from, or nil.
func (t *Tree) Err() error {
	if len(t.nodes) == 0 {
		return nil
	}
	return t.nodes[0].err
}

// All are the errors of the tree, in the order in which errors.Is visits them.
func (t *Tree) All() iter.Seq[error] {
	return func(yield func(error) bool) {
		for i := range t.nodes {
			if !yield(t.nodes[i].err) {
				return
			}
		}
	}
}

func (t *Tree) read(err error) {
	if err == nil || len(t.nodes) == maxErrors {
		return
	}
	i := len(t.nodes)
	n := node{err: err}
	n.permanent, n.marked = saysPermanent(err)
	n.code = saysCode(err)
	n.fingerprint = saysFingerprint(err)
	n.typeName = saysType(err)
	list, one := unwrap(err)
	if one != nil {
		n.wraps = 1
	}
	for _, inner := range list {
		if inner != nil {
			n.wraps++
		}
	}
	t.nodes = append(t.nodes, n)
	t.read(one)
	for _, inner := range list {
		t.read(inner)
	}
	t.nodes[i].end = len(t.nodes)
}

// inner calls visit for the index of each error that node i wraps directly, until
// visit returns false.
func (t *Tree) inner(i int) func(visit func(int) bool) {
	return func(visit func(int) bool) {
		for at := i + 1; at < t.nodes[i].end && visit(at); at = t.nodes[at].end {
		}
	}
}

// text returns what Error() of node i returns. ok is false where it panicked.
func (t *Tree) text(i int) (s string, ok bool) {
	n := &t.nodes[i]
	if !n.asked {
		n.ok = guard(func() { n.text = n.err.Error() })
		n.asked = true
	}
	return n.text, n.ok
}

// permanence finds the marked error that decides: of two that wrap each other the
// outer one, of two that are joined the first that says true. by is its index, or
// -1.
func (t *Tree) permanence(i int) (by int, permanent bool) {
	if i >= len(t.nodes) {
		return -1, false
	}
	if n := &t.nodes[i]; n.marked {
		return i, n.permanent
	}
	by = -1
	for at := range t.inner(i) {
		b, p := t.permanence(at)
		if p {
			return b, true
		}
		if by < 0 {
			by = b
		}
	}
	return by, false
}

// errorType returns the Go type at the root of node i, which is what one filters
// by: the deepest error on the first path that is more than a text. The types of
// packages fmt and errors only carry text, and a wrapper that repeats the text of
// what it wraps is a marker.
func (t *Tree) errorType(i int) string {
	named, last := "", ""
	for {
		n := &t.nodes[i]
		if last = n.typeName; last == "" {
			last = reflect.TypeOf(n.err).String()
		}
		if !onlyText(n.err) && !t.repeats(i) {
			named = last
		}
		if n.end == i+1 {
			break
		}
		i++
	}
	if named == "" {
		return last
	}
	return named
}

func onlyText(err error) bool {
	t := reflect.TypeOf(err)
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t.PkgPath() == "fmt" || t.PkgPath() == "errors"
}

func (t *Tree) repeats(i int) bool {
	if n := &t.nodes[i]; n.wraps != 1 || n.end == i+1 {
		return false
	}
	outer, ok := t.text(i)
	inner, innerOK := t.text(i + 1)
	return ok && innerOK && outer == inner
}

// code returns the first code of node i and those below it.
func (t *Tree) code(i int) string {
	for _, n := range t.nodes[i:t.nodes[i].end] {
		if n.code != "" {
			return n.code
		}
	}
	return ""
}

// fingerprint returns the first fingerprint that an error has of itself.
func (t *Tree) fingerprint() string {
	for _, n := range t.nodes {
		if n.fingerprint != "" {
			return n.fingerprint
		}
	}
	return ""
}

// Methods of errors are other people's code, and may be called on nil pointers
// here. So each call below recovers from a panic, which counts as no answer.

// guard runs f and reports whether it returned without a panic.
func guard(f func()) (ok bool) {
	defer func() {
		if recover() != nil {
			ok = false
		}
	}()
	f()
	return true
}

// unwrap returns what err wraps: a list, with nils, or one error.
func unwrap(err error) (list []error, one error) {
	switch x := err.(type) {
	case interface{ Unwrap() error }:
		guard(func() { one = x.Unwrap() })
	case interface{ Unwrap() []error }:
		guard(func() { list = x.Unwrap() })
	}
	return list, one
}

// saysPermanent asks err itself, also through its As method, by which an error can
// stand for another one.
func saysPermanent(err error) (says, found bool) {
	marker, isMarker := err.(interface{ Permanent() bool })
	x, hasAs := err.(interface{ As(any) bool })
	if !isMarker && !hasAs {
		return false, false
	}
	ok := guard(func() {
		if isMarker || x.As(&marker) && marker != nil {
			says, found = marker.Permanent(), true
		}
	})
	return says && ok, found && ok
}

func saysCode(err error) (code string) {
	switch x := err.(type) {
	case interface{ ErrorCode() string }:
		guard(func() { code = x.ErrorCode() })
	case interface{ SQLState() string }:
		guard(func() { code = x.SQLState() })
	}
	return code
}

func saysFingerprint(err error) (fingerprint string) {
	if x, ok := err.(interface{ Fingerprint() string }); ok {
		guard(func() { fingerprint = x.Fingerprint() })
	}
	return fingerprint
}

// saysType is for errors whose Go type has got another name: dead letters are grouped
// and filtered by the name that they had.
func saysType(err error) (name string) {
	if x, ok := err.(interface{ ErrorType() string }); ok {
		guard(func() { name = x.ErrorType() })
	}
	return name
}

// withoutText is the message for an error that says nothing.
func withoutText(err error, panicked bool) string {
	if panicked {
		return fmt.Sprintf("an error of type %T, whose Error method panicked", err)
	}
	return fmt.Sprintf("an error of type %T without a text", err)
}
