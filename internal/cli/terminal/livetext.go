package terminal

import (
	"bytes"
	"sync"
)

// LiveText prints what another program writes, line by line and without secrets.
// The lines of a private key are held until it ends, since no line alone can be
// recognised.
type LiveText struct {
	To *Output

	mu   sync.Mutex
	held []byte
}

// maxHeld bounds what is held, in bytes: more than any key has.
const maxHeld = 64 << 10

// Write implements [io.Writer].
func (l *LiveText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held = append(l.held, p...)
	whole := bytes.LastIndexByte(l.held, '\n') + 1
	if begin := bytes.LastIndex(l.held[:whole], []byte("-----BEGIN ")); begin >= 0 && !bytes.Contains(l.held[begin:whole], []byte("-----END ")) {
		whole = bytes.LastIndexByte(l.held[:begin], '\n') + 1
	}
	if len(l.held) > maxHeld {
		whole = len(l.held)
	}
	l.print(whole)
	return len(p), l.To.Err
}

// End prints what is left.
func (l *LiveText) End() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.print(len(l.held))
}

func (l *LiveText) print(n int) {
	if n > 0 {
		_, _ = l.To.Write([]byte(l.To.Redacted(string(l.held[:n]))))
		l.held = append(l.held[:0], l.held[n:]...)
	}
}
