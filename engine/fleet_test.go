package engine_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	osexec "os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/engine"
	"soniq/internal/hub"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

// fleet is some worker processes, each behind a proxy of its own, and sessions that enqueue. It
// knows which worker is called for a job, and can stop it there.
type fleet struct {
	*testing.T
	url    string
	pool   *pgxpool.Pool // not through a proxy
	client *engine.Client
	// sessions enqueue: which process comes first depends on the session.
	sessions []*pgx.Conn
	seats    []*fleetSeat
	workers  int // of each process
	// inserted are the jobs of insert.
	inserted []uuid.UUID
	// claimed are those that a process which is cut off had claimed before it was called for them.
	claimed map[uuid.UUID]bool

	mu sync.Mutex
	// armed takes the next worker that reaches a step, having been called since, and called are
	// those that have.
	armed     chan fleetStop
	armedStep hub.Step
	called    map[fleetWorker]bool
	started   map[uuid.UUID][]fleetStart
	changed   chan struct{}
}

// fleetWorker is a worker of a process.
type fleetWorker struct {
	seat   *fleetSeat
	worker string
}

// fleetStop is a worker that stands still at a step.
type fleetStop struct {
	fleetWorker
	goOn func()
}

// fleetStart is the start of a job.
type fleetStart struct {
	fleetWorker
	at       time.Time
	attempts string
}

// fleetSeat has a process, and another one when that is gone.
type fleetSeat struct {
	fleet *fleet
	proxy *testkit.Proxy

	cmd   *osexec.Cmd
	stdin io.WriteCloser
	ended chan struct{}
	// holed: its connections lead nowhere. leaves: it is being told to stop, or is killed.
	holed, leaves bool
	// saw gets the workers that have looked at the others.
	saw chan string
	// ids are its workers, and hears is how many of them have relied on notifications. The
	// fleet's lock guards both.
	ids   []uuid.UUID
	hears int
}

// startFleet returns once all workers rely on notifications.
func startFleet(t *testing.T, processes, workers int) *fleet {
	t.Helper()
	url := testdb.NewURL(t)
	pool := connect(t, url)
	f := &fleet{
		T: t, url: url, pool: pool, client: newClient(t, pool), workers: workers,
		started: map[uuid.UUID][]fleetStart{}, claimed: map[uuid.UUID]bool{}, changed: make(chan struct{}),
	}
	for range processes {
		f.seats = append(f.seats, &fleetSeat{fleet: f, proxy: testkit.StartProxy(t, url)})
	}
	for _, s := range f.seats {
		s.start()
	}
	f.rest()
	for range 5 {
		conn, err := pgx.Connect(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close(t.Context()) })
		f.sessions = append(f.sessions, conn)
	}
	return f
}

// start starts a process in the seat.
func (s *fleetSeat) start() {
	t := s.fleet
	cmd := osexec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), fleetURL+"="+s.proxy.Through(t, t.url), fmt.Sprintf("%s=%d", fleetWorkers, t.workers))
	cmd.Stderr = t.Output()
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	s.cmd, s.stdin, s.ended, s.leaves = cmd, stdin, ended, false
	s.saw = make(chan string, t.workers)
	t.mu.Lock()
	s.ids, s.hears = nil, 0
	t.mu.Unlock()
	go func() {
		for out := bufio.NewScanner(stdout); out.Scan(); {
			t.hear(s, stdin, strings.Fields(out.Text()))
		}
		_ = cmd.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
	})
}

// hear takes a line of a process.
func (f *fleet) hear(s *fleetSeat, stdin io.Writer, words []string) {
	if len(words) < 2 {
		f.Errorf("a process says %q", words)
		return
	}
	w := fleetWorker{s, words[1]}
	goOn := func() { _, _ = fmt.Fprintln(stdin, "go", words[0], words[1]) } // it may be gone
	f.mu.Lock()
	defer f.mu.Unlock()
	switch words[0] {
	case "up":
		s.ids = append(s.ids, uuid.MustParse(words[2]))
	case "saw":
		s.saw <- words[1]
	case "hears":
		s.hears++
		f.change()
	case "started":
		id := uuid.MustParse(words[2])
		f.started[id] = append(f.started[id], fleetStart{w, time.Now(), words[3]})
		f.change()
	case string(hub.Called), string(hub.Looks):
		step := hub.Step(words[0])
		if f.armed != nil && step == hub.Called {
			f.called[w] = true
		}
		if f.armed != nil && step == f.armedStep && f.called[w] {
			f.armed <- fleetStop{w, goOn}
			f.armed = nil
			return
		}
		goOn()
	}
}

// change tells those that wait that something has changed.
func (f *fleet) change() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// stopAt has the next worker stand still that is called and reaches the step.
func (f *fleet) stopAt(step hub.Step) <-chan fleetStop {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.armed, f.armedStep, f.called = make(chan fleetStop, 1), step, map[fleetWorker]bool{}
	return f.armed
}

// disarm lets all go on.
func (f *fleet) disarm() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.armed = nil
}

// insert enqueues a job through a session, and returns when that was committed.
func (f *fleet) insert(session int, name string) (uuid.UUID, time.Time) {
	f.Helper()
	id := uuid.New()
	_, err := f.sessions[session].Exec(f.Context(), `insert into soniq_jobs (id, job_name, args) values ($1, $2, '{}')`, id, name)
	if err != nil {
		f.Fatal(err)
	}
	f.inserted = append(f.inserted, id)
	return id, time.Now()
}

// awaitStart waits until a job has started.
func (f *fleet) awaitStart(id uuid.UUID) (fleetStart, error) {
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for {
		f.mu.Lock()
		starts, changed := f.started[id], f.changed
		f.mu.Unlock()
		if len(starts) > 0 {
			return starts[0], nil
		}
		select {
		case <-changed:
		case <-timeout.C:
			return fleetStart{}, fmt.Errorf("job %s did not start within %s", id, patience)
		}
	}
}

// startedOnce reports jobs that started twice, or were charged for a start that was none, but for those
// that a process had claimed which was then cut off. These are few.
func (f *fleet) startedOnce() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, id := range f.inserted {
		starts := f.started[id]
		if f.claimed[id] && len(starts) > 0 && len(starts) <= 2 {
			continue
		}
		if len(starts) != 1 || starts[0].attempts != "1" {
			f.Errorf("job %s started %d times: %v", id, len(starts), starts)
		}
	}
	if n := len(f.claimed); n > 3+len(f.inserted)/20 {
		f.Errorf("%d of %d jobs were claimed before anybody was called for them", n, len(f.inserted))
	}
}

func (s *fleetSeat) say(words ...any) { _, _ = fmt.Fprintln(s.stdin, words...) }

func (s *fleetSeat) signal(signal os.Signal) {
	if err := s.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		s.fleet.Error(err)
	}
}

// kill returns once the process is gone.
func (s *fleetSeat) kill() {
	s.leaves = true
	s.signal(syscall.SIGKILL)
	<-s.ended
}

// drain tells all workers of the process to stop.
func (s *fleetSeat) drain() {
	s.leaves = true
	for i := range s.fleet.workers {
		s.say("drain", i)
	}
}

// hole has all that the process sends and receives vanish.
func (s *fleetSeat) hole() {
	s.holed = true
	s.proxy.BlackHole()
}

// endListener ends the session on which the process listens.
func (s *fleetSeat) endListener() {
	exec(s.fleet.T, s.fleet.pool, `select pg_terminate_backend(backend_pid) from soniq_workers where id = any ($1)`, s.fleet.ids(s))
}

// ids are the workers of some seats.
func (f *fleet) ids(seats ...*fleetSeat) (ids []uuid.UUID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range seats {
		ids = append(ids, s.ids...)
	}
	return ids
}

// fill has the next claim of a worker find other jobs first, of which nobody is told.
func (f *fleet) fill(name string, jobs int) {
	f.Helper()
	exec(f.T, f.pool, `
		with silent as materialized (select set_config('session_replication_role', 'replica', true))
		insert into soniq_jobs (id, job_name, args, priority)
		select gen_random_uuid(), $1, '{}', 1 from silent, generate_series(1, $2)`, name, jobs)
}

// pause pauses the queue or ends its pause.
func (f *fleet) pause(do func(context.Context, string) (bool, error)) {
	f.Helper()
	if _, err := do(f.Context(), "default"); err != nil {
		f.Fatal(err)
	}
}

// lift lifts all faults, and has other processes take the place of those that are gone.
func (f *fleet) lift() {
	f.Helper()
	f.disarm()
	for _, s := range f.seats {
		s.signal(syscall.SIGCONT)
		if s.holed {
			s.proxy.Cut()
			s.holed = false
		}
		if s.leaves {
			<-s.ended
		}
		select {
		case <-s.ended:
			s.start()
		default:
		}
	}
	f.pause(f.client.ResumeQueue)
}

const fleetReadySQL = `
select count(*) = cardinality($1::uuid[])
from soniq_workers w
join pg_stat_activity a on a.pid = w.backend_pid
where w.id = any ($1)
  and w.status = 'active'
  and w.lock_key is not null`

// awaitHears waits until all workers of a process rely on notifications.
func (s *fleetSeat) awaitHears() {
	f := s.fleet
	f.Helper()
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for {
		f.mu.Lock()
		hears, changed := s.hears, f.changed
		f.mu.Unlock()
		if hears == f.workers {
			return
		}
		select {
		case <-changed:
		case <-s.ended:
			s.start() // it was cut off when it began
		case <-timeout.C:
			s.signal(syscall.SIGQUIT) // it says what it does
			<-s.ended
			f.Fatalf("%d of %d workers of a process rely on notifications after %s", hears, f.workers, patience)
		}
	}
}

// rest waits until all workers listen, know each other and have no job left.
func (f *fleet) rest() {
	f.Helper()
	for _, s := range f.seats {
		s.awaitHears()
	}
	waitUntil(f.T, f.pool, "a listener in each process", fleetReadySQL, f.ids(f.seats...))
	waitTrue(f.T, "the end of all jobs", func() bool {
		for _, s := range f.seats {
			s.say("release")
		}
		// Nobody was told of what fill has made.
		return queryValue[int](f.T, f.pool, `
			with open as materialized (select count(*) as n from soniq_jobs where status <> 'done')
			select (select n from open) + (select count(pg_notify('soniq_new_job', 'default')) * 0 from open where n > 0)`) == 0
	})
	for _, s := range f.seats {
		s.say("see", 0)
	}
	for _, s := range f.seats {
		receive(f.T, "a look at the others", s.saw)
	}
}
