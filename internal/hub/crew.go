package hub

import (
	"slices"
	"time"
)

// A call is a wake that is not answered yet. The zero call is none.
type call struct {
	// origin is when it was made, by the hub's count. A fetch that began before may not
	// have seen the job.
	origin int64
	// since is when a member was given it.
	since time.Time
	// hop counts how often it was passed from one hub to another. At lastHop it is passed no
	// more.
	hop int
}

// lastHop is a call that all hubs get.
const lastHop = 2

// join is one call in place of two: what answers the later one answers both.
func (c call) join(o call) call {
	switch {
	case c.origin == 0:
		return o
	case o.origin == 0:
		return c
	}
	if o.since.Before(c.since) {
		c.since = o.since
	}
	c.origin, c.hop = max(c.origin, o.origin), min(c.hop, o.hop)
	return c
}

// state is what a member does.
type state int

const (
	// away: it doesn't fetch now, and begins a fetch before it sleeps again. It has not
	// begun, or has no free slot, or its last fetch failed.
	away state = iota
	looking
	parked
)

// crew are the members that serve the same queues and job names: what one of them can
// run, each can. The hub's lock guards it.
type crew struct {
	hub *Hub
	// key is the crew's in all hubs.
	key     string
	serves  func(queue string) bool
	members []*Member
	// parkings counts, so that the last one to park is known.
	parkings int64
	// due is when the next job is due, zero if that is unknown. A member may learn it and
	// be busy by then, so it is the crew's.
	due      time.Time
	dueTimer *time.Timer
	// late fires when a call has not been answered for lateAfter.
	late *time.Timer

	polling polling

	// others are the locks of the other hubs that have members of this crew.
	others []int64
	deputy deputy
	// spread is when a call was given to another hub although a member might have taken it.
	spread time.Time
	// sending: a call is being sent to other hubs, and unsent is the hop of another one
	// that is to follow.
	sending bool
	unsent  int
}

// lateAfter is how long a member may take to answer a call, before another one is
// called too.
const lateAfter = 250 * time.Millisecond

// call wakes one member, unless one that is about to look will see the job too.
func (c *crew) call(what call) {
	for _, m := range c.members {
		if m.asked.origin != 0 {
			m.asked.origin, m.asked.hop = what.origin, min(m.asked.hop, what.hop)
			return
		}
	}
	c.route(what)
}

// route gives a call to a member that has not looked since it was made. If there is none,
// it is for another hub.
func (c *crew) route(what call) {
	var best *Member
	for _, m := range c.members {
		if m.mayTake(what.origin) && (best == nil || m.before(best)) {
			best = m
		}
	}
	switch {
	case best != nil:
		best.ask(what)
	case what.hop < lastHop && len(c.others) > 0:
		c.send(what.hop + 1)
	}
}

// mayTake reports whether the member can be given a call: it has none to begin, fetches
// or sleeps, and has begun no fetch since the call was made.
func (m *Member) mayTake(origin int64) bool {
	return m.state != away && m.asked.origin == 0 && m.begun < origin
}

// before reports whether m is woken rather than o: a member that has no limit in its way,
// that sleeps, and that has the last of these. One that looks now looks once more.
func (m *Member) before(o *Member) bool {
	switch {
	case m.limited != o.limited:
		return o.limited
	case m.state != o.state:
		return m.state == parked
	}
	return m.parking > o.parking
}

// ask gives the member a call and wakes it.
func (m *Member) ask(what call) {
	what.since = time.Now()
	m.asked = what
	m.reach(Called)
	m.wakeups.Set()
	c := m.crew
	if c.late == nil {
		c.late = c.hub.after(lateAfter, c.lookForLate)
	}
}

// lookForLate calls another member for each call that was not answered in time.
func (c *crew) lookForLate() {
	c.hub.mu.Lock()
	defer c.hub.mu.Unlock()
	c.late = nil
	var open, late call
	now := time.Now()
	for _, m := range c.members {
		held := m.asked.join(m.answering)
		open = open.join(held)
		if held.origin != 0 && now.Sub(held.since) >= lateAfter {
			late = late.join(held)
			// Other hubs get it once.
			m.asked.hop, m.answering.hop = lastHop, lastHop
		}
	}
	if late.origin != 0 {
		c.route(late)
	}
	if open.origin != 0 && c.late == nil {
		c.late = c.hub.after(lateAfter, c.lookForLate)
	}
}

// dueIn notes that a job is due after a while.
func (c *crew) dueIn(wait time.Duration) {
	at := time.Now().Add(wait)
	if !c.due.IsZero() && !at.Before(c.due) {
		return
	}
	c.due = at
	if c.dueTimer != nil {
		c.dueTimer.Stop()
	}
	c.dueTimer = c.hub.after(wait, func() { c.isDue(at) })
}

// isDue calls a member for a job that is due now.
func (c *crew) isDue(at time.Time) {
	c.hub.mu.Lock()
	defer c.hub.mu.Unlock()
	if !c.due.Equal(at) {
		return
	}
	c.due = time.Time{}
	c.hub.count++
	c.call(call{origin: c.hub.count})
	c.hub.wakeDetector()
}

// remove takes a member off, and passes on what it was called for.
func (c *crew) remove(m *Member) {
	c.members = slices.DeleteFunc(c.members, func(o *Member) bool { return o == m })
	m.pass()
	if len(c.members) > 0 {
		return
	}
	for _, t := range []*time.Timer{c.late, c.dueTimer, c.deputy.timer, c.polling.timer} {
		if t != nil {
			t.Stop()
		}
	}
}
