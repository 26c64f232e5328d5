// Package pause waits where nothing else can be waited for.
package pause

import (
	"context"
	"time"
)

// For returns nil once d has passed, or the cause of ctx's end before that.
func For(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// Until returns when d has passed (negative: never), ctx has ended, or one of the channels,
// which may be nil, has something. It reports whether that was a.
func Until(ctx context.Context, d time.Duration, a, b <-chan struct{}) (first bool) {
	var timeout <-chan time.Time
	if d >= 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		timeout = timer.C
	}
	select {
	case <-ctx.Done():
	case <-timeout:
	case <-a:
		return true
	case <-b:
	}
	return false
}
