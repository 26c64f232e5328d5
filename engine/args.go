package engine

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"soniq/internal/pg"
)

// encodeArgs encodes args as the JSON object that is stored. What jsonb would refuse is
// an error here, which can say what is wrong.
func encodeArgs(args any, limit int) (json.RawMessage, error) {
	raw, err := marshal(args)
	if err != nil {
		return nil, &ArgumentError{"args", "can't be JSON: " + err.Error()}
	}
	if len(raw) > limit {
		return nil, &ArgumentError{"args", fmt.Sprintf(
			"are %d bytes, over the limit of %d; store large data elsewhere and enqueue a reference to it", len(raw), limit)}
	}
	if err := checkJSON(raw); err != nil {
		return nil, &ArgumentError{"args", err.Error()}
	}
	if trimmed := bytes.TrimLeft(raw, " \t\r\n"); trimmed[0] != '{' {
		return nil, &ArgumentError{"args", `must be a JSON object, such as {"user_id": 42}, not ` + jsonKind(trimmed[0])}
	}
	return raw, nil
}

// marshal is [json.Marshal] without the escapes of <, > and &. Raw JSON is returned as
// it is.
func marshal(v any) (json.RawMessage, error) {
	switch v := v.(type) {
	case nil:
		return json.RawMessage("{}"), nil
	case json.RawMessage:
		return v, nil
	case []byte:
		return v, nil
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}

func jsonKind(first byte) string {
	switch first {
	case '[':
		return "an array"
	case '"':
		return "a string"
	case 't', 'f':
		return "a boolean"
	case 'n':
		return "null"
	default:
		return "a number"
	}
}

// checkJSON returns an error for what can't be stored as jsonb: a syntax error, or
// what [pg.CheckJSON] finds. encoding/json accepts the latter and replaces it
// without an error.
func checkJSON(raw []byte) error {
	if len(bytes.TrimSpace(raw)) == 0 {
		return errors.New("are empty; write {} for none")
	}
	if !utf8.Valid(raw) {
		return errors.New("are not valid UTF-8")
	}
	if !json.Valid(raw) {
		return errors.New("are not valid JSON: " + syntaxError(raw))
	}
	if unstorable := (*pg.UnstorableError)(nil); errors.As(pg.CheckJSON(raw), &unstorable) {
		return errors.New("contain " + unstorable.What + ", which can't be stored")
	}
	return nil
}

func syntaxError(raw []byte) string {
	var v any
	err := json.Unmarshal(raw, &v)
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return fmt.Sprintf("%s (at byte %d)", strings.TrimPrefix(syntax.Error(), "json: "), syntax.Offset)
	}
	return "unknown error"
}

// unknownFieldError says that the arguments have a field which the handler's type hasn't,
// and nothing else against them. A producer that is deployed first sends those: a worker
// of the next release knows the field, so the job waits for one.
type unknownFieldError struct {
	field   string // quoted
	attempt int
}

func (e *unknownFieldError) Error() string { return "field " + e.field + ": not known to this job" }

// Permanent makes the job be tried again, whatever the handler's rules say of its errors.
func (e *unknownFieldError) Permanent() bool { return false }

// RetryAfter is 1, 2, 4 ... minutes, at most an hour: three retries last for a deployment,
// and for the grace that a job has whose name nobody knows.
func (e *unknownFieldError) RetryAfter() time.Duration {
	return min(time.Minute<<min(max(e.attempt-1, 0), 6), time.Hour)
}

// decodeArgs decodes raw into args, strictly unless unknown fields are allowed. Its error
// names the field; that of an unknown one, where all else is right, is an
// [*unknownFieldError]. Numbers that become an interface value keep all their digits.
func decodeArgs[T any](raw json.RawMessage, args *T, allowUnknown bool) error {
	err := decodeInto(raw, args, !allowUnknown)
	if err == nil {
		return nil // and allocate nothing
	}
	var unknown *unknownFieldError
	if errors.As(err, &unknown) {
		var others T
		if err := decodeInto(raw, &others, false); err != nil {
			// As text: this is final.
			return fmt.Errorf("%s; %w", unknown.Error(), err)
		}
	}
	return err
}

func decodeInto[T any](raw json.RawMessage, args *T, strict bool) error {
	if string(bytes.TrimSpace(raw)) == "null" {
		// encoding/json accepts null and changes nothing: a pointer would stay nil.
		return errors.New("arguments: want a JSON object, got null")
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	if strict {
		dec.DisallowUnknownFields()
	}
	dec.UseNumber()
	if err := dec.Decode(args); err != nil {
		return describeDecodeError(err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("arguments: more than one JSON value")
	}
	v, ok := any(args).(Validator)
	if !ok {
		// T may be a pointer or an interface that has the method.
		v, ok = any(*args).(Validator)
	}
	if ok {
		return v.Validate()
	}
	return nil
}

func describeDecodeError(err error) error {
	var mismatch *json.UnmarshalTypeError
	if errors.As(err, &mismatch) {
		field := mismatch.Field
		if field == "" {
			return fmt.Errorf("arguments: want %s, got a JSON %s", mismatch.Type, mismatch.Value)
		}
		return fmt.Errorf("field %q: want %s, got a JSON %s", field, mismatch.Type, mismatch.Value)
	}
	// The decoder has no type for the error of an unknown field.
	if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		return &unknownFieldError{field: name}
	}
	return fmt.Errorf("arguments: %w", err)
}

// checkText returns an *ArgumentError if s can't be a name in the database.
func checkText(field, s string) error {
	switch {
	case s == "":
		return &ArgumentError{field, "must not be empty"}
	case !utf8.ValidString(s):
		return &ArgumentError{field, "must be valid UTF-8"}
	case strings.ContainsRune(s, 0):
		return &ArgumentError{field, "must not contain a NUL byte"}
	}
	return nil
}
