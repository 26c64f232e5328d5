package deadletter

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"soniq/deadletter/classify"
)

// A Filter picks dead letters. Its zero value picks every one; each field that
// is set narrows it.
//
// A list that is empty but not nil is an error, so that a list which happened
// to come out empty never means everything.
type Filter struct {
	// JobNames are exact names. Default any.
	JobNames []string
	// Queues are exact names. Default any.
	Queues []string
	// NameLike is a part of the job's name, taken literally, or a pattern for
	// the whole name if it has a * (any text) or a ? (any one character).
	// Upper and lower case differ. Default any.
	NameLike string
	// Reasons are compared as they are; they need not be among Reasons().
	// Default any.
	Reasons []classify.Reason
	// From and To bound the time of death, both inclusive. Default unbounded.
	From time.Time
	To   time.Time
	// Tags must all be there: the top level of the tags has the key, and its
	// value has that text. Default any.
	Tags map[string]string
	// State is StateDead, StateReplaying or StateResolved. Default any.
	State string
	// Groups are fingerprints, as Queue.Groups lists them: dead letters of one
	// cause. Default any.
	Groups []string
	// ErrorLike is a part of the last error's text, taken literally but for
	// upper and lower case. Default any.
	ErrorLike string
	// Replayed picks what was replayed at least once, or never. Default both.
	Replayed *bool
	// Limit is the highest number of rows, the same for a count and for the
	// verb that it previews. Default no limit, but 1,000 for List.
	Limit int
	// All must be set for ReplayAll and DeleteAll to run without any of the
	// conditions above. It picks nothing by itself. Default false.
	All bool
}

// Validate returns an error that names the first field which makes no sense.
func (f Filter) Validate() error {
	if f.JobNames != nil && len(f.JobNames) == 0 {
		return fmt.Errorf("filter: JobNames: %w", ErrEmptyFilterField)
	}
	if f.Queues != nil && len(f.Queues) == 0 {
		return fmt.Errorf("filter: Queues: %w", ErrEmptyFilterField)
	}
	if f.Reasons != nil && len(f.Reasons) == 0 {
		return fmt.Errorf("filter: Reasons: %w", ErrEmptyFilterField)
	}
	if f.Groups != nil && len(f.Groups) == 0 {
		return fmt.Errorf("filter: Groups: %w", ErrEmptyFilterField)
	}
	if f.Tags != nil && len(f.Tags) == 0 {
		return fmt.Errorf("filter: Tags: %w", ErrEmptyFilterField)
	}
	if !f.From.IsZero() && !f.To.IsZero() && f.To.Before(f.From) {
		return fmt.Errorf("filter: To: %s is before From, %s",
			f.To.Format(time.RFC3339), f.From.Format(time.RFC3339))
	}
	switch f.State {
	case "", StateDead, StateReplaying, StateResolved:
	default:
		return fmt.Errorf("filter: State: unknown state %q: want %s, %s or %s",
			f.State, StateDead, StateReplaying, StateResolved)
	}
	if f.Limit < 0 {
		return fmt.Errorf("filter: Limit: %d is negative", f.Limit)
	}
	return f.validateTexts()
}

// validateTexts finds what Postgres would refuse as a parameter.
func (f Filter) validateTexts() error {
	texts := map[string][]string{
		"JobNames":  f.JobNames,
		"Queues":    f.Queues,
		"NameLike":  {f.NameLike},
		"Groups":    f.Groups,
		"ErrorLike": {f.ErrorLike},
	}
	for _, r := range f.Reasons {
		texts["Reasons"] = append(texts["Reasons"], string(r))
	}
	for k, v := range f.Tags {
		texts["Tags"] = append(texts["Tags"], k, v)
	}
	for _, field := range []string{"JobNames", "Queues", "NameLike", "Reasons", "Tags", "Groups", "ErrorLike"} {
		if slices.ContainsFunc(texts[field], func(s string) bool { return !acceptable(s) }) {
			return fmt.Errorf("filter: %s: not valid UTF-8, or with a NUL byte in it", field)
		}
	}
	return nil
}

func acceptable(s string) bool {
	return utf8.ValidString(s) && strings.IndexByte(s, 0) < 0
}

// narrow reports whether the filter has any condition.
func (f Filter) narrow() bool {
	return f.JobNames != nil || f.Queues != nil || f.NameLike != "" || f.Reasons != nil ||
		!f.From.IsZero() || !f.To.IsZero() || f.Tags != nil || f.State != "" ||
		f.Groups != nil || f.ErrorLike != "" || f.Replayed != nil
}

// validateBulk is Validate for a verb that changes what it picks.
func (f Filter) validateBulk() error {
	if err := f.Validate(); err != nil {
		return err
	}
	if !f.narrow() && !f.All {
		return ErrFilterEmpty
	}
	return nil
}
