package recordfile

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"soniq/internal/jsondoc"
)

const null = "null"

func appendInt(b []byte, n int) []byte { return strconv.AppendInt(b, int64(n), 10) }

func appendXID(b []byte, xid *uint64) []byte {
	if xid == nil {
		return append(b, null...)
	}
	return strconv.AppendUint(b, *xid, 10)
}

func appendID(b []byte, id *uuid.UUID) []byte {
	if id == nil {
		return append(b, null...)
	}
	b = append(b, '"')
	b = appendPlainID(b, id)
	return append(b, '"')
}

func appendPlainID(b []byte, id *uuid.UUID) []byte {
	b = append(hex.AppendEncode(b, id[:4]), '-')
	b = append(hex.AppendEncode(b, id[4:6]), '-')
	b = append(hex.AppendEncode(b, id[6:8]), '-')
	b = append(hex.AppendEncode(b, id[8:10]), '-')
	return hex.AppendEncode(b, id[10:])
}

// appendTime is for the years that a record has, 1 to 9999, in UTC.
func appendTime(b []byte, t *time.Time) []byte {
	if t == nil {
		return append(b, null...)
	}
	b = appendTimeText(append(b, '"'), t.UTC())
	return append(b, '"')
}

func appendTextOrNull(b []byte, s *string) []byte {
	if s == nil {
		return append(b, null...)
	}
	return appendText(b, *s)
}

func appendText(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			return appendEscaped(b, s)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}

func appendEscaped(b []byte, s string) []byte {
	b, _ = jsondoc.Append(b, s) // a string always has a JSON
	return b
}

// appendRaw appends what is JSON already, on one line.
func appendRaw(b []byte, raw []byte) []byte {
	switch {
	case raw == nil:
		return append(b, null...)
	case bytes.IndexByte(raw, '\n') < 0 && bytes.IndexByte(raw, '\r') < 0:
		return append(b, raw...)
	}
	// Outside of its texts only; in them these two are escaped. json.Compact gives up at a
	// depth of 10,000.
	from := len(b)
	b = append(b, raw...)
	for i := from; i < len(b); i++ {
		if b[i] == '\n' || b[i] == '\r' {
			b[i] = ' '
		}
	}
	return b
}

// NotNull returns JSON, and nil for a null: a file writes both the same.
func NotNull(doc []byte) json.RawMessage {
	if string(doc) == null {
		return nil
	}
	return doc
}
