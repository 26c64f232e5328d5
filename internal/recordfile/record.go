package recordfile

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"soniq/deadletter/classify"
	"soniq/internal/history"
	"soniq/internal/jsondoc"
	"soniq/internal/pg"
	"soniq/internal/redact"
)

const (
	// MaxTextBytes limits the texts that are names or codes: an entry of a PostgreSQL
	// index has at most 2,700 bytes.
	MaxTextBytes = 2000
	// maxLastErrorBytes: Python Soniq keeps 8,192 characters of up to four bytes.
	maxLastErrorBytes = 4 * 8192
	// maxHistoryBytes limits the JSON of a job's history: ten entries with texts of
	// the full length, in escapes of six bytes.
	maxHistoryBytes = 1 << 20
	// maxDepth limits how deep arguments and tags may be nested. PostgreSQL's stack
	// ends at some thousands.
	maxDepth = 1000
)

// The states of a dead letter.
const (
	stateDead      = "dead"
	stateReplaying = "replaying"
	stateResolved  = "resolved"
)

// A Record is a dead letter: the columns of soniq_dead_letter_jobs that a file has.
// Texts that are NULL in the database are empty, but for those that are pointers.
type Record struct {
	ID                 uuid.UUID
	JobName            string
	Args               json.RawMessage
	Queue              string
	Priority           int
	MaxAttempts        int
	Attempts           int
	LastError          string
	Reason             classify.Reason
	OriginalCreatedAt  time.Time
	MovedAt            time.Time
	ResurrectionCount  int
	LastResurrectionAt *time.Time
	Tags               json.RawMessage
	State              string
	ReplayJobID        *uuid.UUID
	ReplayOf           *uuid.UUID
	ErrorKind          classify.Kind
	ErrorType          string
	ErrorCode          string
	DecidedBy          string
	Fingerprint        string
	ArgsHash           *string
	UniqueJob          bool
	DedupKey           *string
	ProducerID         *string
	WorkerID           *uuid.UUID
	ScheduledAt        *time.Time
	MovedXID           *uint64
	CreatedAt          *time.Time
	// Errors is the job's history as JSON, nil for none.
	Errors json.RawMessage
}

// header has the names of the columns in a file's order: those of Python Soniq's
// export, then ours.
var header = []string{
	"id", "job_name", "args", "queue", "priority", "max_attempts", "attempts",
	"last_error", "dead_letter_reason", "original_created_at",
	"moved_to_dead_letter_at", "resurrection_count", "last_resurrection_at", "tags",
	"state", "replay_job_id", "replay_of", "error_kind", "error_type", "error_code",
	"decided_by", "fingerprint", "args_hash", "unique_job", "dedup_key", "producer_id",
	"worker_id", "scheduled_at", "moved_xid", "created_at", "errors",
}

// Columns returns the names of the columns in a file's order.
func Columns() []string { return slices.Clone(header) }

// columns returns, for each column of the header, the field that it is read to.
var columns = map[string]func(*Record) any{
	"id":                      func(r *Record) any { return &r.ID },
	"job_name":                func(r *Record) any { return &r.JobName },
	"args":                    func(r *Record) any { return &r.Args },
	"queue":                   func(r *Record) any { return &r.Queue },
	"priority":                func(r *Record) any { return &r.Priority },
	"max_attempts":            func(r *Record) any { return &r.MaxAttempts },
	"attempts":                func(r *Record) any { return &r.Attempts },
	"last_error":              func(r *Record) any { return &r.LastError },
	"dead_letter_reason":      func(r *Record) any { return (*string)(&r.Reason) },
	"original_created_at":     func(r *Record) any { return &r.OriginalCreatedAt },
	"moved_to_dead_letter_at": func(r *Record) any { return &r.MovedAt },
	"resurrection_count":      func(r *Record) any { return &r.ResurrectionCount },
	"last_resurrection_at":    func(r *Record) any { return &r.LastResurrectionAt },
	"tags":                    func(r *Record) any { return &r.Tags },
	"state":                   func(r *Record) any { return &r.State },
	"replay_job_id":           func(r *Record) any { return &r.ReplayJobID },
	"replay_of":               func(r *Record) any { return &r.ReplayOf },
	"error_kind":              func(r *Record) any { return (*string)(&r.ErrorKind) },
	"error_type":              func(r *Record) any { return &r.ErrorType },
	"error_code":              func(r *Record) any { return &r.ErrorCode },
	"decided_by":              func(r *Record) any { return &r.DecidedBy },
	"fingerprint":             func(r *Record) any { return &r.Fingerprint },
	"args_hash":               func(r *Record) any { return &r.ArgsHash },
	"unique_job":              func(r *Record) any { return &r.UniqueJob },
	"dedup_key":               func(r *Record) any { return &r.DedupKey },
	"producer_id":             func(r *Record) any { return &r.ProducerID },
	"worker_id":               func(r *Record) any { return &r.WorkerID },
	"scheduled_at":            func(r *Record) any { return &r.ScheduledAt },
	"moved_xid":               func(r *Record) any { return &r.MovedXID },
	"created_at":              func(r *Record) any { return &r.CreatedAt },
	"errors":                  func(r *Record) any { return (*failures)(&r.Errors) },
}

// failures is the type of a column that has a job's history.
type failures json.RawMessage

// requiredColumns are those for which there is no true default.
var requiredColumns = []string{"id", "job_name", "args", "dead_letter_reason", "moved_to_dead_letter_at"}

// record returns the record, or an error for the first mistake in it.
func (c cells) record() (Record, error) {
	// A column that is missing, or null, has the database's default.
	r := Record{Queue: "default", Priority: 100, MaxAttempts: 3, State: stateDead}
	for _, name := range requiredColumns {
		raw, there := c[name]
		if !there || name != "args" && bytes.Equal(raw, jsonNull) {
			return r, fmt.Errorf("%s is missing", name)
		}
	}
	for _, name := range header {
		raw, there := c[name]
		if !there || name != "args" && bytes.Equal(raw, jsonNull) {
			continue
		}
		if err := assign(columns[name](&r), raw); err != nil {
			return r, fmt.Errorf("%s: %w", name, err)
		}
	}
	if _, there := c["original_created_at"]; !there || r.OriginalCreatedAt.IsZero() {
		r.OriginalCreatedAt = r.MovedAt
	}
	return r, r.validate()
}

var jsonNull = []byte("null")

// assign reads a JSON value, which is not null unless it is the arguments, into
// a field of a Record.
func assign(field any, raw json.RawMessage) (err error) {
	switch v := field.(type) {
	case *string:
		*v, err = assignText(raw)
	case **string:
		var s string
		s, err = assignText(raw)
		*v = &s
	case *int:
		var n int32
		if json.Unmarshal(raw, &n) != nil {
			return fmt.Errorf("%s is not a whole number of 32 bits", shown(raw))
		}
		*v = int(n)
	case **uint64:
		if json.Unmarshal(raw, v) != nil {
			return fmt.Errorf("%s is not a transaction number", shown(raw))
		}
	case *bool:
		if json.Unmarshal(raw, v) != nil {
			return fmt.Errorf("%s is neither true nor false", shown(raw))
		}
	case *time.Time:
		*v, err = assignTime(raw)
	case **time.Time:
		var t time.Time
		t, err = assignTime(raw)
		*v = &t
	case *uuid.UUID:
		*v, err = assignID(raw)
	case **uuid.UUID:
		var id uuid.UUID
		id, err = assignID(raw)
		*v = &id
	case *json.RawMessage:
		*v, err = assignJSON(raw)
	case *failures:
		*v, err = assignFailures(raw)
	default:
		err = fmt.Errorf("no column is a %T", field)
	}
	return err
}

func assignText(raw json.RawMessage) (s string, err error) {
	if json.Unmarshal(raw, &s) != nil {
		return "", fmt.Errorf("%s is not a text", shown(raw))
	}
	if strings.IndexByte(s, 0) >= 0 {
		return "", errors.New("it has a NUL, which can't be stored")
	}
	return s, nil
}

func assignID(raw json.RawMessage) (id uuid.UUID, err error) {
	if json.Unmarshal(raw, &id) != nil {
		return id, fmt.Errorf("%s is not a UUID", shown(raw))
	}
	return id, nil
}

// assignTime reads RFC 3339, with a space in the place of the T as well: so
// Python Soniq writes it. What PostgreSQL would round is cut.
func assignTime(raw json.RawMessage) (t time.Time, err error) {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		if t, err = time.Parse(time.RFC3339, s); err != nil {
			t, err = time.Parse("2006-01-02 15:04:05Z07:00", s)
		}
		t = t.UTC().Truncate(time.Microsecond)
		if err == nil && t.Year() >= 1 && t.Year() <= 9999 {
			return t, nil
		}
	}
	return t, fmt.Errorf("%s is not a time such as 2006-01-02T15:04:05Z", shown(raw))
}

// assignJSON reads what is stored as JSON.
func assignJSON(raw json.RawMessage) (json.RawMessage, error) {
	if !json.Valid(raw) {
		return nil, errors.New("not valid JSON")
	}
	return raw, nil
}

// assignFailures checks the history of a job, and returns it as it is stored. It looks
// at the length and the number of entries before it decodes any: an entry of two bytes
// becomes a Failure of two hundred.
func assignFailures(raw json.RawMessage) (failures, error) {
	if n := len(raw); n > maxHistoryBytes {
		return nil, fmt.Errorf("%d bytes, more than the %d that a history takes", n, maxHistoryBytes)
	}
	if json.Valid(raw) && bytes.HasPrefix(bytes.TrimLeft(raw, " \t\r\n"), []byte("[")) {
		if n := history.Len(raw); n > history.MaxEntries {
			return nil, fmt.Errorf("%d entries, more than the %d that are kept", n, history.MaxEntries)
		}
	}
	var entries []classify.Failure
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&entries); err != nil {
		var mismatch *json.UnmarshalTypeError
		if errors.As(err, &mismatch) {
			return nil, fmt.Errorf("a JSON %s where none belongs %s", pg.HeadText(mismatch.Value, shownBytes), cmp.Or(mismatch.Field, "(it is an array of objects)"))
		}
		return nil, errors.New(pg.HeadText(strings.TrimPrefix(err.Error(), "json: "), 2*shownBytes))
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is something after the array")
	}
	if err := validateFailures(entries); err != nil {
		return nil, err
	}
	return history.Encode(entries), nil
}

// cellJSON is a CSV cell as JSON. An empty one is null: CSV knows no difference
// between nothing and an empty text.
func cellJSON(name string, cell []byte, escape csvEscaping) (json.RawMessage, error) {
	if len(cell) == 0 {
		return jsonNull, nil
	}
	switch columns[name](&Record{}).(type) {
	case *string, **string:
		switch escape {
		case escapeCells:
			cell = undefused(cell)
		case escapeStart:
			cell = undefusedStart(cell)
		}
		if err := checkTextBytes(name, len(cell)); err != nil {
			return nil, err
		}
	case *bool:
		return bytes.ToLower(cell[:min(len(cell), MaxTextBytes)]), nil
	case *int, **uint64, *json.RawMessage, *failures:
		return json.RawMessage(cell), nil
	default:
		// An id or a time: what is longer is neither.
		cell = cell[:min(len(cell), MaxTextBytes)]
	}
	return json.Marshal(string(cell))
}

// validate finds what no export of ours would hold, and what the database would
// refuse.
func (r *Record) validate() error {
	if _, err := classify.ParseReason(string(r.Reason)); err != nil {
		return fmt.Errorf("dead_letter_reason: unknown reason %s", quoted(string(r.Reason)))
	}
	switch r.State {
	case "":
		r.State = stateDead
	case stateDead, stateReplaying, stateResolved:
	default:
		return fmt.Errorf("state: %s is not %s, %s or %s", quoted(r.State), stateDead, stateReplaying, stateResolved)
	}
	if r.JobName == "" {
		return errors.New("job_name is empty")
	}
	if r.Queue == "" {
		r.Queue = "default"
	}
	for _, count := range []struct {
		name string
		n    int
	}{{"attempts", r.Attempts}, {"max_attempts", r.MaxAttempts}, {"resurrection_count", r.ResurrectionCount}} {
		if count.n < 0 {
			return fmt.Errorf("%s: %d is negative", count.name, count.n)
		}
	}
	// Python's are encoded twice.
	if r.Tags = jsondoc.Inner(r.Tags); bytes.Equal(r.Tags, jsonNull) {
		r.Tags = nil
	}
	for _, doc := range []struct {
		name string
		json json.RawMessage
	}{{"args", r.Args}, {"tags", r.Tags}} {
		if err := checkStorableJSON(doc.json); err != nil {
			return fmt.Errorf("%s: %w", doc.name, err)
		}
	}
	return r.validateTexts()
}

// checkTextBytes is the error of a text of n bytes that is longer than the column
// holds.
func checkTextBytes(name string, n int) error {
	switch name {
	case "job_name", "queue":
		// They are shortened where they are too long for an index.
		return nil
	case "last_error":
		if n > maxLastErrorBytes {
			return fmt.Errorf("%d bytes, more than the %d that are kept", n, maxLastErrorBytes)
		}
		return nil
	}
	if n > MaxTextBytes {
		return fmt.Errorf("%d bytes, more than %d", n, MaxTextBytes)
	}
	return nil
}

func (r *Record) validateTexts() error {
	for _, name := range header {
		text := ""
		switch v := columns[name](r).(type) {
		case *string:
			text = *v
		case **string:
			if *v != nil {
				text = **v
			}
		}
		if err := checkTextBytes(name, len(text)); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func validateFailures(entries []classify.Failure) error {
	for i, f := range entries {
		for _, text := range []struct {
			name string
			text string
			most int
		}{
			{"kind", string(f.Kind), MaxTextBytes},
			{"type", f.Type, MaxTextBytes},
			{"code", f.Code, MaxTextBytes},
			{"decided_by", f.DecidedBy, MaxTextBytes},
			{"message", f.Message, history.MaxMessageBytes},
			{"stack", f.Stack, classify.MaxStackBytes},
		} {
			if n := len(text.text); n > text.most {
				return fmt.Errorf("entry %d: %s: %d bytes, more than %d", i+1, text.name, n, text.most)
			}
			if pg.CheckText(text.text) != nil {
				return fmt.Errorf("entry %d: %s: it has a NUL, which can't be stored", i+1, text.name)
			}
		}
	}
	return nil
}

// checkStorableJSON returns an error for valid JSON that can't be stored as jsonb.
func checkStorableJSON(doc json.RawMessage) error {
	err := pg.CheckJSON(doc)
	if unstorable := (*pg.UnstorableError)(nil); errors.As(err, &unstorable) && unstorable.Number != "" {
		return fmt.Errorf("the number %s can't be stored", quoted(unstorable.Number))
	}
	if err == nil && pg.Depth(doc) > maxDepth {
		return fmt.Errorf("it is nested deeper than %d", maxDepth)
	}
	return err
}

// shownBytes is how much of a value a message quotes.
const shownBytes = 60

// shown is a JSON value for a message, on one line.
func shown(raw json.RawMessage) string {
	var line bytes.Buffer
	if len(raw) > shownBytes || json.Compact(&line, raw) != nil {
		return quoted(string(raw))
	}
	return redact.Text(line.String())
}

// quoted is a text for a message, or its beginning, without what looks like a
// secret: it may be of another column.
func quoted(s string) string {
	if s = redact.Text(pg.HeadText(s, 4<<10)); len(s) > shownBytes {
		return fmt.Sprintf("%q...", pg.HeadText(s, shownBytes))
	}
	return fmt.Sprintf("%q", s)
}
