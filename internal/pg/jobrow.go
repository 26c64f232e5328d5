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
