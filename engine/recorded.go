package engine

import (
	"context"

	"soniq/internal/rollup"
)

// recorded counts what was written for the charts of the past. Attempts that say nothing about a job are left out:
// those that a shutdown or a cancellation ended, that asked to run again, or that lost their claim.
type recorded struct{ *rollup.Recorder }

// Settled implements [Observer].
func (r recorded) Settled(_ context.Context, o Outcome) {
	job := o.Job
	failed := o.Kind == OutcomeRetry || o.Kind == OutcomeDeadLetter
	if !failed && o.Kind != OutcomeDone {
		return
	}
	due := job.CreatedAt
	if job.ScheduledAt != nil {
		due = *job.ScheduledAt
	}
	r.Add(rollup.Attempt{
		Queue: job.Queue, JobName: job.Name,
		// The claim wrote UpdatedAt by the server's clock.
		Ended: job.UpdatedAt.Add(o.Duration), Waited: job.UpdatedAt.Sub(due), Ran: o.Duration,
		Failed: failed, Resolved: !failed && job.ReplayOf != nil,
	})
}
