package engine

import (
	"slices"

	"soniq/deadletter"
)

// Redacted returns a copy of the job without secrets: [deadletter.Redact] replaces them
// in the arguments and the result, [deadletter.RedactText] in all other texts. What
// is not known as a secret by its name or its form stays.
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
