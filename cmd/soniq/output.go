package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"soniq/internal/redact"
)

// output is standard output or standard error. Its first write error sticks,
// so that commands print without looking and run reports it once: 'list' to a
// full disk must not exit 0.
//
// What it prints has no secrets in it, unless a command has revealed them: what
// a command forgot to redact is redacted here. A command does it before it lays
// out a text, of which only a part may be shown. Write is for what this program
// itself has to say, such as its help.
type output struct {
	raw  io.Writer
	text *safeWriter
	json *safeWriter
	err  error
	// colour: a person's terminal shows it, and they want it.
	colour bool
	// revealed: secrets are shown.
	revealed bool
}

// redacted is s as it is shown.
func (o *output) redacted(s string) string {
	if o.revealed {
		return s
	}
	return redact.Text(s)
}

// reveal shows secrets from now on.
func (o *output) reveal() { o.revealed = true }

// A style is what a terminal is told before a text, without the escape that
// introduces it and the letter that ends it. Empty is none.
type style string

const (
	bold    style = "1"
	faint   style = "2"
	red     style = "31"
	green   style = "32"
	yellow  style = "33"
	blue    style = "34"
	magenta style = "35"
	cyan    style = "36"
)

// A span is a part of a line in one style.
type span struct {
	text  string
	style style
}

// spans prints texts in their styles, or plainly where there is no colour. The
// texts are made safe all the same: no escape but ours reaches the terminal.
func (o *output) spans(spans ...span) error {
	if o.err != nil {
		return o.err
	}
	var b bytes.Buffer
	safe := newSafeWriter(&b)
	for _, s := range spans {
		styled := o.colour && s.style != "" && s.text != ""
		if styled {
			b.WriteString("\x1b[" + string(s.style) + "m")
		}
		_, _ = safe.Write([]byte(o.redacted(s.text)))
		if styled {
			b.WriteString("\x1b[0m")
		}
	}
	_, o.err = o.raw.Write(b.Bytes())
	return o.err
}

// flush returns the error of what was printed so far. Of a file it asks the
// system to write it out: a full disk can tell as late as that.
func (o *output) flush() error {
	if o.err != nil {
		return fmt.Errorf("write standard output: %w", o.err)
	}
	if f, ok := o.raw.(interface{ Sync() error }); ok {
		err := f.Sync()
		// What is no file says that it can't.
		if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EIO) {
			o.err = err
			return fmt.Errorf("write standard output: %w", err)
		}
	}
	return nil
}

// discards reports whether nobody gets what is printed. A standard output that was
// closed is /dev/null as well: Go's runtime opens that in its place, and each
// write succeeds.
func (o *output) discards() bool {
	f, ok := o.raw.(*os.File)
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

func newOutput(w io.Writer) *output {
	o := &output{raw: w}
	o.text, o.json = newSafeWriter(w), newSafeJSONWriter(w)
	return o
}

// Write prints text for people, made safe for a terminal.
func (o *output) Write(p []byte) (int, error) {
	if o.err != nil {
		return 0, o.err
	}
	n, err := o.text.Write(p)
	o.err = err
	return n, err
}

// printf prints a line, or several, of text for people.
func (o *output) printf(format string, args ...any) {
	_, _ = io.WriteString(o, o.redacted(fmt.Sprintf(format, args...))+"\n")
}

// document prints v as one indented JSON document.
func (o *output) document(v any) error {
	return o.encode(v, "  ")
}

// record prints v as JSON on one line, in one write.
func (o *output) record(v any) error {
	return o.encode(v, "")
}

func (o *output) encode(v any, indent string) error {
	if o.err != nil {
		return o.err
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", indent)
	err := enc.Encode(v)
	if err == nil {
		doc := b.Bytes()
		if !o.revealed {
			doc = redact.Document(doc)
		}
		_, err = o.json.Write(doc)
	}
	if err != nil {
		o.err = err
		return fmt.Errorf("print JSON: %w", err)
	}
	return nil
}
