package pg

// What the columns of a job j mean. Python and producers of one's own leave some of
// them NULL. The index idx_soniq_jobs_claim has these expressions, and PostgreSQL
// uses it only for a query that spells them the same way.
const (
	// JobQueue is the job's queue.
	JobQueue = `coalesce(j.queue, 'default')`
	// JobPriority is its priority; lower runs first.
	JobPriority = `coalesce(j.priority, 100)`
	// JobDue is the time from which it may run.
	JobDue = `coalesce(j.scheduled_at, j.created_at, timestamptz '-infinity')`
)

// JobDueAgain is the scheduled_at of a claimed job that goes back to its queue at once:
// the one that it has, or now if that, or the time it was made, lies in the future. It
// was due when it was claimed, so the clock was set back since. t is the name of
// soniq_jobs in the statement.
func JobDueAgain(t string) string {
	return "case when coalesce(" + t + ".scheduled_at, " + t + ".created_at) > now() then now() else " + t + ".scheduled_at end"
}
