package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"soniq/internal/input"
)

// mostStored is more than PostgreSQL stores as jsonb.
const mostStored = 256 << 20

// readArgs reads the arguments, of at most so many bytes, from where the flag
// --args says. What they are is the client's to judge.
func readArgs(a *app, text string, most int) (args json.RawMessage, err error) {
	name := "standard input"
	switch {
	case text == "-" || text == "@-":
		if a.stdinIsTTY {
			a.note("A JSON object; Ctrl-D ends the input.")
		}
		args, err = input.ReadAll(a.ctx, a.stdin, most)
	case strings.HasPrefix(text, "@"):
		name = text[1:]
		args, err = input.ReadFile(a.ctx, name, most)
	default:
		return json.RawMessage(text), nil
	}
	var long *input.TooLongError
	var path *fs.PathError
	switch {
	case errors.As(err, &long):
		return nil, usagef("--args: %s is longer than %d bytes, more than the arguments may have", oneLine(name), long.Most)
	case errors.As(err, &path):
		return nil, usagef("--args: %w", err)
	case err != nil:
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return args, nil
}

// mostArgs bounds what is read as the arguments of a replay, in bytes: endless
// input must not fill the memory before it is refused. It is that of a record of
// an import, with which a dead letter came back.
const mostArgs = 64 << 20
