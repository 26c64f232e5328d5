package main

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
)

// A drill that can't fail shows nothing: each kind of loss and doubling, put into the evidence of a good
// run, is found, and is counted as replication's if and only if the job has lost a step with an
// old primary.
func TestJudge_eachKindOfFault_isFound(t *testing.T) {
	t.Parallel()
	const follower, job = "follower", "job"
	id := uuid.New()
	took := func(what string) step { return step{ID: uuid.New(), Job: id, What: what} }
	ran := execution{Job: id, Name: "bad", Attempt: 1, Worker: 1}
	good := func() evidence {
		return evidence{
			Acked: map[uuid.UUID]string{id: "bad"}, Executions: []execution{ran},
			Steps:  []step{took("queued"), took("processing"), took("dead"), took("gone")},
			Seen:   map[string]map[uuid.UUID]int{follower: {id: 1}},
			Hooked: map[uuid.UUID]int{id: 1},
		}
	}
	for _, test := range []struct {
		name              string
		change            func(*evidence)
		async, sync       string // what is broken, "" for nothing
		lost, again, ours int    // LostByReplication, AgainByReplication, LostByUs
	}{
		{name: "nothing", change: func(*evidence) {}},
		{"acknowledged and nowhere", func(e *evidence) { e.Steps, e.Executions = nil, nil }, "jobs lost: 1", "jobs lost: 1", 0, 0, 1},
		{
			"lost with the old primary", func(e *evidence) { e.Steps, e.Executions, e.Lost = nil, nil, []step{took("queued")} },
			"", "jobs lost by synchronous replication: 1", 1, 0, 0,
		},
		{"a later step lost, and then the job", func(e *evidence) { e.Steps, e.Lost = nil, []step{took("processing")} }, "jobs lost: 1", "jobs lost: 1", 0, 0, 1},
		{"never ended", func(e *evidence) { e.Steps = e.Steps[:2] }, "jobs lost: 1", "jobs lost: 1", 0, 0, 1},
		{"not acknowledged, and never ended", func(e *evidence) { e.Acked, e.Steps = nil, e.Steps[:2] }, "jobs lost: 1", "jobs lost: 1", 0, 0, 1},
		{"ended twice", func(e *evidence) { e.Steps = append(e.Steps, took("done")) }, "outcomes doubled: 1", "outcomes doubled: 1", 0, 0, 0},
		{"ran twice", func(e *evidence) { e.Executions = append(e.Executions, ran) }, "jobs run again though", "jobs run again though", 0, 0, 0},
		{"ran twice, the first outcome being lost", func(e *evidence) {
			e.Executions, e.Lost = append(e.Executions, ran), []step{took("dead")}
		}, "", "jobs run again under synchronous", 0, 1, 0},
		{"flaky runs twice", func(e *evidence) {
			e.Executions = []execution{{Job: id, Name: "flaky", Attempt: 1}, {Job: id, Name: "flaky", Attempt: 2}}
		}, "", "", 0, 0, 0},
		{"done without having run", func(e *evidence) { e.Executions = nil }, "jobs done without", "jobs done without", 0, 0, 0},
		{"missed by a follower", func(e *evidence) { e.Seen[follower] = nil }, "dead letters missed by follower: 1", "dead letters missed by follower: 1", 0, 0, 0},
		{"told twice", func(e *evidence) { e.Seen[follower][id] = 2 }, "dead letters told twice to follower: 1", "dead letters told twice to follower: 1", 0, 0, 0},
		{"told twice after it was killed", func(e *evidence) {
			e.Seen[follower][id], e.Killed = 2, map[string]bool{follower: true}
		}, "", "", 0, 0, 0},
		{"told twice, the first death being lost", func(e *evidence) { e.Seen[follower][id], e.Lost = 2, []step{took("dead")} }, "", "", 0, 0, 0},
		{"never sent to the hook", func(e *evidence) { e.Hooked = nil }, "dead letters never sent", "dead letters never sent", 0, 0, 0},
		{"sent twice to the hook", func(e *evidence) { e.Hooked[id] = 2 }, "", "", 0, 0, 0},
	} {
		e := good()
		test.change(&e)
		v := judge(e)
		for synchronous, want := range map[bool]string{false: test.async, true: test.sync} {
			broken := strings.Join(v.broken(synchronous), "; ")
			if (want == "") != (broken == "") || !strings.Contains(broken, want) {
				t.Errorf("%s, synchronous %t: broken is %q, want %q", test.name, synchronous, broken, want)
			}
		}
		if len(v.LostByReplication) != test.lost || len(v.AgainByReplication) != test.again || len(v.LostByUs) != test.ours {
			t.Errorf("%s: %d lost and %d run again by replication, %d lost; want %d, %d, %d", test.name, len(v.LostByReplication),
				len(v.AgainByReplication), len(v.LostByUs), test.lost, test.again, test.ours)
		}
		if story := e.story(id); !strings.HasPrefix(story, job+" "+id.String()) {
			t.Errorf("%s: the story is %q", test.name, story)
		}
	}
}

func TestOutage_isTheEndOfTheLongestGap(t *testing.T) {
	t.Parallel()
	at := func(seconds ...float64) (times []time.Time) {
		for _, s := range seconds {
			times = append(times, time.Unix(0, int64(s*1e9)))
		}
		return times
	}
	from, to := at(100)[0], at(120)[0]
	for _, test := range []struct {
		events []time.Time
		want   time.Duration
	}{
		{at(99.9, 100.1, 100.2, 112.5, 112.6, 113, 120), 12500 * time.Millisecond}, // it flowed on for a while
		{at(99.9, 109, 109.1, 120), 20 * time.Second},                              // two gaps
		{at(90, 110.5, 119.9), 10500 * time.Millisecond},
		{nil, -1},
		{at(99, 101, 121), -1}, // nothing more before the end
	} {
		if got := outage(test.events, from, to); got != test.want {
			t.Errorf("outage of %v is %s, want %s", test.events, got, test.want)
		}
	}
	steady := []time.Time{from}
	for steady[len(steady)-1].Before(to) {
		steady = append(steady, steady[len(steady)-1].Add(300*time.Millisecond))
	}
	if got := outage(steady, from, to); got != 300*time.Millisecond {
		t.Errorf("a steady flow has an outage of %s", got)
	}
}

func TestQuantile_isAValueThatWasSeen(t *testing.T) {
	t.Parallel()
	var twenty []time.Duration
	for i := range 20 {
		twenty = append(twenty, time.Duration(i+1))
	}
	for q, want := range map[float64]time.Duration{0.5: 10, 0.95: 19, 1: 20, 0: 1} {
		if got := quantile(twenty, q); got != want {
			t.Errorf("the %g quantile of 1 to 20 is %d, want %d", q, got, want)
		}
	}
	if got := quantile(nil, 0.95); got != 0 {
		t.Errorf("the quantile of nothing is %d", got)
	}
}

func TestLastSwitch_readsTheNewestTimeline(t *testing.T) {
	t.Parallel()
	got, err := lastSwitch("1\t0/3000148\tno recovery target specified\n\n2\t0/50000A0\tno recovery target specified\n")
	if err != nil || got != "0/50000A0" {
		t.Errorf("%q, %v", got, err)
	}
	for _, bad := range []string{"", "1", "nothing here"} {
		if got, err := lastSwitch(bad); err == nil {
			t.Errorf("the history %q has a switch at %q", bad, got)
		}
	}
}

func TestChoose_unknownFault_isRefused(t *testing.T) {
	t.Parallel()
	if got, err := choose("kill,pgbouncer"); err != nil || len(got) != 2 || got[1].name != "pgbouncer" {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := choose("kill,flood"); err == nil || !slices.Contains(strings.Fields(err.Error()), `"flood"`) {
		t.Errorf("%v", err)
	}
}
