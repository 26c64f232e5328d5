package engine_test

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"soniq/internal/hub"
	"soniq/internal/testkit"
)

// fleetFault is what becomes of a process whose worker was called for a job.
type fleetFault struct {
	name string
	// job is the name of the job. Default quick.
	job string
	// away: the process can't run the job.
	away bool
	do   func(f *fleet, s *fleetSeat)
	// ends, which may be nil, ends the fault before the job can start.
	ends func(f *fleet)
}

var fleetFaults = []fleetFault{
	{name: "killed", away: true, do: func(_ *fleet, s *fleetSeat) { s.kill() }},
	{name: "frozen", away: true, do: func(_ *fleet, s *fleetSeat) { s.signal(syscall.SIGSTOP) }},
	{name: "black-holed", away: true, do: func(_ *fleet, s *fleetSeat) { s.hole() }},
	{name: "drains", do: func(_ *fleet, s *fleetSeat) { s.drain() }},
	{name: "loses its listener", do: func(_ *fleet, s *fleetSeat) { s.endListener() }},
	{name: "is full", do: func(f *fleet, _ *fleetSeat) { f.fill("held", 2) }},
	{name: "is at its limit", job: "narrow", do: func(f *fleet, _ *fleetSeat) { f.fill("narrow", 1) }},
	{
		name: "finds the queue paused",
		do:   func(f *fleet, _ *fleetSeat) { f.pause(f.client.PauseQueue) },
		ends: func(f *fleet) {
			<-time.After(time.Duration(rand.IntN(20)) * time.Millisecond)
			f.pause(f.client.ResumeQueue)
		},
	},
}

// fleetMoments are when a fault comes: before the job is there, to the process that comes first
// for its session; and when a worker was called for the job, or begins its fetch.
var fleetMoments = []hub.Step{"before", hub.Called, hub.Looks}

// first is the process that comes first for a session, or any, if a worker finds a job that was
// not called for it.
func (f *fleet) first(session int) *fleetSeat {
	f.Helper()
	chosen := f.stopAt(hub.Called)
	id, _ := f.insert(session, "quick")
	stop, called := f.awaitCall(chosen, id)
	if !called {
		return f.seats[session%len(f.seats)]
	}
	stop.goOn()
	waitUntil(f.T, f.pool, "the end of the job", `select status = 'done' from soniq_jobs where id = $1`, id)
	return stop.seat
}

// awaitCall waits for a call. There is none if a worker finds the job that looks for another
// reason, as one does that has just started.
func (f *fleet) awaitCall(calls <-chan fleetStop, id uuid.UUID) (stop fleetStop, called bool) {
	f.Helper()
	timeout := time.After(patience)
	for {
		f.mu.Lock()
		started, changed := len(f.started[id]) > 0, f.changed
		f.mu.Unlock()
		if started {
			f.disarm()
			select {
			case stop := <-calls:
				return stop, true
			default:
				return fleetStop{}, false
			}
		}
		select {
		case stop := <-calls:
			return stop, true
		case <-changed:
		case <-timeout:
			f.Fatalf("job %s: nobody is called for it, and it doesn't start, for %s", id, patience)
		}
	}
}

// meets enqueues a job through a session, and has the fault come at that moment. others, which
// may be nil, is what happens then to other processes than the one that is struck. It returns how
// long the job waited after all that.
func (f *fleet) meets(fault fleetFault, moment hub.Step, session int, others func(struck *fleetSeat)) time.Duration {
	f.Helper()
	strike := func(s *fleetSeat) {
		fault.do(f, s)
		if others != nil {
			others(s)
		}
	}
	var struck *fleetSeat
	if moment == "before" {
		struck = f.first(session)
		strike(struck)
	}
	calls := f.stopAt(moment)
	id, since := f.insert(session, cmp.Or(fault.job, "quick"))
	if moment != "before" {
		stop, called := f.awaitCall(calls, id)
		if !called {
			return 0
		}
		struck = stop.seat
		strike(struck)
		since = time.Now()
		stop.goOn()
	}
	if fault.ends != nil {
		fault.ends(f)
		since = time.Now()
	}
	start, err := f.awaitStart(id)
	if err != nil {
		f.Fatalf("%s, %s: %v", fault.name, moment, err)
	}
	// A fetch may have been under way already when the job came: a process that has just thawed looks
	// once more. What it had claimed when the fault struck is nobody's until it is buried. That says
	// nothing of wakes: the round is played again.
	if fault.away && (start.attempts != "1" || start.seat == struck && start.at.After(since)) {
		f.Logf("%s, %s: that process had claimed the job already", fault.name, moment)
		f.claimed[id] = true
	}
	return start.at.Sub(since)
}

// fleetSoon is when a job has surely started that nobody slept through, but on a machine that
// does other things. Nothing but a fault of the wakes takes longer three times in a row.
const fleetSoon = 3 * time.Second

// soon plays a round until it took less than fleetSoon, at most three times, but for rounds that say nothing.
func (f *fleet) soon(what string, play func() time.Duration) {
	f.Helper()
	var took []time.Duration
	for counted := 0; counted < 3 && len(took) < 6; {
		f.rest()
		claimed := len(f.claimed)
		t := play()
		f.lift()
		if len(f.claimed) == claimed {
			counted++
		}
		if took = append(took, t.Round(time.Millisecond)); t < fleetSoon {
			f.Logf("%s: started after %s", what, took)
			return
		}
	}
	f.Errorf("%s: started after %s", what, took)
}

// Whatever becomes of the process that is to run a job, before it is called for it or until it
// claims: another one runs it soon. No poll helps: the next one is in minutes.
func TestFleet_chosenProcessFails_jobStartsElsewhere(t *testing.T) {
	t.Parallel()
	f := startFleet(t, 3, 1)
	session := 0
	for _, fault := range fleetFaults {
		for _, moment := range fleetMoments {
			session = (session + 1) % len(f.sessions)
			f.soon(fmt.Sprintf("%s, %s", fault.name, moment), func() time.Duration {
				return f.meets(fault, moment, session, nil)
			})
		}
	}
	f.rest()
	f.startedOnce()
}

// One of eight processes is called, and all kinds of faults come at once, each to a process. Two
// are left.
func TestFleet_allFaultsAtOnce_jobStartsInAnIdleProcess(t *testing.T) {
	t.Parallel()
	f := startFleet(t, 8, 1)
	random := testkit.Rand(t)
	for range testkit.Size(2, 50) {
		f.soon("all at once", func() time.Duration {
			faults := slices.Clone(fleetFaults)
			random.Shuffle(len(faults), func(i, j int) { faults[i], faults[j] = faults[j], faults[i] })
			chosen := faults[0]
			chosen.job = "narrow"
			chosen.ends = func(f *fleet) { f.pause(f.client.ResumeQueue) }
			return f.meets(chosen, hub.Called, random.IntN(len(f.sessions)), func(struck *fleetSeat) {
				seats := slices.DeleteFunc(slices.Clone(f.seats), func(s *fleetSeat) bool { return s == struck })
				random.Shuffle(len(seats), func(i, j int) { seats[i], seats[j] = seats[j], seats[i] })
				for i, fault := range faults[1:] {
					fault.do(f, seats[i])
				}
			})
		})
	}
}

// Random faults come to random processes, one of which was called. Whoever is left starts the
// job.
func TestFleet_randomFaults_noJobIsSleptThrough(t *testing.T) {
	t.Parallel()
	for range testkit.Size(1, 4) {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			f := startFleet(t, 4, 2)
			random := testkit.Rand(t)
			var took []time.Duration
			for range testkit.Size(20, 2500) {
				took = append(took, f.randomRound(random))
				if len(took)%100 == 0 {
					t.Logf("%d rounds", len(took))
				}
				f.lift()
				if random.IntN(4) > 0 {
					f.rest()
				}
			}
			slices.Sort(took)
			t.Logf("%d rounds: p50 %s, p99 %s, max %s", len(took), took[len(took)/2], took[len(took)*99/100], took[len(took)-1])
		})
	}
}

func (f *fleet) randomRound(random *rand.Rand) time.Duration {
	f.Helper()
	fault := fleetFaults[random.IntN(len(fleetFaults))]
	moment := fleetMoments[random.IntN(len(fleetMoments))]
	return f.meets(fault, moment, random.IntN(len(f.sessions)), func(struck *fleetSeat) {
		seats := slices.DeleteFunc(slices.Clone(f.seats), func(s *fleetSeat) bool { return s == struck })
		intact := random.IntN(len(seats))
		for i, s := range seats {
			if i != intact && random.IntN(3) == 0 {
				fleetFaults[random.IntN(5)].do(f, s) // one of those that strike a process
			}
		}
	})
}

// The same while many jobs come, and after they have stopped coming: then workers hear of jobs in
// another way than at rest.
func TestFleet_randomFaultsUnderLoad_noJobIsSleptThrough(t *testing.T) {
	t.Parallel()
	f := startFleet(t, 4, 2)
	random := testkit.Rand(t)
	var took []time.Duration
	for range testkit.Size(5, 500) {
		if random.IntN(4) > 0 {
			f.rest()
		}
		stop := f.load()
		<-time.After(time.Duration(random.IntN(2000)) * time.Millisecond)
		busy := random.IntN(2) == 0
		if !busy {
			stop()
			<-time.After(time.Duration(random.IntN(2000)) * time.Millisecond)
		}
		took = append(took, f.strikes(random))
		if busy {
			stop()
		}
		f.lift()
	}
	slices.Sort(took)
	t.Logf("%d rounds: p50 %s, max %s", len(took), took[len(took)/2], took[len(took)-1])
}

// load enqueues more than a hundred jobs a second until stop.
func (f *fleet) load() (stop func()) {
	ctx, cancel := context.WithCancel(f.Context())
	var inserting sync.WaitGroup
	inserting.Go(func() {
		ticker := time.NewTicker(7 * time.Millisecond)
		defer ticker.Stop()
		for ctx.Err() == nil {
			_, err := f.pool.Exec(ctx, `insert into soniq_jobs (id, job_name, args) values (gen_random_uuid(), 'quick', '{}')`)
			if err != nil && ctx.Err() == nil {
				f.Error(err)
			}
			<-ticker.C
		}
	})
	return func() {
		cancel()
		inserting.Wait()
	}
}

// strikes lets faults come to all processes but one at most, and returns how long a job that comes
// then stays queued. One that was claimed by a process which is struck runs once others have
// noticed; that is not what is tested here.
func (f *fleet) strikes(random *rand.Rand) time.Duration {
	f.Helper()
	intact := random.IntN(len(f.seats))
	for i, s := range f.seats {
		if i != intact && random.IntN(2) == 0 {
			fleetFaults[random.IntN(5)].do(f, s) // one of those that strike a process
		}
	}
	id, since := f.insert(random.IntN(len(f.sessions)), "quick")
	waitUntil(f.T, f.pool, "a claim of the job", `select status <> 'queued' from soniq_jobs where id = $1`, id)
	return time.Since(since)
}
