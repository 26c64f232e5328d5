package hub

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"soniq/internal/liveness"
	"soniq/internal/testkit"
)

var (
	rounds = flag.Int("hub.rounds", testkit.Size(1500, 10_000), "how many rounds TestHub_anyOrder_noJobIsSleptThrough plays")
	seed   = flag.Uint64("hub.seed", 0, "the seed of its first round; 0 is a new one")
)

// world is a few processes beside an imagined database. Their members do one thing after
// the other, in any order.
type world struct {
	*rand.Rand
	story []string
	// jobs are those to run, by name.
	jobs map[string]int
	// open are the transactions that have inserted jobs.
	open []*producer
	// unannounced were committed with a notification, a moment ago.
	unannounced []string
	processes   []*process
	people      []*person

	// calm: nothing freezes or is killed, and all processes know each other. few: not so many
	// jobs are announced that a crew polls.
	calm, few bool

	mu sync.Mutex
	// sent are the calls from hub to hub.
	sent []string
}

// producer is a transaction. Its trigger has read whether somebody waits.
type producer struct {
	name     string
	n        int
	notifies bool
}

// process is one with a hub.
type process struct {
	*Hub
	// deaf: its listener has lost its connection. buried: others have found it dead, and its
	// next heartbeat, if there is one, will tell.
	frozen, killed, deaf, buried bool
	// inbox is what a frozen one will hear.
	inbox []func(*Hub)
}

// person is a member with slots. Of name x it may run one at a time.
type person struct {
	*Member
	process       *process
	names         []string
	slots         int
	running       map[string]int
	doing         string // "", fetching, fetched, declared, parking, parked, full, busy
	more, limited bool
	frozen, gone  bool
	// polls is what Begin has returned.
	polls bool
	// row: it is among the waiters. The rest is what package waiters does: declared is what
	// it believes, and writers are those of the order's step 3.
	row, declared, ended, proved, paced bool
	writers                             []*producer
}

// forgets voids what was proved: the order begins anew.
func (p *person) forgets() { p.declared, p.ended, p.proved = false, false, false }

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

// stands reports whether it can't do anything.
func (p *person) stands() bool { return p.gone || p.frozen || p.process.frozen || p.process.killed }

// step lets a member do the next thing. It reports whether there was any.
func (w *world) step(i int) bool {
	p := w.people[i]
	if p.stands() {
		return false
	}
	switch p.doing {
	case "parked":
		if !p.woken() && !p.paced && (!p.limited || p.running["x"] > 0) {
			return false
		}
		p.doing = ""
	case "":
		if p.free() == 0 {
			p.doing = "full"
			return true
		}
		p.polls = p.Begin()
		p.doing = "fetching"
	case "full":
		if p.Full() {
			if w.IntN(8) == 0 || w.left(p) {
				p.Pass()
			} else {
				p.Answered(0, false)
			}
		}
		if w.IntN(2) == 0 {
			p.row, p.declared = false, false // full for too long
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
		p.doing = ""
		if !p.more {
			w.beforeParking(p)
		}
	case "declared":
		p.writers = slices.Clone(w.open)
		p.ended, p.proved = len(p.writers) == 0, false
		p.doing = ""
	case "parking":
		p.Park(Parked{Limited: p.limited})
		p.doing = "parked"
	}
	w.tell("%d: %s", i, p.doing)
	return true
}

// beforeParking is what package waiters does after a fetch that came back short.
func (w *world) beforeParking(p *person) {
	p.doing, p.paced = "parking", false
	open := func(o *producer) bool { return slices.Contains(w.open, o) }
	switch {
	case p.polls:
		p.row, p.declared = false, false
	case !p.declared:
		p.row, p.declared = true, true
		p.doing = "declared"
	case p.proved:
	case p.ended:
		p.proved = true
	case slices.ContainsFunc(p.writers, open):
		p.paced = true
	default:
		p.ended, p.doing = true, ""
	}
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
	switch w.IntN(22) {
	case 0, 1:
		w.inserts([]string{"a", "b", "x"}[w.IntN(3)], 1+w.IntN(3)*w.IntN(3))
	case 2, 3:
		w.announceNext()
	case 18, 19:
		if len(w.open) > 0 {
			w.commits(w.IntN(len(w.open)))
		}
	case 20:
		w.poll(w.processes[w.IntN(len(w.processes))])
	case 21:
		w.manyOrFew(w.processes[w.IntN(len(w.processes))])
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
		} else if !p.gone && !p.process.killed && !p.process.frozen {
			p.gone, p.row = true, false
			w.tell("%d leaves", i)
			p.process.remove(p.Member)
			w.meet()
		}
	case 8:
		if w.IntN(10) == 0 && !w.calm {
			p.frozen = !p.frozen
			w.tell("%d frozen %t", i, p.frozen)
		}
	case 9:
		w.befalls(w.processes[w.IntN(len(w.processes))])
	case 10:
		w.deliver()
	default:
		w.step(i)
	}
}

// befalls does something to a process.
func (w *world) befalls(p *process) {
	what := w.IntN(10)
	if w.calm {
		what = 9
	}
	switch what {
	case 0:
		p.killed = true
		w.tell("process %d is killed", p.lockKey)
		if w.IntN(2) == 0 {
			w.isBuried(p)
		}
	case 1:
		p.frozen = !p.frozen
		w.tell("process %d frozen %t", p.lockKey, p.frozen)
		if !p.frozen {
			w.thaws(p)
		}
	case 2:
		p.deaf = true
		w.tell("process %d hears nothing", p.lockKey)
	case 3:
		w.hearsAgain(p)
	case 4:
		// Its heartbeats come late, or it was frozen.
		w.isBuried(p)
		w.hearsAgain(p)
	default:
		w.looks(p)
	}
}

func (w *world) thaws(p *process) {
	for _, hears := range p.inbox {
		hears(p.Hub)
	}
	p.inbox = nil
}

// isBuried takes those of a process off the waiters: others have found it dead.
func (w *world) isBuried(p *process) {
	for _, o := range w.people {
		if o.process == p {
			o.row = false
		}
	}
	p.buried = true
	w.tell("process %d is buried", p.lockKey)
}

// hearsAgain is a new connection, or a heartbeat that wrote new rows: the order begins anew.
func (w *world) hearsAgain(p *process) {
	if p.frozen || p.killed {
		return
	}
	p.deaf, p.buried = false, false
	for _, o := range w.people {
		if o.process == p {
			o.forgets()
		}
	}
	(*jobs)(p.Hub).Connected(context.Background())
	w.tell("process %d hears", p.lockKey)
}

// inserts is the statement and its trigger, in a transaction that goes on.
func (w *world) inserts(name string, n int) {
	o := &producer{name: name, n: n, notifies: w.IntN(10) == 0} // for a worker of Python's
	for _, p := range w.people {
		o.notifies = o.notifies || p.row
	}
	w.open = append(w.open, o)
	w.tell("%d jobs %s; notifies %t", n, name, o.notifies)
}

func (w *world) commits(i int) {
	o := w.open[i]
	w.open = slices.Delete(w.open, i, i+1)
	w.jobs[o.name] += o.n
	if o.notifies {
		w.unannounced = append(w.unannounced, o.name)
	}
	w.tell("%d jobs %s are committed", o.n, o.name)
}

// poll lets the timers of a process fire.
func (w *world) poll(p *process) {
	if p.frozen || p.killed {
		return
	}
	for _, c := range p.crews {
		if c.polling.timer != nil {
			w.tell("process %d polls", p.lockKey)
			c.poll(c.polling.at)
		}
	}
}

// manyOrFew makes a process believe that many jobs are announced, or that few were found.
func (w *world) manyOrFew(p *process) {
	if p.frozen || p.killed || w.few {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.crews {
		if len(c.members) == 0 {
			continue
		}
		switch on := c.polling.on; {
		case !on:
			c.beginPolling(time.Now())
		case w.IntN(2) == 0:
			c.polling.found, c.polling.began = 0, time.Time{}
		}
		w.tell("process %d polls %t, looks find %.1f", p.lockKey, c.polling.on, c.polling.found)
	}
}

// looks lets a process see the others.
func (w *world) looks(p *process) {
	if p.frozen || p.killed || len(p.members) == 0 {
		return
	}
	var peers []liveness.Peer
	for _, o := range w.people {
		if o.gone {
			continue
		}
		key := o.process.lockKey
		peers = append(peers, liveness.Peer{Crew: CrewKey([]string{"q"}, o.names), LockKey: &key, Held: !o.process.killed})
	}
	p.members[0].Saw(peers)
}

// comes is another member.
func (w *world) comes() {
	names := []string{"a", "a b", "a x"}[w.IntN(3)]
	process := w.processes[w.IntN(len(w.processes))]
	if process.killed || process.frozen {
		return
	}
	process.mu.Lock()
	process.closed = false
	process.mu.Unlock()
	w.people = append(w.people, &person{
		Member: process.newMember("q", names), process: process, names: strings.Fields(names), slots: 1 + w.IntN(3), running: map[string]int{},
	})
	p := w.people[len(w.people)-1]
	p.config.Busy = func() bool { return p.free() < p.slots }
	w.meet()
	w.tell("%d comes to process %d, for %s", len(w.people)-1, process.lockKey, names)
}

// meet lets all processes see each other, if all is calm.
func (w *world) meet() {
	for _, p := range w.processes {
		if w.calm {
			w.looks(p)
		}
	}
}

// all lets each process hear something.
func (w *world) all(hear func(*Hub)) {
	for _, p := range w.processes {
		switch {
		case p.killed, p.deaf:
		case p.frozen:
			p.inbox = append(p.inbox, hear)
		default:
			hear(p.Hub)
		}
	}
}

func (w *world) announceNext() {
	if len(w.unannounced) > 0 {
		w.unannounced = w.unannounced[1:]
		pid := uint32(w.IntN(5))
		w.tell("announced by %d", pid)
		w.all(func(h *Hub) { h.announce(pid, "q") })
	}
}

// deliver delivers what hubs have sent. It reports whether there was any.
func (w *world) deliver() bool {
	for _, p := range w.processes {
		p.sends.Wait()
	}
	w.mu.Lock()
	sent := w.sent
	w.sent = nil
	w.mu.Unlock()
	for _, payload := range sent {
		w.tell("all hear %s", payload)
		pid := uint32(w.IntN(5))
		w.all(func(h *Hub) { h.received(pid, payload) })
	}
	return len(sent) > 0
}

// settles lets all do what they do, until nothing is left to do.
func (w *world) settles() {
	for again := true; again; {
		again = w.deliver()
		for i := range w.people {
			again = w.step(i) || again
		}
	}
}

// rest lets all come to rest, those that are frozen aside, and time pass: each process
// looks at the others, and what is late is noticed.
func (w *world) rest() {
	for len(w.open) > 0 {
		w.commits(0)
	}
	for len(w.unannounced) > 0 {
		w.announceNext()
	}
	w.settles()
	for range 2 * len(w.people) {
		for _, p := range w.processes {
			w.poll(p)
		}
		w.settles()
	}
	if w.calm {
		return
	}
	for _, p := range w.processes {
		if p.deaf || p.buried {
			w.hearsAgain(p)
		}
	}
	w.settles()
	for _, p := range w.processes {
		w.looks(p)
	}
	w.settles()
	for range 3 * len(w.people) {
		for _, p := range w.processes {
			if p.frozen || p.killed {
				continue
			}
			for _, c := range p.crews {
				w.timePasses(c)
			}
			w.poll(p)
		}
		w.settles()
	}
}

// timePasses lets enough time pass for a crew.
func (*world) timePasses(c *crew) {
	c.hub.mu.Lock()
	for _, m := range c.members {
		m.asked.since, m.answering.since = time.Time{}, time.Time{}
	}
	at, due := c.deputy.at, c.deputy.timer != nil
	c.hub.mu.Unlock()
	c.lookForLate()
	if due {
		c.lookAsDeputy(at)
	}
}

// sleepsThrough names a job that somebody could run who sleeps.
func (w *world) sleepsThrough() string {
	for i, p := range w.people {
		for _, name := range p.names {
			if !p.stands() && p.doing == "parked" && w.jobs[name] > 0 && (name != "x" || p.running["x"] == 0) {
				return fmt.Sprintf("%d sleeps through a job %s", i, name)
			}
		}
	}
	return ""
}

func newWorld(seed uint64) *world {
	w := &world{Rand: rand.New(rand.NewPCG(seed, 0)), jobs: map[string]int{}}
	w.calm, w.few = w.IntN(2) == 0, w.IntN(2) == 0
	for i := range 1 + w.IntN(6) {
		h := newHub()
		h.lockKey = int64(i + 1)
		h.after = func(_ time.Duration, do func()) *time.Timer { return time.AfterFunc(time.Hour, do) }
		h.publish = func(_ context.Context, payload string) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.sent = append(w.sent, payload)
			return nil
		}
		w.processes = append(w.processes, &process{Hub: h})
	}
	for range 2 + w.IntN(5) {
		w.comes()
	}
	return w
}

// sleepsUnseen names a member that sleeps, and that no notification and no timer would wake.
func (w *world) sleepsUnseen() string {
	for i, p := range w.people {
		if p.stands() || p.doing != "parked" || p.paced || p.asked.origin != 0 {
			continue
		}
		switch {
		case p.withdrawn && p.crew.polling.timer == nil:
			return fmt.Sprintf("%d sleeps withdrawn, and no timer calls it", i)
		case !p.withdrawn && !(p.row && p.proved):
			return fmt.Sprintf("%d sleeps; declared %t, proved %t", i, p.row, p.proved)
		}
	}
	return ""
}

// play lets things happen, and returns what went wrong.
func (w *world) play() string {
	for range 20 + w.IntN(150) {
		w.happens()
	}
	for range 3 {
		w.rest()
		if what := cmp.Or(w.sleepsThrough(), w.sleepsUnseen()); what != "" {
			return what
		}
		// What comes when all are at rest is found too.
		for _, name := range []string{"a", "b", "x"} {
			w.inserts(name, 1)
		}
		w.manyOrFew(w.processes[w.IntN(len(w.processes))])
	}
	return ""
}

// Members of three crews in up to six processes, one of which handles what may run once at a
// time, are called, look, fail, are full, freeze and leave in any order. Processes freeze,
// are killed, see each other late, lose their listeners, and poll when they like. Producers
// read who waits, and commit later. Whoever sleeps in the end has left no job to run, and is
// declared or called by a timer. In half of the rounds nothing freezes or is killed, and then
// nobody needs time to pass but a crew that polls.
func TestHub_anyOrder_noJobIsSleptThrough(t *testing.T) {
	t.Parallel()
	first := *seed
	if first == 0 {
		first = rand.Uint64()
	}
	for round := range *rounds {
		seed := first + uint64(round)
		w := newWorld(seed)
		if what := w.play(); what != "" {
			t.Fatalf("round of seed %d: %s\n%s", seed, what, strings.Join(w.story[max(len(w.story)-80, 0):], "\n"))
		}
		for _, p := range w.people {
			if !p.gone {
				p.process.remove(p.Member)
			}
		}
	}
}
