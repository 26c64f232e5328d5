package hub

import (
	"context"
	"sync/atomic"
	"time"

	"soniq/internal/liveness"
	"soniq/notify"
)

// MemberConfig is what a hub needs to know of a worker.
type MemberConfig struct {
	// Queues and Names are what the worker serves.
	Queues, Names []string
	// Alike is equal for members of which one can do for all what is done now and then.
	Alike string
	// Session is told of the lock that the connection holds.
	Session *liveness.Session
	// Control handles what is announced to workers.
	Control notify.Handler
	// Listened is called when the channels are listened to on a new connection.
	Listened func()
	// OnHealth is called when it changes whether notifications arrive.
	OnHealth func(healthy bool)
	// Busy reports whether the worker runs jobs.
	Busy func() bool
	// WakeDetector makes the failure detector look soon.
	WakeDetector func()
}

// Member is a worker's side of a hub. Its fetcher says what it does:
//
//	         Begin            Park
//	away ----------> looking ------> parked
//	  ^                |   ^           |
//	  +----------------+   +-----------+
//	   Full, Failed            Begin
//
// The zero state is away. All methods but Run are the fetcher's.
type Member struct {
	config  MemberConfig
	wakeups *notify.Wakeups
	// hub is nil until the worker joins one. Its failure detector may look before that.
	hub atomic.Pointer[Hub]
	// Reached is called at each step, for tests. Default none.
	Reached func(Step)

	// The hub's lock guards what follows.

	crew  *crew
	state state
	// begun is the hub's count when the last fetch began, and parking the crew's when the
	// member parked last.
	begun, parking int64
	// limited: a handler or a queue ran as many jobs as it may at the last fetch, so it
	// did not look at all that others of the crew would.
	limited bool
	// asked is a call for which no fetch has begun; answering is one for which it has.
	asked, answering call
	// withdrawn: the crew polled when the last fetch began, so the member withdraws its
	// declaration before it sleeps.
	withdrawn bool
	// took and waited are what the present fetch has found; see Took.
	took   int
	waited time.Duration
}

// Step is a step from a call to the fetch that answers it, as tests know it.
type Step string

// The steps.
const (
	// Called: the member has a call, and doesn't know it yet. The hub is locked.
	Called Step = "called"
	// Looks: its next fetch begins.
	Looks Step = "looks"
)

func (m *Member) reach(step Step) {
	if m.Reached != nil {
		m.Reached(step)
	}
}

// NewMember returns a member of no hub yet. Call [Join].
func NewMember(config MemberConfig) *Member {
	return &Member{config: config, wakeups: notify.NewWakeups()}
}

// Run takes part in the hub until ctx ends.
//
// Errors: those of [notify.Listener.Run].
func (m *Member) Run(ctx context.Context) error { return m.hub.Load().run(ctx, m) }

// Wakeups wake the worker's fetcher.
func (m *Member) Wakeups() *notify.Wakeups { return m.wakeups }

// Leads reports whether this member looks after the other workers for all of its hub.
func (m *Member) Leads() bool {
	h := m.hub.Load()
	if h == nil {
		return true
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.members) == 0 || h.members[0] == m
}

// LeadsAlike reports whether this member does for all that are alike what is done now and then: it is
// the first of them in its hub. When it leaves, or dies with its process, another one does.
func (m *Member) LeadsAlike() bool {
	h := m.hub.Load()
	if h == nil {
		return true
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, o := range h.members {
		if o.config.Alike == m.config.Alike {
			return o == m
		}
	}
	return true
}

// lock locks the member's hub, and returns what unlocks it.
func (m *Member) lock() (unlock func()) {
	h := m.hub.Load()
	h.mu.Lock()
	return h.mu.Unlock
}

// Begin comes before each fetch, which answers all calls until now. It returns whether the
// crew polls: then the worker withdraws its declaration before it sleeps, and need not look
// when the next job is due.
func (m *Member) Begin() (polls bool) {
	polls = m.begin()
	m.reach(Looks)
	return polls
}

func (m *Member) begin() (polls bool) {
	defer m.lock()()
	if m.state == looking {
		m.looked(true)
	}
	m.withdrawn = m.crew.polling.on
	m.state, m.begun = looking, m.hub.Load().count
	m.answering, m.asked = m.answering.join(m.asked), call{}
	// Under the lock, and before the fetch: a call that comes later sets the bit again.
	m.wakeups.Clear()
	return m.withdrawn
}

// Parked says how a fetch came back that found fewer jobs than there was room for.
type Parked struct {
	// Limited: a handler or a queue ran as many jobs as it may, and was not looked at.
	Limited bool
	// Partly: the fetch did not look at everything.
	Partly bool
	// Due: a job is due after DueIn.
	Due   bool
	DueIn time.Duration
}

// Park follows such a fetch: the member sleeps.
func (m *Member) Park(p Parked) {
	defer m.lock()()
	m.looked(false)
	m.crew.parkings++
	m.state, m.parking, m.limited = parked, m.crew.parkings, p.Limited
	if p.Due {
		m.crew.dueIn(p.DueIn)
	}
	switch {
	case p.Partly:
		// The next fetch answers, or somebody else when that is late.
	case p.Limited:
		m.passAnswering()
	default:
		m.answering = call{}
	}
	m.crew.sleeps(m)
}

// Full says that there is no free slot. It reports whether there is a call to pass on,
// and somebody to pass it to: then look whether there are more jobs, and call Pass or
// Answered.
func (m *Member) Full() (look bool) {
	defer m.lock()()
	if m.state == looking {
		m.looked(true)
	}
	if m.crew.polling.on {
		// Another one that claims costs no more than a look.
		m.pass()
		return false
	}
	m.state = away
	m.answering, m.asked = m.answering.join(m.asked), call{}
	if m.answering.origin == 0 {
		return false
	}
	if m.answering.hop < lastHop && len(m.crew.others) > 0 {
		return true
	}
	for _, o := range m.crew.members {
		if o != m && o.mayTake(m.answering.origin) {
			return true
		}
	}
	m.answering = call{}
	return false
}

// Answered says that no more jobs are due; another is after due, if ok.
func (m *Member) Answered(due time.Duration, ok bool) {
	defer m.lock()()
	m.answering = call{}
	if ok {
		m.crew.dueIn(due)
	}
}

// Pass gives to others what this member was called for. It is away, until its next
// fetch.
func (m *Member) Pass() {
	defer m.lock()()
	m.pass()
}

func (m *Member) pass() {
	m.state = away
	m.answering, m.asked = m.answering.join(m.asked), call{}
	m.passAnswering()
}

func (m *Member) passAnswering() {
	if what := m.answering; what.origin != 0 {
		m.answering = call{}
		m.crew.route(what)
	}
}
