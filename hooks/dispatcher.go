package hooks

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	probes "soniq/internal/health"
	"soniq/internal/incarnation"
	"soniq/internal/limiter"
	"soniq/internal/redact"
	"soniq/internal/tables"
	"soniq/notify"
)

const (
	// stopTimeout is how long a dispatcher that must stop goes on sending.
	stopTimeout = 3 * time.Second
	// safetyPoll finds what no notification announces: rows of a transaction that
	// sent none, and those of a lost connection.
	safetyPoll = 60 * time.Second
	// deafPoll takes the place of safetyPoll while notifications don't arrive.
	deafPoll = 2 * time.Second
	// retryPass is the wait after the outbox could not be read.
	retryPass = 5 * time.Second
	// clockTurn keeps many dispatchers that see one step of the database's clock from
	// mending it each. The first of them sees it within safetyPoll of the others.
	clockTurn = 2 * safetyPoll
)

// Config configures a [Dispatcher]. Its zero value works.
type Config struct {
	// Schema is the schema of Soniq's tables, spelled as the catalog has it: case
	// counts. The role's search_path doesn't matter. Default "public".
	Schema string
	// Origin says where the configuration of declared hooks is, such as 'host:file'. Other
	// dispatchers name it where their configuration differs. Default the host's name.
	Origin string
	// Logger takes warnings for the operator, and the records of log hooks. Default
	// [slog.Default].
	Logger *slog.Logger
	// AllowExec lets exec hooks of the table run their commands here. Whoever may
	// write to soniq_hooks can then run commands as this process. Default false:
	// their deliveries wait for a dispatcher that may.
	AllowExec bool
	// Env names the variables of this process that a row of soniq_hooks may refer to
	// as env:NAME, beside those that begin with [OwnPrefix]. Whoever may write to the
	// table can have their values sent to any public address. Declared hooks may
	// refer to every variable. Default none.
	Env []string
	// Allow are the private networks that a row may let its hook reach. Declared hooks
	// may reach what they say. Default none.
	Allow []netip.Prefix
	// Keys open what is sealed in the table. Default none.
	Keys *Keyring
	// MaxInFlight bounds the requests and commands under way, over all hooks. Slow
	// hooks get half of it at most. Default 32.
	MaxInFlight int
	// MaxPending bounds the deliveries that wait for one hook. Of all hooks ten times
	// as many may wait. Beyond it the oldest are dropped. Default 100,000.
	MaxPending int
	// Tracers are called when a delivery begins and ends. Default none.
	Tracers []Tracer
}

// A Dispatcher sends what is due in the outbox. Any number of dispatchers share it.
// One runs as a background service of a worker, or by itself; see
// [Dispatcher.RunAlone].
type Dispatcher struct {
	outbox     outbox
	log        *slog.Logger
	rights     rights
	tables     *tables.Monitor
	probes     probes.State
	guard      *incarnation.Guard
	limiter    *limiter.Limiter
	maxPending int
	tracers    []Tracer
	wakeups    *notify.Wakeups
	firstDelay time.Duration // of a digest; firstDelay, but for tests
	deaf       atomic.Bool   // notifications don't arrive

	mu sync.Mutex
	// own are the hooks of Register. declared are those of Declare, as functions: fmt
	// looks into pointers and prints unexported fields, but never looks into a function.
	own      map[string]registered
	declared map[string]func() Spec

	// origin is where the configuration of declared hooks is. warned has the other
	// configurations that were logged. mu guards it.
	origin string
	warned map[string]bool

	// stopping is closed by Stopping.
	stopping chan struct{}
	stopOnce sync.Once

	// unavailable is why hooks wait for other dispatchers, as far as it was logged.
	// Only Run uses it.
	unavailable map[uuid.UUID]string
	// back is by how much the database's clock was set back, until what it has put off is
	// mended. Only Run uses it.
	back time.Duration
	// dropping are the hooks whose dropped deliveries were logged. Only maintain uses
	// it.
	dropping map[uuid.UUID]bool
}

// NewDispatcher returns a dispatcher on pool, which stays the caller's. It does not
// connect.
//
// Errors: what is wrong with a field of config.
func NewDispatcher(pool *pgxpool.Pool, config Config) (*Dispatcher, error) {
	outbox, err := newOutbox(pool, config.Schema)
	if err != nil {
		return nil, fmt.Errorf("new dispatcher: Schema: %w", err)
	}
	if config.Logger == nil {
		config.Logger = slog.Default()
	}
	if config.Origin == "" {
		config.Origin, _ = os.Hostname()
	}
	if i := slices.Index(config.Tracers, nil); i >= 0 {
		return nil, fmt.Errorf("new dispatcher: Tracers: number %d is nil", i+1)
	}
	if config.MaxPending <= 0 {
		config.MaxPending = defaultPending
	}
	wakeups := notify.NewWakeups()
	monitor := tables.NewMonitor(pool, config.Schema, redact.Logger(config.Logger))
	log := monitor.Logger()
	return &Dispatcher{
		outbox:      outbox,
		log:         log,
		tables:      monitor,
		probes:      probes.State{Dispatcher: true, Schema: newestMigration(), Missing: monitor.Missing},
		tracers:     config.Tracers,
		guard:       incarnation.NewGuard(outbox.pool, log),
		rights:      rights{env: config.Env, allow: config.Allow, exec: config.AllowExec, keys: config.Keys, getenv: os.Getenv},
		limiter:     limiter.New(config.MaxInFlight, wakeups.Set),
		maxPending:  config.MaxPending,
		wakeups:     wakeups,
		firstDelay:  firstDelay,
		own:         map[string]registered{},
		declared:    map[string]func() Spec{},
		origin:      config.Origin,
		warned:      map[string]bool{},
		stopping:    make(chan struct{}),
		unavailable: map[uuid.UUID]string{},
		dropping:    map[uuid.UUID]bool{},
	}, nil
}

// Channels are the notification channels that the dispatcher must hear while it
// runs, with their handlers.
func (d *Dispatcher) Channels() map[string]notify.Handler {
	return map[string]notify.Handler{d.outbox.pool.Schema().Channel(notify.Hook): d.wakeups}
}

// RunAlone is [Dispatcher.Run] with a listener of its own, which connects as config
// says. It returns nil after ctx has ended. Where notifications don't arrive through that
// connection, it warns once and looks at the outbox every 2 s.
//
// Errors: what is wrong with config.
func (d *Dispatcher) RunAlone(ctx context.Context, config *pgx.ConnConfig) (err error) {
	defer func() { d.probes.Ended(err) }()
	listener, err := notify.NewListener(notify.Config{ConnConfig: config, Logger: d.log, Probe: notify.ProbeThrough(d.outbox.pool), OnHealth: d.Listening})
	if err != nil {
		return fmt.Errorf("run hooks: %w", err)
	}
	if err := d.checkGrants(ctx); err != nil {
		return fmt.Errorf("run hooks: %w", err)
	}
	d.log.Info("sending hooks")
	d.Listening(false) // until the first probe has arrived
	for channel, handler := range d.Channels() {
		listener.Handle(channel, handler)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return listener.Run(ctx) })
	group.Go(func() error { return d.loop(ctx) })
	group.Go(func() error { return d.guard.Run(ctx) })
	if err := group.Wait(); err != nil {
		return fmt.Errorf("run hooks: %w", err)
	}
	return nil
}

// Listening tells the dispatcher whether notifications arrive. While they don't, it looks
// at the outbox every 2 s, else once a minute. An engine.Worker calls it.
func (d *Dispatcher) Listening(healthy bool) {
	d.probes.Listening(healthy)
	if d.deaf.Swap(!healthy) != !healthy {
		d.wakeups.Set()
	}
}

// Run sends what is due until ctx ends, goes on for at most 3 s, and returns nil.
// While the database is unreachable it retries. Somebody else must pass on the
// notifications of [Dispatcher.Channels].
//
// Errors: none.
func (d *Dispatcher) Run(ctx context.Context) error {
	if err := d.checkGrants(ctx); err != nil {
		d.log.Error("hooks send nothing until their role has the rights", "error", err)
	}
	return d.loop(ctx)
}

// loop is Run, once the rights are looked at.
func (d *Dispatcher) loop(ctx context.Context) error {
	// Senders go on for stopTimeout after ctx has ended.
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	defer context.AfterFunc(ctx, d.Stopping)()
	// In a goroutine of its own: a large backlog of old rows must not delay what is
	// due.
	var maintaining sync.WaitGroup
	defer maintaining.Wait()
	activity := make(chan struct{}, 1)
	maintaining.Go(func() { d.maintain(ctx, activity) })
	maintaining.Go(func() { _ = d.tables.Run(ctx) })
	// To know a promoted standby later. An error comes again in a pass.
	_, _ = d.guard.Held(ctx, time.Time{})
	failing, woken := false, false
	for ctx.Err() == nil {
		d.wakeups.Clear()
		wait, waiting, err := d.pass(ctx, work)
		d.passed(ctx, err)
		if err != nil && ctx.Err() == nil {
			if !failing {
				d.log.Warn("reading the outbox of hooks failed; retrying until it works", "error", err)
			}
			wait = retryPass
		}
		failing = err != nil
		// A notification can be about a hook of another program, which pass doesn't
		// see. Its deliveries are bounded too.
		if waiting || woken {
			select {
			case activity <- struct{}{}:
			default:
			}
		}
		woken = d.sleep(ctx, wait)
	}
	d.drain(work, stop)
	return nil
}

// drain sends what is due now, for stopTimeout at most, and waits for the senders.
func (d *Dispatcher) drain(work context.Context, stop func()) {
	giveUp := time.AfterFunc(stopTimeout, stop)
	defer giveUp.Stop()
	if _, _, err := d.pass(work, work); err != nil {
		d.log.Warn("reading the outbox of hooks failed at shutdown; other dispatchers send what is due", "error", err)
	}
	select {
	case <-d.limiter.Drained():
	case <-work.Done():
	}
	d.limiter.Close()
}

// sleep reports whether it was woken by a notification.
func (d *Dispatcher) sleep(ctx context.Context, wait time.Duration) bool {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-d.wakeups.C():
		return true
	}
	return false
}

// pass starts a sender for each hook that has something due and no sender yet. It
// returns how long to sleep, and whether anything waits at all.
func (d *Dispatcher) pass(ctx, work context.Context) (wait time.Duration, waiting bool, err error) {
	d.mu.Lock()
	own, declared := slices.Collect(maps.Keys(d.own)), slices.Collect(maps.Keys(d.declared))
	d.mu.Unlock()
	due, step, err := d.outbox.due(ctx, Kinds(), own, declared)
	if step < 0 {
		d.back -= step
		d.log.Warn("the database's clock was set back; what waits for a time is sent that much earlier", "by", (-step).Round(time.Millisecond).String())
	}
	if err == nil && d.back > 0 {
		if err = d.outbox.clockBack(ctx, backTask, d.back); err == nil {
			d.back = 0
			due, _, err = d.outbox.due(ctx, Kinds(), own, declared)
		}
	}
	if err != nil {
		return 0, false, err
	}
	wait = safetyPoll
	if !d.outbox.trustsLeases() {
		wait = leaseTime / 4
	}
	if d.deaf.Load() {
		wait = min(wait, deafPoll)
	}
	held := ""
	if len(due) > 0 {
		// A copy of the database tells nobody of what the other one tells.
		if held, err = d.guard.Held(ctx, due[0].Server); err != nil {
			return 0, true, err
		}
	}
	for _, h := range due {
		switch {
		case held != "":
		case d.limiter.Busy(h.ID): // it wakes us when it ends
		case h.Due > 0:
			wait = min(wait, h.Due+time.Millisecond)
		case !d.isUnavailable(ctx, h):
			d.limiter.Submit(h.ID, h.Failures > 0, func(s *limiter.Sender) { d.run(work, s, h) })
		}
	}
	return wait, len(due) > 0, nil
}

// isUnavailable reports whether only another dispatcher can send to the hook: a
// variable, a right or a key is missing here. It logs the reason once. If no
// dispatcher has sent to the hook for a minute, it writes the reason to the table.
func (d *Dispatcher) isUnavailable(ctx context.Context, h dueHook) bool {
	_, err := d.prepare(h)
	if !isUnavailable(err) {
		delete(d.unavailable, h.ID)
		return false
	}
	reason := err.Error()
	if logged, ok := d.unavailable[h.ID]; !ok || logged != reason {
		d.unavailable[h.ID] = reason
		d.log.Warn("this dispatcher can't send to a hook; its deliveries wait for another one", "hook", h.Name, "reason", reason)
	}
	if h.Due < -safetyPoll && h.Unavailable != reason {
		if err := d.outbox.recordUnavailable(ctx, h.ID, reason); err != nil && ctx.Err() == nil {
			d.log.Debug("recording why a hook waits failed", "hook", h.Name, "error", err)
		}
	}
	return true
}
