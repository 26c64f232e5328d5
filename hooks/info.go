package hooks

import (
	"encoding/json"
	"time"

	"github.com/google/uuid"

	"soniq/deadletter/classify"
)

// Info is a hook as it may be shown: a row of the view soniq_hook_status. It holds
// no secret.
type Info struct {
	ID   uuid.UUID `json:"id"`
	Name string    `json:"name"`
	Kind Kind      `json:"kind"`
	// Target is where it sends to: the host of a URL, a reference, or for those who
	// may read the table the command, without what looks like a secret.
	Target string `json:"target"`
	// Signed: its requests are signed.
	Signed bool `json:"signed"`
	// SecretFrom is where its secrets are: 'database', 'sealed' (in the database, by a
	// key), 'configuration' or 'env:NAME'. Empty: there is none.
	SecretFrom string `json:"secret_from"`
	// Secrets is how many the database holds: two while a receiver changes over.
	Secrets int `json:"secrets"`
	// Headers have [Hidden] or [Sealed] in the place of values that are no reference.
	Headers map[string]string `json:"headers"`
	// Args: the job's arguments are sent.
	Args bool `json:"include_args"`
	// Allow are the private networks that it may reach.
	Allow []string `json:"allow"`
	// BaseURL is where Slack messages link to.
	BaseURL string `json:"base_url"`
	// Events, Jobs, Queues, Reasons and Tags are the filter. Nil or null matches all.
	Events  []EventType       `json:"events"`
	Jobs    []string          `json:"jobs"`
	Queues  []string          `json:"queues"`
	Reasons []classify.Reason `json:"reasons"`
	Tags    json.RawMessage   `json:"tags"`

	Enabled bool `json:"enabled"`
	// DisabledReason is empty for an enabled hook.
	DisabledReason string `json:"disabled_reason"`
	// Failures counts failures in a row, and FailingSince is when they began.
	Failures     int        `json:"failures"`
	FailingSince *time.Time `json:"failing_since"`
	// BlockedUntil is when it is sent to again. Nil: at any time.
	BlockedUntil *time.Time `json:"blocked_until"`
	CreatedAt    time.Time  `json:"created_at"`
	// DeclaredAt is when a dispatcher last declared it. Nil: no configuration has it.
	DeclaredAt *time.Time `json:"declared_at"`
	// Unavailable is why its deliveries wait: the flag, variable or key that the
	// dispatcher lacked which noted it. Empty: none has, or another has sent since.
	Unavailable   string     `json:"unavailable"`
	UnavailableAt *time.Time `json:"unavailable_at"`
	// Dropped is how many deliveries were dropped because too many waited.
	Dropped int64 `json:"dropped"`
	// Pending, Delivered and Failed count the deliveries that the outbox holds.
	Pending   int64 `json:"pending"`
	Delivered int64 `json:"delivered"`
	Failed    int64 `json:"failed"`
	// OldestPendingAt is when the event happened that has waited longest. DueAt is when
	// the first of the deliveries that wait is due; a digest's are due together. Sending:
	// a dispatcher is sending that one. Nil: nothing waits.
	OldestPendingAt *time.Time `json:"oldest_pending_at"`
	DueAt           *time.Time `json:"due_at"`
	Sending         bool       `json:"sending"`
}

// unattendedAfter is how long something may be due before no dispatcher can be there:
// each looks at least once a minute.
const unattendedAfter = 2 * time.Minute

// Unattended reports whether no dispatcher sends to the hook, although deliveries are due
// and nothing holds them up.
func (h *Info) Unattended(now time.Time) bool {
	late := now.Add(-unattendedAfter)
	return h.Enabled && h.Pending > 0 && !h.Sending && h.DueAt != nil && h.DueAt.Before(late) &&
		(h.BlockedUntil == nil || h.BlockedUntil.Before(late))
}

// Digests reports whether its deliveries wait for a digest now, and when that is due.
func (h *Info) Digests(now time.Time) (due time.Time, ok bool) {
	if kinds[h.Kind].digest.rows == 0 || h.Pending == 0 || h.DueAt == nil || h.Sending || h.Failures > 0 || !h.DueAt.After(now) {
		return due, false
	}
	return *h.DueAt, true
}

// Needs are the flags that a dispatcher must be started with to send to the hook:
// for the variables, networks and commands of a row. A hook of a configuration needs
// none.
func (h *Info) Needs() []string {
	if h.DeclaredAt != nil {
		return nil
	}
	return needs(h.Kind, secrets{h.Target, h.SecretFrom, h.Headers}, h.Allow)
}

// DeliveryState is the state of a delivery.
type DeliveryState string

const (
	// Pending: it is due, waits for its next attempt, or is being sent.
	Pending DeliveryState = "pending"
	// Delivered: it has arrived.
	Delivered DeliveryState = "delivered"
	// Failed: it is not tried again by itself.
	Failed DeliveryState = "failed"
)

// DeliveryStates returns all states of deliveries.
func DeliveryStates() []DeliveryState { return []DeliveryState{Pending, Delivered, Failed} }

// Check returns what is wrong with s.
//
// Errors: for a person to read, 'must be ..., not ...'.
func (s DeliveryState) Check() error { return checkOneOf(s, DeliveryStates()) }

// DeliveryInfo is a row of the outbox. What looks like a secret in it is redacted.
type DeliveryInfo struct {
	ID           uuid.UUID     `json:"id"`
	Hook         string        `json:"hook"`
	Kind         Kind          `json:"kind"`
	Event        EventType     `json:"event"`
	DeadLetterID uuid.UUID     `json:"dead_letter_id"`
	State        DeliveryState `json:"state"`
	// Sending: a dispatcher is sending it now.
	Sending bool `json:"sending"`
	// Attempts counts those that were made, one under way included.
	Attempts int `json:"attempts"`
	// LastStatus and LastAnswer are the receiver's last answer; LastError is why the
	// last attempt failed.
	LastStatus *int   `json:"last_status"`
	LastAnswer string `json:"last_answer"`
	LastError  string `json:"last_error"`
	// NextAttemptAt is nil unless the delivery is pending.
	NextAttemptAt *time.Time `json:"next_attempt_at"`
	DeliveredAt   *time.Time `json:"delivered_at"`
	CreatedAt     time.Time  `json:"created_at"`
	// JobName is that of the dead letter.
	JobName string `json:"job_name"`
}

// Digests reports whether the delivery waits for a digest.
func (d *DeliveryInfo) Digests() bool {
	return kinds[d.Kind].digest.rows > 0 && d.State == Pending && d.Attempts == 0 && !d.Sending
}
