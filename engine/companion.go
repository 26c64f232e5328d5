package engine

import (
	"context"
	"runtime/debug"
	"sync"

	"soniq/notify"
)

// accompany starts the companions and lets them hear. The function it returns
// stops them and waits for that.
func (w *Worker) accompany(ctx context.Context, listener *notify.Listener) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	for _, c := range w.config.Companions {
		for channel, handler := range c.Channels() {
			listener.Handle(channel, handler)
		}
		running.Go(func() {
			defer func() {
				if r := recover(); r != nil {
					w.logger.Error("a companion panicked; the worker goes on without it", "panic", r, "stack", string(debug.Stack()))
				}
			}()
			if err := c.Run(ctx); err != nil {
				w.logger.Error("a companion failed; the worker goes on without it", "error", err)
			}
		})
	}
	return func() {
		cancel()
		running.Wait()
	}
}
