// Package notify hears what Postgres announces. It is the only package that
// LISTENs: one connection a process, however many channels and subscribers.
//
// A [Listener] owns that connection. It listens, tells every [Handler] to read
// the backlog, and then passes notifications on; when the connection is lost it
// does the same again, for ever:
//
//	          +---- backoff <----+--------------------+
//	          v                  |                    |
//	Run --> dial --> LISTEN each channel --> wait --> lost
//	                   |                      |
//	                   v                      v
//	           Handler.Connected        Handler.Notify
//
// A notification is a wake-up, never the news itself. Postgres keeps none for
// those who are away, so what happened before a LISTEN is read from the tables:
// that is what [Handler.Connected] is for. LISTEN is committed before Connected
// is called, so between the two nothing can slip through; it can be seen twice.
//
// [Wakeups] is the handler of the workers: a bit that says "there may be work".
package notify

import "context"

// The channels of Soniq. Their payloads are described in docs/channel.md.
const (
	// NewJob announces that a queue has a job that is due or soon due. The
	// payload is the queue's name; an empty one means any queue.
	NewJob = "soniq_new_job"
	// DeadLetter announces one dead letter. The payload is a JSON object.
	DeadLetter = "soniq_dead_letter"
	// Control asks workers for something: to cancel a job that they run. The
	// payload is a JSON object.
	Control = "soniq_control"
	// Hook announces that the hooks' outbox has something to send. The payload
	// is empty.
	Hook = "soniq_hook"
)

// Handler is told what happens on a channel. Its methods are called one after
// another by the goroutine that reads the connection, so neither may block: a
// slow handler delays every channel of its listener, and the server keeps
// what it couldn't deliver. A panic in a handler is recovered and logged.
type Handler interface {
	// Connected is called each time the channel has been listened to on a new
	// connection, the first included, and before any of that connection's
	// notifications. What came before it was not announced: read the backlog.
	Connected(ctx context.Context)
	// Notify is called for each notification.
	Notify(ctx context.Context, payload string)
}
