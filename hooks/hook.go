package hooks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"soniq/deadletter"
)

// The events.
const (
	// Dead: a job has failed for good.
	Dead = "job.dead_lettered"
	// Resurrected: a dead letter was replayed.
	Resurrected = "job.resurrected"
	// Resolved: a replay of a dead letter succeeded.
	Resolved = "job.resolved"
)

// Events are all events.
var Events = []string{Dead, Resurrected, Resolved}

// A Hook is told of events. Deliver should return when ctx ends, at the latest;
// nil says that the delivery has arrived, an error that it is to be tried
// again. An error that is an [*AnswerError] can say more. A panic counts as an
// error.
type Hook interface {
	Deliver(ctx context.Context, d *Delivery) error
}

// A Delivery is one message for one hook.
type Delivery struct {
	// ID is the same each time that this delivery is tried: who keeps the ids
	// that it has seen is told of nothing twice.
	ID uuid.UUID
	// Hook is the hook's name.
	Hook string
	// Attempt counts from 1.
	Attempt int
	// Event is what happened; of a digest, the oldest event in it.
	Event Event
	// Groups has, of a digest, what else happened: a group for each kind of
	// event, the largest first. Their counts add up to all. A hook that gets
	// no digests has one group of one.
	Groups []Group
	// Status and Answer are for the hook to set: what the other side said, an
	// HTTP status or an exit code, and the beginning of its text. They are kept
	// with the delivery.
	Status int
	Answer string
}

// A Group is what a digest tells of events that are alike: of the same job, the
// same reason and the same error.
type Group struct {
	Event       Event // the oldest
	Count       int
	First, Last time.Time
}

// An Event is something that happened to a dead letter.
type Event struct {
	// Type is Dead, Resurrected or Resolved.
	Type string
	// At is when.
	At time.Time
	// Letter is the dead letter as it is now. Where Gone says that its row was
	// deleted since, it has only what the notification has: no error text.
	Letter deadletter.Job
	Gone   bool
	// Sample marks an event that never happened: the one of 'hooks test'.
	Sample bool
}

// AnswerError says how the other side refused a delivery.
type AnswerError struct {
	// Status is the HTTP status; 0 where the other side has none.
	Status int
	// Answer is the beginning of what it said.
	Answer string
	// RetryAfter is how long it wants to be left alone; 0 if it didn't say.
	RetryAfter time.Duration
	// Gone says that it will never take a delivery again: the hook is
	// disabled.
	Gone bool
	// Useless says that trying this delivery again is in vain.
	Useless bool
}

func (e *AnswerError) Error() string {
	if e.Status == 0 && e.Answer != "" {
		return e.Answer
	}
	if e.Answer == "" {
		return fmt.Sprintf("the answer was %d", e.Status)
	}
	return fmt.Sprintf("the answer was %d: %s", e.Status, e.Answer)
}

// settings are the column of that name.
type settings struct {
	// Headers are sent with a webhook; values may be env:NAME.
	Headers map[string]string `json:"headers,omitempty"`
	// Args says that a webhook or command gets the job's arguments.
	Args bool `json:"args,omitempty"`
	// Allow are private networks, as CIDRs, that a request may go to.
	Allow []string `json:"allow,omitempty"`
	// BaseURL is where Slack links to: the dead letter's id is appended.
	BaseURL string `json:"base_url,omitempty"`
	// Command is what an exec hook runs.
	Command string `json:"command,omitempty"`
}

func readSettings(raw []byte) (settings, error) {
	var s settings
	if len(raw) == 0 {
		return s, errTooLarge
	}
	if json.Unmarshal(raw, &s) != nil {
		// The error would show what stands there.
		return settings{}, errors.New("the hook's settings can't be read: a part of them has the wrong type")
	}
	return s, nil
}

// errTooLarge is about a row that only SQL can have written.
var errTooLarge = fmt.Errorf("the hook's URL, secrets or settings are larger than %d KB", maxRow>>10)
