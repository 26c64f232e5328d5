package bench

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// Options are the sizes of the workloads.
type Options struct {
	// Jobs are those of a burn-down, a batch and the failures.
	Jobs int
	// Rate is how many jobs a second are inserted in 'sustained'.
	Rate int
	// For is how long 'sustained' and the single inserts last.
	For time.Duration
	// Idle is how long an idle worker is watched.
	Idle time.Duration
	// Samples are the wakes that are measured.
	Samples int
}

// A Workload is something that a queue is asked to do.
type Workload struct {
	Name  string
	About string
	run   func(context.Context, *stage, Options) ([]Figure, error)
}

// The workloads.
var (
	BurnDown     = Workload{"burn-down", "a backlog of jobs that do nothing is worked off", burnDown}
	BurnDownFew  = Workload{"burn-down-defaults", "the same with a tenth of the jobs, for workers as they come", burnDownFew}
	BurnDownHeld = Workload{"burn-down-held", "a backlog is worked off while somebody keeps an old snapshot", burnDownHeld}
	Sustained    = Workload{"sustained", "jobs come at a steady rate: from insert to start", sustained}
	Enqueue      = Workload{"enqueue", "one client inserts single jobs, nobody works", enqueuers(1)}
	EnqueueEight = Workload{"enqueue-8", "eight clients insert single jobs, nobody works", enqueuers(8)}
	EnqueueAwake = Workload{"enqueue-worked", "eight clients insert single jobs, a worker takes them", enqueueWatched(8)}
	EnqueueMany  = Workload{"enqueue-many", "one client inserts batches of 5,000", enqueueMany}
	WakeIdle     = Workload{"wake", "a sleeping worker: from insert to start", wakeIdle}
	WakePairs    = Workload{"wake-pairs", "the second of two inserts 1 to 90 ms apart: from insert to start", wakePairs}
	WakeRollback = Workload{"wake-rollback", "an insert after a rolled back one: from insert to start", wakeAfterRollback}
	Failures     = Workload{"failures", "jobs fail for good and are replayed", failures}
	BulkReplay   = Workload{"bulk-replay", "a quarter of four times the jobs, all dead letters, is replayed, and not for the first time", bulkReplay}
	Import       = Workload{"import", "dead letters are exported, and imported: a dry run, and in earnest", importing}
	MassDeath    = Workload{"mass-death", "jobs fail for good at once, and a hook is on", massDeath}
	ManyWorkers  = Workload{"fleet", "1 to 400 idle workers: what a job costs, and how long it waits", fleetWakes}
	ManyQueues   = Workload{"many-queues", "a worker of 1 to 1,000 queues, or with jobs of others before its own", manyQueues}
	Limits       = Workload{"limits", "a worker of 30 names and 6 queues: what it costs that each has a concurrency", fleetWakes}
	Idle         = Workload{"idle", "a worker with nothing to do", idle}
)

// Workloads are all of them, in the order of a report.
func Workloads() []Workload {
	return []Workload{
		BurnDown, BurnDownFew, BurnDownHeld, Sustained, Enqueue, EnqueueEight, EnqueueAwake, EnqueueMany,
		WakeIdle, WakePairs, WakeRollback, Failures, BulkReplay, Import, MassDeath, Idle,
		ManyWorkers, ManyQueues, Limits,
	}
}

// A Match is a workload and the systems that are compared by it, each with the
// first.
type Match struct {
	Workload Workload
	Systems  []System
}

// A Result is what one system did in one workload: of each figure the median
// of the rounds.
type Result struct {
	Workload string   `json:"workload"`
	System   string   `json:"system"`
	Figures  []Figure `json:"figures"`
}

// Run plays each match in each round, on the server at url. Within a round the
// systems take turns, and each round begins with another of them: whatever else
// the machine does meets all alike. told, which may be nil, hears what comes
// next, with how many steps are done of how many.
func Run(ctx context.Context, url string, matches []Match, rounds int, o Options, told func(doing string, done, of int)) ([]Result, error) {
	steps := 0
	for _, m := range matches {
		steps += rounds * len(m.Systems)
	}
	done := 0
	type key struct{ workload, system string }
	seen := map[key][][]Figure{}
	for round := range rounds {
		for _, m := range matches {
			turn := round % len(m.Systems)
			for _, s := range slices.Concat(m.Systems[turn:], m.Systems[:turn]) {
				if told != nil {
					told(fmt.Sprintf("%s, %s, round %d", m.Workload.Name, s.Name(), round+1), done, steps)
				}
				figures, err := onStage(ctx, url, s, func(stage *stage) ([]Figure, error) { return m.Workload.run(ctx, stage, o) })
				if ctx.Err() != nil {
					return nil, context.Cause(ctx)
				}
				if err != nil {
					return nil, fmt.Errorf("%s, %s: %w", m.Workload.Name, s.Name(), err)
				}
				k := key{m.Workload.Name, s.Name()}
				seen[k] = append(seen[k], figures)
				done++
			}
		}
	}
	var results []Result
	for _, m := range matches {
		var first []Figure
		for _, s := range m.Systems {
			figures := medians(seen[key{m.Workload.Name, s.Name()}])
			if first == nil {
				first = figures
			} else {
				compare(figures, first)
			}
			results = append(results, Result{m.Workload.Name, s.Name(), figures})
		}
	}
	return results, nil
}

// compare fills in the ratios to the same figures of first.
func compare(figures, first []Figure) {
	for i := range figures {
		if i < len(first) && first[i].Value != 0 {
			figures[i].Ratio = figures[i].Value / first[i].Value
		}
	}
}

// medians makes one of the figures of each round, which have the same names.
func medians(rounds [][]Figure) []Figure {
	figures := slices.Clone(rounds[0])
	for i := range figures {
		values := make([]float64, len(rounds))
		for round, f := range rounds {
			values[round] = f[i].Value
		}
		figures[i].Value = Median(values)
	}
	return figures
}
