package hooks

import (
	"encoding/json"
	"time"
)

// maxErrorText is how much of the error text is sent, in bytes. Standard Webhooks
// asks for a body below 20 KB.
const maxErrorText = 4 << 10

// payload is an event as JSON: the body of a webhook and the input of a command.
// docs/hooks.md describes it.
type payload struct {
	Type      EventType   `json:"type"`
	Timestamp time.Time   `json:"timestamp"`
	Data      payloadData `json:"data"`
}

type payloadData struct {
	ID                string          `json:"id"`
	JobName           string          `json:"job_name"`
	Queue             string          `json:"queue"`
	Reason            string          `json:"reason"`
	Error             string          `json:"error,omitempty"`
	ErrorKind         string          `json:"error_kind,omitempty"`
	ErrorType         string          `json:"error_type,omitempty"`
	Fingerprint       string          `json:"fingerprint,omitempty"`
	Attempts          int             `json:"attempts"`
	MaxAttempts       int             `json:"max_attempts,omitempty"`
	MovedAt           time.Time       `json:"moved_at"`
	OriginalCreatedAt *time.Time      `json:"original_created_at,omitempty"`
	ResurrectionCount int             `json:"resurrection_count"`
	Tags              json.RawMessage `json:"tags,omitempty"`
	TraceID           string          `json:"trace_id,omitempty"`
	Args              json.RawMessage `json:"args,omitempty"`
	Gone              bool            `json:"gone,omitempty"`
	Sample            bool            `json:"sample,omitempty"`
}

// marshalEvent returns the event's payload, with the job's arguments if args is
// set. What looks like a secret is redacted: the payload leaves the system.
func marshalEvent(e Event, args bool) ([]byte, error) {
	l := e.Letter.Redacted()
	data := payloadData{
		ID: l.ID.String(), JobName: l.JobName, Queue: l.Queue, Reason: string(l.Reason),
		Error: cut(l.LastError, maxErrorText), ErrorKind: string(l.ErrorKind), ErrorType: l.ErrorType,
		Fingerprint: l.Fingerprint, Attempts: l.Attempts, MaxAttempts: l.MaxAttempts, MovedAt: l.MovedAt,
		ResurrectionCount: l.ResurrectionCount, Tags: l.Tags, TraceID: l.TraceContext.TraceID(), Gone: e.Gone, Sample: e.Sample,
	}
	if !l.OriginalCreatedAt.IsZero() {
		data.OriginalCreatedAt = &l.OriginalCreatedAt
	}
	if args {
		data.Args = l.Args
	}
	return json.Marshal(payload{Type: e.Type, Timestamp: e.At, Data: data})
}
