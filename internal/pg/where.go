package pg

import (
	"slices"
	"strconv"
	"strings"
)

// A Where collects the conditions of a statement and all its parameters. A verb and
// its preview share one.
//
// The statement has only the conditions that are set. One with '$1 is null or ...'
// for each would be simpler, and could not use an index.
type Where struct {
	conditions []string
	params     []any
}

// NewWhere returns conditions whose parameters follow these.
func NewWhere(params []any) Where { return Where{params: slices.Clone(params)} }

// Param adds a parameter and returns its placeholder.
func (w *Where) Param(v any) string {
	w.params = append(w.params, v)
	return "$" + strconv.Itoa(len(w.params))
}

// And adds a condition.
func (w *Where) And(condition string) {
	w.conditions = append(w.conditions, condition)
}

// SQL returns the where clause, which is empty without conditions.
func (w *Where) SQL() string {
	if len(w.conditions) == 0 {
		return ""
	}
	return "\nwhere " + w.Condition()
}

// Condition returns all conditions as one, or "" without any.
func (w *Where) Condition() string { return strings.Join(w.conditions, "\n  and ") }

// Limit adds the parameter and returns the limit clause, which is empty for 0.
func (w *Where) Limit(n int) string {
	if n == 0 {
		return ""
	}
	return "\nlimit " + w.Param(n)
}

// Params are the parameters, in their order.
func (w *Where) Params() []any { return w.params }

// Clone returns a copy that may be changed.
func (w *Where) Clone() Where {
	return Where{conditions: slices.Clone(w.conditions), params: slices.Clone(w.params)}
}

// AndNot adds the condition that not all conditions hold that add adds. They may
// use parameters. Conditions that are null don't hold.
func (w *Where) AndNot(add func(other *Where)) {
	other := &Where{params: w.params}
	add(other)
	w.params = other.params
	w.And("(" + other.Condition() + ") is not true")
}
