package pause_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"soniq/internal/pause"
)

func TestFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		if err := pause.For(t.Context(), time.Hour); err != nil || time.Since(began) != time.Hour {
			t.Errorf("%v after %s", err, time.Since(began))
		}
		why := errors.New("enough")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, why)
		defer cancel()
		began = time.Now()
		if err := pause.For(ctx, time.Hour); !errors.Is(err, why) || time.Since(began) != time.Minute {
			t.Errorf("%v after %s", err, time.Since(began))
		}
	})
}

func TestUntil_whatComesFirst_endsIt(t *testing.T) {
	t.Parallel()
	for what, took := range map[string]time.Duration{"time": time.Minute, "one": 0, "another": 0, "ctx": 0} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			wait := time.Duration(-1)
			one, another := make(chan struct{}, 1), make(chan struct{}, 1)
			switch what {
			case "time":
				wait = time.Minute
			case "one":
				one <- struct{}{}
			case "another":
				another <- struct{}{}
			case "ctx":
				cancel()
			}
			began := time.Now()
			pause.Until(ctx, wait, one, another)
			if got := time.Since(began); got != took {
				t.Errorf("%s: it took %s, want %s", what, got, took)
			}
		})
	}
}
