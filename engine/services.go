package engine

import (
	"context"
	"runtime/debug"
	"sync"

	"soniq/notify"
)

// startServices starts the background services and registers their channels with the
// listener. The function it returns stops them and waits until they have ended.
func (w *Worker) startServices(ctx context.Context, listener *notify.Listener) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	for _, s := range w.config.Services {
		for channel, handler := range s.Channels() {
			listener.Handle(channel, handler)
		}
		running.Go(func() {
			defer func() {
				if r := recover(); r != nil {
					w.logger.Error("a background service panicked; the worker goes on without it", "panic", r, "stack", string(debug.Stack()))
				}
			}()
			if err := s.Run(ctx); err != nil {
				w.logger.Error("a background service failed; the worker goes on without it", "error", err)
			}
		})
	}
	return func() {
		cancel()
		running.Wait()
	}
}
