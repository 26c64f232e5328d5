package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"

	"soniq/deadletter/classify"
	"soniq/internal/tracecontext"
)

// stuckError is the timeout of a handler that is still running.
type stuckError struct{ timeoutError }

func (e *stuckError) Error() string {
	return e.timeoutError.Error() + "; the handler is still running after its context has ended"
}

// abandon settles the job of a handler that is still running CancelGrace after its
// context has ended: the goroutine goes on, and another job gets its slot. (At
// shutdown, drain does that.)
func (w *Worker) abandon(ctx context.Context, e *execution) {
	if errors.Is(context.Cause(ctx), ErrShutdown) {
		return
	}
	if !w.inflight.isRunning(e.job) {
		return
	}
	stack := stackOf(e.goroutine)
	var o Outcome
	if errors.Is(context.Cause(ctx), ErrCancelled) {
		o = e.cancelled(classify.ReadTree(fmt.Errorf("%w, but the handler still runs", ErrCancelled)))
	} else {
		o = e.fail(classify.KindTimeout, &stuckError{timeoutError{e.timeout}}, "", stack)
	}
	o = e.ended(o)
	if abandoned := w.inflight.end(o, true); abandoned > 0 {
		w.tracers.abandoned(e.traced, o)
		w.logger.Error("a handler is still running after cancellation and is abandoned: its job is settled, and its goroutine goes on",
			tracecontext.Attrs(o.trace, "job", e.job.ID, "job_name", e.job.Name, "attempt", e.job.Attempts, "abandoned_handlers", abandoned, "stack", stack)...)
	}
}

// traceGivenBack tells the tracers of handlers that were still running at shutdown.
func (w *Worker) traceGivenBack(all []*execution) {
	for _, e := range all {
		if e.begun.Load() {
			w.tracers.abandoned(e.traced, Outcome{Job: e.job, Kind: OutcomeReleased, trace: e.trace.TraceID()})
		}
	}
}

// maxStacks limits the memory for the stacks of all goroutines, in which one is looked
// up.
const maxStacks = 16 << 20

// stackOf returns the stack of a goroutine, or "" if it has ended.
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
	// Stacks are separated by a blank line. Each begins with 'goroutine 7 [running]:'.
	for stack := range bytes.SplitSeq(buf, []byte("\n\n")) {
		if bytes.HasPrefix(stack, []byte(goroutine+" ")) {
			return string(stack)
		}
	}
	return ""
}

// goroutine returns the calling goroutine's name for stackOf: 'goroutine 7'.
func goroutine() string {
	buf := make([]byte, 32)
	buf = buf[:runtime.Stack(buf, false)]
	if end := bytes.IndexByte(buf, '['); end > 0 {
		return string(bytes.TrimSpace(buf[:end]))
	}
	return ""
}
