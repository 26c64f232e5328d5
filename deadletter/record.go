package deadletter

import (
	"github.com/jackc/pgx/v5"

	"soniq/internal/recordfile"
)

// selectRecords selects what a file has of dead letters d, and the number of the transaction that
// wrote each.
var selectRecords = "select" + whole.columns() + `,
  d.unique_job, d.resurrection_count, ` + recordfile.ExactColumns("d") + `,
  d.xmin::text
from public.soniq_dead_letter_jobs d`

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
		ResurrectionCount: resurrections, LastResurrectionAt: j.LastResurrectionAt, Tags: recordfile.NotNull(j.Tags),
		State: string(j.State), ReplayJobID: j.ReplayJobID, ReplayOf: j.ReplayOf,
		ErrorKind: j.ErrorKind, ErrorType: j.ErrorType, ErrorCode: j.ErrorCode, DecidedBy: j.DecidedBy, Fingerprint: j.Fingerprint,
		ArgsHash: j.ArgsHash, UniqueJob: uniqueJob, DedupKey: j.DedupKey, ProducerID: j.ProducerID,
		WorkerID: j.WorkerID, ScheduledAt: j.ScheduledAt,
		MovedXID: j.MovedXID, CreatedAt: j.CreatedAt, Errors: recordfile.NotNull(failures), Exact: exact,
		TraceContext: j.TraceContext.String(),
	}, xid, nil
}
