package hub

import (
	"math/rand/v2"
	"time"
)

// A crew whose jobs are announced often polls instead, as network drivers do under load: a
// commit that notifies takes a lock of the whole server. Each hub decides for itself, by the
// announcements that it hears, and all hear the same.
//
//	         often announced                  few looks find a job
//	notified ----------------> polling -----------------------------> notified
//	declared                   each member withdraws                  each member declares
//	                           when it is called                      itself when it is called
//
// While it polls, a timer calls a member again and again, as an announcement would, and
// announcements call nobody. Each member that a call wakes withdraws its declaration before
// it sleeps; those that have not done so are called first. When it no longer polls, the timer
// goes on until each member that sleeps withdrawn has been called: it goes through the whole
// order of package waiters, as after its start. So the rule is:
//
//	While a member sleeps withdrawn, the timer of its crew runs.
//
// That is all that an idle worker relies on. Others that are killed, frozen or cut off delay
// no job by more than the pace, which is slowestPace at most.
//
// The hubs share the work by what they find. A look that finds jobs which have waited for
// longer than shortWait makes the hub look more often, and any other look makes it look a
// little less often. So together they look some 200 times a second, whether one is idle or
// each of a hundred, and if some are gone the others look more often.

const (
	// A crew begins to poll after two stretches in a row with oftenAnnounced announcements,
	// and one for two hubs: 80 a second, and more than all hubs look at their slowest.
	stretch        = 500 * time.Millisecond
	oftenAnnounced = 40
	// shortWait is how long a job may have waited for a look.
	shortWait = 5 * time.Millisecond
	// The pace of one hub. It is slowPace for each hub that there is, or less: at 80 jobs a
	// second that is two looks a job, as many statements as a job costs that is announced.
	quickestPace, slowPace, slowestPace = 3 * time.Millisecond, 6 * time.Millisecond, 400 * time.Millisecond
	// mostLooking members look at the same time, or jobs are waited for elsewhere: at the
	// server.
	mostLooking = 4
	// It ends when fewer than fewFind of the looks find a job; each look counts for lookWeight.
	// Then there are fewer than 100 jobs a second, and announcing each costs less.
	fewFind, lookWeight = 0.25, 0.125
	// It lasts for shortestPolling. If it begins again within calmAfter, it lasts for twice as
	// long, up to longestPolling. So a worker withdraws once a minute at most: an old snapshot
	// keeps dead versions of each declaration, which every INSERT scans.
	shortestPolling, longestPolling, calmAfter = time.Second, 64 * time.Second, time.Minute
)

// polling is how a crew polls. The hub's lock guards it.
type polling struct {
	on bool
	// timer is nil if nobody needs it. It fires at the time at.
	timer *time.Timer
	at    time.Time
	pace  time.Duration
	// announced: the next call is for an announcement too, so other hubs may have to get it.
	announced bool
	// found is about the share of looks that found a job.
	found float64
	// began and ended are when it did so last, and atLeast is how long it lasts.
	began, ended time.Time
	atLeast      time.Duration
	// heard counts the announcements of the stretch that began at from, and before those of
	// the one before it.
	from          time.Time
	heard, before int
}

// hears counts an announcement, and begins to poll if there are many.
func (c *crew) hears(now time.Time) {
	p := &c.polling
	switch since := now.Sub(p.from); {
	case since >= 2*stretch:
		p.from, p.before, p.heard = now, 0, 0
	case since >= stretch:
		p.from, p.before, p.heard = now, p.heard, 0
	}
	p.heard++
	if often := c.often(); !p.on && p.heard >= often && p.before >= often {
		c.beginPolling(now)
	}
}

// often is how many announcements of a stretch make the crew poll.
func (c *crew) often() int { return max(oftenAnnounced, c.hubs()/2) }

// hubs is how many have members of this crew.
func (c *crew) hubs() int { return 1 + len(c.others) }

func (c *crew) beginPolling(now time.Time) {
	p := &c.polling
	p.atLeast = min(2*p.atLeast, longestPolling)
	if now.Sub(p.ended) > calmAfter {
		p.atLeast = shortestPolling
	}
	p.on, p.began, p.found, p.pace = true, now, 1, c.slowest()
	c.pollIn(quickestPace)
}

// slowest is the pace at which all hubs together look as often as one at slowPace.
func (c *crew) slowest() time.Duration { return min(time.Duration(c.hubs())*slowPace, slowestPace) }

// pollIn has a member called after a while, or earlier.
func (c *crew) pollIn(wait time.Duration) {
	p := &c.polling
	at := time.Now().Add(wait)
	if p.timer != nil && !p.at.After(at) {
		return
	}
	if p.timer != nil {
		p.timer.Stop()
	}
	p.at = at
	p.timer = c.hub.after(wait, func() { c.poll(at) })
}

// pollSoon follows an announcement for which this hub is first. Hubs that don't poll rely on
// it; as many as make a crew poll cost no look each.
func (c *crew) pollSoon() {
	c.polling.announced = true
	c.pollIn(slowPace)
}

// sleeps starts the timer that calls a member, if nothing else wakes it.
func (c *crew) sleeps(m *Member) {
	switch p := &c.polling; {
	case p.timer != nil:
	case p.on:
		c.pollIn(p.pace)
	case m.withdrawn:
		c.pollIn(quickestPace)
	}
}

// poll calls a member, and has the next one called later.
func (c *crew) poll(at time.Time) {
	c.hub.mu.Lock()
	defer c.hub.mu.Unlock()
	p := &c.polling
	if p.timer == nil || !p.at.Equal(at) {
		return
	}
	p.timer = nil
	if len(c.members) == 0 {
		return
	}
	first, on := c.otherwise(), p.on
	if now := time.Now(); on && p.found < fewFind && now.Sub(p.began) >= p.atLeast {
		// If they are announced as often as before, it goes on at once.
		p.on, p.ended = false, now
		p.from, p.heard, p.before = now, 0, c.often()
	}
	if first == nil && !on {
		return
	}
	// The last time too: announcements until now have called nobody.
	c.callPolling(first, p.on)
	switch {
	case first != nil || !p.on:
		c.pollIn(quickestPace)
	case c.count(parked) > 0 || p.announced:
		c.pollIn(time.Duration((0.9 + 0.1*rand.Float64()) * float64(p.pace)))
	}
}

// callPolling calls first or, if that is nil, any member. While the crew polls, it calls none
// if many look already.
func (c *crew) callPolling(first *Member, polls bool) {
	p := &c.polling
	if polls && c.count(looking) >= mostLooking {
		return
	}
	c.hub.wakeDetector()
	c.hub.count++
	what := call{origin: c.hub.count, hop: lastHop}
	if p.announced {
		what.hop, p.announced = 0, false
	}
	if first != nil {
		first.ask(what)
		return
	}
	c.call(what)
}

// count is how many members are in the state.
func (c *crew) count(in state) (n int) {
	for _, m := range c.members {
		if m.state == in {
			n++
		}
	}
	return n
}

// otherwise is the member that has slept for longest of those that sleep declared while the
// crew polls, or withdrawn while it does not, and that nobody has called.
func (c *crew) otherwise() (first *Member) {
	for _, m := range c.members {
		if m.state == parked && m.asked.origin == 0 && m.withdrawn != c.polling.on && (first == nil || m.parking < first.parking) {
			first = m
		}
	}
	return first
}

// Took says what a claim of the present fetch has taken, and how long the one that has waited
// longest had been due.
func (m *Member) Took(jobs int, waited time.Duration) {
	if jobs == 0 {
		return
	}
	defer m.lock()()
	m.took, m.waited = m.took+jobs, max(m.waited, waited)
}

// looked sets the pace by what a look found. full: it may have left jobs.
func (m *Member) looked(full bool) {
	c, took, waited := m.crew, m.took, m.waited
	m.took, m.waited = 0, 0
	p := &c.polling
	if !p.on || !m.withdrawn {
		return
	}
	found := 0.0
	if took > 0 {
		found = 1
	}
	p.found += (found - p.found) * lookWeight
	if full {
		took = max(took, 2)
	}
	if took >= 2 && waited > shortWait {
		p.pace = time.Duration(float64(p.pace) * max(float64(shortWait)/float64(waited), 1/float64(took)))
	} else {
		p.pace += p.pace / 10
	}
	p.pace = min(max(p.pace, quickestPace), c.slowest())
}
