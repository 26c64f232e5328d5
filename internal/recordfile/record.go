package recordfile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"soniq/deadletter/classify"
	"soniq/internal/jsondoc"
	"soniq/internal/pg"
	"soniq/internal/redact"
	"soniq/internal/tracecontext"
)

const (
	// MaxTextBytes is how much of a value is looked at that is a number, a time or an id.
	MaxTextBytes = 2000
	// plainDepth is how deep JSON may be nested in a [Batch]. PostgreSQL reads a deeper
	// document as a parameter of its own, where its stack is the whole one's.
	plainDepth = 1000
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
	ResurrectionCount  *int
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
	UniqueJob          *bool
	DedupKey           *string
	ProducerID         *string
	WorkerID           *uuid.UUID
	ScheduledAt        *time.Time
	MovedXID           *uint64
	CreatedAt          *time.Time
	// Errors is the job's history as JSON, nil for none.
	Errors json.RawMessage
	// TraceContext is valid, or empty.
	TraceContext string
	// Exact is a JSON object, or nil. It has the columns that the others don't have exactly, as
	// PostgreSQL writes them: times beyond the years 1 to 9999, texts that are empty and not
	// NULL, JSON that is null and not NULL, tags that Python Soniq encoded twice, and a name
	// that was shortened in another way. A Reader leaves out what doesn't fit the other columns:
	// a person has changed them since.
	Exact json.RawMessage
}

// header has the names of the columns in a file's order: those of Python Soniq's
// export, then ours.
var header = []string{
	"id", "job_name", "args", "queue", "priority", "max_attempts", "attempts",
	"last_error", "dead_letter_reason", "original_created_at",
	"moved_to_dead_letter_at", "resurrection_count", "last_resurrection_at", "tags",
	"state", "replay_job_id", "replay_of", "error_kind", "error_type", "error_code",
	"decided_by", "fingerprint", "args_hash", "unique_job", "dedup_key", "producer_id",
	"worker_id", "scheduled_at", "moved_xid", "created_at", "errors", "trace_context",
}

// headerOf010 is how many of these 0.1.0 has.
const headerOf010 = 31

// exactColumn is the last column of CSV, where it is an empty object for a record that needs none. In JSON only a
// record that needs it has it.
const exactColumn = "exact"

// What the table has and our files haven't: job_name and queue are the whole ones in them, and an
// imported row has no place among the deaths of a server.
const (
	wholeNameColumn  = "whole_job_name"
	wholeQueueColumn = "whole_queue"
	epochColumn      = "moved_epoch"
)

// TableColumns returns the columns of the table that a file may have.
func TableColumns() []string {
	return append(Columns(), wholeNameColumn, wholeQueueColumn, epochColumn)
}

// Columns returns the names of the columns in a file's order.
func Columns() []string { return slices.Clone(header) }

// columns returns, for each column that a file may have, the field that it is read to.
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
	"errors":                  func(r *Record) any { return &r.Errors },
	"trace_context":           func(r *Record) any { return &r.TraceContext },
	exactColumn:               func(r *Record) any { return &r.Exact },
	wholeNameColumn:           func(*Record) any { return new(string) },
	wholeQueueColumn:          func(*Record) any { return new(string) },
	epochColumn:               func(*Record) any { return new(string) },
}

// readColumns are the columns of header, with their fields.
var readColumns = func() (all []readColumn) {
	for _, name := range header {
		all = append(all, readColumn{name, columns[name]})
	}
	return all
}()

type readColumn struct {
	name  string
	field func(*Record) any
}

// requiredColumns are those for which there is no true default.
var requiredColumns = []string{"id", "job_name", "args", "dead_letter_reason", "moved_to_dead_letter_at"}

// id returns the id of a record, or "" if it has none.
func (c cells) id() string {
	id, err := assignID(c["id"])
	if err != nil {
		return ""
	}
	return id.String()
}

// record returns the record, or an error for the first mistake in it.
func (c cells) record() (Record, error) {
	// A column that is missing, or null where it can't be, has the database's default.
	r := Record{Priority: 100, MaxAttempts: 3, State: stateDead}
	if _, there := c["resurrection_count"]; !there {
		r.ResurrectionCount = new(int)
	}
	if err := c.checkRequired(); err != nil {
		return r, err
	}
	a := assignment{exact: map[string]string{}}
	for _, column := range readColumns {
		raw, there := c[column.name]
		if !there || column.name != "args" && bytes.Equal(raw, jsonNull) {
			continue
		}
		field := column.field(&r)
		if column.name != "args" && isNull(field, raw) {
			continue
		}
		if err := a.assign(column.name, field, raw); err != nil {
			return r, &fieldError{column.name, err}
		}
	}
	if raw, there := c["original_created_at"]; !there || isNull(&r.OriginalCreatedAt, raw) {
		r.OriginalCreatedAt = r.MovedAt
		if when := a.exact["moved_to_dead_letter_at"]; when != "" {
			a.exact["original_created_at"] = when
		}
	}
	if err := a.wholeNames(c, &r); err != nil {
		return r, err
	}
	if err := a.exactly(c[exactColumn], &r); err != nil {
		return r, &fieldError{exactColumn, err}
	}
	r.TraceContext = tracecontext.Parse(r.TraceContext).String()
	return r, r.validate(a.exact)
}

// checkRequired returns an error for a column that is missing or null and must not be.
func (c cells) checkRequired() error {
	for _, name := range requiredColumns {
		raw, there := c[name]
		if !there || name != "args" && bytes.Equal(raw, jsonNull) && !isMember(jsondoc.Inner(c[exactColumn]), name) {
			return &fieldError{name, errMissing}
		}
	}
	return nil
}

var (
	jsonNull   = []byte("null")
	emptyText  = []byte(`""`)
	errMissing = errors.New("missing")
)

// isNull reports whether a value stands for null in a column of this type. Programs that know no
// null write an empty text.
func isNull(field any, raw json.RawMessage) bool {
	if bytes.Equal(raw, jsonNull) {
		return true
	}
	switch field.(type) {
	case *string, **string, *json.RawMessage:
		return false
	}
	return bytes.Equal(raw, emptyText)
}

// plainText is before a text of CSV in the place of JSON's quotes: as JSON a text can be six times as
// long. No JSON begins so, and no text has it.
const plainText = 0

// cellJSON is a CSV cell as JSON. An empty one is null: CSV knows no difference
// between nothing and an empty text.
func cellJSON(name string, cell []byte, old bool) (json.RawMessage, error) {
	if len(cell) == 0 {
		return jsonNull, nil
	}
	switch columns[name](&Record{}).(type) {
	case *string, **string:
		whole := undefused(cell)
		if old && len(whole) == len(cell) {
			whole = undefusedStart(cell)
		}
		if bytes.IndexByte(whole, plainText) >= 0 {
			return nil, errNUL
		}
		return append([]byte{plainText}, whole...), nil
	case *json.RawMessage:
		if !jsondoc.Valid(cell) {
			return nil, errors.New("not valid JSON")
		}
		return json.RawMessage(cell), nil
	default:
		// A number, an id or a time: what is longer is none.
		return json.Marshal(string(cell[:min(len(cell), MaxTextBytes)]))
	}
}

// validate finds what the database would refuse, and what can only be a mistake. exact has the
// columns that the record doesn't have exactly.
func (r *Record) validate(exact map[string]string) error {
	if _, empty := exact["job_name"]; r.JobName == "" && !empty {
		return &fieldError{"job_name", errors.New("empty")}
	}
	if _, empty := exact["dead_letter_reason"]; r.Reason == "" && !empty {
		return &fieldError{"dead_letter_reason", errors.New("empty")}
	}
	if _, empty := exact["queue"]; r.Queue == "" && !empty {
		r.Queue = "default"
	}
	switch r.State {
	case "":
		r.State = stateDead
	case stateDead, stateReplaying, stateResolved:
	default:
		return &fieldError{"state", fmt.Errorf("%s is not %s, %s or %s", quoted(r.State), stateDead, stateReplaying, stateResolved)}
	}
	for _, doc := range []struct {
		name string
		json json.RawMessage
	}{{"args", r.Args}, {"tags", r.Tags}, {"errors", r.Errors}} {
		if err := checkStorableJSON(doc.json); err != nil {
			return &fieldError{doc.name, err}
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
	return err
}

// alone reports whether the record can't be one of a [Batch] of many: it is too long, or nested
// too deep.
func (r *Record) alone() bool {
	size := len(r.JobName) + len(r.LastError)
	for _, doc := range []json.RawMessage{r.Args, r.Tags, r.Errors, r.Exact} {
		if size += len(doc); pg.Depth(doc) > plainDepth {
			return true
		}
	}
	return size > batchBytes
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
