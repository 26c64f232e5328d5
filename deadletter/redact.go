package deadletter

import (
	"encoding/json"
	"slices"

	"soniq/internal/redact"
)

// Redacted is what [Redact] puts in the place of a secret.
const Redacted = redact.Placeholder

// Redact returns a JSON document for people to read. Each value whose key is that of
// a secret (password, api_key, authorization ...) is replaced by "[redacted]", and
// other texts pass through [RedactText]. Order, spaces and numbers don't change. A
// secret under an ordinary name is not found. What is not JSON passes through
// RedactText as a whole.
func Redact(doc json.RawMessage) json.RawMessage { return redact.JSON(doc) }

// RedactText replaces what looks like a secret, such as the password of a URL, a
// bearer token or password=x.
func RedactText(s string) string { return redact.Text(s) }

// Redacted returns the dead letter for people to read: its arguments and tags
// through [Redact], its other texts through [RedactText].
func (j Job) Redacted() Job {
	j.Args, j.Tags = Redact(j.Args), Redact(j.Tags)
	j.LastError = RedactText(j.LastError)
	failures := slices.Clone(j.Errors)
	for i, f := range failures {
		failures[i] = f.Redacted()
	}
	j.Errors = failures
	j.JobName, j.Queue = RedactText(j.JobName), RedactText(j.Queue)
	j.ErrorType, j.ErrorCode, j.DecidedBy = RedactText(j.ErrorType), RedactText(j.ErrorCode), RedactText(j.DecidedBy)
	j.DedupKey, j.ProducerID = redactOptional(j.DedupKey), redactOptional(j.ProducerID)
	j.TraceContext = j.TraceContext.Redacted()
	return j
}

// Redacted returns the record for people to read.
func (r Record) Redacted() Record {
	r.Actor, r.Comment, r.Detail = RedactText(r.Actor), RedactText(r.Comment), Redact(r.Detail)
	return r
}

// Redacted returns the operation for people to read.
func (op Operation) Redacted() Operation {
	op.Actor, op.Comment, op.StoppedBy = RedactText(op.Actor), RedactText(op.Comment), RedactText(op.StoppedBy)
	op.Filter = Redact(op.Filter)
	return op
}

// Redacted returns the group for people to read.
func (g Group) Redacted() Group {
	g.SampleError = RedactText(g.SampleError)
	g.Jobs = slices.Clone(g.Jobs)
	for i, name := range g.Jobs {
		g.Jobs[i] = RedactText(name)
	}
	return g
}

func redactOptional(s *string) *string {
	if s == nil {
		return nil
	}
	return new(RedactText(*s))
}
