package classify

import (
	"cmp"

	"soniq/internal/pg"
)

// Limits of a [Verdict]'s texts, in bytes.
const (
	// MaxErrorBytes limits an error's text. 8 KiB holds a wrapped error with a
	// remote answer in it, and stays near the limit above which PostgreSQL moves a
	// value out of the row.
	MaxErrorBytes = 8 << 10
	// MaxNameBytes limits an error's type and code. Both are for filters, and a
	// generic type can have a name without end.
	MaxNameBytes = 200
	// MaxStackBytes limits a stack.
	MaxStackBytes = 4 << 10
)

// An Attempt is one failed attempt of a job.
type Attempt struct {
	// JobName is the name of the job.
	JobName string
	// Attempt is the number of this attempt, from 1.
	Attempt int
	// MaxAttempts is how many attempts the job has. An attempt with this number or
	// a higher one was the last.
	MaxAttempts int
	// Kind says what happened. Only the caller of the handler knows: an error that
	// matches context.DeadlineExceeded may come from any deadline. Default
	// KindError.
	Kind Kind
	// Err is what the handler returned or panicked with. May be nil.
	Err error
	// Message is used where Err is nil or has no text. Default a sentence for the
	// Kind.
	Message string
	// Permanent is the job's own rule for errors that no retry can help. May be
	// nil. The answer of a rule that panics is false.
	Permanent func(error) bool
	// Classifiers decide where neither a marker nor the job's rule does. The first
	// one that has advice counts. Default none.
	Classifiers []Classifier
	// Stack is the goroutine's stack at a panic, as debug.Stack prints it, or
	// that of a handler that ignores its context. May be empty.
	Stack string
}

// The values of Verdict.DecidedBy.
const (
	// ByBudget: the number of attempts.
	ByBudget = "budget"
	// ByMarker: an error with a method Permanent() bool.
	ByMarker = "marker"
	// ByRule: the job's own rule.
	ByRule = "rule"
	// ByClassifier: a classifier. A colon and its name follow: "classifier:http".
	ByClassifier = "classifier"
	// ByArguments: the arguments couldn't be decoded or didn't validate.
	ByArguments = "arguments"
	// ByTimeout: the last attempt ran into the job's timeout.
	ByTimeout = "timeout"
	// ByFleet: no worker has a handler for the job's name.
	ByFleet = "fleet"
	// ByOperator: a person.
	ByOperator = "operator"
)

// A Verdict is what [Decide] makes of an [Attempt]. Its texts can be stored: valid
// UTF-8 without NUL, within the limits.
type Verdict struct {
	// Retry is true if the job should run again. Reason is empty then.
	Retry bool
	// Reason says why the job should not run again.
	Reason Reason
	// Kind is the attempt's.
	Kind Kind
	// Type is the Go type of the error at the root of the tree, such as
	// "*net.OpError". It is empty where the attempt has no error.
	Type string
	// Code is what the error's method ErrorCode() string or SQLState() string
	// returns, else what a classifier reads from it.
	Code string
	// DecidedBy is one of the By constants; see ByClassifier.
	DecidedBy string
	// Fingerprint is 16 hex digits. It is equal for failures of one job name that
	// differ only in ids, numbers and the like.
	Fingerprint string
	// Message is the error's own text, without a prefix. Beyond MaxErrorBytes its
	// middle is cut out.
	Message string
	// Stack is the attempt's.
	Stack string
}

// Decide decides what becomes of a job whose attempt failed. The first line that
// fits wins:
//
//	no worker has a handler for it  job_not_found, at once
//	the arguments can't be read     invalid_arguments, at once
//	an error says Permanent() true  permanent_failure, at once
//	an error says Permanent() false retry while attempts are left
//	the job's rule says permanent   permanent_failure, at once
//	a classifier says permanent     permanent_failure, at once
//	a classifier says retry         retry while attempts are left
//	attempts are left               retry
//	the job's timeout passed        timeout
//	anything else                   max_retries_exceeded
//
// Decide looks for Permanent() in the error and all that it wraps. Of two errors
// that wrap each other the outer one counts. Of two that are joined, one that says
// true is enough. See [Classifier] for the kinds that classifiers aren't asked
// about.
//
// Decide never panics, whatever the methods of the error do. It unwraps each error
// once.
func Decide(a Attempt) Verdict { return ReadTree(a.Err).Decide(a) }

// Decide is the function [Decide] for the error that the tree was read from, in the
// place of a.Err. It doesn't read the errors again.
func (t *Tree) Decide(a Attempt) Verdict {
	a.Err = t.Err()
	if a.Kind == "" {
		a.Kind = KindError
	}
	f := newFinding(a, t)
	v := Verdict{Kind: a.Kind, Stack: pg.Storable(a.Stack, MaxStackBytes)}
	if a.Err != nil {
		v.Type = pg.Storable(f.errorType(), MaxNameBytes)
		v.Code = pg.Storable(f.code(), MaxNameBytes)
	}
	v.Message = pg.Storable(message(a, f.tree), MaxErrorBytes)
	v.Fingerprint = fingerprint(a, v, f.tree.fingerprint())
	v.Reason, v.DecidedBy = f.decide(a)
	v.Retry = v.Reason == ""
	return v
}

// A finding is what the errors, the job's rule and the classifiers say of an
// attempt.
type finding struct {
	tree *Tree
	// marked is the index of the marked error that decides, or -1, and permanent is
	// its answer.
	marked    int
	permanent bool
	// ruled is the answer of the job's rule.
	ruled bool
	// advice is that of a classifier. It is without advice where a marker or the
	// rule comes first.
	advice located
	// classifier is the name of the one that gave the advice, as DecidedBy has it.
	classifier string
}

func newFinding(a Attempt, t *Tree) finding {
	f := finding{tree: t}
	f.marked, f.permanent = f.tree.permanence(0)
	f.ruled = f.marked < 0 && a.ruled()
	if a.Kind == KindError && a.Err != nil {
		f.advice, f.classifier = ask(a.Classifiers, a.Err, f.tree)
		if f.marked >= 0 || f.ruled {
			f.advice.Advice, f.classifier = NoAdvice, ""
		}
	}
	return f
}

// decide returns no reason for a retry.
func (f finding) decide(a Attempt) (reason Reason, by string) {
	left := a.Attempt < a.MaxAttempts
	switch {
	case a.Kind == KindUnregistered:
		return JobNotFound, ByFleet
	case a.Kind == KindDecode:
		return InvalidArguments, ByArguments
	case f.permanent:
		return PermanentFailure, ByMarker
	case f.ruled:
		return PermanentFailure, ByRule
	case f.advice.Advice == AdvisePermanent:
		return PermanentFailure, f.classifier
	case left && f.marked >= 0:
		return "", ByMarker
	case left && f.advice.Advice == AdviseRetry:
		return "", f.classifier
	case left:
		return "", ByBudget
	case a.Kind == KindTimeout:
		return Timeout, ByTimeout
	default:
		return MaxRetriesExceeded, ByBudget
	}
}

// errorType is the type of the error that decided, where one did: another one of
// the tree would name something else.
func (f finding) errorType() string {
	switch {
	case f.permanent:
		return f.tree.errorType(f.marked)
	case f.advice.Advice == AdvisePermanent:
		return f.advice.tree.errorType(f.advice.at)
	}
	return f.tree.errorType(0)
}

// code is that of the error which a classifier's advice is about, or the first one
// of the tree.
func (f finding) code() string {
	if f.advice.Advice != NoAdvice {
		return cmp.Or(f.advice.tree.code(f.advice.at), f.advice.Code)
	}
	return cmp.Or(f.tree.code(0), f.advice.Code)
}

// ruled asks the job's own rule.
func (a Attempt) ruled() (permanent bool) {
	if a.Permanent == nil || a.Err == nil {
		return false
	}
	ok := guard(func() { permanent = a.Permanent(a.Err) })
	return permanent && ok
}

// message returns the error's text, or what stands in for it. The sentences are
// part of fingerprints: a change of one splits groups of failures.
func message(a Attempt, t *Tree) string {
	ok := true
	if a.Err != nil {
		var s string
		if s, ok = t.text(0); ok && s != "" {
			return s
		}
	}
	switch {
	case a.Message != "":
		return a.Message
	case a.Err != nil:
		return withoutText(a.Err, !ok)
	}
	switch a.Kind {
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
