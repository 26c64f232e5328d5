package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

// A step of a job, as a row of ha.log has it: queued, processing, done, cancelled, gone (its row
// was deleted), or dead (a dead letter was made of it).
type step struct {
	ID, Job uuid.UUID
	What    string
	At      time.Time
}

func (s step) ends() bool { return s.What == "done" || s.What == "cancelled" || s.What == "dead" }

// An execution is one request for a job at the endpoint.
type execution struct {
	Job      uuid.UUID
	Name     string
	Attempt  int
	Worker   int
	Enqueued time.Time
	At       time.Time
}

// requests are how many a job of each name needs.
var requests = map[string]int{"ok": 1, "slow": 1, "flaky": 2, "bad": 1}

// evidence is what was seen of one phase.
type evidence struct {
	// Acked are the jobs whose enqueue was answered, and their names.
	Acked map[uuid.UUID]string
	// Executions are what the endpoint was asked for.
	Executions []execution
	// Steps are those that the last primary has. Lost are those that an old primary had, and
	// the one that was promoted instead has not.
	Steps, Lost []step
	// Seen has what each follower of dead letters was told, and how often; Hooked what the
	// hook's receiver was sent.
	Seen   map[string]map[uuid.UUID]int
	Hooked map[uuid.UUID]int
	// Killed are followers that are killed now and then, and go on after their cursor: 'dead-letter
	// watch' shows what is announced at once, out of order, and then shows that again.
	Killed map[string]bool
}

// A verdict says what became of the jobs. Each list has the jobs concerned.
type verdict struct {
	Acked, Ended, Dead, Executions int

	// LostByReplication were acknowledged, and their rows were not on the standby that was
	// promoted.
	LostByReplication []uuid.UUID
	// LostByUs are acknowledged, and nowhere, or on the primary and not ended.
	LostByUs []uuid.UUID
	// DoubledOutcomes have ended twice on the same line of servers.
	DoubledOutcomes []uuid.UUID
	// AgainByReplication have run more often than they should have, and a step of theirs was
	// lost with an old primary; AgainByUs have, and none was.
	AgainByReplication, AgainByUs []uuid.UUID
	// NeverRan are done, and the endpoint was never asked.
	NeverRan []uuid.UUID
	// Missed and Twice are of each follower; Twice leaves out those with a lost step. Again is Twice
	// of followers that are killed.
	Missed, Twice, Again map[string][]uuid.UUID
	// Unhooked were never sent to the hook; HookedTwice more than once.
	Unhooked, HookedTwice []uuid.UUID
}

// judge decides.
func judge(e evidence) verdict {
	v := verdict{Acked: len(e.Acked), Executions: len(e.Executions), Missed: map[string][]uuid.UUID{}, Twice: map[string][]uuid.UUID{}, Again: map[string][]uuid.UUID{}}
	touched := map[uuid.UUID]bool{}    // a step was lost
	lostInsert := map[uuid.UUID]bool{} // the first one was
	for _, s := range e.Lost {
		touched[s.Job] = true
		lostInsert[s.Job] = lostInsert[s.Job] || s.What == "queued"
	}
	known, ends, dead := map[uuid.UUID]bool{}, map[uuid.UUID]int{}, map[uuid.UUID]bool{}
	for _, s := range e.Steps {
		known[s.Job] = true
		if s.ends() {
			ends[s.Job]++
		}
		dead[s.Job] = dead[s.Job] || s.What == "dead"
	}
	for job := range known {
		if ends[job] == 0 {
			v.LostByUs = append(v.LostByUs, job)
		} else {
			v.Ended++
		}
		if ends[job] > 1 {
			v.DoubledOutcomes = append(v.DoubledOutcomes, job)
		}
	}
	for job := range e.Acked {
		switch {
		case known[job]:
		case lostInsert[job]:
			v.LostByReplication = append(v.LostByReplication, job)
		default:
			v.LostByUs = append(v.LostByUs, job)
		}
	}
	v.executions(e, touched, ends)
	v.announcements(e, touched, dead)
	return v
}

func (v *verdict) executions(e evidence, touched map[uuid.UUID]bool, ends map[uuid.UUID]int) {
	ran := map[uuid.UUID][]execution{}
	for _, x := range e.Executions {
		ran[x.Job] = append(ran[x.Job], x)
	}
	for job, all := range ran {
		switch {
		case len(all) <= requests[all[0].Name]:
		case touched[job]:
			v.AgainByReplication = append(v.AgainByReplication, job)
		default:
			v.AgainByUs = append(v.AgainByUs, job)
		}
	}
	for job := range ends {
		if len(ran[job]) == 0 {
			v.NeverRan = append(v.NeverRan, job)
		}
	}
}

func (v *verdict) announcements(e evidence, touched, dead map[uuid.UUID]bool) {
	for job, is := range dead {
		if !is {
			continue
		}
		v.Dead++
		for follower, seen := range e.Seen {
			switch {
			case seen[job] == 0:
				v.Missed[follower] = append(v.Missed[follower], job)
			case seen[job] > 1 && e.Killed[follower]:
				v.Again[follower] = append(v.Again[follower], job)
			case seen[job] > 1 && !touched[job]:
				v.Twice[follower] = append(v.Twice[follower], job)
			}
		}
		switch {
		case e.Hooked[job] == 0:
			v.Unhooked = append(v.Unhooked, job)
		case e.Hooked[job] > 1:
			v.HookedTwice = append(v.HookedTwice, job)
		}
	}
}

// broken lists the promises that were not kept. A hook is sent at least once, so twice is none.
func (v verdict) broken(synchronous bool) (broken []string) {
	check := func(what string, jobs []uuid.UUID) {
		if len(jobs) > 0 {
			broken = append(broken, fmt.Sprintf("%s: %d, such as %s", what, len(jobs), jobs[0]))
		}
	}
	check("jobs lost", v.LostByUs)
	check("outcomes doubled", v.DoubledOutcomes)
	check("jobs run again though no step of theirs was lost", v.AgainByUs)
	check("jobs done without having run", v.NeverRan)
	check("dead letters never sent to the hook", v.Unhooked)
	for _, follower := range slices.Sorted(maps.Keys(v.Missed)) {
		check("dead letters missed by "+follower, v.Missed[follower])
	}
	for _, follower := range slices.Sorted(maps.Keys(v.Twice)) {
		check("dead letters told twice to "+follower, v.Twice[follower])
	}
	if synchronous {
		check("jobs lost by synchronous replication", v.LostByReplication)
		check("jobs run again under synchronous replication", v.AgainByReplication)
	}
	return broken
}

// story is what is known of a job, in order.
func (e evidence) story(job uuid.UUID) string {
	type line struct {
		at   time.Time
		text string
	}
	var lines []line
	for _, s := range e.Steps {
		if s.Job == job {
			lines = append(lines, line{s.At, s.What})
		}
	}
	for _, s := range e.Lost {
		if s.Job == job {
			lines = append(lines, line{s.At, s.What + " (lost by replication)"})
		}
	}
	for _, x := range e.Executions {
		if x.Job == job {
			lines = append(lines, line{x.At, fmt.Sprintf("attempt %d of %s ran at worker %d", x.Attempt, x.Name, x.Worker)})
		}
	}
	slices.SortStableFunc(lines, func(a, b line) int { return cmp.Compare(a.at.UnixNano(), b.at.UnixNano()) })
	var story strings.Builder
	fmt.Fprintf(&story, "job %s (acknowledged: %t)\n", job, e.Acked[job] != "")
	for _, l := range lines {
		fmt.Fprintf(&story, "  %s %s\n", l.at.UTC().Format("15:04:05.000"), l.text)
	}
	return story.String()
}

// outage is how long after a moment the events flowed again: the end of the longest gap between
// two of them. A gap under a second is no outage, and counts as itself. It is negative if none
// came after the gap.
func outage(events []time.Time, from, to time.Time) time.Duration {
	var longest time.Duration
	var end time.Time
	last := from
	note := func(at time.Time) {
		if gap := at.Sub(last); gap > longest {
			longest, end = gap, at
		}
		last = at
	}
	for _, at := range events {
		if at.After(from) && !at.After(to) {
			note(at)
		}
	}
	note(to)
	switch {
	case longest < time.Second:
		return longest
	case end.Equal(to) && (len(events) == 0 || !slices.ContainsFunc(events, to.Equal)):
		return -1
	default:
		return end.Sub(from)
	}
}

// quantile is of sorted values: the smallest that so many are not above.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	n := int(q*float64(len(sorted)) + 0.999999)
	return sorted[max(0, min(n, len(sorted))-1)]
}
