package engine

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
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
	redacted.TraceContext = j.TraceContext.Redacted()
	return &redacted
}

// Format implements [fmt.Formatter]: with any verb the job is printed as JSON, as
// [Job.Redacted] returns it.
func (j Job) Format(s fmt.State, _ rune) {
	text, err := json.Marshal(j.Redacted())
	if err != nil {
		// The arguments of a job that isn't one of the database's may be no JSON.
		text = fmt.Appendf(nil, "job %s", j.ID)
	}
	_, _ = s.Write(text)
}

// LogValue implements [slog.LogValuer]: a job is logged by its id, name, queue, status
// and attempt.
func (j Job) LogValue() slog.Value {
	return slog.GroupValue(
		slog.String("id", j.ID.String()), slog.String("job_name", deadletter.RedactText(j.Name)),
		slog.String("queue", deadletter.RedactText(j.Queue)), slog.String("status", string(j.Status)),
		slog.Int("attempt", j.Attempts),
	)
}

// Format implements [fmt.Formatter]: with any verb the outcome is printed without
// secrets.
func (o Outcome) Format(s fmt.State, _ rune) {
	if o.Job == nil {
		_, _ = fmt.Fprintf(s, "%s", string(o.Kind))
		return
	}
	_, _ = fmt.Fprintf(s, "%s after %s of %v", string(o.Kind), o.Duration, o.Job)
	if o.Delay != 0 {
		_, _ = fmt.Fprintf(s, ", due in %s", o.Delay)
	}
	if v := o.Verdict; v.Message != "" || v.Kind != "" {
		_, _ = fmt.Fprintf(s, ", reason %q, kind %q, type %q, code %q, decided by %q, error %q",
			v.Reason, v.Kind, v.Type, v.Code, v.DecidedBy, deadletter.RedactText(v.Message))
	}
}

// LogValue implements [slog.LogValuer].
func (o Outcome) LogValue() slog.Value {
	attrs := []slog.Attr{slog.String("kind", string(o.Kind)), slog.Any("job", o.Job)}
	if o.Verdict.Message != "" {
		attrs = append(attrs, slog.String("reason", string(o.Verdict.Reason)), slog.String("error", deadletter.RedactText(o.Verdict.Message)))
	}
	return slog.GroupValue(attrs...)
}

// Format implements [fmt.Formatter]: the arguments are not printed.
func (i Insert) Format(s fmt.State, _ rune) {
	_, _ = io.WriteString(s, "job "+describeName(i.Name))
}

// LogValue implements [slog.LogValuer]: the arguments are not logged.
func (i Insert) LogValue() slog.Value { return slog.StringValue("job " + describeName(i.Name)) }

// Format implements [fmt.Formatter]: the error is printed without secrets.
func (c ClaimTrace) Format(s fmt.State, _ rune) {
	_, _ = fmt.Fprintf(s, "claim of %d jobs: %d in %s%s", c.Asked, c.Jobs, c.Duration, suffix(c.Err))
}

// LogValue implements [slog.LogValuer].
func (c ClaimTrace) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(c)) }

// Format implements [fmt.Formatter]: the error is printed without secrets.
func (w WriteTrace) Format(s fmt.State, _ rune) {
	_, _ = fmt.Fprintf(s, "write of %d outcomes in %s%s", w.Outcomes, w.Duration, suffix(w.Err))
}

// LogValue implements [slog.LogValuer].
func (w WriteTrace) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(w)) }

// Format implements [fmt.Formatter]: the names are printed without secrets.
func (r RecoveryTrace) Format(s fmt.State, _ rune) {
	_, _ = fmt.Fprintf(s, "recovery of job %s, %s, of queue %s: %q",
		r.JobID, deadletter.RedactText(r.JobName), deadletter.RedactText(r.Queue), string(r.Outcome))
}

// LogValue implements [slog.LogValuer].
func (r RecoveryTrace) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(r)) }

// Format implements [fmt.Formatter]: the names and the error are printed without secrets.
func (e EnqueueTrace) Format(s fmt.State, _ rune) {
	_, _ = fmt.Fprintf(s, "enqueue of %d jobs%s", len(e.Jobs), suffix(e.Err))
	for _, job := range e.Jobs {
		_, _ = fmt.Fprintf(s, ", %v", job)
	}
}

// LogValue implements [slog.LogValuer].
func (e EnqueueTrace) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(e)) }

// Format implements [fmt.Formatter]: the names are printed without secrets.
func (e EnqueuedJob) Format(s fmt.State, _ rune) {
	duplicate := ""
	if e.Duplicate {
		duplicate = " (a duplicate)"
	}
	_, _ = fmt.Fprintf(s, "job %s, %s, of queue %s%s", e.ID, deadletter.RedactText(e.Name), deadletter.RedactText(e.Queue), duplicate)
}

// LogValue implements [slog.LogValuer].
func (e EnqueuedJob) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(e)) }

// suffix is an error at the end of a line.
func suffix(err error) string {
	if err == nil {
		return ""
	}
	return ": " + deadletter.RedactText(err.Error())
}
