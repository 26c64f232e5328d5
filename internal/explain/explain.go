// Package explain says in a sentence why a job is a dead letter.
package explain

import (
	"strings"

	"soniq/deadletter"
	"soniq/deadletter/classify"
)

// Death is a sentence that explains the reason of a dead letter.
func Death(j deadletter.Job) string {
	what := "this error"
	if t := ErrorType(j); t != "" {
		what = t
	}
	if j.ErrorCode != "" {
		what += " with the code " + j.ErrorCode
	}
	switch j.Reason {
	case classify.MaxRetriesExceeded:
		switch j.ErrorKind {
		case classify.KindCrash:
			return "Its worker died while it ran, and no attempt remains."
		case classify.KindPanic:
			return "Its handler panicked, and no attempt remains."
		case classify.KindGoexit:
			return "Its handler ended its goroutine, and no attempt remains."
		default:
			return "It failed, and no attempt remains."
		}
	case classify.PermanentFailure:
		switch j.DecidedBy {
		case classify.ByRule:
			return "The job's own rule says that " + what + " is permanent: no retry can help."
		case classify.ByMarker:
			return "Its handler said that " + what + " is permanent: no retry can help."
		}
		if name, ok := strings.CutPrefix(j.DecidedBy, classify.ByClassifier+":"); ok {
			return "The worker's classifier " + name + " says that " + what + " is permanent: no retry can help."
		}
		return "Its handler said that the failure is permanent: no retry can help."
	case classify.JobNotFound:
		return "No worker registered a handler for this name: deploy one, then replay."
	case classify.InvalidArguments:
		return "Its handler refused the arguments, so it was not tried again."
	case classify.Timeout:
		return "Its last attempt ran into the timeout, and none remains."
	case classify.ManualMove:
		return "Somebody moved it here by hand."
	default:
		return "Another program wrote this reason."
	}
}

// ErrorType is the Go type of the error, unless it is one of a command or an
// endpoint: a name from this program's inside.
func ErrorType(j deadletter.Job) string {
	if strings.HasPrefix(j.ErrorType, "*main.") {
		return ""
	}
	return j.ErrorType
}
