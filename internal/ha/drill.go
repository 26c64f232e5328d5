package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"
)

// A drill breaks the cluster and counts.
type drill struct {
	*load
	say   func(format string, args ...any)
	times int
	kinds []fault
	// enough is closed when no more faults shall be injected.
	enough <-chan struct{}

	// Of the phase that goes on.
	synchronous bool
	since       time.Time
	timeline    int
	rounds      []round
	lost        []step
	problems    []string
	// unplanned are failovers that nobody asked for: a machine so busy that Patroni lost its lease.
	// What they lose can't be told from what Soniq loses.
	unplanned int
}

// A round is one fault.
type round struct {
	fault string
	// at is when it was injected, end when all flowed again.
	at, end time.Time
	loss    loss
}

// lose notes what replication has lost in this round.
func (d *drill) lose(l loss) {
	d.lost = append(d.lost, l.Steps...)
	d.rounds[len(d.rounds)-1].loss = l
}

// phase goes through all faults, in turns, and judges.
func (d *drill) phase(ctx context.Context, synchronous bool) (*result, error) {
	d.synchronous, d.since, d.rounds, d.lost, d.problems, d.unplanned = synchronous, time.Now(), nil, nil, nil, 0
	d.mu.Lock()
	d.acks, d.executions = nil, nil
	clear(d.refused)
	d.mu.Unlock()
	if err := d.configure(ctx, map[string]any{"synchronous_mode": synchronous}); err != nil {
		return nil, err
	}
	if err := d.whole(ctx, patience, synchronous); err != nil {
		return nil, err
	}
	d.setPaused(false)
	err := d.breakAll(ctx)
	d.setPaused(true)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		d.problem(err)
	}
	took := time.Since(d.since)
	for _, n := range d.nodes { // whatever a failed round has left
		for _, l := range n.links() {
			l.thaw()
		}
		if !n.patroni.running() {
			if err := d.startPatroni(n); err != nil {
				return nil, err
			}
		}
	}
	if err := d.drained(ctx, patience); err != nil {
		d.problem(err)
	}
	e, err := d.collect(ctx)
	if err != nil {
		return nil, err
	}
	return d.result(e, took), nil
}

func (d *drill) problem(err error) {
	d.say("PROBLEM: %v", err)
	d.problems = append(d.problems, err.Error())
}

func (d *drill) breakAll(ctx context.Context) error {
	if err := d.flows(ctx, patience, time.Now()); err != nil {
		return err
	}
	for n := range d.times {
		for _, f := range d.kinds {
			if d.isEnough() {
				return nil
			}
			if err := d.round(ctx, f, n); err != nil {
				return fmt.Errorf("%s %d: %w", f.name, n+1, err)
			}
		}
	}
	return nil
}

func (d *drill) isEnough() bool {
	select {
	case <-d.enough:
		return true
	default:
		return false
	}
}

// round injects one fault, waits until all flows again, and makes the cluster whole.
func (d *drill) round(ctx context.Context, f fault, n int) error {
	if err := d.whole(ctx, patience, d.synchronous); err != nil {
		return err
	}
	if err := d.flows(ctx, patience, time.Now()); err != nil {
		return err
	}
	old, err := d.leader(ctx)
	if err != nil {
		return err
	}
	before := d.timeline
	if d.timeline, err = timeline(ctx, d.viaHAProxy()); err != nil {
		return err
	}
	if len(d.rounds) > 0 && before != d.timeline {
		d.unplanned++
		d.say("the primary changed by itself: timeline %d, and not %d", d.timeline, before)
	}
	d.rounds = append(d.rounds, round{fault: f.name, at: time.Now()})
	r := &d.rounds[len(d.rounds)-1]
	if err := f.inject(ctx, d, n, old); err != nil {
		return err
	}
	if err := d.flows(ctx, patience, time.Now()); err != nil {
		return err
	}
	r.end = time.Now()
	if f.mend != nil {
		if err := f.mend(ctx, d, old); err != nil {
			return err
		}
	}
	if err := d.watcher.restart(); err != nil {
		return err
	}
	if d.timeline, err = timeline(ctx, d.viaHAProxy()); err != nil {
		return err
	}
	d.say("%s %d of %d (%s, timeline %d): all flows again after %s; %d steps and %d bytes lost by replication", f.name, n+1, d.times,
		old.name, d.timeline, r.end.Sub(r.at).Round(100*time.Millisecond), len(r.loss.Steps), r.loss.Bytes)
	return nil
}

// collect reads what the last primary has, once the followers and the hook had time for it.
func (d *drill) collect(ctx context.Context) (evidence, error) {
	e := evidence{Acked: map[uuid.UUID]string{}, Lost: d.lost, Killed: map[string]bool{d.watcher.name: true}}
	err := until(ctx, patience, "the steps of all jobs", func(ctx context.Context) (err error) {
		e.Steps, err = steps(ctx, d.viaHAProxy(), d.since)
		return err
	})
	if err != nil {
		return e, err
	}
	told := until(ctx, time.Minute, "followers that have seen all", func(context.Context) error {
		d.mu.Lock()
		defer d.mu.Unlock()
		for _, s := range e.Steps {
			for follower, seen := range d.seen {
				if s.What == "dead" && seen[s.Job] == 0 {
					return fmt.Errorf("%s has not seen %s", follower, s.Job)
				}
			}
		}
		return nil
	})
	if told != nil {
		d.problem(told)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, a := range d.acks {
		e.Acked[a.job] = a.name
	}
	e.Executions = slices.Clone(d.executions)
	e.Seen, e.Hooked = map[string]map[uuid.UUID]int{}, maps.Clone(d.hooked)
	for follower, seen := range d.seen {
		e.Seen[follower] = maps.Clone(seen)
	}
	return e, nil
}
