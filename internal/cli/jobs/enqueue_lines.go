package jobs

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"
	"unicode/utf8"

	"soniq/engine"
	"soniq/internal/cli/app"
	"soniq/internal/input"
	"soniq/internal/unit"
)

// lineFields are the fields of a line, for a person who misspelt one.
const lineFields = "job_name (or name), args, queue, priority, max_attempts, delay, scheduled_at, unique, dedup_key, traceparent and tracestate"

// orderLine is one line of --from as it stands there.
type orderLine struct {
	JobName     *string         `json:"job_name"`
	Name        *string         `json:"name"`
	Args        json.RawMessage `json:"args"`
	Queue       *string         `json:"queue"`
	Priority    *int            `json:"priority"`
	MaxAttempts *int            `json:"max_attempts"`
	Delay       *string         `json:"delay"`
	ScheduledAt *string         `json:"scheduled_at"`
	Unique      *bool           `json:"unique"`
	DedupKey    *string         `json:"dedup_key"`
	Traceparent *string         `json:"traceparent"`
	Tracestate  *string         `json:"tracestate"`
}

// parseLine reads a line over the defaults o. The error completes a sentence
// that begins with the line. What the values may be is the client's to judge.
func parseLine(text []byte, o order) (order, error) {
	var line orderLine
	if err := decodeLine(text, &line); err != nil {
		return o, err
	}
	switch {
	case line.JobName != nil && line.Name != nil:
		return o, errors.New("job_name and name are the same: give one of them")
	case line.JobName != nil:
		o.name = *line.JobName
	case line.Name != nil:
		o.name = *line.Name
	case o.name == "":
		return o, errors.New("job_name is missing, and the command names no job either")
	}
	if line.Args != nil {
		o.args = line.Args
	}
	over(&o.queue, line.Queue)
	over(&o.priority, line.Priority)
	over(&o.maxAttempts, line.MaxAttempts)
	over(&o.dedupKey, line.DedupKey)
	if line.Traceparent == nil && line.Tracestate != nil {
		return o, errors.New("tracestate goes with traceparent: give both")
	}
	if line.Traceparent != nil {
		state := ""
		if line.Tracestate != nil {
			state = *line.Tracestate
		}
		// It comes from elsewhere: an invalid one is none.
		o.trace = engine.NewTraceContext(*line.Traceparent, state)
	}
	if line.Unique != nil {
		o.unique = *line.Unique
	}
	switch {
	case line.Delay != nil && line.ScheduledAt != nil:
		return o, errors.New("delay and scheduled_at exclude each other")
	case line.Delay != nil:
		delay, err := unit.ParseDuration(*line.Delay)
		if err != nil {
			return o, fmt.Errorf("delay %w", err)
		}
		o.delay, o.at = &delay, nil
	case line.ScheduledAt != nil:
		at, err := unit.ParseTime(*line.ScheduledAt)
		var clock *unit.ClockError
		if errors.As(err, &clock) {
			return o, fmt.Errorf("scheduled_at: %w", clock)
		}
		if err != nil {
			return o, fmt.Errorf(`scheduled_at must be a time such as "2006-01-02T15:04:05Z", not %q`, *line.ScheduledAt)
		}
		o.delay, o.at = nil, &at.Time
	}
	return o, nil
}

func over[T any](target **T, value *T) {
	if value != nil {
		*target = value
	}
}

func decodeLine(text []byte, line *orderLine) error {
	text = bytes.TrimSpace(text)
	switch {
	case !utf8.Valid(text):
		return errors.New("not valid UTF-8")
	case text[0] == '[':
		return errors.New("an array, not an object (jq -c '.[]' puts each element of one on a line of its own)")
	case text[0] != '{':
		return errors.New(`not a JSON object such as {"job_name": "emails.send", "args": {"user_id": 42}}`)
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(line); err != nil {
		return describeLineError(err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is something behind the object; each line is one")
	}
	return nil
}

// checkFields refuses a field that a line has twice: the decoder would keep the last
// one. text is a JSON object.
func checkFields(text []byte) error {
	dec := json.NewDecoder(bytes.NewReader(text))
	if _, err := dec.Token(); err != nil {
		return err
	}
	seen := map[string]bool{}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return err
		}
		// The decoder takes names in any case.
		field := strings.ToLower(fmt.Sprint(key))
		if seen[field] {
			return fmt.Errorf("%s is there twice", field)
		}
		seen[field] = true
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return err
		}
	}
	return nil
}

func describeLineError(err error) error {
	var syntax *json.SyntaxError
	var mismatch *json.UnmarshalTypeError
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("not valid JSON: the line ends within the object")
	case errors.As(err, &syntax):
		return fmt.Errorf("not valid JSON: %w (at byte %d)", syntax, syntax.Offset)
	case errors.As(err, &mismatch):
		want := "a string"
		switch mismatch.Type.Kind() {
		case reflect.Int:
			want = "a whole number"
		case reflect.Bool:
			want = "true or false"
		}
		return fmt.Errorf("%s must be %s, not a JSON %s", mismatch.Field, want, mismatch.Value)
	}
	// The decoder's error for an unknown field has no type of its own.
	if field, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		return fmt.Errorf("unknown field %s; a line has %s", field, lineFields)
	}
	return err
}

// lineFile is the input of --from. It is read twice: what can't be read again
// is copied to a temporary file on the first pass.
type lineFile struct {
	ctx   context.Context
	name  string
	limit int // of a line, in bytes

	first io.Reader
	file  *os.File // the second pass
	spool *bufio.Writer
	input *os.File // what is being copied, if it is ours to close
}

// openLines opens path; - is standard input.
func openLines(a *app.App, path string, limit int) (*lineFile, error) {
	l := &lineFile{ctx: a.Ctx, name: path, limit: limit}
	in := a.Stdin
	if path == "-" {
		l.name = "standard input"
	} else {
		f, err := input.Open(a.Ctx, path)
		if a.Ctx.Err() != nil {
			return nil, a.Ctx.Err()
		}
		if err != nil {
			return nil, app.Usagef("--from: %w", err)
		}
		info, err := f.Stat()
		if err == nil && info.IsDir() {
			err = fmt.Errorf("%s is a folder", path)
		}
		if err != nil {
			_ = f.Close()
			return nil, app.Usagef("--from: %w", err)
		}
		if info.Mode().IsRegular() {
			l.first, l.file = input.Regular(a.Ctx, f), f
			return l, nil
		}
		l.input, in = f, f
	}
	spool, err := os.CreateTemp("", "soniq-enqueue-")
	if err == nil {
		// Nobody needs its name, and without one nothing can be left behind.
		err = os.Remove(spool.Name())
	}
	if err != nil {
		return nil, fmt.Errorf("copy %s: %w", l.name, err)
	}
	l.file, l.spool = spool, bufio.NewWriter(spool)
	l.first = io.TeeReader(input.Stream(a.Ctx, in), l.spool)
	return l, nil
}

func (l *lineFile) close() {
	_ = l.file.Close()
	if l.input != nil {
		_ = l.input.Close()
	}
}

// again makes each read the input from its beginning.
func (l *lineFile) again() error {
	if l.spool != nil {
		if err := l.spool.Flush(); err != nil {
			return fmt.Errorf("copy %s: %w", l.name, err)
		}
	}
	if _, err := l.file.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("read %s again: %w", l.name, err)
	}
	l.first = input.Regular(l.ctx, l.file)
	return nil
}

// each calls do with every line that isn't blank and its number, from 1 on. A
// line over the limit comes cut, with tooLong set. text is valid until do
// returns.
func (l *lineFile) each(do func(number int, text []byte, tooLong bool) error) error {
	in := bufio.NewReaderSize(l.first, 64<<10)
	if mark, err := in.Peek(2); err == nil && input.IsUTF16(mark) {
		return app.Usagef("%s: %w", l.name, input.ErrUTF16)
	}
	// What some editors put before the first character.
	if mark, err := in.Peek(3); err == nil && string(mark) == "\ufeff" {
		_, _ = in.Discard(3)
	}
	var text []byte
	for number := 1; ; number++ {
		text = text[:0]
		tooLong, passed := false, 0
		var err error
		for {
			var part []byte
			part, err = in.ReadSlice('\n')
			if tooLong = tooLong || len(text)+len(part) > l.limit; tooLong {
				// Not a file of lines: it has to end, or it fills the disk.
				if passed += len(part); passed > app.MostStored {
					return app.Usagef("%s: line %d has no end within %d bytes; nothing was enqueued", l.name, number, app.MostStored)
				}
			} else {
				text = append(text, part...)
			}
			if !errors.Is(err, bufio.ErrBufferFull) {
				break
			}
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("read %s: %w", l.name, err)
		}
		if tooLong || len(bytes.TrimSpace(text)) > 0 {
			if err := do(number, text, tooLong); err != nil {
				return err
			}
		}
		if err != nil {
			return nil
		}
	}
}
