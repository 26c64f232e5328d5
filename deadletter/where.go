package deadletter

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"soniq/internal/argshash"
	"soniq/internal/groupsql"
	"soniq/internal/pg"
	"soniq/internal/replaysql"
)

// A where is the conditions of a statement on a dead letter d.
type where struct{ pg.Where }

func (w *where) clone() *where { return &where{w.Clone()} }

// whereOf returns the conditions of a valid filter.
func whereOf(f Filter) *where {
	w := &where{}
	w.filter(f)
	return w
}

// filter adds the conditions of a valid filter.
func (w *where) filter(f Filter) {
	if f.JobNames != nil {
		w.And("d.job_name = any(" + w.names(f.JobNames) + ")")
	}
	if f.Queues != nil {
		w.And("d.queue = any(" + w.names(f.Queues) + ")")
	}
	if f.NameLike != "" {
		w.nameLike(f.NameLike)
	}
	if f.Reasons != nil {
		reasons := make([]string, len(f.Reasons))
		for i, r := range f.Reasons {
			reasons[i] = string(r)
		}
		w.And("d.dead_letter_reason = any(" + w.Param(reasons) + ")")
	}
	if !f.From.IsZero() {
		w.And("d.moved_to_dead_letter_at >= " + w.Param(f.From))
	}
	if !f.To.IsZero() {
		w.And("d.moved_to_dead_letter_at <= " + w.Param(f.To))
	}
	for _, key := range slices.Sorted(maps.Keys(f.Tags)) {
		w.tag(key, f.Tags[key])
	}
	if f.State != "" {
		w.And(stateCondition(f.State))
	}
	if f.Groups != nil {
		w.And(groupsql.Key + " = any(" + w.Param(f.Groups) + ")")
	}
	if f.ErrorLike != "" {
		w.And("d.last_error ilike " + w.Param("%"+escapeLike(f.ErrorLike)+"%"))
	}
	if f.Text != "" {
		like := " ilike " + w.Param("%"+escapeLike(f.Text)+"%")
		w.And("(d.last_error" + like + " or d.args::text" + like + ")")
	}
	if f.Replayed != nil {
		comparison := map[bool]string{true: "> 0", false: "= 0"}[*f.Replayed]
		w.And("coalesce(d.resurrection_count, 0) " + comparison)
	}
}

// stateCondition has the state as a literal: there is an index of those that may be dead,
// which a generic plan for a parameter could not use.
func stateCondition(s State) string {
	switch s {
	case StateDead:
		return replaysql.Dead
	case StateReplaying:
		return "d.state = 'replaying'"
	default:
		return "d.state = 'resolved'"
	}
}

// names returns an expression for exact names as the table has them: one that is too long for an index
// stands there as [pg.IndexedText] makes it or, if another program wrote it, as it is.
func (w *where) names(names []string) string {
	given := w.Param(names)
	if !slices.ContainsFunc(names, pg.IsShortened) {
		return given
	}
	from := " from unnest(" + given + "::text[]) n (name)"
	return "array(select n.name" + from + " union select " + pg.IndexedText("n.name") + from + ")"
}

// nameLike adds the condition of Filter.NameLike, which is about the whole name.
func (w *where) nameLike(pattern string) {
	const name = "coalesce(d.whole_job_name, d.job_name)"
	if strings.ContainsAny(pattern, "*?") {
		w.And(name + " like " + w.Param(globToLike(pattern)))
	} else {
		w.And("strpos(" + name + ", " + w.Param(pattern) + ") > 0")
	}
}

// globToLike makes a LIKE pattern of one with * and ?.
func globToLike(glob string) string {
	return strings.NewReplacer(`*`, `%`, `?`, `_`).Replace(escapeLike(glob))
}

// escapeLike makes a LIKE pattern of a literal text.
func escapeLike(s string) string {
	return strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`).Replace(s)
}

// tag adds the condition for one tag.
//
// Python Soniq stores tags encoded twice: the column holds a JSON string whose
// text is an object. PostgreSQL 15 can't test whether a text is JSON, so such a
// string is searched for the pair as Python writes it. An object within the object
// is not searched, since its pairs would look the same: a filter that deletes must
// not find too much.
func (w *where) tag(key, value string) {
	pair := argshash.String(key) + ": "
	// A value other than a string ends at a comma or at the brace.
	written := []string{pair + argshash.String(value), pair + value + ",", pair + value + "}"}
	w.And(fmt.Sprintf(`(
    d.tags ->> %s = %s
    or jsonb_typeof(d.tags) = 'string'
      and strpos(substr(d.tags #>> '{}', 2), '{') = 0
      and exists (
        select from unnest(%s::text[]) written
        where strpos(d.tags #>> '{}', written) > 0
      )
  )`, w.Param(key)+"::text", w.Param(value)+"::text", w.Param(written)))
}
