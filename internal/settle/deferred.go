package settle

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"soniq/internal/pg"
	"soniq/internal/tracecontext"
)

// Deferred writes the outcomes that the database refuses with their batch, one by one.
// Those that it refuses by themselves wait: their jobs stay under their claims and the
// verdicts are kept, until the cause is gone.
//
// What waits for the same reason is one fault: the same way to write, refused with the
// same SQLSTATE. Some of each fault are tried again now and then, the oldest first. Once
// the database takes one of them, all others are tried at once.
//
// What was just added is tried beside that: most of it was refused only because of what
// its batch had in it, and must not wait for a try that hangs.
type Deferred struct {
	Writer
	// Remind is the time until a fault is logged again, which doubles each time.
	// Default 1 min.
	Remind time.Duration
	// OnDeferred is called with each outcome that is added. Default none.
	OnDeferred func(*Outcome)

	count, bytes atomic.Int64

	mu     sync.Mutex
	fresh  []*waiting
	closed bool
	// tried: closed, and all that was added is written or in faults.
	tried  bool
	faults map[faultKey]*fault
	// added is readable if fresh or closed may have changed, changed if faults or tried may.
	added, changed chan struct{}
}

const (
	// MaxDeferred and MaxDeferredBytes are how many outcomes may wait before the worker
	// claims no more jobs: what it runs ends as usual, and may wait too.
	MaxDeferred      = 1000
	MaxDeferredBytes = 64 << 20

	// firstRest and longestRest are the time between two rounds of tries of a fault.
	firstRest   = 100 * time.Millisecond
	longestRest = 5 * time.Second
	// probes is how many outcomes of a fault are tried in one round. Each is a line in
	// the server's log.
	probes = 16
	// slowRefusal is a try that holds up the next ones. After maxSlow of these in a row,
	// what has the same fault is not tried at once.
	slowRefusal = 100 * time.Millisecond
	maxSlow     = 4
	// maxNamed is how many outcomes are logged one by one when the worker stops.
	maxNamed = 10
)

// waiting is an outcome that waits.
type waiting struct {
	Outcome
	err      error
	tried    bool
	kept     bool
	patience time.Duration
}

// faultKey is what outcomes have in common that wait for the same reason.
type faultKey struct {
	way  way
	code string // the SQLSTATE; empty without an answer
}

// fault is outcomes that wait for the same reason.
type fault struct {
	rows []*waiting
	// due is when the next round begins, rest the time until the one after it, and left
	// how many are still tried in this round.
	due  time.Time
	rest time.Duration
	left int
	// slow counts the slow refusals in a row.
	slow int
	told reminder
}

// NewDeferred returns one that Run was not called for yet.
func NewDeferred(w Writer) *Deferred {
	return &Deferred{
		Writer: w, faults: map[faultKey]*fault{},
		added: make(chan struct{}, 1), changed: make(chan struct{}, 1),
	}
}

// Full reports whether so many outcomes wait that no more jobs should be claimed.
func (d *Deferred) Full() bool {
	return d.count.Load() >= MaxDeferred || d.bytes.Load() >= MaxDeferredBytes
}

// add takes an outcome that was refused with its batch. It doesn't wait.
func (d *Deferred) add(o Outcome, refusal error) {
	o.Deferred = true
	if d.OnDeferred != nil {
		d.OnDeferred(&o)
	}
	o.Bytes += len(o.Result) + len(o.Verdict.Message) + len(o.Verdict.Stack)
	d.count.Add(1)
	d.bytes.Add(int64(o.Bytes))
	d.mu.Lock()
	d.fresh = append(d.fresh, &waiting{Outcome: o, err: refusal, patience: firstPatience})
	d.mu.Unlock()
	signal(d.added)
}

// Close says that no more will be added.
func (d *Deferred) Close() {
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	signal(d.added)
}

func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Run writes what is added until Close was called and nothing waits, or ctx ends.
//
// Errors: that some outcomes were given up, which are logged.
func (d *Deferred) Run(ctx context.Context) error {
	var group sync.WaitGroup
	group.Go(func() {
		d.run(ctx, d.nextFresh, d.added)
		d.mu.Lock()
		d.tried = true
		d.mu.Unlock()
		signal(d.changed)
	})
	d.run(ctx, d.nextWaiting, d.changed)
	group.Wait()
	return d.giveUp(context.WithoutCancel(ctx))
}

// run tries what next says until next says that there will be no more, or ctx ends.
func (d *Deferred) run(ctx context.Context, next func() (*waiting, time.Duration, bool), changed <-chan struct{}) {
	for ctx.Err() == nil {
		w, wait, done := next()
		switch {
		case done:
			return
		case w != nil:
			d.try(ctx, w)
			continue
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-changed:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// nextFresh is the next outcome that was added. done: there will be none.
func (d *Deferred) nextFresh() (w *waiting, wait time.Duration, done bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.fresh) > 0 {
		w, d.fresh = d.fresh[0], d.fresh[1:]
		return w, 0, false
	}
	return nil, longestRest, d.closed
}

// nextWaiting is the waiting outcome to try next, else how long to wait for one. done:
// there will be none.
func (d *Deferred) nextWaiting() (w *waiting, wait time.Duration, done bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	wait, done = longestRest, d.tried
	for _, f := range d.faults {
		if len(f.rows) == 0 {
			continue
		}
		done = false
		if f.left == 0 && time.Until(f.due) <= 0 {
			f.left = min(probes, len(f.rows))
		}
		if f.left > 0 {
			f.left--
			w, f.rows = f.rows[0], f.rows[1:]
			return w, 0, false
		}
		wait = min(wait, time.Until(f.due))
	}
	return nil, wait, done
}

// try tries to write an outcome. If the database refuses it, it waits.
func (d *Deferred) try(ctx context.Context, w *waiting) {
	if d.waitsAsOthers(w) {
		return
	}
	began := time.Now()
	err := d.writeOne(ctx, w.Outcome, w.err, w.patience)
	if err == nil {
		d.written(w)
		return
	}
	ended := ctx.Err() != nil && !pg.Refused(err)
	if !ended && !w.kept && pg.Refused(err) {
		w.kept = d.keep(ctx, w.Outcome)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	defer signal(d.changed)
	if !pg.Refused(err) {
		w.unsure = true
	}
	if ended {
		f := d.faultOf(w)
		f.rows = append(f.rows, w)
		return
	}
	w.err = err
	if !pg.Refused(err) {
		w.patience = min(2*w.patience, maxPatience)
	}
	f := d.faultOf(w)
	f.rows = append(f.rows, w)
	if w.tried = true; time.Since(began) >= slowRefusal {
		f.slow++
	} else {
		f.slow = 0
	}
	if f.left == 0 {
		f.rest = min(max(2*f.rest, firstRest), longestRest)
		f.due = time.Now().Add(f.rest)
	}
	d.tell(f, w)
}

// waitsAsOthers has an outcome wait untried if the tries of others with its fault are slow.
// It is the next to be tried.
func (d *Deferred) waitsAsOthers(w *waiting) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.faultOf(w)
	if w.tried || f.slow < maxSlow {
		return false
	}
	w.tried = true
	f.rows = append([]*waiting{w}, f.rows...)
	signal(d.changed)
	return true
}

// faultOf is the fault that an outcome was last refused for. The caller holds mu.
func (d *Deferred) faultOf(w *waiting) *fault {
	key := faultKey{d.wayOf(w.Outcome), pg.Code(w.err)}
	f := d.faults[key]
	if f == nil {
		f = &fault{told: reminder{first: d.Remind}}
		d.faults[key] = f
	}
	return f
}

// written follows the write of an outcome. If it had waited, its fault may be gone.
func (d *Deferred) written(w *waiting) {
	d.count.Add(-1)
	d.bytes.Add(-int64(w.Bytes))
	d.mu.Lock()
	defer d.mu.Unlock()
	defer signal(d.changed)
	f := d.faultOf(w)
	f.slow = 0
	if !w.tried {
		return
	}
	f.left, f.rest, f.due = len(f.rows), 0, time.Time{}
	if len(f.rows) == 0 && f.told.times > 0 {
		d.Logger.Info("outcomes that the database refused are written", "sqlstate", pg.Code(w.err), "waiting", d.count.Load())
		f.told.again()
	}
}

// tell logs a fault, at growing distance. The caller holds mu.
func (d *Deferred) tell(f *fault, w *waiting) {
	if !f.told.due() {
		return
	}
	var locked *lockedError
	attrs := tracecontext.Attrs(w.Trace,
		"job", w.ID, "job_name", w.Name, "attempt", w.Attempts, "outcome", string(w.Kind), "error", w.err,
		"remedy", pg.Remedy(w.err), "waiting", d.count.Load())
	if d.Full() {
		attrs = append(attrs, "claims", "none until outcomes are written")
	}
	switch {
	case errors.As(w.err, &locked):
		d.Logger.Warn("the row of a job is locked by another session; its outcome is written when the row is free", attrs...)
	case pg.Refused(w.err):
		d.Logger.Error("the database refuses the outcome of a job; it is kept, and tried again until it is written", attrs...)
	default:
		d.Logger.Warn("the outcome of a job can't be written; it is kept, and tried again until it is", attrs...)
	}
}

// giveUp logs what could not be written before the worker stopped.
func (d *Deferred) giveUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, keepPatience)
	defer cancel()
	d.mu.Lock()
	defer d.mu.Unlock()
	left := d.fresh
	for _, f := range d.faults {
		left = append(left, f.rows...)
	}
	if len(left) == 0 {
		return nil
	}
	for i, w := range left {
		if !w.kept && ctx.Err() == nil {
			w.kept = d.keep(ctx, w.Outcome)
		}
		if i >= maxNamed {
			continue
		}
		effect := "the job may run again"
		if w.kept {
			effect = "whoever recovers the job writes it"
		}
		d.Logger.Error("the outcome of a job could not be written before the worker stopped; "+effect,
			tracecontext.Attrs(w.Trace, "job", w.ID, "job_name", w.Name, "attempt", w.Attempts, "outcome", string(w.Kind),
				"error", w.err, "remedy", pg.Remedy(w.err))...)
	}
	return fmt.Errorf("settle %d jobs: gave up: %w", len(left), left[0].err)
}

// reminder says when something that goes on is logged again.
type reminder struct {
	// first is the first distance; default 1 min.
	first time.Duration
	times int
	next  time.Time
	wait  time.Duration
}

// longestReminder is the longest distance.
const longestReminder = time.Hour

// due reports whether it should be logged now.
func (r *reminder) due() bool {
	now := time.Now()
	if now.Before(r.next) {
		return false
	}
	if r.first == 0 {
		r.first = time.Minute
	}
	if r.times++; r.times > 1 {
		r.wait = min(2*r.wait, longestReminder)
	} else {
		r.wait = r.first
	}
	r.next = now.Add(r.wait)
	return true
}

// again begins anew: what comes back is logged after the first distance.
func (r *reminder) again() {
	r.times, r.next = 0, time.Now().Add(max(r.first, time.Second))
}
