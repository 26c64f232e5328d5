package hub

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// still is a hub whose timers don't fire by themselves.
func still() *Hub {
	h := newHub()
	h.lockKey = 1
	h.after = func(_ time.Duration, do func()) *time.Timer { return time.AfterFunc(time.Hour, do) }
	return h
}

// hear lets a crew hear so many announcements in each of these stretches.
func (c *crew) hear(begin time.Time, counts ...int) (end time.Time) {
	for i, n := range counts {
		for range n {
			c.hears(begin.Add(time.Duration(i) * stretch))
		}
	}
	return begin.Add(time.Duration(len(counts)) * stretch)
}

// fires lets the timer fire. It reports whether there is one.
func (c *crew) fires() bool {
	if c.polling.timer == nil {
		return false
	}
	c.poll(c.polling.at)
	return true
}

func TestHub_manyAnnouncements_polls(t *testing.T) {
	t.Parallel()
	const many = oftenAnnounced
	for name, c := range map[string]struct {
		counts []int
		others int
		want   bool
	}{
		"a burst":                       {[]int{10 * many}, 0, false},
		"two, with a rest between them": {[]int{many, 0, many}, 0, false},
		"few":                           {[]int{many - 1, many - 1, many - 1}, 0, false},
		"for long enough":               {[]int{many, many}, 0, true},
		"a burst, then few":             {[]int{10 * many, many - 1}, 0, false},
		"fewer than there are hubs":     {[]int{many, many, many}, 4 * many, false},
		"as many as hubs":               {[]int{2 * many, 2 * many}, 4*many - 1, true},
	} {
		h := still()
		m := h.newMember("q", "n").sleeps()
		m.crew.others = make([]int64, c.others)
		m.crew.hear(time.Now(), c.counts...)
		if on := m.crew.polling.on; on != c.want || m.crew.fires() != c.want {
			t.Errorf("%s: polls %t, want %t", name, on, c.want)
		}
		h.remove(m)
	}
}

// Each member has withdrawn when it has been called, and has been called to declare itself
// when the crew polls no more. Those that have slept for longest come first.
func TestHub_pollsAndEnds_eachMemberIsCalledOnce(t *testing.T) {
	t.Parallel()
	h := still()
	var members []*Member
	for range 5 {
		members = append(members, h.newMember("q", "n").sleeps())
	}
	c := members[0].crew
	each := func(polls bool) {
		t.Helper()
		for i, m := range members {
			c.fires()
			if !m.woken() {
				t.Fatalf("member %d was not called; the crew polls: %t", i, polls)
			}
			if got := m.Begin(); got != polls {
				t.Errorf("member %d: polls %t, want %t", i, got, polls)
			}
			m.Park(Parked{})
		}
	}
	c.beginPolling(time.Now())
	each(true)
	last := members[len(members)-1]
	for range 3 {
		if c.fires(); !last.woken() {
			t.Error("all have withdrawn: want a call of the one that parked last")
		}
		last.sleeps()
	}
	c.polling.found, c.polling.began = 0, time.Now().Add(-shortestPolling)
	c.fires()
	if c.polling.on || !last.woken() {
		t.Errorf("polls %t; want a last call at the end", c.polling.on)
	}
	last.sleeps()
	members = members[:4]
	each(false)
	c.fires()
	if c.fires() {
		t.Error("the timer goes on although all have been called")
	}
	for _, m := range h.members {
		if m.withdrawn || m.woken() {
			t.Error("a member sleeps withdrawn, or was called twice")
		}
	}
}

// While a crew polls, an announcement wakes nobody, and the next call comes soon. It is sent
// to other hubs if nobody can take it here.
func TestHub_announcedWhileItPolls_isCalledSoon(t *testing.T) {
	t.Parallel()
	h := still()
	var sent atomic.Int64
	h.publish = func(_ context.Context, payload string) error {
		if strings.Contains(payload, `"hop":1`) {
			sent.Add(1)
		}
		return nil
	}
	m := h.newMember("q", "n")
	c := m.crew
	c.beginPolling(time.Now())
	m.sleeps()
	c.others = make([]int64, 1000)
	c.fires()
	m.sleeps()
	c.others = []int64{7}
	c.fires()
	c.polling.pace = slowestPace
	m.sleeps()
	m.woken()
	pid := uint32(0)
	for c.rank(pid, 0) != 0 {
		pid++
	}
	h.announce(pid, "q")
	if wait := time.Until(c.polling.at); m.woken() || wait > slowPace {
		t.Errorf("woken at once, or the next call is only in %s", wait)
	}
	m.Begin()
	m.Full() // and nobody else
	c.fires()
	h.sends.Wait()
	if n := sent.Load(); n != 1 {
		t.Errorf("sent to other hubs %d times, want once", n)
	}
}

func TestHub_pace_followsWhatLooksFind(t *testing.T) {
	t.Parallel()
	const hubs = 10
	for name, c := range map[string]struct {
		pace, want time.Duration
		took       int
		waited     time.Duration
		full       bool
	}{
		"nothing":                   {pace: 10 * time.Millisecond, want: 11 * time.Millisecond},
		"nothing, at the slowest":   {pace: hubs * slowPace, want: hubs * slowPace},
		"jobs that came just now":   {pace: 10 * time.Millisecond, want: 11 * time.Millisecond, took: 9, waited: shortWait},
		"one that has waited":       {pace: 10 * time.Millisecond, want: 11 * time.Millisecond, took: 1, waited: time.Second},
		"some that waited twice":    {pace: 20 * time.Millisecond, want: 10 * time.Millisecond, took: 9, waited: 2 * shortWait},
		"two that waited for ever":  {pace: 20 * time.Millisecond, want: 10 * time.Millisecond, took: 2, waited: time.Hour},
		"many that waited for ever": {pace: 20 * time.Millisecond, want: quickestPace, took: 99, waited: time.Hour},
		"one, and was full":         {pace: 20 * time.Millisecond, want: 10 * time.Millisecond, took: 1, waited: time.Hour, full: true},
	} {
		h := still()
		m := h.newMember("q", "n")
		m.crew.others = make([]int64, hubs-1)
		m.crew.beginPolling(time.Now())
		m.Begin()
		m.crew.polling.pace = c.pace
		m.Took(c.took, c.waited)
		if c.full {
			m.Full()
		} else {
			m.Park(Parked{})
		}
		if got := m.crew.polling.pace; got.Round(time.Microsecond) != c.want {
			t.Errorf("%s: the pace is %s after %s, want %s", name, got, c.pace, c.want)
		}
		h.remove(m)
	}
}

// It ends when looks find little, and not before it has lasted for a while: longer each time,
// while it begins again soon.
func TestHub_looksFindLittle_endsAfterAWhile(t *testing.T) {
	t.Parallel()
	h := still()
	m := h.newMember("q", "n").sleeps()
	c := m.crew
	look := func(found int) {
		c.fires()
		m.Begin()
		m.Took(found, 0)
		m.Park(Parked{})
	}
	now := time.Now()
	for i, want := range []time.Duration{shortestPolling, 2 * shortestPolling, 4 * shortestPolling, shortestPolling} {
		if i == 3 {
			c.polling.ended = now.Add(-calmAfter - time.Second)
		}
		c.beginPolling(now)
		if c.polling.atLeast != want {
			t.Fatalf("time %d: lasts for %s, want %s", i+1, c.polling.atLeast, want)
		}
		for range 20 {
			look(0)
		}
		if !c.polling.on {
			t.Fatal("ended at once")
		}
		for range 20 {
			look(2)
		}
		c.polling.began = now.Add(-want)
		look(2)
		if !c.polling.on {
			t.Fatal("ended although looks find jobs")
		}
		for n := 0; c.polling.on; n++ {
			if look(0); n > 30 {
				t.Fatal("goes on although looks find none")
			}
		}
	}
	// As many as before make it begin again at once.
	c.hear(time.Now(), oftenAnnounced)
	if !c.polling.on {
		t.Error("does not begin again although as many are announced")
	}
	for c.polling.atLeast < longestPolling {
		c.beginPolling(now)
	}
	if c.beginPolling(now); c.polling.atLeast != longestPolling {
		t.Errorf("lasts for %s", c.polling.atLeast)
	}
}

// A slow server is not made slower.
func TestHub_manyLookAtTheSameTime_callsNobodyElse(t *testing.T) {
	t.Parallel()
	h := still()
	var members []*Member
	for range 2 * mostLooking {
		members = append(members, h.newMember("q", "n").sleeps())
	}
	c := members[0].crew
	c.beginPolling(time.Now())
	for range 3 * len(members) {
		c.fires()
		for _, m := range members {
			if m.woken() {
				m.Begin()
			}
		}
	}
	if n := c.count(looking); n != mostLooking {
		t.Errorf("%d members look at the same time, want %d", n, mostLooking)
	}
	for _, m := range members {
		m.Park(Parked{})
	}
	if !c.fires() || c.count(parked) != len(members) {
		t.Error("nobody is called any more")
	}
}
