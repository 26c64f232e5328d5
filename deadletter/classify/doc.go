// Package classify decides what becomes of a job after a failed attempt: run it
// again, or make it a dead letter, and for which [Reason].
//
// [Decide] takes an [Attempt] and returns a [Verdict]. It asks, in this order, the
// errors themselves (a method Permanent() bool), the job's own rule, the
// [Classifier]s, and in the end counts the attempts. [HTTP], [GRPC] and [Postgres]
// are the classifiers that exist; each reads a status or a code from an error.
//
// A [Failure] is a verdict as the job's history keeps it.
//
// The package has no access to a database. Packages engine, deadletter and hooks
// use its types as they are; none of them has names of its own for these.
package classify
