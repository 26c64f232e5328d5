package app

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"soniq/internal/cli/terminal"
	"soniq/internal/input"
)

// MostStored is more than PostgreSQL stores as jsonb.
const MostStored = 256 << 20

// ReadArgs reads the arguments, of at most so many bytes, from where the flag
// --args says. What they are is the client's to judge.
func ReadArgs(a *App, text string, most int) (args json.RawMessage, err error) {
	name := "standard input"
	switch {
	case text == "-" || text == "@-":
		if a.StdinIsTTY {
			a.Note("A JSON object; Ctrl-D ends the input.")
		}
		args, err = input.ReadAll(a.Ctx, a.Stdin, most)
	case strings.HasPrefix(text, "@"):
		name = text[1:]
		args, err = input.ReadFile(a.Ctx, name, most)
	default:
		return json.RawMessage(text), nil
	}
	var long *input.TooLongError
	var path *fs.PathError
	switch {
	case errors.As(err, &long):
		return nil, Usagef("--args: %s is %w, more than the arguments may have", terminal.OneLine(name), long)
	case errors.As(err, &path):
		return nil, Usagef("--args: %w", err)
	case err != nil:
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if input.IsUTF16(args) {
		return nil, Usagef("--args: %s: %w", terminal.OneLine(name), input.ErrUTF16)
	}
	// Some editors begin a file with a byte order mark.
	return bytes.TrimPrefix(args, []byte("\xef\xbb\xbf")), nil
}

// MostArgs bounds what is read as the arguments of a replay, in bytes: endless
// input must not fill the memory before it is refused. It is that of a record of
// an import, with which a dead letter came back.
const MostArgs = 64 << 20
