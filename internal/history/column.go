package history

import (
	"bytes"
	"time"

	"github.com/google/uuid"

	"soniq/deadletter/classify"
	"soniq/internal/jsondoc"
)

// Canonical returns the JSON of what [Decode] reads from the column 'errors', nil
// for no history. It is the column itself where that has only entries of ours,
// which saves decoding it.
func Canonical(column []byte) []byte {
	if len(column) == 0 {
		return nil
	}
	if areFailures(column) {
		return column
	}
	return Encode(Decode(column))
}

// Encode returns a history as JSON, without escapes for HTML. It returns nil for no
// history, and for one with a year beyond 9999.
func Encode(failures []classify.Failure) []byte {
	if failures == nil {
		return nil
	}
	text, err := jsondoc.Append(nil, failures)
	if err != nil {
		return nil
	}
	return text
}

// areFailures reports whether the column 'errors' has entries of ours alone, in
// the form that PostgreSQL gives jsonb: then nothing is lost by taking it as it
// is. It says no where it isn't sure.
func areFailures(column []byte) bool {
	rest, ok := bytes.CutPrefix(column, []byte("[{"))
	for ok {
		var key, value []byte
		if key, rest, ok = cutText(rest); !ok {
			return false
		}
		if rest, ok = bytes.CutPrefix(rest, []byte(": ")); !ok {
			return false
		}
		if string(key) == "attempt" {
			value, rest, ok = cutDigits(rest)
		} else {
			value, rest, ok = cutText(rest)
		}
		if !ok || !isFailureField(string(key), value) {
			return false
		}
		switch {
		case bytes.HasPrefix(rest, []byte(`, "`)):
			rest = rest[2:]
		case bytes.HasPrefix(rest, []byte("}, {")):
			rest = rest[4:]
		default:
			return string(rest) == "}]"
		}
	}
	return false
}

func isFailureField(key string, value []byte) bool {
	switch key {
	case "attempt", "kind", "type", "code", "decided_by", "message", "stack":
		return true
	case "started_at", "failed_at":
		// Parse takes an hour of one digit and a decimal comma as well.
		_, err := time.Parse(time.RFC3339, string(value))
		return err == nil && value[13] == ':' && value[19] != ','
	case "worker_id":
		_, err := uuid.ParseBytes(value)
		return err == nil && len(value) == 36
	}
	return false
}

// cutText cuts a JSON string off, and returns what is between its quotes.
func cutText(b []byte) (text, rest []byte, ok bool) {
	if len(b) == 0 || b[0] != '"' {
		return nil, b, false
	}
	for i := 1; ; i++ {
		n := bytes.IndexByte(b[i:], '"')
		if n < 0 {
			return nil, b, false
		}
		i += n
		if !escaped(b[1:i]) {
			return b[1:i], b[i+1:], true
		}
	}
}

// escaped reports whether what follows b in a JSON string is escaped: after an
// odd number of backslashes.
func escaped(b []byte) bool {
	n := len(b)
	for n > 0 && b[n-1] == '\\' {
		n--
	}
	return (len(b)-n)%2 == 1
}

// cutDigits cuts a number off that fits into 32 bits for certain.
func cutDigits(b []byte) (digits, rest []byte, ok bool) {
	n := 0
	for n < len(b) && '0' <= b[n] && b[n] <= '9' {
		n++
	}
	return b[:n], b[n:], 0 < n && n < 10
}
