package engine

import (
	"context"
	"runtime/debug"
	"sync"
	"time"
)

// tellStopping tells handlers and services that the worker was told to stop.
func (w *Worker) tellStopping() {
	w.health.Stopping()
	close(w.stopping)
	for _, s := range w.config.Services {
		if s, ok := s.(interface{ Stopping() }); ok {
			s.Stopping()
		}
	}
}

// minServices is the minimum time for services to end.
const minServices = time.Second

// startServices starts the background services. The function it returns stops them, and
// waits for at most patience until they have ended.
func (w *Worker) startServices(ctx context.Context) (stop func(patience time.Duration)) {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	for _, s := range w.config.Services {
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
	return func(patience time.Duration) {
		cancel()
		ended := make(chan struct{})
		go func() {
			running.Wait()
			close(ended)
		}()
		late := time.NewTimer(max(patience, minServices))
		defer late.Stop()
		select {
		case <-ended:
		case <-late.C:
			w.logger.Warn("a background service has not ended in time; the worker ends without it")
		}
	}
}
