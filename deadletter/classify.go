package deadletter

import (
	"cmp"
	"fmt"
)

// maxNameBytes is how much is kept of an error's type and of its code. Both
// are for filtering, and generic types can have names without end.
const maxNameBytes = 200

// An Attempt is one failed try of a job, as Classify sees it.
type Attempt struct {
	// JobName is the name of the job.
	JobName string
	// Attempt is the number of this try, from 1.
	Attempt int
	// MaxAttempts is how many tries the job has. A try with this number or a
	// higher one was the last.
	MaxAttempts int
	// Kind says what happened. Only who ran the handler knows: an error that
	// matches context.DeadlineExceeded may come from any deadline. Default
	// KindError.
	Kind Kind
	// Err is what the handler returned or panicked with. May be nil.
	Err error
	// Message stands in for Err where that is nil or can't speak. Default a
	// sentence that fits Kind.
	Message string
	// Permanent is the job's own rule for errors that no retry can help. May
	// be nil. A rule that panics has no opinion.
	Permanent func(error) bool
	// Classifiers decide, the first that has advice, where neither a marker nor
	// the job's rule does. Default none.
	Classifiers []Classifier
	// Stack is the goroutine's stack at a panic, as debug.Stack prints it, or
	// that of a handler which ignores its context. May be empty.
	Stack string
}

// Who decided, as Verdict.DecidedBy tells.
const (
	// ByBudget: the number of attempts.
	ByBudget = "budget"
	// ByMarker: an error with a method Permanent() bool.
	ByMarker = "marker"
	// ByRule: the job's own rule.
	ByRule = "rule"
	// ByClassifier: a classifier, whose name follows after a colon:
	// "classifier:http".
	ByClassifier = "classifier"
	// ByArguments: the arguments couldn't be read.
	ByArguments = "arguments"
	// ByTimeout: the last attempt ran into the job's deadline.
	ByTimeout = "timeout"
	// ByFleet: no worker knows the job's name.
	ByFleet = "fleet"
	// ByOperator: a person.
	ByOperator = "operator"
)

// A Verdict is what Classify makes of an Attempt.
type Verdict struct {
	// Retry is true if the job should run again. Reason is empty then.
	Retry bool
	// Reason says why it should not.
	Reason Reason
	// Kind is that of the attempt.
	Kind Kind
	// Type is the Go type of the error that started it all, where one is
	// known: "*net.OpError".
	Type string
	// Code is what the error's method ErrorCode() string or SQLState() string
	// says, else what a classifier reads from it.
	Code string
	// DecidedBy is one of the By constants; see ByClassifier.
	DecidedBy string
	// Fingerprint is 16 hex digits, equal for failures of one job that differ
	// only in ids, numbers and the like.
	Fingerprint string
	// Message is the error's own text, without a prefix, as Storable makes it.
	Message string
	// Stack is that of the attempt, at most 4 KiB of it.
	Stack string
}

// Classify decides what becomes of a job whose attempt failed. The first line
// that fits wins:
//
//	no worker knows the name        job_not_found, at once
//	the arguments can't be read     invalid_arguments, at once
//	an error says Permanent() true  permanent_failure, at once
//	an error says Permanent() false retry while attempts are left
//	the job's rule says permanent   permanent_failure, at once
//	a classifier says permanent     permanent_failure, at once
//	a classifier says retry         retry while attempts are left
//	attempts are left               retry
//	the job's deadline passed       timeout
//	anything else                   max_retries_exceeded
//
// Permanent() is looked for in the whole tree of wrapped errors. Of two that
// wrap each other the outer one counts; of two that are joined, the one that
// says true. See [Classifier] for what the classifiers aren't asked about.
//
// Classify never panics, whatever the methods of the error do.
func Classify(a Attempt) Verdict {
	v := Verdict{Kind: a.Kind}
	if v.Kind == "" {
		v.Kind = KindError
	}
	marked, permanent := permanence(a.Err)
	ruled := marked == nil && rules(a)
	var opinion Opinion
	classifier := ""
	if v.Kind == KindError {
		opinion, classifier = ask(a)
		if marked != nil || ruled {
			opinion.Advice, opinion.Err, classifier = NoAdvice, nil, ""
		}
	}

	source := a.Err
	switch {
	case permanent:
		source = marked
	case opinion.Advice == AdvisePermanent:
		source = opinion.Err
	}
	if source != nil {
		v.Type = Storable(errorType(source), maxNameBytes)
		v.Code = Storable(code(a, opinion), maxNameBytes)
	}
	v.Message = Storable(message(a, v.Kind), MaxErrorBytes)
	v.Stack = Storable(a.Stack, maxStackBytes)
	v.Fingerprint = fingerprint(a, v)

	exhausted := a.Attempt >= a.MaxAttempts
	switch {
	case v.Kind == KindUnregistered:
		v.Reason, v.DecidedBy = JobNotFound, ByFleet
	case v.Kind == KindDecode:
		v.Reason, v.DecidedBy = InvalidArguments, ByArguments
	case permanent:
		v.Reason, v.DecidedBy = PermanentFailure, ByMarker
	case ruled:
		v.Reason, v.DecidedBy = PermanentFailure, ByRule
	case opinion.Advice == AdvisePermanent:
		v.Reason, v.DecidedBy = PermanentFailure, classifier
	case !exhausted && marked != nil:
		v.Retry, v.DecidedBy = true, ByMarker
	case !exhausted && opinion.Advice == AdviseRetry:
		v.Retry, v.DecidedBy = true, classifier
	case !exhausted:
		v.Retry, v.DecidedBy = true, ByBudget
	case v.Kind == KindTimeout:
		v.Reason, v.DecidedBy = Timeout, ByTimeout
	default:
		v.Reason, v.DecidedBy = MaxRetriesExceeded, ByBudget
	}
	return v
}

// code is what the failure says of itself in a word. Of a classifier's advice it
// is that of the error which it is about: another one of the tree would tell
// something else.
func code(a Attempt, o Opinion) string {
	if o.Advice != NoAdvice {
		return cmp.Or(errorCode(o.Err), o.Code)
	}
	return cmp.Or(errorCode(a.Err), o.Code)
}

// rules asks the job's own rule.
func rules(a Attempt) (permanent bool) {
	if a.Permanent == nil || a.Err == nil {
		return false
	}
	ok := guard(func() { permanent = a.Permanent(a.Err) })
	return permanent && ok
}

// message returns what the failure says of itself.
func message(a Attempt, k Kind) string {
	if a.Err != nil {
		s, ok := text(a.Err)
		switch {
		case ok && s != "":
			return s
		case a.Message != "":
			return a.Message
		case ok:
			return fmt.Sprintf("an error of type %T without a text", a.Err)
		default:
			return fmt.Sprintf("an error of type %T, whose Error method panicked", a.Err)
		}
	}
	if a.Message != "" {
		return a.Message
	}
	switch k {
	case KindPanic:
		return "the handler panicked"
	case KindGoexit:
		return "the handler ended its goroutine by runtime.Goexit"
	case KindTimeout:
		return "the job ran into its deadline"
	case KindCrash:
		return "the worker died while the job ran"
	case KindDecode:
		return "the arguments can't be read"
	case KindUnregistered:
		return "no worker knows a job of this name"
	default:
		return "the handler failed without saying why"
	}
}
