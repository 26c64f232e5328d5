// Package httpverdict is the one table of what an HTTP status means for a job.
//
// A status reaches a worker in two ways, and they don't always mean the same:
//
//	worker ----> the job's own endpoint              column Endpoint
//	worker ----> handler ----> a dependency of it    column Dependency
//
// The job's own endpoint is the handler. It picks its status for the worker, as a
// command picks its exit code. Where the status is not its own, because it isn't
// deployed, or a gateway in front of it answers, the operator mends that and the
// job has to wait for it.
//
// A dependency knows nothing of jobs. Its status is about the request that the
// handler made, and that is the same on the next attempt.
//
// The HTTP handler of 'soniq worker' reads the first column, the classifier of
// HTTP errors reads the second. docs/worker.md shows the table; 'make docs' writes
// it there.
package httpverdict

import "slices"

// Verdict is what becomes of a job after one attempt.
type Verdict uint8

const (
	// None says that the status decides nothing: it is no error.
	None Verdict = iota
	// Done says that the job has succeeded.
	Done
	// Retry says that the attempt failed, and that a later one may succeed.
	Retry
	// InvalidArguments says that the job's arguments are wrong. The job becomes a
	// dead letter at once.
	InvalidArguments
	// Permanent says that no later attempt can succeed. The job becomes a dead
	// letter at once.
	Permanent
)

// A Row says what a range of statuses means.
type Row struct {
	// First and Last are the range, both included.
	First, Last int
	// Name is how documents call the range: '404', 'other 5xx'.
	Name string
	// Endpoint is the verdict of the job's own endpoint, Dependency that of a
	// dependency which a handler called.
	Endpoint, Dependency Verdict
	// Paused says that the job's own endpoint may send Retry-After: the job then
	// runs again at that time, and the attempt is not counted.
	Paused bool
	// Misconfigured says that the status of the job's own endpoint is mostly the
	// operator's to mend. The worker logs a warning.
	Misconfigured bool
	// Why is the reason why the two columns differ. It is empty where they agree.
	Why string
}

// rows is the table. The first row that has a status in its range decides.
//
// The statuses that agree are those that most clients and services try again:
// hashicorp/go-retryablehttp tries 429 and 5xx but for 501; Google's Cloud Tasks
// and Upstash's QStash, which call a job's own endpoint, try whatever is not 2xx.
// Azure Event Grid gives up at 400, 401, 403 and 413.
var rows = []Row{
	{
		First: 200, Last: 299, Name: "2xx", Endpoint: Done, Dependency: None,
		Why: "A dependency's success is no error. The handler goes on.",
	},
	{First: 400, Last: 400, Name: "400", Endpoint: InvalidArguments, Dependency: Permanent, Why: whyArguments},
	{First: 422, Last: 422, Name: "422", Endpoint: InvalidArguments, Dependency: Permanent, Why: whyArguments},
	{First: 401, Last: 401, Name: "401", Endpoint: Retry, Dependency: Retry, Misconfigured: true},
	{First: 407, Last: 407, Name: "407", Endpoint: Retry, Dependency: Retry, Misconfigured: true},
	{First: 421, Last: 421, Name: "421", Endpoint: Retry, Dependency: Retry, Misconfigured: true},
	{
		First: 403, Last: 403, Name: "403", Endpoint: Retry, Dependency: Permanent, Misconfigured: true,
		Why: "A gateway or a secret in front of the endpoint is set wrongly, and the operator mends it. A dependency says that this caller may not do this.",
	},
	{
		First: 404, Last: 404, Name: "404", Endpoint: Retry, Dependency: Permanent, Misconfigured: true,
		Why: "The endpoint isn't deployed yet, or its URL is wrong, and the operator mends it. A dependency says that what the job names doesn't exist.",
	},
	{
		First: 409, Last: 409, Name: "409", Endpoint: Permanent, Dependency: Retry,
		Why: "The endpoint says that this job conflicts with what is there; if it wants another attempt it answers 425, 429 or 503. In a dependency, another request was changing the same thing at that moment.",
	},
	{
		First: 423, Last: 423, Name: "423", Endpoint: Permanent, Dependency: Retry,
		Why: "As 409. In a dependency, a lock is released at some time.",
	},
	{First: 501, Last: 501, Name: "501", Endpoint: Retry, Dependency: Permanent, Why: whyUnable},
	{First: 505, Last: 505, Name: "505", Endpoint: Retry, Dependency: Permanent, Why: whyUnable},
	{First: 429, Last: 429, Name: "429", Endpoint: Retry, Dependency: Retry, Paused: true},
	{First: 503, Last: 503, Name: "503", Endpoint: Retry, Dependency: Retry, Paused: true},
	{First: 408, Last: 408, Name: "408", Endpoint: Retry, Dependency: Retry},
	{First: 425, Last: 425, Name: "425", Endpoint: Retry, Dependency: Retry},
	{First: 500, Last: 599, Name: "other 5xx", Endpoint: Retry, Dependency: Retry},
	{First: 400, Last: 499, Name: "other 4xx", Endpoint: Permanent, Dependency: Permanent},
	{
		First: 300, Last: 399, Name: "3xx", Endpoint: Permanent, Dependency: None,
		Why: "The worker follows no redirect. A client that was told not to follow one has no error.",
	},
	{
		First: 600, Last: 999, Name: "600 and above", Endpoint: Retry, Dependency: None,
		Why: "HTTP has no such status: the endpoint is broken. In an error of a client the number means something else.",
	},
	{
		First: 0, Last: 199, Name: "below 200", Endpoint: Permanent, Dependency: None,
		Why: "The endpoint wants another protocol (101). In an error of a client the number means something else.",
	},
}

const (
	whyArguments = "The request's body is the job's arguments, so the endpoint refuses those. A dependency refuses the request that the handler made."
	whyUnable    = "A newer release of the endpoint can do it, and the operator deploys that. A dependency that can't do it now can't do it on the next attempt."
)

// Of returns the row for a status. A number that HTTP can't transfer, below 0 or
// over 999, has the zero row: its verdicts are [None].
func Of(status int) Row {
	for _, row := range rows {
		if row.First <= status && status <= row.Last {
			return row
		}
	}
	return Row{}
}

// Rows returns the table: the first row that has a status in its range decides.
func Rows() []Row { return slices.Clone(rows) }
