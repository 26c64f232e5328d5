package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"soniq/deadletter"
)

// stuckError is the timeout of a handler that goes on all the same.
type stuckError struct{ timeoutError }

func (e *stuckError) Error() string {
	return e.timeoutError.Error() + "; the handler ignores that its context has ended, and still runs"
}

// leave settles the job of a handler that doesn't return within CancelGrace
// after its context has ended: it is left to itself, and another job has its
// slot. (At shutdown, drain sees to that.)
func (w *Worker) leave(ctx context.Context, e *execution) {
	if errors.Is(context.Cause(ctx), ErrShutdown) {
		return
	}
	w.mu.Lock()
	_, running := w.running[e.job]
	w.mu.Unlock()
	if !running {
		return
	}
	stack := stackOf(e.goroutine)
	var o Outcome
	if errors.Is(context.Cause(ctx), ErrCancelled) {
		o = e.cancelled(fmt.Errorf("%w, but the handler still runs", ErrCancelled))
	} else {
		o = e.fail(deadletter.KindTimeout, &stuckError{timeoutError{e.timeout}}, "", stack)
	}
	o.Job, o.Duration, o.completed = e.job, time.Since(e.started), e.completed.Load()
	if left := w.end(o, true); left > 0 {
		w.logger.Error("a handler ignores that its context has ended; its job is settled without it, and its goroutine goes on",
			"job", e.job.ID, "name", e.job.Name, "attempt", e.job.Attempts, "such_handlers", left, "stack", stack)
	}
}

// maxStacks bounds the memory for the stacks of all goroutines, among which
// the one is found.
const maxStacks = 16 << 20

// stackOf returns the stack of a goroutine, or nothing if it has ended.
func stackOf(goroutine string) string {
	if goroutine == "" {
		return ""
	}
	buf := make([]byte, 1<<20)
	for {
		n := runtime.Stack(buf, true)
		if n < len(buf) || len(buf) >= maxStacks {
			buf = buf[:n]
			break
		}
		buf = make([]byte, 2*len(buf))
	}
	// Stacks are apart by a blank line; each begins 'goroutine 7 [running]:'.
	for stack := range bytes.SplitSeq(buf, []byte("\n\n")) {
		if bytes.HasPrefix(stack, []byte(goroutine+" ")) {
			return string(stack)
		}
	}
	return ""
}

// goroutine returns how stackOf knows the calling goroutine: 'goroutine 7'.
func goroutine() string {
	buf := make([]byte, 32)
	buf = buf[:runtime.Stack(buf, false)]
	if end := bytes.IndexByte(buf, '['); end > 0 {
		return string(bytes.TrimSpace(buf[:end]))
	}
	return ""
}
