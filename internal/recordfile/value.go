package recordfile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"soniq/internal/jsondoc"
)

var (
	errNUL    = errors.New("it has a NUL, which can't be stored")
	errNoJSON = errors.New("not valid JSON")
)

// An assignment reads the values of a record into its fields.
type assignment struct {
	// exact are the columns whose field doesn't have the value exactly, as PostgreSQL writes it.
	exact map[string]string
}

// assign reads a JSON value, which is not null unless it is the arguments, into a field of a
// Record.
func (a *assignment) assign(name string, field any, raw json.RawMessage) (err error) {
	switch v := field.(type) {
	case *string:
		*v, err = assignText(raw)
	case **string:
		var s string
		s, err = assignText(raw)
		*v = &s
	case *int:
		*v, err = assignInt(raw)
	case **int:
		var n int
		n, err = assignInt(raw)
		*v = &n
	case **uint64:
		*v, err = assignXID(raw)
	case **bool:
		*v, err = assignBool(raw)
	case *time.Time:
		*v, err = a.time(name, raw)
	case **time.Time:
		err = a.optionalTime(name, v, raw)
	case *uuid.UUID:
		*v, err = assignID(raw)
	case **uuid.UUID:
		var id uuid.UUID
		id, err = assignID(raw)
		*v = &id
	case *json.RawMessage:
		// What is JSON in a file of JSON is valid, and cells of CSV were looked at.
		if *v = raw; name == "tags" {
			a.tags(v, raw)
		}
	default:
		err = fmt.Errorf("no column is a %T", field)
	}
	return err
}

// tags reads those of Python Soniq, a text that holds an object, as the object.
func (a *assignment) tags(v *json.RawMessage, raw json.RawMessage) {
	if *v = jsondoc.Inner(raw); bytes.Equal(*v, jsonNull) {
		*v = nil
	}
}

func assignText(raw json.RawMessage) (s string, err error) {
	if raw[0] == plainText {
		return string(raw[1:]), nil
	}
	if inner := plainString(raw); inner != nil {
		return string(inner), nil
	}
	if json.Unmarshal(raw, &s) != nil {
		return "", fmt.Errorf("%s is not a text", shown(raw))
	}
	if strings.IndexByte(s, 0) >= 0 {
		return "", errNUL
	}
	return s, nil
}

// plainString returns what is between the quotes of valid JSON, if that is a string without
// escapes, else nil.
func plainString(raw json.RawMessage) []byte {
	if len(raw) < 2 || raw[0] != '"' || bytes.IndexByte(raw, '\\') >= 0 {
		return nil
	}
	return raw[1 : len(raw)-1]
}

// scalar returns what a number, a boolean, a time or an id is written as: with quotes or without,
// since CSV has no types.
func scalar(raw json.RawMessage) string {
	if len(raw) > 6*MaxTextBytes {
		return ""
	}
	if inner := plainString(raw); inner != nil {
		return strings.TrimSpace(string(inner))
	}
	s := string(raw)
	if strings.HasPrefix(s, `"`) && json.Unmarshal(raw, &s) != nil {
		return ""
	}
	return strings.TrimSpace(s)
}

// assignInt reads an integer, also one that a program has made a floating-point number of: 3.0.
func assignInt(raw json.RawMessage) (int, error) {
	s := scalar(raw)
	n, err := strconv.ParseInt(s, 10, 32)
	if err == nil {
		return int(n), nil
	}
	if f, ok := wholeFloat(s); ok && f >= math.MinInt32 && f <= math.MaxInt32 {
		return int(f), nil
	}
	return 0, fmt.Errorf("%s is not a whole number of 32 bits", shown(raw))
}

func assignXID(raw json.RawMessage) (*uint64, error) {
	s := scalar(raw)
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		f, ok := wholeFloat(s)
		if !ok || f < 0 || f >= math.MaxUint64 {
			return nil, fmt.Errorf("%s is not a transaction number", shown(raw))
		}
		n = uint64(f)
	}
	return &n, nil
}

// wholeFloat reads a floating-point number without a fraction.
func wholeFloat(s string) (float64, bool) {
	if s == "" || strings.Trim(s, "0123456789.eE+-") != "" {
		return 0, false
	}
	f, err := strconv.ParseFloat(s, 64)
	return f, err == nil && f == math.Trunc(f)
}

func assignBool(raw json.RawMessage) (*bool, error) {
	var b bool
	switch strings.ToLower(scalar(raw)) {
	case "true", "t", "1", "1.0":
		b = true
	case "false", "f", "0", "0.0":
	default:
		return nil, fmt.Errorf("%s is neither true nor false", shown(raw))
	}
	return &b, nil
}

// uuidLength is that of a UUID as text.
const uuidLength = 36

func assignID(raw json.RawMessage) (uuid.UUID, error) {
	if inner := plainString(raw); len(inner) == uuidLength {
		if id, err := uuid.ParseBytes(inner); err == nil {
			return id, nil
		}
	}
	id, err := uuid.Parse(scalar(raw))
	if err != nil {
		return id, fmt.Errorf("%s is not a UUID", shown(raw))
	}
	return id, nil
}
