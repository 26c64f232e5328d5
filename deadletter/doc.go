// Package deadletter is the dead-letter queue: the jobs that failed for good, and what
// people do with them.
//
// Package classify decides when a failed attempt is the last one, and why. The worker
// then moves the job from soniq_jobs to soniq_dead_letter_jobs in one statement. A
// trigger announces the row on the channel soniq_dead_letter, whatever program inserted
// it; [Subscribe] listens there.
//
// A [Queue] lists, replays, deletes, exports and imports dead letters. A dead letter
// stays until it is deleted, and its [State] says what became of its latest replay:
//
//	        Replay: makes a job          the job succeeds
//	dead ------------------> replaying ------------------> resolved
//	  ^                          |
//	  +--------------------------+
//	  the job dies, is cancelled or deleted
//
// Triggers on soniq_jobs change the state, so it doesn't matter which program ends the
// job. A replay that dies is a dead letter of its own, whose ReplayOf names the one
// before. If a replay of that one succeeds, both are resolved. A job counts as the replay
// of a dead letter only if the dead letter names it: what the job says of itself proves
// nothing.
//
// Methods that change many rows record an [Operation], and have a preview with the same
// conditions: [Queue.PlanReplay] for [Queue.ReplayAll], [Queue.Count] for
// [Queue.DeleteAll], [Queue.CleanupCount] for [Queue.Cleanup]. ReplayAll and DeleteAll
// refuse a [Filter] without a condition unless it sets All.
//
// A [Job] and other values have secrets as they are stored. Their methods Redacted return
// what people may see.
package deadletter
