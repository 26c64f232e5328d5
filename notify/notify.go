// Package notify receives what PostgreSQL announces. It is the only package that
// LISTENs: on one connection a process, for any number of channels.
//
// A [Listener] owns that connection. It listens, calls Connected of every [Handler],
// and then passes notifications on. When the connection is lost it starts anew, without
// end:
//
//	          +---- backoff <----+--------------------+
//	          v                  |                    |
//	Run --> dial --> LISTEN each channel --> wait --> lost
//	                   |                      |
//	                   v                      v
//	           Handler.Connected        Handler.Notify
//
// A notification only wakes. PostgreSQL keeps none for sessions that don't listen, so
// what happened before a LISTEN must be read from the tables, in [Handler.Connected].
// LISTEN is committed before Connected is called. So nothing is missed between the two,
// but something may be seen twice.
//
// [Wakeups] is the handler of workers and dispatchers: one bit, "there may be work".
//
// Channels are passed under their full names. Those below are the channels of the
// schema public. In another schema they have a prefix, which pg.Schema.Channel adds; so
// one listener can serve several schemas.
package notify

import "context"

// The channels of Soniq in the schema public. docs/channel.md describes their payloads.
const (
	// NewJob announces that a queue has a job that is due, or due soon. The payload is
	// the queue's name. An empty payload means any queue.
	NewJob = "soniq_new_job"
	// DeadLetter announces one dead letter. The payload is a JSON object.
	DeadLetter = "soniq_dead_letter"
	// Control asks workers for something, such as to cancel a running job. The payload
	// is a JSON object.
	Control = "soniq_control"
	// Hook announces that the outbox of hooks has something to send. The payload is
	// empty.
	Hook = "soniq_hook"
)

// Handler receives what happens on a channel. The goroutine that reads the connection
// calls its methods one after another, so they must not block: a slow handler delays
// every channel of the listener, and the server keeps what it can't deliver. A panic
// is recovered and logged.
type Handler interface {
	// Connected is called each time the channel is listened to on a new connection,
	// before any of that connection's notifications. Read from the tables what was
	// announced before.
	Connected(ctx context.Context)
	// Notify is called for each notification.
	Notify(ctx context.Context, payload string)
}

// Sourced is a [Handler] that wants to know who notified.
type Sourced interface {
	// NotifyFrom is called in place of Notify. pid is the server's process of the session
	// that notified: all listeners are given the same.
	NotifyFrom(ctx context.Context, pid uint32, payload string)
}
