package dashboard

import (
	"context"
	"errors"
	"maps"
	"sync"

	"github.com/google/uuid"

	"soniq/deadletter"
)

// mostTokens bounds the forms whose answer is remembered.
const mostTokens = 10_000

// A run is work on many dead letters that goes on after the request which began it.
type run struct {
	ID uuid.UUID
	// Verb is what it does, as in 'delete'.
	Verb string
	// Picked is how many were picked when it began, and Done how many it has changed.
	Picked, Done int64
	// Ended says that it has, and Failed why it didn't do all.
	Ended  bool
	Failed string
}

// runs are those of this process.
type runs struct {
	mu sync.Mutex
	// ctx is that of Dashboard.Run. Nil while it doesn't run.
	ctx     context.Context
	working sync.WaitGroup
	// replays are the operations that run here.
	replays map[uuid.UUID]context.CancelCauseFunc
	others  map[uuid.UUID]*run
	// answers are the paths that forms led to, by their tokens: one that is sent twice does
	// nothing twice.
	answers map[string]*answer
}

// An answer is what a form led to: path, once done is closed.
type answer struct {
	done chan struct{}
	path string
}

func newRuns() *runs {
	return &runs{replays: map[uuid.UUID]context.CancelCauseFunc{}, others: map[uuid.UUID]*run{}, answers: map[string]*answer{}}
}

var (
	errNotRunning = errors.New("the program that serves the dashboard doesn't run it (Dashboard.Run), or is stopping: nothing was begun")
	errStopped    = errors.New("stopped on the dashboard")
)

// work lets runs begin until ctx ends, and waits for them.
func (r *runs) work(ctx context.Context) error {
	r.mu.Lock()
	r.ctx = ctx
	r.mu.Unlock()
	<-ctx.Done()
	r.mu.Lock()
	r.ctx = nil
	r.mu.Unlock()
	r.working.Wait()
	return nil
}

// begin starts work that outlives the request.
func (r *runs) begin(do func(ctx context.Context)) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ctx == nil {
		return errNotRunning
	}
	ctx := r.ctx
	r.working.Go(func() { do(ctx) })
	return nil
}

// once does what a form asks for, unless a form with the token has been sent before: then it
// returns what that one led to, once it is known.
func (r *runs) once(ctx context.Context, token string, do func() (path string, err error)) (path string, err error) {
	if _, err := uuid.Parse(token); err != nil {
		return "", badInput("the form is not one of this dashboard: open the page again")
	}
	r.mu.Lock()
	before := r.answers[token]
	if before == nil {
		if len(r.answers) >= mostTokens {
			clear(r.answers) // days of work ago
		}
		before = &answer{done: make(chan struct{})}
		r.answers[token] = before
		r.mu.Unlock()
		defer close(before.done)
		if before.path, err = do(); err != nil {
			r.mu.Lock()
			delete(r.answers, token) // it may be sent again
			r.mu.Unlock()
		}
		return before.path, err
	}
	r.mu.Unlock()
	select {
	case <-before.done:
	case <-ctx.Done():
		return "", ctx.Err()
	}
	if before.path == "" {
		return "", badInput("the same form was sent a moment ago, and failed: go back and try again")
	}
	return before.path, nil
}

// here reports whether an operation runs in this process.
func (r *runs) here(operation uuid.UUID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.replays[operation] != nil
}

// stop stops an operation that runs in this process.
func (r *runs) stop(operation uuid.UUID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	cancel := r.replays[operation]
	if cancel != nil {
		cancel(errStopped)
	}
	return cancel != nil
}

// replay runs a bulk replay in the background, and returns its operation once it has begun. It
// is nil where there is nothing to do.
func (r *runs) replay(wait context.Context, start func(ctx context.Context, onProgress func(deadletter.Operation, []deadletter.Replayed)) (deadletter.ReplayResult, error)) (uuid.UUID, error) {
	type begun struct {
		id  uuid.UUID
		err error
	}
	told := make(chan begun, 1)
	err := r.begin(func(ctx context.Context) {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		var first sync.Once
		var id uuid.UUID
		result, err := start(ctx, func(op deadletter.Operation, _ []deadletter.Replayed) {
			first.Do(func() {
				if id = op.ID; id != uuid.Nil {
					r.mu.Lock()
					r.replays[id] = cancel
					r.mu.Unlock()
				}
				told <- begun{id: id}
			})
		})
		r.mu.Lock()
		delete(r.replays, id)
		r.mu.Unlock()
		first.Do(func() { told <- begun{result.Operation.ID, err} })
	})
	if err != nil {
		return uuid.Nil, err
	}
	select {
	case b := <-told:
		return b.id, b.err
	case <-wait.Done():
		return uuid.Nil, wait.Err()
	}
}

// other runs work that has no progress of its own, and returns its id.
func (r *runs) other(verb string, picked int64, do func(context.Context) (done int64, err error)) (uuid.UUID, error) {
	id := uuid.New()
	r.mu.Lock()
	if len(r.others) >= mostTokens {
		maps.DeleteFunc(r.others, func(_ uuid.UUID, w *run) bool { return w.Ended })
	}
	r.others[id] = &run{ID: id, Verb: verb, Picked: picked}
	r.mu.Unlock()
	err := r.begin(func(ctx context.Context) {
		n, err := do(ctx)
		r.mu.Lock()
		defer r.mu.Unlock()
		w := r.others[id]
		w.Done, w.Ended = n, true
		if err != nil {
			w.Failed = deadletter.RedactText(err.Error())
		}
	})
	return id, err
}

// look returns a copy of a run.
func (r *runs) look(id uuid.UUID) (run, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := r.others[id]
	if w == nil {
		return run{}, false
	}
	return *w, true
}
