// Package engine enqueues jobs and runs them.
//
// A [Client] inserts jobs into soniq_jobs. A [Registry] maps job names to handlers. A
// [Worker] claims due jobs whose names have a handler, runs them, and writes their
// outcomes:
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
//	internal/waiters <─> internal/fetch ──────> inflight ──> handlers
//	may it sleep?                 │  <──────── slots │
//	                internal/claim                   v outcomes
//	                                             completer ──> soniq_jobs,
//	internal/liveness     who is dead?                         dead letters
//	internal/maintenance  recovery, expiry, pruning, alarms
//
// A claim adds one to the job's attempts and writes a fresh claim_token. An outcome is
// written to the row with that id, status, worker, attempts and token. If there is
// none, the claim was lost: another worker has the job, and writes its outcome.
//
// Package deadletter/classify decides whether a failed attempt is retried, and the
// reason of a dead letter.
//
// [NewClient] and [NewWorker] take a pool and a configuration struct whose zero value
// works, and return an error for a configuration that doesn't. [NewRegistry] can't
// fail: they report the mistakes that were made in it.
//
// An error that a caller decides by is a sentinel, such as [ErrJobNotFound], or a type,
// such as [*ArgumentError]; use [errors.Is] and [errors.As]. Errors "of the database"
// wrap those of pgx.
package engine
