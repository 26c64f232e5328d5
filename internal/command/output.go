package command

import (
	"bytes"
	"strings"

	"soniq/internal/redact"
)

// CutOff is put where the beginning of an output was dropped.
const CutOff = "...\n"

// Head keeps the first Limit bytes written to it.
type Head struct {
	// Limit is in bytes. Default 0, which keeps nothing.
	Limit int
	// More says that more than Limit bytes were written.
	More bool
	buf  bytes.Buffer
}

// Write implements [io.Writer]. It always succeeds.
func (h *Head) Write(p []byte) (int, error) {
	room := h.Limit - h.buf.Len()
	if len(p) > room {
		h.More = true
	}
	h.buf.Write(p[:min(len(p), room)])
	return len(p), nil
}

// Bytes returns what was kept.
func (h *Head) Bytes() []byte { return h.buf.Bytes() }

// Tail keeps the last Limit bytes written to it.
type Tail struct {
	// Limit is in bytes. Default 0, which keeps nothing.
	Limit int
	buf   []byte
	cut   bool
}

// Write implements [io.Writer]. It always succeeds.
func (t *Tail) Write(p []byte) (int, error) {
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - t.Limit; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
		t.cut = true
	}
	return len(p), nil
}

// String returns the text without space around it. If its beginning was dropped, it
// begins with [CutOff] and a whole line, if there is one.
func (t *Tail) String() string {
	text := string(t.buf)
	if t.cut {
		if _, rest, found := strings.Cut(text, "\n"); found && rest != "" {
			text = rest
		} else {
			// Half a token is not recognised as a secret, so none is kept.
			text = redact.LaterHalf(text, 0)
		}
		text = CutOff + text
	}
	return strings.TrimSpace(text)
}
