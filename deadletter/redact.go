package deadletter

import (
	"encoding/json"
	"slices"

	"soniq/internal/redact"
)

// Redacted stands in for a value that Redact took out.
const Redacted = redact.Placeholder

// Redact returns a JSON document with "[redacted]" in the place of each value
// whose key is that of a secret (password, api_key, authorization ...), and with
// the texts of the others as RedactText makes them. Order, spaces and digits
// stay as they are, and so do null, true and false. It is for people's eyes, and
// no guarantee: a secret under an innocent name is shown. What isn't JSON comes
// back through RedactText.
func Redact(doc json.RawMessage) json.RawMessage { return redact.JSON(doc) }

// RedactText returns s without what looks like a secret, such as the password of
// a URL, a bearer token or password=x.
func RedactText(s string) string { return redact.Text(s) }

// Redacted returns the dead letter for people's eyes: arguments and tags as
// Redact makes them, all other texts as RedactText does. Two dead letters that
// differ in a secret alone look the same then.
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
	return j
}

// Redacted returns the record for people's eyes.
func (r Record) Redacted() Record {
	r.Actor, r.Because, r.Detail = RedactText(r.Actor), RedactText(r.Because), Redact(r.Detail)
	return r
}

// Redacted returns the operation for people's eyes.
func (op Operation) Redacted() Operation {
	op.Actor, op.Because, op.StoppedBy = RedactText(op.Actor), RedactText(op.Because), RedactText(op.StoppedBy)
	op.Filter = Redact(op.Filter)
	return op
}

// Redacted returns the group for people's eyes.
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
