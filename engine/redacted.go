package engine

import (
	"slices"

	"soniq/deadletter"
)

// Redacted returns a copy of the job for people's eyes: arguments and result as
// [deadletter.Redact] makes them, all other texts as [deadletter.RedactText]
// does. A secret under an innocent name is shown.
func (j *Job) Redacted() *Job {
	redacted := *j
	redacted.Name, redacted.Queue = deadletter.RedactText(j.Name), deadletter.RedactText(j.Queue)
	redacted.Args, redacted.Result = deadletter.Redact(j.Args), deadletter.Redact(j.Result)
	redacted.LastError = deadletter.RedactText(j.LastError)
	redacted.ProducerID, redacted.DedupKey = deadletter.RedactText(j.ProducerID), deadletter.RedactText(j.DedupKey)
	redacted.Errors = slices.Clone(j.Errors)
	for i, f := range j.Errors {
		redacted.Errors[i] = f.Redacted()
	}
	return &redacted
}
