package deadletter

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/google/uuid"

	"soniq/deadletter/classify"
	"soniq/internal/history"
	"soniq/internal/pg"
)

const (
	// maxTextBytes bounds the texts that are names or codes: an entry of a
	// PostgreSQL index holds 2,700 bytes.
	maxTextBytes = 2000
	// maxLastErrorBytes: Python Soniq keeps 8,192 characters, of four bytes at
	// the most.
	maxLastErrorBytes = 4 * 8192
	// maxHistoryBytes bounds the JSON of a job's history: ten entries, whose texts
	// are at their longest and all in escapes of six bytes.
	maxHistoryBytes = 1 << 20
	// maxDepth is how deep arguments and tags may be nested. PostgreSQL's stack
	// ends at some thousands.
	maxDepth = 1000
)

// columns are those of an export, and where each goes. They are csvHeader's.
var columns = map[string]func(*Job) any{
	"id":                      func(j *Job) any { return &j.ID },
	"job_name":                func(j *Job) any { return &j.JobName },
	"args":                    func(j *Job) any { return &j.Args },
	"queue":                   func(j *Job) any { return &j.Queue },
	"priority":                func(j *Job) any { return &j.Priority },
	"max_attempts":            func(j *Job) any { return &j.MaxAttempts },
	"attempts":                func(j *Job) any { return &j.Attempts },
	"last_error":              func(j *Job) any { return &j.LastError },
	"dead_letter_reason":      func(j *Job) any { return (*string)(&j.Reason) },
	"original_created_at":     func(j *Job) any { return &j.OriginalCreatedAt },
	"moved_to_dead_letter_at": func(j *Job) any { return &j.MovedAt },
	"resurrection_count":      func(j *Job) any { return &j.ResurrectionCount },
	"last_resurrection_at":    func(j *Job) any { return &j.LastResurrectionAt },
	"tags":                    func(j *Job) any { return &j.Tags },
	"state":                   func(j *Job) any { return (*string)(&j.State) },
	"replay_job_id":           func(j *Job) any { return &j.ReplayJobID },
	"replay_of":               func(j *Job) any { return &j.ReplayOf },
	"error_kind":              func(j *Job) any { return (*string)(&j.ErrorKind) },
	"error_type":              func(j *Job) any { return &j.ErrorType },
	"error_code":              func(j *Job) any { return &j.ErrorCode },
	"decided_by":              func(j *Job) any { return &j.DecidedBy },
	"fingerprint":             func(j *Job) any { return &j.Fingerprint },
	"args_hash":               func(j *Job) any { return &j.ArgsHash },
	"unique_job":              func(j *Job) any { return &j.UniqueJob },
	"dedup_key":               func(j *Job) any { return &j.DedupKey },
	"producer_id":             func(j *Job) any { return &j.ProducerID },
	"worker_id":               func(j *Job) any { return &j.WorkerID },
	"scheduled_at":            func(j *Job) any { return &j.ScheduledAt },
	"moved_xid":               func(j *Job) any { return &j.MovedXID },
	"created_at":              func(j *Job) any { return &j.CreatedAt },
	"errors":                  func(j *Job) any { return &j.Errors },
}

// requiredColumns have no default that would be true.
var requiredColumns = []string{"id", "job_name", "args", "dead_letter_reason", "moved_to_dead_letter_at"}

// job returns the dead letter of a record, or the first mistake in it.
func (c cells) job() (Job, error) {
	// What is missing, or null, has the default of the database.
	j := Job{Queue: "default", Priority: 100, MaxAttempts: 3, State: StateDead}
	for _, name := range requiredColumns {
		raw, there := c[name]
		if !there || name != "args" && bytes.Equal(raw, jsonNull) {
			return j, fmt.Errorf("%s is missing", name)
		}
	}
	for _, name := range csvHeader {
		raw, there := c[name]
		if !there || name != "args" && bytes.Equal(raw, jsonNull) {
			continue
		}
		if err := assign(columns[name](&j), raw); err != nil {
			return j, fmt.Errorf("%s: %w", name, err)
		}
	}
	if _, there := c["original_created_at"]; !there || j.OriginalCreatedAt.IsZero() {
		j.OriginalCreatedAt = j.MovedAt
	}
	return j, j.validate()
}

var jsonNull = []byte("null")

// assign reads a JSON value, which is not null unless it is the arguments, into
// a field of a Job.
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
	case *[]classify.Failure:
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

// assignFailures reads the history of a job. How long it is, and how many
// entries it has, is found before any of them is decoded: an entry of two bytes
// is a Failure of two hundred.
func assignFailures(raw json.RawMessage) (failures []classify.Failure, err error) {
	if n := len(raw); n > maxHistoryBytes {
		return nil, fmt.Errorf("%d bytes, more than the %d that a history takes", n, maxHistoryBytes)
	}
	if json.Valid(raw) && bytes.HasPrefix(bytes.TrimLeft(raw, " \t\r\n"), []byte("[")) {
		if n := history.Len(raw); n > history.MaxEntries {
			return nil, fmt.Errorf("%d entries, more than the %d that are kept", n, history.MaxEntries)
		}
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&failures); err != nil {
		var mismatch *json.UnmarshalTypeError
		if errors.As(err, &mismatch) {
			return nil, fmt.Errorf("a JSON %s where none belongs %s", pg.HeadText(mismatch.Value, shownBytes), cmp.Or(mismatch.Field, "(it is an array of objects)"))
		}
		return nil, errors.New(pg.HeadText(strings.TrimPrefix(err.Error(), "json: "), 2*shownBytes))
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is something after the array")
	}
	return failures, nil
}

// cellJSON is a CSV cell as JSON. An empty one is null: CSV knows no difference
// between nothing and an empty text.
func cellJSON(name string, cell []byte, escape csvEscaping) (json.RawMessage, error) {
	if len(cell) == 0 {
		return jsonNull, nil
	}
	switch columns[name](&Job{}).(type) {
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
		return bytes.ToLower(cell[:min(len(cell), maxTextBytes)]), nil
	case *int, **uint64, *json.RawMessage, *[]classify.Failure:
		return json.RawMessage(cell), nil
	default:
		// An id or a time: what is longer is neither.
		cell = cell[:min(len(cell), maxTextBytes)]
	}
	return json.Marshal(string(cell))
}

// validate finds what no export of ours would hold, and what the database would
// refuse.
func (j *Job) validate() error {
	if _, err := classify.ParseReason(string(j.Reason)); err != nil {
		return fmt.Errorf("dead_letter_reason: unknown reason %s", quoted(string(j.Reason)))
	}
	switch j.State {
	case "":
		j.State = StateDead
	case StateDead, StateReplaying, StateResolved:
	default:
		return fmt.Errorf("state: %s is not %s, %s or %s", quoted(string(j.State)), StateDead, StateReplaying, StateResolved)
	}
	if j.JobName == "" {
		return errors.New("job_name is empty")
	}
	if j.Queue == "" {
		j.Queue = "default"
	}
	for _, count := range []struct {
		name string
		n    int
	}{{"attempts", j.Attempts}, {"max_attempts", j.MaxAttempts}, {"resurrection_count", j.ResurrectionCount}} {
		if count.n < 0 {
			return fmt.Errorf("%s: %d is negative", count.name, count.n)
		}
	}
	// Python's are encoded twice.
	if j.Tags = decodeTags(j.Tags); bytes.Equal(j.Tags, jsonNull) {
		j.Tags = nil
	}
	for _, doc := range []struct {
		name string
		json json.RawMessage
	}{{"args", j.Args}, {"tags", j.Tags}} {
		if err := checkStorableJSON(doc.json); err != nil {
			return fmt.Errorf("%s: %w", doc.name, err)
		}
	}
	if err := j.validateTexts(); err != nil {
		return err
	}
	return j.validateErrors()
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
	if n > maxTextBytes {
		return fmt.Errorf("%d bytes, more than %d", n, maxTextBytes)
	}
	return nil
}

func (j *Job) validateTexts() error {
	for _, name := range csvHeader {
		text := ""
		switch v := columns[name](j).(type) {
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

func (j *Job) validateErrors() error {
	for i, f := range j.Errors {
		for _, text := range []struct {
			name string
			text string
			most int
		}{
			{"kind", string(f.Kind), maxTextBytes},
			{"type", f.Type, maxTextBytes},
			{"code", f.Code, maxTextBytes},
			{"decided_by", f.DecidedBy, maxTextBytes},
			{"message", f.Message, history.MaxMessageBytes},
			{"stack", f.Stack, classify.MaxStackBytes},
		} {
			if n := len(text.text); n > text.most {
				return fmt.Errorf("errors: entry %d: %s: %d bytes, more than %d", i+1, text.name, n, text.most)
			}
			if pg.CheckText(text.text) != nil {
				return fmt.Errorf("errors: entry %d: %s: it has a NUL, which can't be stored", i+1, text.name)
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
	return RedactText(line.String())
}

// quoted is a text for a message, or its beginning, without what looks like a
// secret: it may be of another column.
func quoted(s string) string {
	if s = RedactText(pg.HeadText(s, 4<<10)); len(s) > shownBytes {
		return fmt.Sprintf("%q...", pg.HeadText(s, shownBytes))
	}
	return fmt.Sprintf("%q", s)
}
