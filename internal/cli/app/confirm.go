package app

import (
	"errors"
	"fmt"
	"io"
	"strings"
)

// Confirm asks before a bulk command, unless --yes was given. Without a terminal it
// is a usage error.
func (a *App) Confirm(yes bool, question string) error {
	if yes {
		return nil
	}
	if !a.StdinIsTTY {
		return Usagef("%s Nobody is there to confirm it: add --yes", question)
	}
	return a.Ask(question + " Continue?")
}

// Ask asks at the terminal, and returns nil if the answer is yes.
func (a *App) Ask(question string) error {
	_, _ = fmt.Fprintf(a.Notes, "%s [y/N] ", a.Notes.Redacted(question))
	answer := make(chan string, 1)
	// A read from a terminal can't be cancelled: after Ctrl-C this goroutine
	// ends with the process.
	go func() {
		answer <- strings.ToLower(strings.TrimSpace(readLine(a.Stdin)))
	}()
	select {
	case <-a.Ctx.Done():
		a.Note("")
		return errors.New("interrupted; nothing was changed")
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
