package feed

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"

	"soniq/deadletter/classify"
)

// eventVersion is the version of the notification that this package reads. A new field
// doesn't change it.
const eventVersion = 1

// An Event is a notification on the channel soniq_dead_letter: one for each death. It
// names a row, and has neither arguments nor error text: Queue.Get reads them.
type Event struct {
	// Version is the version of the notification, 1.
	Version int `json:"v"`
	// ID is the dead letter. JobName, Queue and Reason are those of the row.
	ID      uuid.UUID       `json:"id"`
	JobName string          `json:"job_name"`
	Queue   string          `json:"queue"`
	Reason  classify.Reason `json:"reason"`
	// Kind and Fingerprint are empty if another program moved the job.
	Kind        classify.Kind `json:"kind,omitempty"`
	Fingerprint string        `json:"fingerprint,omitempty"`
	Attempts    int           `json:"attempts"`
	// MovedAt is when the job died, in UTC.
	MovedAt time.Time `json:"moved_at"`
	// ReplayOf is the dead letter that the job was a replay of, or nil.
	ReplayOf *uuid.UUID `json:"replay_of,omitempty"`
	// Truncated: a text above is only the beginning of what the row has.
	Truncated bool `json:"truncated,omitempty"`
	// Position is the event's place in the order of SubscribeOptions.From: store it to go
	// on after it. Nil without From.
	Position *Cursor `json:"cursor,omitempty"`
}

// ParseEvent reads the payload of a notification.
//
// Errors: a payload that isn't JSON, has another version or has no id. Anybody who can
// connect to the database can send one.
func ParseEvent(payload string) (Event, error) {
	var e Event
	if err := json.Unmarshal([]byte(payload), &e); err != nil {
		return Event{}, fmt.Errorf("read dead-letter notification: %w", err)
	}
	if e.Version != eventVersion {
		return Event{}, fmt.Errorf("read dead-letter notification: version %d, want %d", e.Version, eventVersion)
	}
	if e.ID == uuid.Nil {
		return Event{}, fmt.Errorf("read dead-letter notification: no id")
	}
	return e, nil
}

// Event is the row as a notification describes it.
func (r Row) Event() Event {
	return Event{
		Version: eventVersion, ID: r.ID, JobName: r.JobName, Queue: r.Queue, Reason: classify.Reason(r.Reason),
		Kind: classify.Kind(r.Kind), Fingerprint: r.Fingerprint, Attempts: r.Attempts, MovedAt: r.MovedAt,
		ReplayOf: r.ReplayOf, Position: &r.At,
	}
}
