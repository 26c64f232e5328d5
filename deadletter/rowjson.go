package deadletter

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
)

// appendJob appends the JSON of a dead letter, on one line. It is what
// encoding/json makes of a Job, and takes a quarter of the time: an export
// spends most of its time here. failures is the history, in the place of
// j.Errors. It isn't HTML: who greps for "<" in an error should find it.
func appendJob(b []byte, j *Job, failures []byte) []byte {
	b = appendID(append(b, `{"id":`...), &j.ID)
	b = appendText(append(b, `,"job_name":`...), j.JobName)
	b = appendRaw(append(b, `,"args":`...), j.Args)
	b = appendText(append(b, `,"queue":`...), j.Queue)
	b = appendInt(append(b, `,"priority":`...), j.Priority)
	b = appendInt(append(b, `,"max_attempts":`...), j.MaxAttempts)
	b = appendInt(append(b, `,"attempts":`...), j.Attempts)
	b = appendText(append(b, `,"last_error":`...), j.LastError)
	b = appendText(append(b, `,"dead_letter_reason":`...), string(j.Reason))
	b = appendTime(append(b, `,"original_created_at":`...), &j.OriginalCreatedAt)
	b = appendTime(append(b, `,"moved_to_dead_letter_at":`...), &j.MovedAt)
	b = appendInt(append(b, `,"resurrection_count":`...), j.ResurrectionCount)
	b = appendTime(append(b, `,"last_resurrection_at":`...), j.LastResurrectionAt)
	b = appendRaw(append(b, `,"tags":`...), j.Tags)
	b = appendText(append(b, `,"state":`...), j.State)
	b = appendID(append(b, `,"replay_job_id":`...), j.ReplayJobID)
	b = appendID(append(b, `,"replay_of":`...), j.ReplayOf)
	b = appendText(append(b, `,"error_kind":`...), string(j.ErrorKind))
	b = appendText(append(b, `,"error_type":`...), j.ErrorType)
	b = appendText(append(b, `,"error_code":`...), j.ErrorCode)
	b = appendText(append(b, `,"decided_by":`...), j.DecidedBy)
	b = appendText(append(b, `,"fingerprint":`...), j.Fingerprint)
	b = appendTextOrNull(append(b, `,"args_hash":`...), j.ArgsHash)
	b = strconv.AppendBool(append(b, `,"unique_job":`...), j.UniqueJob)
	b = appendTextOrNull(append(b, `,"dedup_key":`...), j.DedupKey)
	b = appendTextOrNull(append(b, `,"producer_id":`...), j.ProducerID)
	b = appendID(append(b, `,"worker_id":`...), j.WorkerID)
	b = appendTime(append(b, `,"scheduled_at":`...), j.ScheduledAt)
	b = appendXID(append(b, `,"moved_xid":`...), j.MovedXID)
	b = appendTime(append(b, `,"created_at":`...), j.CreatedAt)
	b = appendRaw(append(b, `,"errors":`...), failures)
	return append(b, '}')
}

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

// appendTime is for the years that a Job has, 1 to 9999.
func appendTime(b []byte, t *time.Time) []byte {
	if t == nil {
		return append(b, null...)
	}
	b = append(b, '"')
	b = t.AppendFormat(b, time.RFC3339Nano)
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
	var text bytes.Buffer
	_ = encodeTo(&text, s) // a string always has a JSON
	return append(b, text.Bytes()...)
}

// appendRaw appends what is JSON already, on one line.
func appendRaw(b []byte, raw []byte) []byte {
	switch {
	case raw == nil:
		return append(b, null...)
	case bytes.IndexByte(raw, '\n') < 0 && bytes.IndexByte(raw, '\r') < 0:
		return append(b, raw...)
	}
	// Outside of its texts only; in them these two are escaped.
	var line bytes.Buffer
	if json.Compact(&line, raw) != nil {
		return append(b, null...)
	}
	return append(b, line.Bytes()...)
}

// failuresJSON is the JSON of DecodeFailures of the column 'errors', nil for
// none. Where the two mean the same it is the column itself.
func failuresJSON(column []byte) []byte {
	if len(column) == 0 {
		return nil
	}
	if areFailures(column) {
		return column
	}
	return encodeFailures(DecodeFailures(column))
}

func encodeFailures(failures []Failure) []byte {
	if failures == nil {
		return nil
	}
	var text bytes.Buffer
	if encodeTo(&text, failures) != nil {
		return nil // a year beyond 9999
	}
	return text.Bytes()
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
