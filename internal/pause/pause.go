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
