package deadletter

import (
	"fmt"
	"reflect"
)

// maxErrors is how many errors of one tree are looked at. A tree that is
// larger, or that contains itself, is a mistake which must not stop a worker.
const maxErrors = 256

// A walk visits the tree of an error: the error, then what it wraps, depth
// first. Methods of errors are other people's code and may be called on nil
// pointers here, so each call is guarded.
type walk struct {
	left int
}

// each calls visit for err and all it wraps until visit returns false.
func (w *walk) each(err error, visit func(error) bool) bool {
	if err == nil || w.left <= 0 {
		return true
	}
	w.left--
	if !visit(err) {
		return false
	}
	for _, inner := range unwrap(err) {
		if !w.each(inner, visit) {
			return false
		}
	}
	return true
}

// unwrap returns what err wraps directly, without nils.
func unwrap(err error) []error {
	var inner []error
	guard(func() {
		switch x := err.(type) {
		case interface{ Unwrap() error }:
			inner = []error{x.Unwrap()}
		case interface{ Unwrap() []error }:
			inner = x.Unwrap()
		}
	})
	n := 0
	wrapped := make([]error, len(inner))
	for _, e := range inner {
		if e != nil {
			wrapped[n] = e
			n++
		}
	}
	return wrapped[:n]
}

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

// text returns what err says, if it can speak.
func text(err error) (s string, ok bool) {
	ok = guard(func() { s = err.Error() })
	return s, ok
}

// permanence looks for errors with a method Permanent() bool. The outermost
// one on a path wins over what it wraps, and where paths part (errors.Join),
// one that says true is enough. It returns the error that decided, or nil.
func permanence(err error) (by error, permanent bool) {
	w := walk{left: maxErrors}
	return w.permanence(err)
}

func (w *walk) permanence(err error) (by error, permanent bool) {
	if err == nil || w.left <= 0 {
		return nil, false
	}
	w.left--
	if says, found := saysPermanent(err); found {
		return err, says
	}
	for _, inner := range unwrap(err) {
		b, p := w.permanence(inner)
		if p {
			return b, true
		}
		if by == nil {
			by = b
		}
	}
	return by, false
}

// saysPermanent asks err itself, also through its As method, by which an error
// can stand for another one.
func saysPermanent(err error) (says, found bool) {
	ok := guard(func() {
		if p, is := err.(interface{ Permanent() bool }); is {
			says, found = p.Permanent(), true
			return
		}
		if x, is := err.(interface{ As(any) bool }); is {
			var p interface{ Permanent() bool }
			if x.As(&p) && p != nil {
				says, found = p.Permanent(), true
			}
		}
	})
	return says && ok, found && ok
}

// errorType names the Go type at the root of err, which is what one would
// filter by: the deepest error on the first path that is more than a sentence.
// fmt's and errors' own types only carry text, and a wrapper that repeats what
// it wraps is a marker.
func errorType(err error) string {
	named, last := "", ""
	for range maxErrors {
		if err == nil {
			break
		}
		inner := unwrap(err)
		last = fmt.Sprintf("%T", err)
		if !onlyText(err) && !repeats(err, inner) {
			named = last
		}
		if len(inner) == 0 {
			break
		}
		err = inner[0]
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

func repeats(err error, inner []error) bool {
	if len(inner) != 1 {
		return false
	}
	outerText, ok := text(err)
	innerText, innerOK := text(inner[0])
	return ok && innerOK && outerText == innerText
}

// errorCode returns the first code that an error of the tree has of itself:
// ErrorCode() string, or SQLState() string as Postgres drivers have it.
func errorCode(err error) string {
	var code string
	w := walk{left: maxErrors}
	w.each(err, func(e error) bool {
		var c string
		ok := guard(func() {
			switch x := e.(type) {
			case interface{ ErrorCode() string }:
				c = x.ErrorCode()
			case interface{ SQLState() string }:
				c = x.SQLState()
			}
		})
		if ok && c != "" {
			code = c
			return false
		}
		return true
	})
	return code
}

// ownFingerprint returns what the first error with a method
// Fingerprint() string says.
func ownFingerprint(err error) string {
	var own string
	w := walk{left: maxErrors}
	w.each(err, func(e error) bool {
		var s string
		ok := guard(func() {
			if x, is := e.(interface{ Fingerprint() string }); is {
				s = x.Fingerprint()
			}
		})
		if ok && s != "" {
			own = s
			return false
		}
		return true
	})
	return own
}
