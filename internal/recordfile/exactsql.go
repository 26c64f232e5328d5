package recordfile

import (
	"strings"

	"soniq/internal/pg"
)

// ExactColumns is the SQL of Record.Exact for a dead letter d: a JSON object, or NULL for a row that the
// other columns have exactly, as nearly all are.
func ExactColumns(d string) string {
	const between = " between " + pg.EarliestTime + " and " + pg.LatestTime
	var when, members []string
	add := func(name, condition, value string) {
		when = append(when, condition)
		members = append(members, "'"+name+"', case when "+condition+" then "+value+" end")
	}
	for _, name := range []string{"last_error", "dead_letter_reason", "error_kind", "error_type", "error_code", "decided_by", "fingerprint", "args_hash", "dedup_key", "producer_id"} {
		add(name, d+"."+name+" = ''", "''")
	}
	for _, name := range []string{"job_name", "queue"} {
		column, whole := d+"."+name, d+".whole_"+name
		long := "(" + whole + " is not null or octet_length(" + column + ") > 2000)"
		text := "coalesce(" + whole + ", " + column + ")"
		// Shortened in another way than an import would, or not at all.
		add(name, "("+d+"."+name+" = '' or "+long+" and ("+column+", coalesce("+whole+", '')) is distinct from ("+
			pg.IndexedText(text)+", coalesce("+pg.WholeText(text)+", '')))", column)
		add("whole_"+name, whole+" is not null and "+column+" in ('', "+whole+")", whole)
	}
	for _, name := range []string{"original_created_at", "moved_to_dead_letter_at", "last_resurrection_at", "scheduled_at", "created_at"} {
		// JSON has the same form of a time whatever DateStyle says.
		add(name, d+"."+name+" not"+between, "to_jsonb("+d+"."+name+" at time zone 'utc') #>> '{}'")
	}
	add("tags", "jsonb_typeof("+d+".tags) in ('string', 'null')", d+".tags::text")
	add("errors", "jsonb_typeof("+d+".errors) = 'null'", d+".errors::text")
	return "case when " + strings.Join(when, "\n    or ") + "\n  then jsonb_strip_nulls(jsonb_build_object(\n    " +
		strings.Join(members, ",\n    ") + ")) end"
}
