package hub

import (
	"context"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"soniq/internal/liveness"
)

// quiet handles what nobody announces here.
type quiet struct{}

func (quiet) Connected(context.Context)      {}
func (quiet) Notify(context.Context, string) {}

func newHub() *Hub {
	return &Hub{
		crews: map[string]*crew{}, ended: make(chan struct{}), logger: slog.New(slog.DiscardHandler),
		publish: func(context.Context, string) error { return nil }, after: time.AfterFunc,
	}
}

func (h *Hub) newMember(queues, names string) *Member {
	m := newcomer(queues, names)
	h.add(context.Background(), m)
	return m
}

// newcomer is a member of no hub yet.
func newcomer(queues, names string) *Member {
	return NewMember(MemberConfig{
		Queues: strings.Fields(queues), Names: strings.Fields(names), Session: liveness.New(liveness.Config{}).Session, Control: quiet{},
		Listened: func() {}, OnHealth: func(bool) {}, Busy: func() bool { return false }, WakeDetector: func() {},
	})
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
	h.announce(0, "default")
	if a, b, c := count(same), count(others), count(elsewhere); a != 1 || b != 1 || c != 0 {
		t.Errorf("%d and %d workers of the queue were woken, and %d of another; want 1, 1 and 0", a, b, c)
	}
	h.announce(0, "")
	if c := count(elsewhere); c != 1 {
		t.Errorf("a notification for any queue woke %d workers of another one, want 1", c)
	}
}

func TestHub_secondJobBeforeTheLook_wakesNobodyElse(t *testing.T) {
	t.Parallel()
	h := newHub()
	a, b := h.newMember("q", "n").sleeps(), h.newMember("q", "n").sleeps()
	h.announce(0, "q")
	h.announce(0, "q")
	if a.woken() || !b.woken() {
		t.Error("want one wake, of the one that parked last")
	}
	b.Begin()
	h.announce(0, "q")
	if !a.woken() {
		t.Error("a look had begun, which may not see the next job; nobody was woken for it")
	}
}

func TestHub_late_anotherIsWoken(t *testing.T) {
	t.Parallel()
	for _, begun := range []bool{false, true} {
		h := newHub()
		a, b := h.newMember("q", "n").sleeps(), h.newMember("q", "n").sleeps()
		h.announce(0, "q")
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

// A hub that is far down calls nobody for what others are first for, and looks when these
// are gone.
func TestHub_othersAreGone_looksForWhatWasAnnounced(t *testing.T) {
	t.Parallel()
	h := newHub()
	h.lockKey = 1
	m := h.newMember("q", "n").sleeps()
	see := func(n int, held bool) {
		var peers []liveness.Peer
		for i := range n {
			key := int64(i + 2)
			peers = append(peers, liveness.Peer{Crew: m.crew.key, LockKey: &key, Held: held})
		}
		m.Saw(peers)
	}
	see(100_000, true)
	h.announce(7, "q")
	if rank := m.crew.rank(7, 0); rank <= lateRanks || m.woken() {
		t.Fatalf("it is number %d of 100,001; woken", rank)
	}
	see(100_000, false)
	if !m.woken() {
		t.Error("nobody was woken although the others are gone")
	}
	m.sleeps()
	see(0, false)
	if m.woken() {
		t.Error("woken again, and nothing has changed")
	}
}

// The first few look by themselves, if they have not looked since, and answer only for
// themselves.
func TestHub_ranks_theFirstCallsAtOnceAndAFewLater(t *testing.T) {
	t.Parallel()
	const hubs = 500
	at, later := 0, 0
	var peers []liveness.Peer
	for i := range hubs {
		key := int64(i + 1)
		peers = append(peers, liveness.Peer{Crew: CrewKey([]string{"q"}, []string{"n"}), LockKey: &key, Held: true})
	}
	for i := range hubs {
		h := newHub()
		h.lockKey = int64(i + 1)
		m := h.newMember("q", "n").sleeps()
		m.Saw(peers)
		h.announce(7, "q")
		h.mu.Lock()
		if m.crew.deputy.timer != nil {
			later++
		}
		h.mu.Unlock()
		if m.woken() {
			at++
		}
		h.remove(m)
	}
	if at != 1 || later < lateRanks || later > 30 {
		t.Errorf("of %d hubs %d called at once and %d would look later, want 1 and a few", hubs, at, later)
	}
}

func TestHub_partlyLooked_stillLooksAsDeputy(t *testing.T) {
	t.Parallel()
	for _, partly := range []bool{false, true} {
		h := newHub()
		m := h.newMember("q", "n").sleeps()
		h.announce(0, "q")
		m.Begin()
		m.Park(Parked{Partly: partly})
		if m.crew.lookedSince(h.count) == partly {
			t.Errorf("partly %t: taken for looked", partly)
		}
	}
}

// What comes while a call is being sent follows it.
func TestHub_callWhileOneIsBeingSent_isSentToo(t *testing.T) {
	t.Parallel()
	h := newHub()
	sent, goOn := make(chan string), make(chan struct{})
	h.publish = func(_ context.Context, payload string) error {
		sent <- payload
		<-goOn
		return nil
	}
	m := h.newMember("q", "n")
	h.mu.Lock()
	m.crew.send(1)
	m.crew.send(2)
	m.crew.send(1)
	h.mu.Unlock()
	for _, want := range []string{`"hop":1`, `"hop":2`} {
		if got := <-sent; !strings.Contains(got, want) {
			t.Errorf("sent %s, want %s", got, want)
		}
		goOn <- struct{}{}
	}
	h.sends.Wait()
}

// One session that enqueues keeps one process busy, and the others are to help.
func TestHub_firstIsBusy_callsAnotherNowAndThen(t *testing.T) {
	t.Parallel()
	h := newHub()
	var sent atomic.Int64
	h.publish = func(context.Context, string) error { sent.Add(1); return nil }
	m := h.newMember("q", "n").sleeps()
	m.crew.others = []int64{7}
	h.announce(1, "q")
	if !m.woken() || sent.Load() != 0 {
		t.Errorf("idle: want one wake here and none elsewhere, which got %d", sent.Load())
	}
	m.config.Busy = func() bool { return true }
	m.sleeps()
	h.announce(1, "q")
	h.sends.Wait()
	h.mu.Lock()
	deputy := m.crew.deputy.timer != nil
	h.mu.Unlock()
	if m.woken() || sent.Load() != 1 || !deputy {
		t.Errorf("busy: want one wake elsewhere and a look here later; sent %d, later %t", sent.Load(), deputy)
	}
	h.announce(1, "q")
	if !m.woken() {
		t.Error("busy, a moment later: want a wake here")
	}
}

// A worker's failure detector may look while the worker joins. The race detector is the
// judge.
func TestHub_detectorLooksWhileItsWorkerJoins_noRace(t *testing.T) {
	t.Parallel()
	h, m := newHub(), newcomer("q", "n")
	var looking sync.WaitGroup
	looking.Go(func() {
		for m.Saw(nil); !m.Leads() || m.hub.Load() == nil; m.Saw(nil) {
			runtime.Gosched()
		}
	})
	h.add(context.Background(), m)
	looking.Wait()
	if second := h.newMember("q", "n"); second.Leads() || !m.Leads() {
		t.Error("two lead, or the wrong one")
	}
}

// Of the members that are alike the first one does for all what is done now and then; when it
// leaves, the next one does.
func TestHub_membersThatAreAlike_oneLeads(t *testing.T) {
	t.Parallel()
	h := newHub()
	if m := newcomer("q", "n"); !m.LeadsAlike() {
		t.Error("one that is alone does not lead")
	}
	var members []*Member
	for _, alike := range []string{"a", "b", "a", "b", "a"} {
		m := newcomer("q", "n")
		m.config.Alike = alike
		h.add(context.Background(), m)
		members = append(members, m)
	}
	leads := func(want ...bool) {
		t.Helper()
		for i, m := range members {
			if m.LeadsAlike() != want[i] {
				t.Errorf("member %d leads: %t, want %t", i, !want[i], want[i])
			}
		}
	}
	leads(true, true, false, false, false)
	h.remove(members[0])
	members = members[1:]
	leads(true, true, false, false)
}
