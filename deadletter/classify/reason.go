package classify

import (
	"fmt"
	"strings"
)

// A Reason says why Soniq gave up on a job. It is the text in the column
// dead_letter_reason, shared with Python Soniq. The column has no check, so a row
// may hold a reason that isn't in this list.
type Reason string

const (
	// MaxRetriesExceeded: every attempt failed.
	MaxRetriesExceeded Reason = "max_retries_exceeded"
	// PermanentFailure: the handler, a rule of the job or a classifier said that
	// another attempt can't succeed.
	PermanentFailure Reason = "permanent_failure"
	// JobNotFound: no worker has a handler for the job's name.
	JobNotFound Reason = "job_not_found"
	// InvalidArguments: the arguments couldn't be decoded or didn't validate.
	InvalidArguments Reason = "invalid_arguments"
	// Timeout: every attempt was used up, and the last one ran into the job's
	// timeout.
	Timeout Reason = "timeout"
	// ManualMove: a person moved the job.
	ManualMove Reason = "manual_move"
)

// Reasons returns the reasons that Soniq writes, the most frequent ones first.
func Reasons() []Reason {
	return []Reason{
		MaxRetriesExceeded, PermanentFailure, JobNotFound,
		InvalidArguments, Timeout, ManualMove,
	}
}

// ParseReason returns the reason with that name.
//
// Errors: one that lists the known reasons, for any other name.
func ParseReason(s string) (Reason, error) {
	names := make([]string, 0, len(Reasons()))
	for _, r := range Reasons() {
		if string(r) == s {
			return r, nil
		}
		names = append(names, string(r))
	}
	return "", fmt.Errorf("unknown reason %q: want one of %s", s, strings.Join(names, ", "))
}

// A Kind says what happened on a job's last attempt. Its Reason says why there
// won't be another one.
type Kind string

const (
	// KindError: the handler returned an error.
	KindError Kind = "error"
	// KindPanic: the handler panicked.
	KindPanic Kind = "panic"
	// KindGoexit: the handler ended its goroutine by runtime.Goexit.
	KindGoexit Kind = "goexit"
	// KindTimeout: the job's own timeout passed. A deadline that the handler set
	// itself, or met in a client, is KindError.
	KindTimeout Kind = "timeout"
	// KindCrash: the worker died while the job ran.
	KindCrash Kind = "crash"
	// KindDecode: the arguments couldn't be decoded or didn't validate.
	KindDecode Kind = "decode"
	// KindUnregistered: no worker has a handler for the job's name.
	KindUnregistered Kind = "unregistered"
)
