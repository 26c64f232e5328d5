// Package engine enqueues jobs and runs them.
//
// A [Client] inserts jobs into soniq_jobs. A [Registry] says which handler
// runs which job name. A [Worker] claims due jobs of the names it has handlers
// for, runs them, and writes what became of them:
//
//	enqueue
//	   │
//	   v     claim                    handler returned nil
//	queued ────────> processing ─────────────────────────────> done
//	   ^                 │ │ │
//	   │   retry, snooze │ │ │  exhausted, permanent, invalid arguments
//	   └─────────────────┘ │ └──> soniq_dead_letter_jobs
//	   ^    released at    │
//	   └───────────────────┘ shutdown: the attempt is not charged
//
// The parts of a worker, each with a state of its own:
//
//	                   notifications, due times
//	                              │
//	                              v      jobs
//	internal/waiters <──────> fetcher ────────> inflight ──> handlers
//	may it sleep?                 │  <──────── slots │
//	                internal/claim                   v outcomes
//	                                             completer ──> soniq_jobs,
//	internal/liveness     who is dead?                         dead letters
//	internal/maintenance  recovery, expiry, pruning, alarms
//
// A claim raises attempts by one and writes a fresh claim_token. Every outcome
// is written under id, status, worker, attempts and token; where no row
// matches, the claim was lost to someone else, whose outcome counts.
//
// Whether a failed attempt is retried, and the reason of a dead letter, is
// decided by package deadletter.
package engine
