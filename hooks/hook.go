package hooks

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"soniq/deadletter"
)

// EventType says what happened to a dead letter.
type EventType string

const (
	// Dead: a job has failed for good.
	Dead EventType = "job.dead_lettered"
	// Resurrected: a dead letter was replayed.
	Resurrected EventType = "job.resurrected"
	// Resolved: a replay of a dead letter succeeded.
	Resolved EventType = "job.resolved"
)

// EventTypes returns all types of events.
func EventTypes() []EventType { return []EventType{Dead, Resurrected, Resolved} }

// Check returns what is wrong with e.
//
// Errors: for a person to read, 'must be ..., not ...'.
func (e EventType) Check() error { return checkOneOf(e, EventTypes()) }

// A Hook receives events. Deliver returns nil if the delivery has arrived. After an
// error it is tried again; an [*AnswerError] says more about when. A panic counts as
// an error. Deliver must return when ctx ends.
type Hook interface {
	Deliver(ctx context.Context, d *Delivery) error
}

// A Delivery is one message to one hook.
type Delivery struct {
	// ID is the same each time this delivery is tried. A receiver that keeps the ids
	// it has seen can drop duplicates.
	ID uuid.UUID
	// Hook is the hook's name.
	Hook string
	// Attempt counts from 1.
	Attempt int
	// Event is what happened. In a digest it is the event of the first group.
	Event Event
	// Groups are all events of a digest: one group for each kind of event, the
	// largest first. A hook without digests gets one group of one event.
	Groups []Group
	// TraceContext is what is passed on to the receiver: that of the span which a
	// [ContextTracer] began for the delivery, else the dead letter's. A digest of several
	// events is in no trace without a tracer.
	TraceContext deadletter.TraceContext
	// Status and Answer are the receiver's answer: an HTTP status or an exit code,
	// and the beginning of its text. Deliver sets them. They are kept with the
	// delivery.
	Status int
	Answer string
}

// A Group is a number of events that are alike: of the same type, job, reason and
// error.
type Group struct {
	// Event is the oldest of them.
	Event Event
	// Count is how many they are.
	Count int
	// First and Last are when the oldest and the newest happened.
	First, Last time.Time
}

// An Event is something that happened to a dead letter.
type Event struct {
	// Type is what happened.
	Type EventType
	// At is when it happened.
	At time.Time
	// Letter is the dead letter. It is complete unless Gone or Summary is set.
	Letter deadletter.Job
	// Gone: the dead letter was deleted before it could be sent. Letter has only what
	// the notification has, which is no error text and no arguments.
	Gone bool
	// Summary: Letter has only what the notification has, because the digest has too
	// many groups to read every dead letter. It is set from the 101st group on.
	Summary bool
	// Sample marks an event that never happened, which [Store.Test] sends.
	Sample bool
}

// AnswerError says how the receiver refused a delivery.
type AnswerError struct {
	// Status is the HTTP status. 0: the receiver has none.
	Status int
	// Answer is the beginning of its text.
	Answer string
	// RetryAfter is how long it asks not to be called. 0: it didn't ask.
	RetryAfter time.Duration
	// Gone: it will never take a delivery again. The hook is disabled.
	Gone bool
	// Useless: this delivery must not be tried again.
	Useless bool
	// stopped: a signal has ended the command, such as a supervisor sends to all
	// processes of a unit.
	stopped bool
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
