package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/google/uuid"
)

// result is what a phase has shown.
type result struct {
	seen evidence
	verdict
	synchronous bool
	rate        int
	took        time.Duration
	rounds      []round
	ran, acked  map[int][]time.Time
	refused     map[string]int
	sample      map[string]string
	problems    []string
	unplanned   int
	poolerDied  int
}

func (d *drill) result(e evidence, took time.Duration) *result {
	r := &result{
		seen: e, verdict: judge(e), synchronous: d.synchronous, rate: d.rate, took: took, rounds: d.rounds,
		problems: d.problems, unplanned: d.unplanned,
	}
	r.ran, r.acked = d.load.times()
	d.mu.Lock()
	r.refused, r.sample = maps.Clone(d.refused), maps.Clone(d.sample)
	d.mu.Unlock()
	d.pooler.mu.Lock()
	r.poolerDied = d.pooler.unasked
	d.pooler.mu.Unlock()
	return r
}

// broken lists what is not as promised.
func (r *result) broken() []string {
	return append(slices.Clone(r.problems), r.verdict.broken(r.synchronous)...)
}

// outages are how long after each fault of a kind: a worker had work again, all had, and the
// producers of all ways were answered.
func (r *result) outages(kind string) (some, all, producers []time.Duration) {
	slowest := func(events map[int][]time.Time, f round) (longest time.Duration) {
		for way := range ways {
			longest = max(longest, outage(events[way+1], f.at, f.end))
		}
		return longest
	}
	for _, f := range r.rounds {
		if f.fault == kind && !f.end.IsZero() {
			some = append(some, outage(r.ran[0], f.at, f.end))
			all = append(all, slowest(r.ran, f))
			producers = append(producers, slowest(r.acked, f))
		}
	}
	for _, list := range [][]time.Duration{some, all, producers} {
		slices.Sort(list)
	}
	return some, all, producers
}

func (r *result) String() string {
	var text strings.Builder
	mode := "asynchronous"
	if r.synchronous {
		mode = "synchronous"
	}
	fmt.Fprintf(&text, "%s replication, %d faults in %s, %d jobs/s\n\n", mode, len(r.rounds), r.took.Round(time.Second), r.rate)
	r.table(&text)
	fmt.Fprintf(&text, "\njobs: %d acknowledged, %d ended, %d of them dead letters; %d requests to the endpoint\n", r.Acked, r.Ended, r.Dead, r.Executions)
	fmt.Fprintf(&text, "enqueues with an error: %v\n", r.refused)
	for way, sample := range r.sample {
		fmt.Fprintf(&text, "  such as, by %s: %s\n", way, sample)
	}
	fmt.Fprintf(&text, "lost by replication: %d jobs, %d steps of jobs\n", len(r.LostByReplication), len(r.seen.Lost))
	fmt.Fprintf(&text, "jobs lost: %d\n", len(r.LostByUs))
	fmt.Fprintf(&text, "outcomes doubled: %d\n", len(r.DoubledOutcomes))
	fmt.Fprintf(&text, "jobs run again since replication lost a step of theirs: %d\n", len(r.AgainByReplication))
	fmt.Fprintf(&text, "jobs run again otherwise: %d\n", len(r.AgainByUs))
	fmt.Fprintf(&text, "jobs done without having run: %d\n", len(r.NeverRan))
	for _, follower := range slices.Sorted(maps.Keys(r.seen.Seen)) {
		fmt.Fprintf(&text, "%s: missed %d, told twice %d", follower, len(r.Missed[follower]), len(r.Twice[follower]))
		if r.seen.Killed[follower] {
			fmt.Fprintf(&text, ", told again after kill -9 %d", len(r.Again[follower]))
		}
		fmt.Fprintln(&text)
	}
	fmt.Fprintf(&text, "hook: never sent %d, sent more than once %d\n", len(r.Unhooked), len(r.HookedTwice))
	fmt.Fprintf(&text, "failovers that nobody asked for: %d; PgBouncer ended by itself: %d\n", r.unplanned, r.poolerDied)
	broken := r.broken()
	for _, b := range broken {
		fmt.Fprintf(&text, "BROKEN: %s\n", b)
	}
	for _, jobs := range [][]uuid.UUID{r.LostByUs, r.DoubledOutcomes, r.AgainByUs, r.NeverRan, r.Unhooked} {
		for _, job := range jobs[:min(5, len(jobs))] {
			text.WriteString(r.seen.story(job))
		}
	}
	return text.String()
}

func (r *result) table(text *strings.Builder) {
	table := tabwriter.NewWriter(text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "fault\ttimes\tjobs flow: p50\tp95\tat all workers: p50\tp95\tproducers: p50\tp95\tlost by replication: jobs' steps\tbytes of WAL")
	for _, f := range faults {
		some, all, producers := r.outages(f.name)
		if len(some) == 0 {
			continue
		}
		var stepsLost, bytes int64
		for _, round := range r.rounds {
			if round.fault == f.name {
				stepsLost += int64(len(round.loss.Steps))
				bytes += round.loss.Bytes
			}
		}
		fmt.Fprintf(table, "%s\t%d", f.name, len(some))
		for _, list := range [][]time.Duration{some, all, producers} {
			fmt.Fprintf(table, "\t%.1f s\t%.1f s", quantile(list, 0.5).Seconds(), quantile(list, 0.95).Seconds())
		}
		fmt.Fprintf(table, "\t%d\t%d\n", stepsLost, bytes)
	}
	_ = table.Flush()
}
