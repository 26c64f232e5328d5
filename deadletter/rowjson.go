package deadletter

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
	b = appendText(append(b, `,"state":`...), string(j.State))
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
	// Outside of its texts only; in them these two are escaped.
	var line bytes.Buffer
	if json.Compact(&line, raw) != nil {
		return append(b, null...)
	}
	return append(b, line.Bytes()...)
}
