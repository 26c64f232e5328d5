// Package history has the SQL expression that appends to a job's history of failed
// attempts, the column 'errors'.
//
// It is an expression and not a function in the database, so that a role which may
// write the tables needs no EXECUTE privilege.
package history

import "strings"

// The function soniq_add_errors in schema.sql, which workers of 0.1.0 call, has the
// same expression, to the letter.
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

// Add returns the SQL of a history with more appended. Both are expressions of type
// jsonb; more is an object or an array of objects. The result keeps the first entry
// and the last nine. It is always an array, or NULL for an empty one: a value that is
// neither an array nor, for more, an object counts as empty.
func Add(history, more string) string {
	return strings.NewReplacer("HISTORY", history, "MORE", more).Replace(addSQL)
}
