package main

import (
	"fmt"
	"io"
	"text/tabwriter"

	"soniq/internal/bench"
)

// A bar is what a ratio, or where there is no rival a value, must reach.
type bar struct {
	workload bench.Workload
	figure   string
	system   bench.System
	rival    bench.System // nil: the value itself is judged
	limit    float64
	most     bool // the limit is the most that is allowed
}

// bars are those of the design.
var bars = []bar{
	{workload: bench.BurnDown, figure: "worked off", system: soniqTuned, rival: riverTuned, limit: 1.6},
	{workload: bench.BurnDown, figure: "worked off", system: soniqTuned, rival: plain, limit: 0.85},
	{workload: bench.BurnDown, figure: "worked off", system: soniqDeleting, rival: riverTuned, limit: 2.2},
	{workload: bench.BurnDown, figure: "worked off", system: soniqDeleting, rival: &Graphile{}, limit: 1.5},
	{workload: bench.BurnDown, figure: bench.WAL, system: soniqTuned, limit: 1800, most: true},
	{workload: bench.BurnDown, figure: bench.WAL, system: soniqTuned, rival: riverTuned, limit: 1, most: true},
	{workload: bench.EnqueueEight, figure: "inserted", system: soniqDefault, rival: plain, limit: 0.88},
	{workload: bench.WakeIdle, figure: "p50", system: soniqDefault, rival: plainTold, limit: 1.25, most: true},
	{workload: bench.WakeIdle, figure: "p99", system: soniqDefault, rival: plainTold, limit: 2, most: true},
	{workload: bench.WakePairs, figure: "p99", system: soniqDefault, limit: 10, most: true},
	{workload: bench.WakeRollback, figure: "p99", system: soniqDefault, limit: 10, most: true},
	{workload: bench.Idle, figure: "statements a minute", system: soniqDefault, limit: 20, most: true},
	{workload: bench.ManyWorkers, figure: bench.TransactionsAJob, system: soniqFleet40, limit: 12, most: true},
	{workload: bench.ManyWorkers, figure: "p50", system: soniqFleet40, rival: soniqFleet1, limit: 1.3, most: true},
	{workload: bench.ManyWorkers, figure: "p99", system: soniqFleet40, rival: soniqFleet1, limit: 2, most: true},
	{workload: bench.ManyWorkers, figure: bench.TransactionsAJob, system: soniqFleet400, rival: soniqFleet40, limit: 1.3, most: true},
	{workload: bench.ManyQueues, figure: "p50", system: soniqQueues, rival: soniqQueue, limit: 1.2, most: true},
	{workload: bench.ManyQueues, figure: "worked off", system: soniqStrangers, rival: soniqQueue, limit: 0.9},
	{workload: bench.Limits, figure: bench.TransactionsAtRest, system: soniqLimited, limit: 20, most: true},
	{workload: bench.Limits, figure: bench.TransactionsAJob, system: soniqLimited, limit: 12, most: true},
}

// verdicts prints what became of each bar that was measured.
func verdicts(out io.Writer, results []bench.Result) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\nbar\tagainst\treached\twanted\t")
	for _, b := range bars {
		f, ok := find(results, b.workload, b.system, b.figure)
		if !ok {
			continue
		}
		reached, against, sign := f.Value, f.Unit, ">="
		if b.rival != nil {
			rival, ok := find(results, b.workload, b.rival, b.figure)
			if !ok || rival.Value == 0 {
				continue
			}
			reached, against = f.Value/rival.Value, b.rival.Name()
		}
		met := reached >= b.limit
		if b.most {
			met, sign = reached <= b.limit, "<="
		}
		verdict := "met"
		if !met {
			verdict = "MISSED"
		}
		fmt.Fprintf(w, "%s: %s, %s\t%s\t%.4g\t%s %g\t%s\n", b.workload.Name, b.system.Name(), b.figure, against, reached, sign, b.limit, verdict)
	}
	return w.Flush()
}

func find(results []bench.Result, w bench.Workload, s bench.System, figure string) (bench.Figure, bool) {
	for _, r := range results {
		if r.Workload != w.Name || r.System != s.Name() {
			continue
		}
		for _, f := range r.Figures {
			if f.Name == figure {
				return f, true
			}
		}
	}
	return bench.Figure{}, false
}
