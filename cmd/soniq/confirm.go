package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
)

// confirm asks before a bulk command, unless the person said --yes. Without a
// terminal there is nobody to ask.
func (a *app) confirm(yes bool, question string) error {
	if yes {
		return nil
	}
	if !a.stdinIsTTY {
		return usagef("%s Nobody is there to confirm it: add --yes", question)
	}
	return a.ask(question + " Continue?")
}

// ask returns nil if the person at the terminal says yes.
func (a *app) ask(question string) error {
	_, _ = fmt.Fprintf(a.notes, "%s [y/N] ", a.notes.redacted(question))
	answer := make(chan string, 1)
	// A read from a terminal can't be cancelled: after Ctrl-C this goroutine
	// ends with the process.
	go func() {
		answer <- strings.ToLower(strings.TrimSpace(readLine(a.stdin)))
	}()
	select {
	case <-a.ctx.Done():
		a.note("")
		return a.ctx.Err()
	case text := <-answer:
		if text == "y" || text == "yes" {
			return nil
		}
		return errors.New("aborted; nothing was changed")
	}
}

// readLine reads up to the end of a line and no further: what follows may be the
// answer to another question.
func readLine(r io.Reader) string {
	var line []byte
	for one := make([]byte, 1); ; {
		n, err := r.Read(one)
		if n == 1 {
			if one[0] == '\n' {
				return string(line)
			}
			// Longer than any answer.
			if len(line) < 100 {
				line = append(line, one[0])
			}
		}
		if err != nil {
			return string(line)
		}
	}
}
