package engine_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	osexec "os/exec"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/engine"
	"soniq/internal/devdb"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

var (
	chaosLasts = flag.Duration("chaos", 0,
		"how long the chaos suite goes on, with the real timing of a crash's discovery (give -timeout 5 min more); "+
			"0 is one short round with a shorter timing")
	chaosSeed = flag.Uint64("chaos.seed", 0, "the seed of the chaos suite's plan; 0 is a new one")
)

const (
	chaosWorkers = 5
	// A round has each fault that there is. It lasts four times as long as a
	// silent worker is believed to live, so that some are taken for dead.
	chaosJobsARound = 10_000
	chaosJobsShort  = 4_000 // of the short round
	chaosBatch      = 50
	// chaosSettles bounds the wait for the last job once all faults are lifted.
	// What takes longest is a listener's backoff and a claim's timeout.
	chaosSettles = 90 * time.Second
)

// chaosFault is something that goes wrong at a time of the plan.
type chaosFault struct {
	at    time.Duration
	what  string
	where int // the worker, or the subscriber after the last of them
	lasts time.Duration
}

func (f chaosFault) String() string {
	s := fmt.Sprintf("%6.2fs %s", f.at.Seconds(), f.what)
	switch f.what {
	case faultCrash, faultRestart:
	case faultHole, faultCut:
		s += fmt.Sprintf(" connection %d", f.where)
	default:
		s += fmt.Sprintf(" worker %d", f.where)
	}
	if f.lasts > 0 {
		s += fmt.Sprintf(" for %.2fs", f.lasts.Seconds())
	}
	return s
}

const (
	faultKill    = "kill -9"
	faultQuit    = "stop in good order"
	faultFreeze  = "SIGSTOP"
	faultHole    = "black hole"
	faultCut     = "cut"
	faultCrash   = "kill the server"
	faultRestart = "restart the server"
)

// chaosPlan is the same for the same seed.
func chaosPlan(seed uint64, rounds int, dead time.Duration) (plan []chaosFault, lasts time.Duration) {
	random := rand.New(rand.NewPCG(seed, 0))
	between := func(low, high float64) time.Duration {
		return time.Duration((low + random.Float64()*(high-low)) * float64(dead))
	}
	round := 4 * dead
	for r := range rounds {
		began := time.Duration(r) * round
		add := func(what string, where int, at, lasts time.Duration) {
			plan = append(plan, chaosFault{began + at, what, where, lasts})
		}
		worker := func() int { return random.IntN(chaosWorkers) }
		for range 6 {
			add(faultKill, worker(), between(0, 4), 0)
		}
		for range 2 {
			add(faultQuit, worker(), between(0, 4), 0)
			add(faultFreeze, worker(), between(0, 4), between(0, 0.5))
			add(faultHole, worker(), between(0, 4), between(0, 0.5))
		}
		for range 3 {
			add(faultCut, random.IntN(chaosWorkers+1), between(0, 4), 0)
		}
		add(faultHole, chaosWorkers, between(0, 4), between(0, 0.5))
		// Long enough to be taken for dead, and each another worker: two while the
		// server is there, so that others surely take their jobs, two at any time.
		long := worker()
		add(faultFreeze, long, between(0.8, 1.2), between(1.3, 1.6))
		add(faultHole, (long+1)%chaosWorkers, between(0.8, 1.2), between(1.3, 1.6))
		add(faultFreeze, (long+2)%chaosWorkers, between(0, 2.5), between(1.3, 1.6))
		add(faultHole, (long+3)%chaosWorkers, between(0, 2.5), between(1.3, 1.6))
		add(faultCrash, 0, between(0.3, 0.6), between(0, 0.2))
		add(faultRestart, 0, between(2.8, 3), 0)
		add(faultCrash, 0, between(3.5, 3.7), between(0, 0.2))
	}
	slices.SortStableFunc(plan, func(a, b chaosFault) int { return int(a.at - b.at) })
	return plan, time.Duration(rounds) * round
}

// chaos is one run of the suite.
type chaos struct {
	*testing.T
	server  *devdb.Server
	pool    *pgxpool.Pool // not through a proxy
	folder  string
	timing  engine.Timing
	seats   []*chaosSeat
	proxies []*testkit.Proxy // the workers', and the subscriber's
	jobs    int

	stopping atomic.Bool
	started  atomic.Int64 // worker processes
	failed   atomic.Int64 // processes that could not start, or write their last outcomes

	mu         sync.Mutex
	stopped    map[string]bool // the processes that were told to stop
	subscribed map[uuid.UUID]bool
	heard      map[uuid.UUID]int
	periods    []*chaosPeriod
}

// chaosSeat has a worker process, and another one when that ends.
type chaosSeat struct {
	turn sync.Mutex // faults of one seat come one after the other

	mu      sync.Mutex
	name    string
	process *os.Process
	stdin   io.Closer
}

// chaosPeriod is a time for which the plain listener was connected: all that
// was committed after one snapshot and before the other was announced to it.
type chaosPeriod struct{ from, to string }

// What the workers do to the jobs is written down by the database itself: each
// claim, and each end of one, with the program that wrote it.
const chaosSchemaSQL = `
create table chaos_batches (n integer primary key);
create table chaos_jobs (id uuid primary key, kind text not null);
create table chaos_ledger (job uuid not null);
create table chaos_log (
  n bigserial primary key,
  at timestamptz not null default clock_timestamp(),
  job uuid not null,
  event text not null,
  worker uuid,
  token bigint,
  attempts integer,
  writer text not null,
  status text not null,
  attempts_left integer
);
create function chaos_log() returns trigger language plpgsql as $$
declare
  said text := case
    when old.status = 'queued' and tg_op = 'UPDATE' and new.status = 'processing' then 'claim'
    when old.status = 'processing' and (tg_op = 'DELETE' or new.status <> 'processing') then 'end'
    when tg_op = 'UPDATE' and old.status = new.status
      and old.worker_id is not distinct from new.worker_id
      and old.claim_token is not distinct from new.claim_token then null
    else 'forbidden'
  end;
begin
  if said = 'claim' then
    insert into chaos_log (job, event, worker, token, attempts, writer, status)
    values (new.id, said, new.worker_id, new.claim_token, new.attempts, current_setting('application_name'), 'processing');
  elsif said is not null then
    insert into chaos_log (job, event, worker, token, attempts, writer, status, attempts_left)
    values (old.id, said, old.worker_id, old.claim_token, old.attempts, current_setting('application_name'),
      case tg_op when 'DELETE' then 'gone' else new.status end,
      case tg_op when 'DELETE' then old.attempts else new.attempts end);
  end if;
  return null;
end
$$;
create trigger chaos_log after update or delete on soniq_jobs
  for each row execute function chaos_log()`

// Everything goes wrong that the plan has, while jobs come in and are run. In
// the end each job has ended once, as its kind must, and all that was written
// was written by whoever held the claim.
func TestChaos_everyFault_eachJobEndsOnceAndEachDeathIsAnnounced(t *testing.T) {
	t.Parallel()
	seed := *chaosSeed
	for seed == 0 {
		seed = rand.Uint64()
	}
	c := &chaos{
		T: t, folder: t.TempDir(),
		timing:     engine.Timing{Beat: 400 * time.Millisecond, Trust: 1500 * time.Millisecond, Dead: 3 * time.Second},
		stopped:    map[string]bool{},
		subscribed: map[uuid.UUID]bool{}, heard: map[uuid.UUID]int{},
	}
	dead, rounds, aRound := c.timing.Dead, 1, chaosJobsShort
	if *chaosLasts > 0 {
		c.timing, dead, aRound = engine.Timing{}, 30*time.Second, chaosJobsARound
		rounds = max(int(*chaosLasts/(4*dead)), 1)
	}
	c.jobs = rounds * aRound
	plan, lasts := chaosPlan(seed, rounds, dead)
	// Not with Log, which a hang would not show.
	fmt.Printf("chaos: %d rounds, %s, run it again with -chaos=%s -chaos.seed=%d\n", rounds, lasts, *chaosLasts, seed)
	for _, f := range plan {
		t.Log(f)
	}
	began := time.Now()
	c.server = testdb.StartServer(t)
	c.pool = connect(t, c.server.URL())
	exec(t, c.pool, chaosSchemaSQL)
	for range chaosWorkers + 1 {
		c.proxies = append(c.proxies, testkit.StartProxy(t, c.server.URL()))
	}

	listening, stopListening := context.WithCancel(t.Context())
	var listeners sync.WaitGroup
	defer listeners.Wait()
	defer stopListening()
	listeners.Go(func() { c.subscribe(listening) })
	listeners.Go(func() { c.listen(listening) })
	listeners.Go(func() { c.mark(listening) })

	var workers sync.WaitGroup
	defer workers.Wait()
	defer c.killAll()
	for range chaosWorkers {
		c.seats = append(c.seats, &chaosSeat{})
	}
	for i := range c.seats {
		workers.Go(func() { c.keep(i) })
	}
	faultsBegan := time.Now()
	var faults sync.WaitGroup
	faults.Go(func() { c.produce(lasts, aRound) })
	var serving sync.Mutex
	for _, f := range plan {
		<-time.After(time.Until(faultsBegan.Add(f.at)))
		faults.Go(func() { c.strike(f, &serving) })
	}
	faults.Wait()
	lifted := time.Now()
	waitLong(t, "all jobs ended", chaosSettles, func() bool {
		var left, known int
		err := c.pool.QueryRow(t.Context(), `
			select (select count(*) from soniq_jobs where status <> 'done'), (select count(*) from chaos_jobs)`).Scan(&left, &known)
		return err == nil && left == 0 && known == c.jobs
	})
	settled := time.Now()
	c.stopAll()
	workers.Wait()
	c.awaitAnnouncements()
	stopListening()
	listeners.Wait()
	t.Logf("faults for %s, all jobs ended %s later, %s in all",
		lifted.Sub(faultsBegan).Round(time.Millisecond), settled.Sub(lifted).Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
	c.check()
}

// retry does something that needs the server until the server lets it.
func (c *chaos) retry(ctx context.Context, what string, do func(context.Context) error) {
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(chaosSettles); ; <-ticker.C {
		err := do(ctx)
		switch {
		case err == nil || ctx.Err() != nil:
			return
		case time.Now().After(deadline):
			c.Errorf("%s: not within %s: %v", what, chaosSettles, err)
			return
		}
	}
}

// produce enqueues all jobs, spread over the time. A batch whose commit is
// uncertain is not enqueued twice.
func (c *chaos) produce(lasts time.Duration, aRound int) {
	client, err := engine.NewClient(c.pool, engine.ClientConfig{})
	if err != nil {
		c.Error(err)
		return
	}
	var kinds []chaosKind
	for _, kind := range chaosKinds {
		for range kind.weight {
			kinds = append(kinds, kind)
		}
	}
	last := chaosKinds[len(chaosKinds)-1]
	batches := c.jobs / chaosBatch
	ticker := time.NewTicker(lasts / time.Duration(batches))
	defer ticker.Stop()
	for n := range batches {
		var batch []engine.Insert
		for i := range chaosBatch {
			// A step that is prime to the number of kinds meets all of them.
			kind := kinds[(n*chaosBatch+i)*7%len(kinds)]
			if i == 0 && n%(batches*aRound/c.jobs/3) == 10 {
				kind = last // three a round
			}
			batch = append(batch, engine.Insert{
				Name: kind.name, Options: []engine.EnqueueOption{engine.MaxAttempts(kind.attempts)},
			})
		}
		c.retry(c.Context(), "enqueue a batch", func(ctx context.Context) error {
			err := pgx.BeginFunc(ctx, c.pool, func(tx pgx.Tx) error {
				tag, err := tx.Exec(ctx, `insert into chaos_batches values ($1) on conflict do nothing`, n)
				if err != nil || tag.RowsAffected() == 0 {
					return err
				}
				enqueued, err := client.EnqueueManyTx(ctx, tx, batch)
				if err != nil {
					return err
				}
				ids, names := make([]uuid.UUID, len(batch)), make([]string, len(batch))
				for i, e := range enqueued {
					ids[i], names[i] = e.ID, batch[i].Name
				}
				_, err = tx.Exec(ctx, `insert into chaos_jobs select * from unnest($1::uuid[], $2::text[])`, ids, names)
				return err
			})
			return err
		})
		<-ticker.C
	}
}

// keep runs a worker process, and another one each time that it ends.
func (c *chaos) keep(seat int) {
	for n := 0; !c.stopping.Load(); n++ {
		name := fmt.Sprintf("chaos-%d-%d", seat, n)
		if err := c.run(seat, name); err != nil {
			c.Errorf("worker %s: %v", name, err)
			return
		}
	}
}

// run is the life of a worker process. An error is one that no fault explains.
func (c *chaos) run(seat int, name string) error {
	stderr, err := os.Create(filepath.Join(c.folder, name+".stderr"))
	if err != nil {
		return err
	}
	defer stderr.Close()
	cmd := osexec.Command(os.Args[0])
	cmd.Env = append(os.Environ(),
		chaosURL+"="+c.proxies[seat].Through(c.T, c.server.URL()),
		chaosRecords+"="+filepath.Join(c.folder, name+".records"),
		chaosName+"="+name,
		fmt.Sprintf("%s=%d %d %d", chaosTiming, c.timing.Beat, c.timing.Trust, c.timing.Dead))
	cmd.Stderr = stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	s := c.seats[seat]
	s.mu.Lock()
	s.name, s.process, s.stdin = name, cmd.Process, stdin
	s.mu.Unlock()
	if c.stopping.Load() {
		c.stop(s)
	}
	c.started.Add(1)
	err = cmd.Wait()
	var exit *osexec.ExitError
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &exit):
		return err
	case exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL:
		return nil
	case exit.ExitCode() == 1 && !c.stopping.Load():
		// The server was away when it started, or for too long when it ended. A
		// supervisor waits a little, too.
		c.failed.Add(1)
		<-time.After(200 * time.Millisecond)
		return nil
	}
	text, _ := os.ReadFile(stderr.Name())
	return fmt.Errorf("%w\n%s", err, text[max(0, len(text)-4000):])
}

func (s *chaosSeat) signal(signal os.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process != nil {
		_ = s.process.Signal(signal) // it may have ended by itself
	}
}

// stop tells a worker to stop in good order.
func (c *chaos) stop(s *chaosSeat) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == nil {
		return
	}
	c.mu.Lock()
	c.stopped[s.name] = true
	c.mu.Unlock()
	_ = s.stdin.Close()
}

func (c *chaos) stopAll() {
	c.stopping.Store(true)
	for _, s := range c.seats {
		c.stop(s)
	}
}

func (c *chaos) killAll() {
	c.stopping.Store(true)
	for _, s := range c.seats {
		s.signal(syscall.SIGKILL)
	}
}

// strike has a fault happen, and lifts it.
func (c *chaos) strike(f chaosFault, serving *sync.Mutex) {
	wait := func() { <-time.After(f.lasts) }
	switch f.what {
	case faultCrash, faultRestart:
		serving.Lock()
		defer serving.Unlock()
		if f.what == faultCrash {
			if err := c.server.Kill(c.Context()); err != nil {
				c.Error(err)
			}
			wait()
		}
		if err := c.server.Restart(c.Context()); err != nil {
			c.Error(err)
		}
		return
	case faultHole, faultCut:
		p := c.proxies[f.where]
		if f.what == faultHole {
			p.BlackHole()
			wait()
		}
		p.Cut()
		return
	}
	seat := c.seats[f.where]
	seat.turn.Lock()
	defer seat.turn.Unlock()
	switch f.what {
	case faultKill:
		seat.signal(syscall.SIGKILL)
	case faultQuit:
		c.stop(seat)
	case faultFreeze:
		seat.signal(syscall.SIGSTOP)
		wait()
		seat.signal(syscall.SIGCONT)
		// Before the next fault, for it may write what it has by now.
		<-time.After(time.Second)
	}
}
