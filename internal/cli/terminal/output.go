// Package terminal prints for people and for programs: text, tables, JSON and
// progress bars. Nothing that a job wrote can drive the terminal or show a
// secret through it.
package terminal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"soniq/internal/redact"
)

// Output is standard output or standard error. It keeps the first write error, and
// prints nothing after it. So commands print without checking, and 'list' to a full
// disk does not exit with 0.
//
// It hides secrets, unless a command has revealed them. That is the second line: a
// command redacts before it cuts a text, since half of a secret is hard to find.
// Write hides nothing; it is for the program's own texts, such as the help.
type Output struct {
	Raw io.Writer
	// Plain writes as Raw does, and notices when nobody reads any more.
	Plain io.Writer
	Text  *SafeWriter
	JSON  *SafeWriter
	Err   error
	// OnClosed, if set, is called when nobody reads the pipe any more that the output
	// goes to.
	OnClosed func()
	// Colour says whether to print colours.
	Colour bool
	// Revealed says that secrets are shown.
	Revealed bool
}

// Redacted is s without secrets, unless they are revealed.
func (o *Output) Redacted(s string) string {
	if o.Revealed {
		return s
	}
	return redact.Text(s)
}

// Reveal shows secrets from now on.
func (o *Output) Reveal() { o.Revealed = true }

// A Style is the parameter of a terminal's SGR sequence, such as 31 for red. An empty
// Style is plain text.
type Style string

const (
	bold    Style = "1"
	faint   Style = "2"
	Red     Style = "31"
	Green   Style = "32"
	Yellow  Style = "33"
	Blue    Style = "34"
	Magenta Style = "35"
	Cyan    Style = "36"
)

// A Span is a part of a line in one style.
type Span struct {
	Text  string
	Style Style
}

// Spans prints texts in their styles, or without them where there is no colour. The
// texts are made safe: no escape sequence but ours reaches the terminal.
func (o *Output) Spans(spans ...Span) error {
	if o.Err != nil {
		return o.Err
	}
	var b bytes.Buffer
	safe := NewSafeWriter(&b)
	for _, s := range spans {
		styled := o.Colour && s.Style != "" && s.Text != ""
		if styled {
			b.WriteString("\x1b[" + string(s.Style) + "m")
		}
		_, _ = safe.Write([]byte(o.Redacted(s.Text)))
		if styled {
			b.WriteString("\x1b[0m")
		}
	}
	_, o.Err = o.Plain.Write(b.Bytes())
	return o.Err
}

// plainWriter is [Output.Plain].
type plainWriter struct{ o *Output }

func (w plainWriter) Write(p []byte) (int, error) {
	n, err := w.o.Raw.Write(p)
	if errors.Is(err, syscall.EPIPE) {
		w.o.Err = err
		if w.o.OnClosed != nil {
			w.o.OnClosed()
		}
	}
	return n, err
}

// Closed reports whether nobody reads the pipe any more that the output goes to, as
// after 'soniq ... | head'.
func (o *Output) Closed() bool { return errors.Is(o.Err, syscall.EPIPE) }

// Flush returns the first error of what was printed. It syncs a file, since a full
// disk may be noticed only then.
func (o *Output) Flush() error {
	if o.Err != nil {
		return fmt.Errorf("write standard output: %w", o.Err)
	}
	if f, ok := o.Raw.(interface{ Sync() error }); ok {
		err := f.Sync()
		// What is no file says that it can't.
		if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EIO) {
			o.Err = err
			return fmt.Errorf("write standard output: %w", err)
		}
	}
	return nil
}

// Discards reports whether the output goes to /dev/null. A closed standard output
// does too: Go's runtime opens /dev/null in its place, and each write succeeds.
func (o *Output) Discards() bool {
	f, ok := o.Raw.(*os.File)
	if !ok {
		return false
	}
	is, err := f.Stat()
	if err != nil {
		return true
	}
	null, err := os.Stat(os.DevNull)
	return err == nil && os.SameFile(is, null)
}

// MayBeClosed reports whether the output was closed when the program began, or a program discards it: Go's
// runtime opens /dev/null for reading and writing in the place of a closed one, as many programs do for a child
// whose output they ignore. A shell's >/dev/null is open for writing alone.
func (o *Output) MayBeClosed() bool {
	f, ok := o.Raw.(*os.File)
	if !ok || !o.Discards() {
		return false
	}
	flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	return err != nil || flags&unix.O_ACCMODE == unix.O_RDWR
}

// NewOutput returns an Output that writes to w.
func NewOutput(w io.Writer) *Output {
	o := &Output{Raw: w}
	o.Plain = plainWriter{o}
	o.Text, o.JSON = NewSafeWriter(o.Plain), NewSafeJSONWriter(o.Plain)
	return o
}

// Write prints text for people, made safe for a terminal.
func (o *Output) Write(p []byte) (int, error) {
	if o.Err != nil {
		return 0, o.Err
	}
	n, err := o.Text.Write(p)
	o.Err = err
	return n, err
}

// Printf prints a line, or several, of text for people.
func (o *Output) Printf(format string, args ...any) {
	_, _ = io.WriteString(o, o.Redacted(fmt.Sprintf(format, args...))+"\n")
}

// Document prints v as one indented JSON document.
func (o *Output) Document(v any) error {
	return o.encode(v, "  ")
}

// Record prints v as JSON on one line, in one write.
func (o *Output) Record(v any) error {
	return o.encode(v, "")
}

func (o *Output) encode(v any, indent string) error {
	if o.Err != nil {
		return o.Err
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", indent)
	err := enc.Encode(v)
	if err == nil {
		doc := b.Bytes()
		if !o.Revealed {
			doc = redact.Document(doc)
		}
		_, err = o.JSON.Write(doc)
	}
	if err != nil {
		o.Err = err
		return fmt.Errorf("print JSON: %w", err)
	}
	return nil
}
