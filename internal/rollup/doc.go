// Package rollup keeps what became of the jobs, by minute and in coarser steps, in a table of few rows, so that
// charts of the past are right when the jobs' rows are long gone.
//
//	workers    count attempts in memory, and add them once a minute     (recorder.go, write.go)
//	the leader counts the dead letters, each once, in the feed's order   (deaths.go)
//	           and deletes the rows that have served their time          (deaths.go)
//	readers    take the rows of one step, and the deaths not yet counted (read.go)
//
// A row is for one step of one length, one queue and job name, and for attempts or for deaths of one reason. Each
// attempt is added to a row of each length, and rows are never merged later: a reader of any span reads one
// length, and to thin out is to delete the short ones.
//
// All times are the server's: an attempt ends at the time of its claim, which the server wrote, and how long it
// has run since. A worker's clock plays no part.
package rollup

import "time"

// A Step is a length of rows, and for how long rows of that length are kept.
type Step struct{ Length, Keep time.Duration }

// steps are the lengths. The last row of each may have ended up to pruneEvery before it is deleted.
var steps = []Step{
	{time.Minute, 2 * time.Hour},
	{30 * time.Minute, 26 * time.Hour},
	{3 * time.Hour, (7*24 + 6) * time.Hour},
	{longest, kept},
}

const (
	// longest is the greatest length. Names are counted in it: see MaxNames.
	longest = 12 * time.Hour
	// kept is for how long anything is known.
	kept = 31 * 24 * time.Hour
	// MaxNames is how many pairs of queue and job name have rows of their own in half a day. All others are
	// [Other] together.
	MaxNames = 200
	// maxName is how many characters of a name are kept.
	maxName = 200
	// Other is the queue and the job name of all pairs beyond [MaxNames], and the reason of deaths for a reason
	// that Soniq doesn't write.
	Other = "other"
)

// MaxRows is how many rows the table has at most for so many pairs of queue and job name, each with attempts in
// every minute and deaths of every reason, with some room for rows that wait to be deleted.
func MaxRows(names int) int {
	each := 0
	for _, s := range steps {
		each += int((s.Keep+pruneEvery)/s.Length) + 2
	}
	if names > MaxNames {
		names = MaxNames + 1
	}
	return names * each * (1 + len(reasons))
}
