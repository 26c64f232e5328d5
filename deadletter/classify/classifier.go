package classify

import (
	"errors"
	"fmt"

	"soniq/internal/pg"
)

// A Classifier knows one kind of error: what a dependency says in a status or a
// code. It is asked about the error that a handler returned, after the markers and
// the job's own rule, and before the number of attempts decides. [HTTP], [GRPC]
// and [Postgres] are here; none is used unless it is configured.
//
// A Classifier isn't asked about panics, about jobs that ran into their own
// timeout, or about workers that died: the error of an attempt that was broken off
// says little about the job. It isn't asked about arguments either, which have a
// reason of their own.
//
// Exactly one of JudgeEach and Judge must be set.
type Classifier struct {
	// Name is what Verdict.DecidedBy has after ByClassifier and a colon: valid
	// UTF-8 without NUL, at most MaxNameBytes.
	Name string
	// JudgeEach returns the opinion about a single error. It is called for the
	// error that the handler returned and for those that it wraps, until the
	// opinion is certain: the outermost advice on a path counts, since the code that
	// wraps an error knows more; where paths part (errors.Join), one advice that is
	// permanent is enough. It need not unwrap. A call that panics counts as no
	// opinion.
	JudgeEach func(err error) Opinion
	// Judge returns the opinion about the error with all that it wraps, for a
	// classifier that looks through it itself, by errors.As. A call that panics
	// counts as no opinion.
	Judge func(err error) Opinion
}

// An Opinion is what a Classifier says about an error. The zero value is none.
type Opinion struct {
	// Advice is what should be done. Default NoAdvice.
	Advice Advice
	// Code is what the error calls itself: "404" or "UNAVAILABLE". It is kept with
	// the failure, also without advice. An error's own ErrorCode() string comes
	// before it.
	Code string
	// Err is the error that the opinion is about. Default the one that was judged.
	Err error
}

// Advice is what a Classifier wants to be done.
type Advice int

const (
	// NoAdvice leaves the decision to other classifiers, and in the end to the
	// number of attempts.
	NoAdvice Advice = iota
	// AdviseRetry runs the job again while attempts are left. No other classifier
	// is asked.
	AdviseRetry
	// AdvisePermanent makes the job a dead letter at once, with the reason
	// permanent_failure.
	AdvisePermanent
)

// Validate returns an error for a Classifier that could never be asked.
//
// Errors: one that names the field.
func (c Classifier) Validate() error {
	switch {
	case c.Name == "":
		return errors.New("it has no Name")
	case pg.Storable(c.Name, MaxNameBytes) != c.Name:
		return fmt.Errorf("its Name must be valid UTF-8 of at most %d bytes without a NUL", MaxNameBytes)
	case c.Judge == nil && c.JudgeEach == nil:
		return fmt.Errorf("%s: its Judge is nil, and so is its JudgeEach: set one of them", c.Name)
	case c.Judge != nil && c.JudgeEach != nil:
		return fmt.Errorf("%s: JudgeEach and Judge are both set: set one of them", c.Name)
	}
	return nil
}

// Opinion returns the classifier's opinion about err and all that it wraps. A
// classifier can ask another one by it.
func (c Classifier) Opinion(err error) Opinion {
	if err == nil {
		return Opinion{}
	}
	return c.ask(err, ReadTree(err)).Opinion
}

// A located is an opinion with the place of the error that it is about: a node of a
// tree.
type located struct {
	Opinion
	tree *Tree
	at   int
}

// ask asks the classifier about err, which t was read from.
func (c Classifier) ask(err error, t *Tree) located {
	switch {
	case c.JudgeEach != nil:
		return t.judge(0, c.JudgeEach)
	case c.Judge != nil:
		return locate(t, 0, err, c.Judge)
	}
	return located{}
}

// judge asks about node i and, as long as the opinion isn't certain, about those
// below it.
func (t *Tree) judge(i int, judge func(error) Opinion) located {
	o := locate(t, i, t.nodes[i].err, judge)
	if o.Advice != NoAdvice {
		return o
	}
	for at := range t.inner(i) {
		switch below := t.judge(at, judge); {
		case below.Advice == AdvisePermanent:
			return below
		case o.Advice == NoAdvice && (below.Advice != NoAdvice || o.Code == ""):
			o = below
		}
	}
	return o
}

// locate asks about err, which is node i of t.
func locate(t *Tree, i int, err error, judge func(error) Opinion) located {
	var o Opinion
	if !guard(func() { o = judge(err) }) || o == (Opinion{}) {
		return located{}
	}
	if o.Err != nil {
		// It needn't be an error of the tree.
		return located{o, ReadTree(o.Err), 0}
	}
	o.Err = err
	return located{o, t, i}
}

// ask returns the first advice of the classifiers, and the one that gave it.
// Without any it returns the first code.
func ask(classifiers []Classifier, err error, t *Tree) (first located, by string) {
	for _, c := range classifiers {
		says := c.ask(err, t)
		if says.Advice == AdviseRetry || says.Advice == AdvisePermanent {
			return says, ByClassifier + ":" + pg.Storable(c.Name, MaxNameBytes)
		}
		if first.Code == "" {
			first.Code = says.Code
		}
	}
	return first, ""
}
