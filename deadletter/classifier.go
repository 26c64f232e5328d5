package deadletter

import (
	"cmp"
	"errors"
	"fmt"
)

// A Classifier knows one kind of error: what a dependency says of itself, in a
// status or a code. It is asked about what a handler returned, after the markers
// and the job's own rule, and before the number of attempts decides. [HTTP],
// [GRPC] and [Postgres] are here; none is used unless it is asked for.
//
// It isn't asked about panics, about jobs that ran into their own deadline, or
// about workers that died: what an attempt says that was broken off tells little
// of the job. Nor about arguments, which have a reason of their own.
type Classifier struct {
	// Name tells who decided: Verdict.DecidedBy is ByClassifier, a colon and
	// this.
	Name string
	// Judge says what it makes of an error. It gets all that the handler
	// returned, wrapped and joined errors too; [JudgeTree] looks through these.
	// One that panics has no opinion.
	Judge func(err error) Opinion
}

// An Opinion is what a Classifier makes of an error. The zero value is none.
type Opinion struct {
	// Advice is what should be done. Default NoAdvice.
	Advice Advice
	// Code is what the error says of itself, "404" or "UNAVAILABLE": it is kept
	// with the failure, also without advice. An error's own ErrorCode() string
	// comes before it.
	Code string
	// Err is the error of the tree that it is about. Default all of it.
	Err error
}

// Advice is what a Classifier would do.
type Advice int

const (
	// NoAdvice leaves it to the others, and in the end to the number of
	// attempts.
	NoAdvice Advice = iota
	// AdviseRetry tries again, while attempts are left, and asks no other.
	AdviseRetry
	// AdvisePermanent makes it a dead letter at once: permanent_failure.
	AdvisePermanent
)

// Validate returns an error for a Classifier that could never be asked.
func (c Classifier) Validate() error {
	switch {
	case c.Name == "":
		return errors.New("it has no Name")
	case Storable(c.Name, maxNameBytes) != c.Name:
		return fmt.Errorf("its Name must be valid UTF-8 of at most %d bytes without a NUL", maxNameBytes)
	case c.Judge == nil:
		return fmt.Errorf("%s: its Judge is nil", c.Name)
	}
	return nil
}

// JudgeTree asks about single errors what a Classifier has to judge as a whole:
// err and all that it wraps. The outermost opinion on a path counts, since who
// wraps an error knows more; where paths part (errors.Join), one that is
// permanent is enough. A judge that panics about an error has no opinion of it.
func JudgeTree(err error, judge func(err error) Opinion) Opinion {
	w := walk{left: maxErrors}
	return w.judge(err, judge)
}

func (w *walk) judge(err error, judge func(err error) Opinion) (o Opinion) {
	if err == nil || w.left <= 0 {
		return o
	}
	w.left--
	if !guard(func() { o = judge(err) }) {
		o = Opinion{}
	}
	if o != (Opinion{}) {
		o.Err = cmp.Or(o.Err, err)
		if o.Advice != NoAdvice {
			return o
		}
	}
	for _, inner := range unwrap(err) {
		switch below := w.judge(inner, judge); {
		case below.Advice == AdvisePermanent:
			return below
		case o.Advice == NoAdvice && (below.Advice != NoAdvice || o.Code == ""):
			o = below
		}
	}
	return o
}

// ask returns the first advice of the classifiers, and who gave it. Without any
// it returns the first code.
func ask(a Attempt) (o Opinion, by string) {
	if a.Err == nil {
		return o, ""
	}
	for _, c := range a.Classifiers {
		var says Opinion
		if c.Judge == nil || !guard(func() { says = c.Judge(a.Err) }) {
			continue
		}
		if says.Advice == AdviseRetry || says.Advice == AdvisePermanent {
			says.Err = cmp.Or(says.Err, a.Err)
			return says, ByClassifier + ":" + Storable(c.Name, maxNameBytes)
		}
		if o.Code == "" {
			o.Code = says.Code
		}
	}
	return o, ""
}
