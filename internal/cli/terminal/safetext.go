package terminal

import (
	"io"

	"soniq/internal/safetext"
)

// Text that a job wrote must not control the terminal that shows it. Package safetext has
// the rules.

// UnsafeRune is [safetext.Unsafe].
func UnsafeRune(r rune) bool { return safetext.Unsafe(r) }

// OneLine is [safetext.OneLine].
func OneLine(s string) string { return safetext.OneLine(s) }

// FirstLine is [safetext.FirstLine].
func FirstLine(s string) string { return safetext.FirstLine(s) }

// ErrorLine is [safetext.ErrorLine].
func ErrorLine(s string) string { return safetext.ErrorLine(s) }

// SafeWriter passes text on with everything that could drive a terminal escaped.
type SafeWriter = safetext.Writer

// NewSafeWriter returns a SafeWriter of text to w.
func NewSafeWriter(w io.Writer) *SafeWriter { return safetext.NewWriter(w) }

// NewSafeJSONWriter is for JSON: escapes are JSON's own, so the document
// means the same.
func NewSafeJSONWriter(w io.Writer) *SafeWriter { return safetext.NewJSONWriter(w) }
