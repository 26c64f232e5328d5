// Package deadletter keeps the jobs that can't succeed: why they died, where
// they are kept, and how they come back.
//
// A failed attempt becomes a [Verdict] by [Classify]: try again, or a [Reason]
// to stop. A [Classifier] knows what a dependency says of itself. [Move] then takes the job out of soniq_jobs and into
// soniq_dead_letter_jobs in one statement, and a trigger announces it on the
// channel soniq_dead_letter, whoever inserted the row. [Subscribe] hears that.
//
// [Queue] is for the people who look after them. A dead letter is a record: it
// stays until it is deleted, and its state tells what became of its replays.
//
//	            Replay: makes a job        the job succeeds
//	Move --> dead ---------------> replaying ---------------> resolved
//	          ^                        |
//	          +------------------------+
//	   the job dies, is cancelled or deleted
//
// What ends a replay is seen by triggers on soniq_jobs, so it doesn't matter
// who runs or removes the job. A replay that dies is a dead letter of its own, with
// ReplayOf naming the one before; the success of its own replay resolves both. The
// dead letter tells which job is its replay, the latest one: what a job says of
// itself proves nothing.
//
// Verbs that change many rows have a preview that uses the same conditions:
// [Queue.Count] for [Queue.DeleteAll], [Queue.ReplayCount] for
// [Queue.ReplayAll], [Queue.CleanupCount] for [Queue.Cleanup]. They refuse a
// [Filter] that has no condition unless it says All. [Queue.Import] brings back
// what [Queue.Export] wrote.
package deadletter
