// Package hub is what the workers of a process share: the connection that listens, the
// lock on it that shows that the process lives, and the choice of the worker that is
// woken.
//
// # Why no worker sleeps through a job
//
// Package waiters proves this for a worker alone: when it sleeps, each job that is
// committed is announced, or one of its fetches has seen it. What follows proves it for
// many. A crew are the workers with the same queues and job names, in all hubs. What one
// of them can run, each can, unless it is full or at a limit. A call is a wake that is not
// answered yet. The steps:
//
//  1. An announcement makes a call in each crew that serves the queue, in each hub: at
//     once, or later (6, 7), or with the next look of a crew that polls (9).
//  2. A call is given to one member, and wakes it. The bit that wakes it is cleared before
//     its fetch begins, and never after, and under the lock that gives calls.
//  3. A call is answered by a fetch that began after the call, looked at all that the crew
//     serves, and left nothing.
//  4. A member that was called and can't answer passes the call on: its fetch left more jobs
//     than it had slots for, or failed, or did not look at a handler that is at its limit, or
//     the worker stops. A call is passed only to members that have begun no fetch since it
//     was made, so it ends. If there is none of these, nobody sleeps who could run the job:
//     a member that is neither asleep nor at a fetch begins a fetch before it sleeps.
//  5. Where no answer comes within lateAfter, another member is called too.
//  6. Each hub ranks itself, and the first one calls at once. If it can't answer, it sends
//     the call to the others (fleet.go).
//  7. The others look later, in order of their ranks, unless they have looked since.
//  8. A hub that finds out that another is gone, after a job was announced, looks at once.
//  9. A crew that polls is withdrawn, and a timer calls its members instead. While a member
//     sleeps withdrawn, the timer runs (poll.go).
//  10. When a crew polls no more, it calls a member once more, and then each one that sleeps
//     withdrawn. A member that has begun its fetch while the crew polled, and sleeps after
//     that, counts as withdrawn whatever has changed meanwhile. Each that is called goes
//     through the whole order of package waiters.
//  11. On a new connection, and with each new incarnation, all members look, and go through
//     the order.
//
// Take a job that is committed, and a worker W that could run it and sleeps. If W is
// withdrawn, the timer calls its crew (9), within slowestPace. If W is declared, its last
// order is whole (10, 11), so it has seen the job or the job is announced: its hub hears
// that (1). W's hub is first, and calls (2, 6); or another one is. If that one lives, it
// calls a member, who takes the job (3), or the call is passed on and reaches W's hub (4, 5,
// 6). If it is frozen, killed or cut off, W's hub looks as a deputy (7) or as soon as it
// misses it (8). In W's hub the call reaches W, or somebody who answers it (3, 4, 5).
//
// When the next job is due is known to the crew, not to the member that has found out: it
// may be busy by then (TestHub_dueWhileTheOneThatKnowsIsBusy_anotherIsWoken).
//
// TestHub_anyOrder_noJobIsSleptThrough plays all this, from the trigger to the timer, with
// producers that commit late, and with processes that freeze, are killed, lose their
// connection, or are taken for dead. It fails without any of the steps 1 to 7 and 9 to 11.
// Tests of single steps:
//
//	1   TestHub_jobAnnounced_oneOfEachCrewIsWoken
//	2   TestHub_secondJobBeforeTheLook_wakesNobodyElse
//	3   TestHub_partlyLooked_stillLooksAsDeputy
//	4   engine.TestWorkers_handlerAtItsLimit_anotherWorkerRunsTheJob
//	5   TestHub_late_anotherIsWoken
//	6   TestHub_ranks_theFirstCallsAtOnceAndAFewLater, engine.TestWorkers_firstProcessFull_theOthersRunTheRest
//	7   engine.TestWorkers_firstProcessFrozenOrKilled_anotherRunsTheJob
//	8   TestHub_othersAreGone_looksForWhatWasAnnounced
//	9   TestHub_announcedWhileItPolls_isCalledSoon, TestHub_manyLookAtTheSameTime_callsNobodyElse
//	10  TestHub_pollsAndEnds_eachMemberIsCalledOnce, engine.TestWorkers_oftenAnnounced_pollAndDeclareThemselvesAgain
//	11  engine.TestWaiters_listenerReconnects_declaresItselfAnew
package hub

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/internal/liveness"
	"soniq/internal/pg"
	"soniq/notify"
)

// Key is what the workers of a hub have in common.
type Key struct {
	// Pool is where they send.
	Pool *pgxpool.Pool
	// Listen is where they listen, nil where the pool leads.
	Listen *pgx.ConnConfig
	Schema string
	// Alone, if it is not nil, is a worker that shares with nobody.
	Alone any
}

// Config is what a hub needs.
type Config struct {
	Key    Key
	Pool   *pg.Pool
	Logger *slog.Logger
	// Channels are those of the services of a worker that shares with nobody.
	Channels map[string]notify.Handler
}

// Hub is shared by its members.
type Hub struct {
	key    Key
	id     uuid.UUID
	logger *slog.Logger
	// publish sends a payload to all hubs.
	publish func(ctx context.Context, payload string) error
	// after is time.AfterFunc, but for tests.
	after func(time.Duration, func()) *time.Timer

	// end ends the listener, and ended is closed when it has ended with err.
	end   context.CancelFunc
	ended chan struct{}
	err   error

	mu sync.Mutex
	// count counts the calls.
	count int64
	// members are in the order in which they came. The first one leads.
	members []*Member
	crews   map[string]*crew
	// connections counts, and lock is the present one's, if it has one.
	connections int
	lock        *liveness.Lock
	// lockKey is its key; 0 is none.
	lockKey int64
	// listening: the channels of jobs and of control are listened to.
	listening, controlled bool
	healthy               bool
	// announced is when a job was announced last.
	announced time.Time
	// closed: the last member has left.
	closed bool
	// sends are the calls that are being sent to other hubs.
	sends sync.WaitGroup
}

// hubs are those that have members.
var hubs = struct {
	sync.Mutex
	by map[Key]*Hub
}{by: map[Key]*Hub{}}

// Join makes m a member of the hub of config, which begins to listen with its first one.
// Then call m.Run.
//
// Errors: what is wrong with the connection's configuration.
func Join(ctx context.Context, config Config, m *Member) error {
	hubs.Lock()
	defer hubs.Unlock()
	h := hubs.by[config.Key]
	if h == nil {
		var err error
		if h, err = start(ctx, config); err != nil {
			return err
		}
		hubs.by[config.Key] = h
	}
	h.add(ctx, m)
	return nil
}

// start starts a hub without members, which goes on when ctx ends.
func start(ctx context.Context, config Config) (*Hub, error) {
	h := &Hub{key: config.Key, id: uuid.New(), publish: publisher(config.Pool), after: time.AfterFunc, logger: config.Logger, crews: map[string]*crew{}, ended: make(chan struct{})}
	conn := config.Key.Listen
	if conn == nil {
		conn = config.Pool.Config().ConnConfig
	}
	listener, err := notify.NewListener(notify.Config{
		ConnConfig: conn, Logger: config.Logger,
		OnConnect: h.connected, OnDisconnect: h.disconnected,
		Probe: notify.ProbeThrough(config.Pool), OnHealth: h.heard,
	})
	if err != nil {
		return nil, err
	}
	schema := config.Pool.Schema()
	listener.Handle(schema.Channel(notify.NewJob), (*jobs)(h))
	listener.Handle(schema.Channel(notify.Control), (*control)(h))
	for channel, handler := range config.Channels {
		listener.Handle(channel, handler)
	}
	ctx, h.end = context.WithCancel(context.WithoutCancel(ctx))
	go func() {
		defer close(h.ended)
		h.err = listener.Run(ctx)
	}()
	return h, nil
}

// add tells a new member what the others were told.
func (h *Hub) add(ctx context.Context, m *Member) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m.hub.Store(h)
	key := CrewKey(m.config.Queues, m.config.Names)
	if h.crews[key] == nil {
		h.crews[key] = &crew{hub: h, key: key, serves: serving(m.config.Queues)}
	}
	m.crew = h.crews[key]
	m.crew.members = append(m.crew.members, m)
	h.members = append(h.members, m)
	if h.lock != nil {
		m.config.Session.Up(h.lock)
	}
	m.config.OnHealth(h.healthy)
	if h.listening {
		m.listened()
	}
	if h.controlled {
		m.config.Control.Connected(ctx)
	}
}

// serving returns whether a queue is one of these; the empty one is any.
func serving(queues []string) func(string) bool {
	return func(queue string) bool { return queue == "" || slices.Contains(queues, queue) }
}

// listened: what was announced until now must be looked for.
func (m *Member) listened() {
	m.config.Listened()
	m.wakeups.Set()
}

// run waits for the end of ctx, or of the listener, and takes m off.
func (h *Hub) run(ctx context.Context, m *Member) error {
	select {
	case <-ctx.Done():
	case <-h.ended:
	}
	hubs.Lock()
	last := h.remove(m)
	if last {
		delete(hubs.by, h.key)
	}
	hubs.Unlock()
	if last {
		h.end()
		<-h.ended
		h.sends.Wait()
	}
	select {
	case <-h.ended:
		return h.err
	default:
		return nil
	}
}

// remove takes a member off, and reports whether it was the last one.
func (h *Hub) remove(m *Member) (last bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	led := h.members[0] == m
	h.members = slices.DeleteFunc(h.members, func(o *Member) bool { return o == m })
	m.crew.remove(m)
	if len(m.crew.members) == 0 {
		delete(h.crews, m.crew.key)
	}
	m.config.Session.Down()
	if led {
		h.wakeDetector()
	}
	h.closed = len(h.members) == 0
	return h.closed
}

// wakeDetector makes the one that leads look at the other workers soon.
func (h *Hub) wakeDetector() {
	if len(h.members) > 0 {
		h.members[0].config.WakeDetector()
	}
}

// connected takes the lock on a new connection.
func (h *Hub) connected(ctx context.Context, conn *pgx.Conn) error {
	h.mu.Lock()
	h.connections++
	n := h.connections
	h.mu.Unlock()
	lock, err := liveness.TakeLock(ctx, conn, h.id, n, h.logger)
	if err != nil || lock == nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lock, h.lockKey = lock, lock.Key()
	for _, m := range h.members {
		m.config.Session.Up(lock)
	}
	return nil
}

func (h *Hub) disconnected() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lock, h.lockKey, h.listening, h.controlled = nil, 0, false, false
	for _, m := range h.members {
		m.config.Session.Down()
	}
}

// heard notes whether notifications arrive.
func (h *Hub) heard(healthy bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.healthy = healthy
	for _, m := range h.members {
		m.config.OnHealth(healthy)
	}
}

// jobs handles what is announced of new jobs.
type jobs Hub

// Connected implements [notify.Handler]. LISTEN was committed before it.
func (j *jobs) Connected(context.Context) {
	h := (*Hub)(j)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.listening = true
	for _, m := range h.members {
		m.listened()
	}
}

// Notify implements [notify.Handler].
func (j *jobs) Notify(ctx context.Context, queue string) { j.NotifyFrom(ctx, 0, queue) }

// NotifyFrom implements [notify.Sourced].
func (j *jobs) NotifyFrom(_ context.Context, pid uint32, queue string) {
	(*Hub)(j).announce(pid, queue)
}

// control passes on what is announced to workers.
type control Hub

// Connected implements [notify.Handler].
func (c *control) Connected(ctx context.Context) {
	h := (*Hub)(c)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.controlled = true
	for _, m := range h.members {
		m.config.Control.Connected(ctx)
	}
}

// Notify implements [notify.Handler].
func (c *control) Notify(ctx context.Context, payload string) { c.NotifyFrom(ctx, 0, payload) }

// NotifyFrom implements [notify.Sourced].
func (c *control) NotifyFrom(ctx context.Context, pid uint32, payload string) {
	h := (*Hub)(c)
	if h.received(pid, payload) {
		return
	}
	h.mu.Lock()
	members := slices.Clone(h.members)
	h.mu.Unlock()
	for _, m := range members {
		m.config.Control.Notify(ctx, payload)
	}
}
