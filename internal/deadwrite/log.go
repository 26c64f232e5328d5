package deadwrite

import (
	"log/slog"

	"github.com/google/uuid"

	"soniq/deadletter/classify"
)

// A Dead job is one that became a dead letter, as its log record tells it.
type Dead struct {
	ID                    uuid.UUID
	JobName, Queue        string
	Attempts, MaxAttempts int
	Verdict               classify.Verdict
	// Message is in place of the verdict's. Default that.
	Message string
}

// Log writes the record of a dead letter. It has the same fields whatever made it, those
// of a dead letter on the wire under the same names; more follow.
func (d Dead) Log(log *slog.Logger, more ...any) {
	message := d.Message
	if message == "" {
		message = d.Verdict.Message
	}
	log.Warn("job is a dead letter", append([]any{
		"job", d.ID, "job_name", d.JobName, "queue", d.Queue,
		"attempts", d.Attempts, "max_attempts", d.MaxAttempts,
		"reason", string(d.Verdict.Reason), "kind", string(d.Verdict.Kind), "code", d.Verdict.Code,
		"decided_by", d.Verdict.DecidedBy, "fingerprint", d.Verdict.Fingerprint, "error", message,
	}, more...)...)
}
