package deadletter

import (
	"encoding/json"
	"strings"

	"github.com/jackc/pgx/v5"

	"soniq/internal/pg"
	"soniq/internal/recordfile"
)

// selectRecords selects what a file has of dead letters d, and the number of the transaction that
// wrote each.
var selectRecords = "select" + whole.columns() + `,
  d.unique_job, d.resurrection_count, ` + exactColumns() + `,
  d.xmin::text
from public.soniq_dead_letter_jobs d`

// exactColumns is the SQL of recordfile.Record.Exact: a JSON object, or NULL for a row that the
// other columns have exactly, as nearly all are.
func exactColumns() string {
	var when, members []string
	add := func(name, condition, value string) {
		when = append(when, condition)
		members = append(members, "'"+name+"', case when "+condition+" then "+value+" end")
	}
	for _, name := range []string{"last_error", "dead_letter_reason", "error_kind", "error_type", "error_code", "decided_by", "fingerprint", "args_hash", "dedup_key", "producer_id"} {
		add(name, "d."+name+" = ''", "''")
	}
	for _, name := range []string{"job_name", "queue"} {
		column, whole := "d."+name, "d.whole_"+name
		long := "(" + whole + " is not null or octet_length(" + column + ") > 2000)"
		text := "coalesce(" + whole + ", " + column + ")"
		// Shortened in another way than an import would, or not at all.
		add(name, "(d."+name+" = '' or "+long+" and ("+column+", coalesce("+whole+", '')) is distinct from ("+
			pg.IndexedText(text)+", coalesce("+pg.WholeText(text)+", '')))", column)
		add("whole_"+name, whole+" is not null and "+column+" in ('', "+whole+")", whole)
	}
	for _, name := range []string{"original_created_at", "moved_to_dead_letter_at", "last_resurrection_at", "scheduled_at", "created_at"} {
		// JSON has the same form of a time whatever DateStyle says.
		add(name, "d."+name+" not"+between, "to_jsonb(d."+name+" at time zone 'utc') #>> '{}'")
	}
	add("tags", "jsonb_typeof(d.tags) in ('string', 'null')", "d.tags::text")
	add("errors", "jsonb_typeof(d.errors) = 'null'", "d.errors::text")
	return "case when " + strings.Join(when, "\n    or ") + "\n  then jsonb_strip_nulls(jsonb_build_object(\n    " +
		strings.Join(members, ",\n    ") + ")) end"
}

// scanRecord reads a row of selectRecords.
func scanRecord(row pgx.CollectableRow) (*recordfile.Record, string, error) {
	var j Job
	var xid string
	var uniqueJob *bool
	var resurrections *int
	var exact []byte
	failures, err := scanRow(row, &j, &uniqueJob, &resurrections, &exact, &xid)
	if err != nil {
		return nil, "", err
	}
	return &recordfile.Record{
		ID: j.ID, JobName: j.JobName, Args: j.Args, Queue: j.Queue,
		Priority: j.Priority, MaxAttempts: j.MaxAttempts, Attempts: j.Attempts,
		LastError: j.LastError, Reason: j.Reason,
		OriginalCreatedAt: j.OriginalCreatedAt, MovedAt: j.MovedAt,
		ResurrectionCount: resurrections, LastResurrectionAt: j.LastResurrectionAt, Tags: notNull(j.Tags),
		State: string(j.State), ReplayJobID: j.ReplayJobID, ReplayOf: j.ReplayOf,
		ErrorKind: j.ErrorKind, ErrorType: j.ErrorType, ErrorCode: j.ErrorCode, DecidedBy: j.DecidedBy, Fingerprint: j.Fingerprint,
		ArgsHash: j.ArgsHash, UniqueJob: uniqueJob, DedupKey: j.DedupKey, ProducerID: j.ProducerID,
		WorkerID: j.WorkerID, ScheduledAt: j.ScheduledAt,
		MovedXID: j.MovedXID, CreatedAt: j.CreatedAt, Errors: notNull(failures), Exact: exact,
	}, xid, nil
}

// notNull returns JSON, and nil for a null: a file writes both the same.
func notNull(doc []byte) json.RawMessage {
	if string(doc) == "null" {
		return nil
	}
	return doc
}
