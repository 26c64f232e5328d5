// Package history has the SQL that adds to a job's history of failed attempts.
//
// It is an expression and no function of the database's: whoever may write the
// tables can run it, and needs no right to execute anything.
package history

import "strings"

// The expression is that of soniq_add_errors in schema.sql, to the letter, which
// workers of 0.1.0 call.
const addSQL = `(
    select case
      when jsonb_array_length(w.whole) = 0 then null
      when jsonb_array_length(w.whole) <= 10 then w.whole
      else jsonb_build_array(w.whole -> 0) || jsonb_path_query_array(w.whole, '$[last - 8 to last]')
    end
    from (
      select
        case jsonb_typeof(HISTORY) when 'array' then HISTORY else '[]' end
        || case jsonb_typeof(MORE) when 'array' then MORE when 'object' then jsonb_build_array(MORE) else '[]' end
        as whole
    ) w
  )`

// Add is the SQL of a history with more at its end: an object, or an array of
// them; both are expressions of type jsonb. It keeps the first entry and the
// last nine. Whatever either holds, the result is an array, or NULL where there
// is nothing to tell.
func Add(history, more string) string {
	return strings.NewReplacer("HISTORY", history, "MORE", more).Replace(addSQL)
}
