package hooks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"soniq/internal/redact"
	"soniq/notify"
)

const (
	// leaseTime is longer than a delivery may take, so that nobody else begins
	// meanwhile.
	leaseTime = 60 * time.Second
	// hookTimeout bounds a delivery, whatever the hook does.
	hookTimeout = 30 * time.Second
	// leaveBehind is how long a hook may take to return once its context has
	// ended.
	leaveBehind = 4 * time.Second
	// handOver is how long a dispatcher that must stop still sends.
	handOver = 5 * time.Second
	// safetyPoll is for what no notification told: outbox rows of a
	// transaction that could send none, and lost connections.
	safetyPoll = 60 * time.Second
	// laneWidth is how many deliveries of one hook one dispatcher has under
	// way at once.
	laneWidth = 8
	// firstHold is how long a group waits for its first digest.
	firstHold = time.Minute
	// holdSlack gathers the rows of a digest, whose times differ by how long
	// the statements took that put them off.
	holdSlack = time.Second
	// maxDigest is how many rows one digest takes in.
	maxDigest = 10_000
)

// schedule is how long to wait after each failed attempt: Standard Webhooks'
// own. After the last one the delivery has failed.
var schedule = []time.Duration{
	5 * time.Second, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 5 * time.Hour,
	10 * time.Hour, 14 * time.Hour, 20 * time.Hour, 24 * time.Hour,
}

// Config configures a [Dispatcher]. Its zero value works.
type Config struct {
	// Schema is the schema of Soniq's tables, spelled as the catalog has it.
	// Default "public".
	Schema string
	// Logger takes what an operator should know, and the records of log hooks.
	// Default [slog.Default].
	Logger *slog.Logger
	// AllowExec lets exec hooks run their commands here. The table soniq_hooks
	// names them: whoever can write to it can run commands as this process.
	// Without it their deliveries are left to dispatchers that may. Default no.
	AllowExec bool
	// Env names the variables of this process that a row of soniq_hooks may
	// refer to as env:NAME, beside those whose names begin with [OwnPrefix].
	// Whoever can write to the table can have their values sent to any public
	// address. Hooks of Declare may refer to every variable. Default none.
	Env []string
	// Allow are the private networks that a row may let its hook reach; see
	// [ParseNetworks]. Hooks of Declare may reach what they say. Default none.
	Allow []netip.Prefix
	// Keys open what is sealed in the table. Default none.
	Keys *Keyring
	// MaxInFlight is how many requests and commands may be under way at once,
	// over all hooks. Slow hooks have half of that at most. Default 32.
	MaxInFlight int
	// MaxPending is how many deliveries may wait for one hook; of all hooks ten
	// times as many. Beyond it the oldest are dropped. Default 100,000.
	MaxPending int
}

// A Dispatcher sends what is due in the outbox. Any number of them share it.
// One belongs to a worker, as a background service, or runs by itself; see RunAlone.
type Dispatcher struct {
	outbox     outbox
	log        *slog.Logger
	rights     rights
	slots      *slots
	maxPending int
	wakeups    *notify.Wakeups
	hold       time.Duration // firstHold, but for tests

	mu       sync.Mutex
	own      map[string]registered // of Register
	declared map[string]Spec       // of Declare

	// lacks is why hooks are left to others, as far as that was told. Run's.
	lacks map[uuid.UUID]string
	// dropping are the hooks whose deliveries are being dropped, as far as that
	// was told. keepTidy's.
	dropping map[uuid.UUID]bool
}

type registered struct {
	hook   Hook
	digest bool
}

// NewDispatcher returns a dispatcher on pool, which stays the caller's. It does
// not connect.
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
	config.Logger = redact.Logger(config.Logger)
	if config.MaxPending <= 0 {
		config.MaxPending = defaultPending
	}
	wakeups := notify.NewWakeups()
	return &Dispatcher{
		outbox: outbox, log: config.Logger, wakeups: wakeups, hold: firstHold,
		rights: rights{env: config.Env, allow: config.Allow, exec: config.AllowExec, keys: config.Keys, getenv: os.Getenv},
		slots:  newSlots(config.MaxInFlight, wakeups.Set), maxPending: config.MaxPending,
		own: map[string]registered{}, declared: map[string]Spec{}, lacks: map[uuid.UUID]string{}, dropping: map[uuid.UUID]bool{},
	}, nil
}

const registerSQL = `
insert into public.soniq_hooks (name, kind, events)
values ($1, 'go', $2)
on conflict (name) do update
set events = excluded.events
where soniq_hooks.kind = 'go'
returning id`

// Register adds a hook of your own under a name that must stay the same from
// one release to the next: the outbox keeps its deliveries under it, and any
// dispatcher of the fleet that has registered the name sends them. With digest
// it gets storms as digests. Without events it is told of deaths alone. Call
// it before Run.
func (d *Dispatcher) Register(ctx context.Context, name string, hook Hook, digest bool, events ...string) error {
	if len(events) == 0 {
		events = []string{Dead}
	}
	var id uuid.UUID
	err := d.outbox.pool.QueryRow(ctx, registerSQL, name, events).Scan(&id)
	if errors.Is(err, pgx.ErrNoRows) {
		err = errors.New("a hook of another kind has that name")
	}
	if err != nil {
		return fmt.Errorf("register hook %q: %w", name, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.own[name] = registered{hook, digest}
	return nil
}

// Every column but those that the fleet keeps: a hook that somebody disabled
// stays so.
const declareSQL = `
insert into public.soniq_hooks as h (name, kind, url, secrets, settings, events, jobs, queues, reasons, tags, declared_at)
values ($1, $2, nullif($3, ''), nullif($4, ''), $5, $6, $7, $8, $9, $10, clock_timestamp())
on conflict (name) do update
set kind = excluded.kind,
  url = excluded.url,
  secrets = excluded.secrets,
  settings = excluded.settings,
  events = excluded.events,
  jobs = excluded.jobs,
  queues = excluded.queues,
  reasons = excluded.reasons,
  tags = excluded.tags,
  declared_at = excluded.declared_at
where h.declared_at is not null
returning enabled, coalesce(disabled_reason, 'its row says so')`

// Declare adds hooks that a configuration has, or changes them to what it says.
// They are sent to as declared here, and only by dispatchers that declare them,
// whatever the table says: so a command needs no AllowExec, and any variable
// and network may be named. The table has no more of them than may be shown. They hear of what
// happens from then on, also while none of these dispatchers runs. One that no
// running dispatcher has declared for a week is removed. The error of one of
// them, for all of which nothing was done then, is a [*DeclareError]; of a name
// that a hook has which was not declared it wraps [ErrExists]. Call it before
// Run.
func (d *Dispatcher) Declare(ctx context.Context, specs ...Spec) error {
	disabled := map[string]string{}
	err := pgx.BeginFunc(ctx, d.outbox.pool, func(tx pgx.Tx) error {
		for _, spec := range specs {
			if err := spec.Check(); err != nil {
				return &DeclareError{spec.Name, err}
			}
			var enabled bool
			var reason string
			err := tx.QueryRow(ctx, declareSQL, spec.shown()...).Scan(&enabled, &reason)
			if errors.Is(err, pgx.ErrNoRows) {
				err = ErrExists
			}
			if err != nil {
				return &DeclareError{spec.Name, err}
			}
			if !enabled {
				disabled[spec.Name] = reason
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("declare hooks: %w", err)
	}
	for name, reason := range disabled {
		d.log.Warn("a hook of the configuration is disabled; 'soniq hooks enable' lets it go on", "hook", name, "because", reason)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, spec := range specs {
		d.declared[spec.Name] = spec
	}
	return nil
}

// DeclareError says which hook can't be declared.
type DeclareError struct {
	Hook string
	Err  error
}

func (e *DeclareError) Error() string { return fmt.Sprintf("hook %q: %s", e.Hook, e.Err) }

// Unwrap returns Err.
func (e *DeclareError) Unwrap() error { return e.Err }

// Channels are what the dispatcher must hear while it runs.
func (d *Dispatcher) Channels() map[string]notify.Handler {
	return map[string]notify.Handler{d.outbox.pool.Schema().Channel(notify.Hook): d.wakeups}
}

// RunAlone is Run with a listener of its own, on the connection that config
// describes.
func (d *Dispatcher) RunAlone(ctx context.Context, config *pgx.ConnConfig) error {
	listener, err := notify.NewListener(notify.Config{ConnConfig: config, Logger: d.log})
	if err != nil {
		return fmt.Errorf("run hooks: %w", err)
	}
	for channel, handler := range d.Channels() {
		listener.Handle(channel, handler)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return listener.Run(ctx) })
	group.Go(func() error { return d.Run(ctx) })
	if err := group.Wait(); err != nil {
		return fmt.Errorf("run hooks: %w", err)
	}
	return nil
}

// Run sends until ctx ends, then for at most 5 s more what is due, and returns
// nil. While the database is away it waits for it.
func (d *Dispatcher) Run(ctx context.Context) error {
	// Lanes outlive ctx by handOver.
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	// In a goroutine of its own: a backlog of years must not hold up what is due.
	var tidying sync.WaitGroup
	defer tidying.Wait()
	news := make(chan struct{}, 1)
	tidying.Go(func() { d.keepTidy(ctx, news) })
	trouble, woken := false, false
	for ctx.Err() == nil {
		d.wakeups.Clear()
		wait, some, err := d.pass(ctx, work)
		if err != nil && ctx.Err() == nil {
			if !trouble {
				d.log.Warn("can't read the hooks' outbox; trying until that works", "error", err)
			}
			wait = 5 * time.Second
		}
		trouble = err != nil
		// What is nobody's here may be too much too: a hook of another program.
		if some || woken {
			select {
			case news <- struct{}{}:
			default:
			}
		}
		woken = d.sleep(ctx, wait)
	}
	giveUp := time.AfterFunc(handOver, stop)
	defer giveUp.Stop()
	if _, _, err := d.pass(work, work); err != nil {
		d.log.Warn("the last hooks are left to others", "error", err)
	}
	select {
	case <-d.slots.drained():
	case <-work.Done():
	}
	d.slots.close()
	return nil
}

// sleep reports whether it was woken.
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

// pass asks for a turn for each hook that has something due and none yet. It
// returns how long to sleep, and whether anything waits at all.
func (d *Dispatcher) pass(ctx, work context.Context) (wait time.Duration, some bool, err error) {
	d.mu.Lock()
	own, declared := slices.Collect(maps.Keys(d.own)), slices.Collect(maps.Keys(d.declared))
	d.mu.Unlock()
	due, err := d.outbox.due(ctx, []string{"webhook", "slack", "log", "exec"}, own, declared)
	if err != nil {
		return 0, false, err
	}
	wait = safetyPoll
	for _, h := range due {
		switch {
		case d.slots.busy(h.ID): // it wakes us when it ends
		case h.Due > 0:
			wait = min(wait, h.Due+time.Millisecond)
		case !d.cannot(ctx, h):
			d.slots.submit(h.ID, h.Failures > 0, func(t *turn) { d.lane(work, t, h) })
		}
	}
	return wait, len(due) > 0, nil
}

// cannot reports whether the hook can be sent to only from elsewhere, and tells
// of it once: a variable, a right or a key is missing here, or its command may
// not be run. What it has due is left to a dispatcher that can. If nobody has
// come for a minute, the table says so too.
func (d *Dispatcher) cannot(ctx context.Context, h dueHook) bool {
	_, err := d.prepare(h)
	if !elsewhere(err) {
		delete(d.lacks, h.ID)
		return false
	}
	why := err.Error()
	if told, ok := d.lacks[h.ID]; !ok || told != why {
		d.lacks[h.ID] = why
		d.log.Warn("a hook can't be sent to from here; what it has due is left to others", "hook", h.Name, "because", why)
	}
	if h.Due < -safetyPoll && h.Lacks != why {
		if err := d.outbox.lack(ctx, h.ID, why); err != nil && ctx.Err() == nil {
			d.log.Debug("could not note why a hook waits", "hook", h.Name, "error", err)
		}
	}
	return true
}

// lane sends what one hook has due, and ends when there is no more, or when
// others wait for their turn.
func (d *Dispatcher) lane(ctx context.Context, t *turn, h dueHook) {
	hook, err := d.open(h)
	defer hook.close()
	if err != nil {
		// What is due fails, and that is seen in 'hooks deliveries'.
		hook = opened{Hook: broken{err}}
	} else if h.Lacks != "" {
		if err := d.outbox.lack(ctx, h.ID, ""); err != nil && ctx.Err() == nil {
			d.log.Debug("could not note that a hook waits no more", "hook", h.Name, "error", err)
		}
	}
	for more := true; more && ctx.Err() == nil; more = more && !d.slots.others() {
		if hook.digest {
			more, err = d.sendDigest(ctx, t, h, hook)
		} else {
			more, err = d.sendEach(ctx, t, h, hook)
		}
		if err != nil {
			if ctx.Err() == nil {
				d.log.Warn("hook deliveries could not be read or marked; they will be sent again", "hook", h.Name, "error", err)
				d.sleep(ctx, time.Second)
			}
			return
		}
	}
}

// broken is a hook that can't be made.
type broken struct{ err error }

func (b broken) Deliver(context.Context, *Delivery) error { return b.err }

// prepared is what a row, or our configuration, says of a hook, with all that
// its references stand for.
type prepared struct {
	kind     string
	secrets  secretsOf
	settings settings
}

// prepare checks that the hook may be sent to from here. A row gets what this
// dispatcher was started with, and no more.
func (d *Dispatcher) prepare(h dueHook) (p prepared, err error) {
	d.mu.Lock()
	spec, declared := d.declared[h.Name]
	d.mu.Unlock()
	if declared && h.Declared {
		p = prepared{spec.Kind, secretsOf{spec.URL, spec.Secrets, spec.Headers}, spec.settings()}
	} else {
		if p.kind = h.Kind; p.kind == "go" {
			return p, nil
		}
		if p.settings, err = readSettings(h.Settings); err != nil {
			return p, err
		}
		if p.kind == "exec" && !d.rights.exec {
			return p, ErrExecNotAllowed
		}
	}
	if p.kind != "webhook" && p.kind != "slack" {
		return p, nil
	}
	if !declared || !h.Declared {
		if p.secrets, err = d.rights.keys.openAll(secretsOf{h.URL, h.Secrets, p.settings.Headers}, h.Name); err != nil {
			return p, err
		}
		if err := d.rights.check(p.secrets, p.settings.Allow); err != nil {
			return p, err
		}
	}
	p.secrets, err = d.rights.resolve(p.secrets)
	return p, err
}

// opened is a hook that can be sent to.
type opened struct {
	Hook
	digest bool
	// known is what must not be kept of an answer.
	known *redact.Set
	// yields says that a delivery may be broken off, and made again later, where
	// others wait: a request may, what somebody else has written may not.
	yields bool
}

func (o opened) close() {
	if c, ok := o.Hook.(interface{ close() }); ok {
		c.close()
	}
}

// open makes the hook that a row describes or, where it was declared here, our
// configuration.
func (d *Dispatcher) open(h dueHook) (o opened, err error) {
	p, err := d.prepare(h)
	if err != nil {
		return o, err
	}
	switch p.kind {
	case "webhook":
		o.known, o.yields = knownOf(p.secrets), true
		o.Hook, err = newWebhook(p.secrets, p.settings, o.known)
	case "slack":
		o.known, o.yields, o.digest = knownOf(p.secrets), true, true
		o.Hook, err = newSlack(p.secrets, p.settings, o.known)
	case "log":
		o.Hook = logHook{d.log}
	case "exec":
		o.known = knownIn(os.Environ(), d.rights.env)
		o.Hook = &execHook{line: p.settings.Command, args: p.settings.Args, known: o.known, timeout: sendTimeout}
	default:
		d.mu.Lock()
		own := d.own[h.Name]
		d.mu.Unlock()
		o.Hook, o.digest = own.hook, own.digest
	}
	if err != nil {
		return opened{}, err
	}
	return o, nil
}

// sendEach sends a batch, each row for itself. more says that others may be
// due.
func (d *Dispatcher) sendEach(ctx context.Context, t *turn, h dueHook, hook opened) (more bool, err error) {
	lease := uuid.New()
	width := laneWidth
	if h.Failures > 0 {
		width = 1 // is it well again?
	}
	width = t.widen(width)
	rows, err := d.outbox.claim(ctx, h.ID, lease, width, leaseTime, 0)
	if err != nil || len(rows) == 0 {
		return false, err
	}
	t.narrow(len(rows))
	var group errgroup.Group
	results := make([]result, len(rows))
	for i, row := range rows {
		group.Go(func() error {
			e, err := d.outbox.event(ctx, row)
			if err != nil {
				return errors.Join(err, d.giveBack(ctx, lease, []uuid.UUID{row.ID}))
			}
			delivery := &Delivery{
				ID: row.ID, Hook: h.Name, Attempt: row.Attempts, Event: e,
				Groups: []Group{{Event: e, Count: 1, First: e.At, Last: e.At}},
			}
			sending, end := t.begin(ctx, hook.yields)
			defer end()
			results[i], err = d.send(sending, h, hook, lease, []uuid.UUID{row.ID}, delivery)
			return err
		})
	}
	err = group.Wait()
	// After a failure the next look asks whether the hook may be used.
	sent := !slices.ContainsFunc(results, func(r result) bool { return !r.sent })
	return sent && len(rows) == width, errors.Join(err, d.judge(ctx, h, results...))
}

// result is what a delivery tells of its hook. The zero value tells nothing:
// it was not made.
type result struct {
	sent, failed bool
	// pause is how long the other side wants to be left alone; throttled says
	// that this is all that it wants, gone that it wants no more at all.
	pause           time.Duration
	throttled, gone bool
}

// judge writes down what some deliveries, made at once, tell of their hook: one
// bad moment is one failure, however many of them it met, and a side that asks
// for a pause has not failed.
func (d *Dispatcher) judge(ctx context.Context, h dueHook, results ...result) error {
	var pause time.Duration
	bad, gone, counts := false, false, false
	for _, r := range results {
		pause = max(pause, r.pause)
		bad = bad || r.failed
		gone = gone || r.gone
		counts = counts || r.failed && !r.throttled
	}
	if !bad {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	enabled, failures, reason, err := d.outbox.unwell(ctx, h.ID, pause, gone, counts)
	switch {
	case err != nil:
		return err
	case !enabled:
		d.log.Error("the hook is disabled; 'soniq hooks enable' sends what waits", "hook", h.Name, "because", reason)
	case failures == 5 && counts:
		d.log.Warn("the hook has failed five times in a row and is left alone for a while", "hook", h.Name)
	}
	return nil
}

// giveBack releases rows though ctx may be over.
func (d *Dispatcher) giveBack(ctx context.Context, lease uuid.UUID, ids []uuid.UUID) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), handOver)
	defer cancel()
	return d.outbox.release(ctx, lease, ids)
}

// send delivers and writes down what became of it.
func (d *Dispatcher) send(ctx context.Context, h dueHook, hook opened, lease uuid.UUID, ids []uuid.UUID, delivery *Delivery) (result, error) {
	failure := deliver(ctx, hook, delivery)
	if failure != nil && ctx.Err() != nil {
		// Ended by us.
		return result{}, d.giveBack(ctx, lease, ids)
	}
	// What was sent is marked, whatever happens to ctx.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if failure == nil {
		n, err := d.outbox.delivered(ctx, h.ID, lease, ids, delivery)
		if err == nil && n < int64(len(ids)) {
			d.log.Warn("a hook delivery took longer than its lease; it may arrive twice, with the same id", "hook", h.Name, "delivery", delivery.ID)
		}
		return result{sent: err == nil}, err
	}
	r := result{failed: true}
	useless := delivery.Attempt > len(schedule)
	var refused *AnswerError
	if errors.As(failure, &refused) {
		delivery.Status = cmp.Or(delivery.Status, refused.Status)
		r.pause, r.gone = refused.RetryAfter, refused.Gone
		r.throttled = refused.Status == http.StatusTooManyRequests && r.pause > 0
		useless = useless || refused.Useless
	}
	wait := max(r.pause, backoff(delivery.Attempt))
	if r.throttled {
		// It said when, and the attempt is not charged.
		wait, useless = r.pause, false
	}
	if err := d.outbox.failed(ctx, lease, ids, delivery, failure.Error(), useless, wait, r.throttled); err != nil {
		return result{}, err
	}
	level := slog.LevelWarn
	if useless {
		level = slog.LevelError
	}
	d.log.Log(ctx, level, "a hook delivery failed", "hook", h.Name, "delivery", delivery.ID, "attempt", delivery.Attempt,
		"error", failure, "again_in", wait.Round(time.Millisecond).String(), "given_up", useless)
	return r, nil
}

// backoff is the wait after an attempt, give or take a fifth.
func backoff(attempt int) time.Duration {
	wait := schedule[min(max(attempt, 1), len(schedule))-1]
	return time.Duration(float64(wait) * (0.8 + 0.4*rand.Float64()))
}

// deliver calls the hook in a goroutine of its own: one that panics has
// failed, and one that ignores its context is left behind. Whatever it says
// comes back without the secrets that it is known to hold.
func deliver(ctx context.Context, hook opened, d *Delivery) error {
	err := deliverRaw(ctx, hook.Hook, d)
	d.Answer = clean(hook.known, d.Answer)
	return cleanError(hook.known, err)
}

func deliverRaw(ctx context.Context, hook Hook, d *Delivery) error {
	ctx, cancel := context.WithTimeoutCause(ctx, hookTimeout, fmt.Errorf("the hook took longer than %s", hookTimeout))
	defer cancel()
	theirs := *d // theirs alone, if they go on
	done := make(chan error, 1)
	go func() {
		returned := false
		defer func() {
			if r := recover(); r != nil {
				done <- fmt.Errorf("the hook panicked: %v", r)
			} else if !returned {
				done <- errors.New("the hook ended its goroutine")
			}
		}()
		err := hook.Deliver(ctx, &theirs)
		returned = true
		done <- err
	}()
	select {
	case err := <-done:
		d.Status, d.Answer = theirs.Status, theirs.Answer
		return err
	case <-ctx.Done():
		// It may be about to return.
		select {
		case err := <-done:
			d.Status, d.Answer = theirs.Status, theirs.Answer
			return err
		case <-time.After(leaveBehind):
			return context.Cause(ctx)
		}
	}
}

// storable is text that the database takes.
func storable(s string) string {
	return cut(strings.ReplaceAll(strings.ToValidUTF8(s, "�"), "\x00", "�"), maxAnswer)
}
