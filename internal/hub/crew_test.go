package hub

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"soniq/internal/liveness"
)

var (
	rounds = flag.Int("hub.rounds", 4000, "how many rounds TestHub_anyOrder_noJobIsSleptThrough plays")
	seed   = flag.Uint64("hub.seed", 0, "the seed of its first round; 0 is a new one")
)

// quiet handles what nobody announces here.
type quiet struct{}

func (quiet) Connected(context.Context)      {}
func (quiet) Notify(context.Context, string) {}

func newHub() *Hub { return &Hub{crews: map[string]*crew{}, ended: make(chan struct{})} }

func (h *Hub) newMember(queues, names string) *Member {
	m := NewMember(MemberConfig{
		Queues: strings.Fields(queues), Names: strings.Fields(names), Session: liveness.New(liveness.Config{}).Session, Control: quiet{},
		Listened: func() {}, OnHealth: func(bool) {}, WakeDetector: func() {},
	})
	h.add(context.Background(), m)
	return m
}

// woken reports whether the member was woken, and forgets it.
func (m *Member) woken() bool {
	select {
	case <-m.wakeups.C():
		return true
	default:
		return false
	}
}

// sleeps lets the member look, find nothing, and sleep.
func (m *Member) sleeps() *Member {
	m.Begin()
	m.Park(Parked{})
	return m
}

func TestHub_jobAnnounced_oneOfEachCrewIsWoken(t *testing.T) {
	t.Parallel()
	h := newHub()
	var same, others, elsewhere []*Member
	for range 40 {
		same = append(same, h.newMember("default", "a").sleeps())
		others = append(others, h.newMember("default", "b").sleeps())
		elsewhere = append(elsewhere, h.newMember("mail", "a").sleeps())
	}
	count := func(members []*Member) (n int) {
		for _, m := range members {
			if m.woken() {
				n++
			}
		}
		return n
	}
	h.announce("default")
	if a, b, c := count(same), count(others), count(elsewhere); a != 1 || b != 1 || c != 0 {
		t.Errorf("%d and %d workers of the queue were woken, and %d of another; want 1, 1 and 0", a, b, c)
	}
	h.announce("")
	if c := count(elsewhere); c != 1 {
		t.Errorf("a notification for any queue woke %d workers of another one, want 1", c)
	}
}

func TestHub_secondJobBeforeTheLook_wakesNobodyElse(t *testing.T) {
	t.Parallel()
	h := newHub()
	a, b := h.newMember("q", "n").sleeps(), h.newMember("q", "n").sleeps()
	h.announce("q")
	h.announce("q")
	if a.woken() || !b.woken() {
		t.Error("want one wake, of the one that parked last")
	}
	b.Begin()
	h.announce("q")
	if !a.woken() {
		t.Error("a look had begun, which may not see the next job; nobody was woken for it")
	}
}

func TestHub_late_anotherIsWoken(t *testing.T) {
	t.Parallel()
	for _, begun := range []bool{false, true} {
		h := newHub()
		a, b := h.newMember("q", "n").sleeps(), h.newMember("q", "n").sleeps()
		h.announce("q")
		if begun {
			b.Begin()
		}
		// Nobody lets it answer.
		deadline := time.After(time.Minute)
		select {
		case <-a.wakeups.C():
		case <-deadline:
			t.Errorf("begun %t: nobody else was woken", begun)
		}
	}
}

// A worker learns when a job is due and is busy by then.
func TestHub_dueWhileTheOneThatKnowsIsBusy_anotherIsWoken(t *testing.T) {
	t.Parallel()
	h := newHub()
	a, b := h.newMember("q", "n").sleeps(), h.newMember("q", "n")
	b.Begin()
	b.Park(Parked{Due: true, DueIn: time.Millisecond})
	b.Begin()
	b.Full()
	select {
	case <-a.wakeups.C():
	case <-time.After(time.Minute):
		t.Error("nobody was woken")
	}
}

// world is a hub beside an imagined database, whose members do one thing after the other
// in any order.
type world struct {
	*Hub
	*rand.Rand
	story []string
	// jobs are those to run, by queue and name.
	jobs map[string]int
	// unannounced were committed a moment ago.
	unannounced []string
	people      []*person
}

// person is a member with slots. Of name x it may run one at a time.
type person struct {
	*Member
	names         []string
	slots         int
	running       map[string]int
	doing         string // "", fetching, fetched, parked, waiting for a slot
	more, limited bool
	frozen, gone  bool
}

func (w *world) tell(format string, args ...any) {
	w.story = append(w.story, fmt.Sprintf(format, args...))
}

func (p *person) free() int {
	n := p.slots
	for _, r := range p.running {
		n -= r
	}
	return n
}

// step lets a member do the next thing. It reports whether there was any.
func (w *world) step(i int) bool {
	p := w.people[i]
	if p.gone || p.frozen {
		return false
	}
	switch p.doing {
	case "parked":
		if !p.woken() && (!p.limited || p.running["x"] > 0) {
			return false
		}
		p.doing = ""
	case "":
		if p.free() == 0 {
			p.doing = "full"
			return true
		}
		p.Begin()
		p.doing = "fetching"
	case "full":
		if p.Full() {
			if w.IntN(8) == 0 || w.left(p) {
				p.Pass()
			} else {
				p.Answered(0, false)
			}
		}
		p.doing = "busy"
	case "busy":
		if p.free() == 0 {
			return false
		}
		p.doing = ""
	case "fetching":
		w.fetch(i)
	case "fetched":
		switch {
		case p.more:
			p.doing = ""
		default:
			p.Park(Parked{Limited: p.limited})
			p.doing = "parked"
		}
	}
	w.tell("%d: %s", i, p.doing)
	return true
}

func (w *world) fetch(i int) {
	p := w.people[i]
	if w.IntN(20) == 0 {
		w.tell("%d fails", i)
		p.Pass()
		p.doing = "" // after a while
		return
	}
	p.limited, p.more = p.running["x"] > 0, false
	for _, name := range p.names {
		for w.jobs[name] > 0 && p.free() > 0 && (name != "x" || p.running["x"] == 0) {
			w.jobs[name]--
			p.running[name]++
			w.tell("%d takes %s", i, name)
			if name == "x" {
				p.more = true // the room for x was filled
			}
		}
	}
	p.more = p.more || p.free() == 0
	p.doing = "fetched"
}

// left reports whether there are jobs that p could run if it had slots and no limits.
func (w *world) left(p *person) bool {
	for _, name := range p.names {
		if w.jobs[name] > 0 {
			return true
		}
	}
	return false
}

// happens lets something happen.
func (w *world) happens() {
	i := w.IntN(len(w.people))
	p := w.people[i]
	switch w.IntN(16) {
	case 0, 1:
		name := []string{"a", "b", "x"}[w.IntN(3)]
		n := 1 + w.IntN(3)*w.IntN(3)
		w.jobs[name] += n
		w.unannounced = append(w.unannounced, name)
		w.tell("%d jobs %s", n, name)
	case 2, 3:
		w.announceNext()
	case 4, 5, 6:
		for name, n := range p.running {
			if n > 0 {
				p.running[name]--
				w.tell("%d has done one", i)
				break
			}
		}
	case 7:
		if w.IntN(4) > 0 {
			break
		}
		if w.IntN(2) == 0 {
			w.comes()
		} else if !p.gone {
			p.gone = true
			w.tell("%d leaves", i)
			w.remove(p.Member)
		}
	case 8:
		if w.IntN(10) == 0 {
			p.frozen = !p.frozen
			w.tell("%d frozen %t", i, p.frozen)
		}
	default:
		w.step(i)
	}
}

// comes is another member.
func (w *world) comes() {
	names := []string{"a", "a b", "a x"}[w.IntN(3)]
	w.people = append(w.people, &person{
		Member: w.newMember("q", names), names: strings.Fields(names), slots: 1 + w.IntN(3), running: map[string]int{},
	})
	w.tell("%d comes, for %s", len(w.people)-1, names)
}

func (w *world) announceNext() {
	if len(w.unannounced) > 0 {
		w.tell("announced")
		w.unannounced = w.unannounced[1:]
		w.announce("q")
	}
}

// rest lets all come to rest, those that are frozen aside, and time pass.
func (w *world) rest() {
	for len(w.unannounced) > 0 {
		w.announceNext()
	}
	for range 3 * len(w.people) {
		for again := true; again; {
			again = false
			for i := range w.people {
				again = w.step(i) || again
			}
		}
		for _, p := range w.people {
			w.mu.Lock()
			p.asked.since, p.answering.since = time.Time{}, time.Time{}
			w.mu.Unlock()
		}
		for _, c := range w.crews {
			c.lookForLate()
		}
	}
}

// sleepsThrough names a job that somebody could run who sleeps.
func (w *world) sleepsThrough() string {
	for i, p := range w.people {
		for _, name := range p.names {
			if !p.gone && !p.frozen && p.doing == "parked" && w.jobs[name] > 0 && (name != "x" || p.running["x"] == 0) {
				return fmt.Sprintf("%d sleeps through a job %s", i, name)
			}
		}
	}
	return ""
}

// Members of three crews, one of which handles what may run once at a time, are called,
// look, fail, are full, freeze and leave in any order. Whoever sleeps in the end has left
// no job to run.
func TestHub_anyOrder_noJobIsSleptThrough(t *testing.T) {
	t.Parallel()
	first := *seed
	if first == 0 {
		first = rand.Uint64()
	}
	for round := range *rounds {
		seed := first + uint64(round)
		w := &world{Hub: newHub(), Rand: rand.New(rand.NewPCG(seed, 0)), jobs: map[string]int{}}
		for range 2 + w.IntN(5) {
			w.comes()
		}
		for range 20 + w.IntN(150) {
			w.happens()
		}
		w.rest()
		if what := w.sleepsThrough(); what != "" {
			t.Fatalf("round of seed %d: %s\n%s", seed, what, strings.Join(w.story[max(len(w.story)-60, 0):], "\n"))
		}
		for _, p := range w.people {
			if !p.gone {
				w.remove(p.Member)
			}
		}
	}
}
