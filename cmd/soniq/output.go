package main

import (
	"encoding/json"
	"fmt"
	"io"
)

// output is standard output or standard error. Its first write error sticks,
// so that commands print without looking and run reports it once: 'list' to a
// full disk must not exit 0.
type output struct {
	raw  io.Writer
	text *safeWriter
	json *safeWriter
	err  error
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
	_, _ = fmt.Fprintf(o, format+"\n", args...)
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
	enc := json.NewEncoder(o.json)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", indent)
	if err := enc.Encode(v); err != nil {
		o.err = err
		return fmt.Errorf("print JSON: %w", err)
	}
	return nil
}
