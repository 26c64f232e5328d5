package deadletter

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"soniq/deadletter/classify"
	"soniq/internal/pg"
)

// A Filter picks dead letters. The zero value picks all of them, and each field
// that is set is one more condition.
//
// A list that is empty but not nil is an error: a list that came out empty by
// mistake must not pick everything.
type Filter struct {
	// JobNames are exact names. Default any.
	JobNames []string
	// Queues are exact names. Default any.
	Queues []string
	// NameLike is a part of the job's name, taken literally. If it has a * (any
	// text) or a ? (any character) it is a pattern for the whole name. Case
	// counts. Default any.
	NameLike string
	// Reasons may be others than those of this package. Default any.
	Reasons []classify.Reason
	// From and To bound the time of death. Both are inclusive. A year before 1 or after
	// 9999 is an error. Default unbounded.
	From time.Time
	To   time.Time
	// Tags must all match: the top level of the tags has the key, and its value
	// has that text. Default any.
	Tags map[string]string
	// State is one of the states. Default "": any.
	State State
	// Groups are ids of groups, as [Queue.Groups] returns them. Default any.
	Groups []string
	// ErrorLike is a part of the last error's text, taken literally. Case doesn't
	// count. Default any.
	ErrorLike string
	// Text is a part of the last error's text, or of the arguments as PostgreSQL writes them.
	// Case doesn't count. It finds secrets too. Default any.
	Text string
	// Replayed picks what was replayed at least once (true) or never (false).
	// Default nil: both.
	Replayed *bool
	// Limit is the highest number of rows. It is the same for a verb and for the
	// count that is its preview. Default 0: no limit, but 1,000 for List and
	// Groups.
	Limit int
	// All lets ReplayAll and DeleteAll run without any of the conditions above. It
	// is no condition itself. Default false.
	All bool
}

// Validate returns an error that names the first wrong field.
//
// Errors: [ErrEmptyFilterField] for a list that is empty but not nil.
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
	if err := pg.CheckWindow("filter", f.From, f.To); err != nil {
		return err
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

// validateTexts finds texts that PostgreSQL refuses as a parameter.
func (f Filter) validateTexts() error {
	texts := map[string][]string{
		"JobNames":  f.JobNames,
		"Queues":    f.Queues,
		"NameLike":  {f.NameLike},
		"Groups":    f.Groups,
		"ErrorLike": {f.ErrorLike},
		"Text":      {f.Text},
	}
	for _, r := range f.Reasons {
		texts["Reasons"] = append(texts["Reasons"], string(r))
	}
	for k, v := range f.Tags {
		texts["Tags"] = append(texts["Tags"], k, v)
	}
	for _, field := range []string{"JobNames", "Queues", "NameLike", "Reasons", "Tags", "Groups", "ErrorLike", "Text"} {
		if slices.ContainsFunc(texts[field], func(s string) bool { return !acceptable(s) }) {
			return fmt.Errorf("filter: %s: not valid UTF-8, or with a NUL byte in it", field)
		}
	}
	return nil
}

func acceptable(s string) bool {
	return utf8.ValidString(s) && strings.IndexByte(s, 0) < 0
}

// narrow reports whether the filter has a condition.
func (f Filter) narrow() bool {
	return f.JobNames != nil || f.Queues != nil || f.NameLike != "" || f.Reasons != nil ||
		!f.From.IsZero() || !f.To.IsZero() || f.Tags != nil || f.State != "" ||
		f.Groups != nil || f.ErrorLike != "" || f.Text != "" || f.Replayed != nil
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
