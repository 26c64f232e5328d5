package periodic

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestTask_failsAgainAndAgain_isLoggedOnce(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&log, nil))
	err := errors.New("no luck")
	task := &Task{Name: "try", Do: func(context.Context) error { return err }}
	for range 3 {
		task.Once(t.Context(), logger)
	}
	if n := strings.Count(log.String(), "no luck"); n != 1 {
		t.Errorf("three failures are %d lines:\n%s", n, log.String())
	}
	err = nil
	task.Once(t.Context(), logger)
	err = errors.New("bad luck")
	task.Once(t.Context(), logger)
	if !strings.Contains(log.String(), "bad luck") {
		t.Errorf("the failure after a success isn't logged:\n%s", log.String())
	}
	// A worker that stops cuts its tasks off.
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	log.Reset()
	(&Task{Name: "cut off", Do: func(ctx context.Context) error { return ctx.Err() }}).Once(ended, logger)
	if log.Len() > 0 {
		t.Errorf("it logged %s", log.String())
	}
}

func TestTask_timeout_endsARun(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		task := &Task{Timeout: time.Minute, Do: func(ctx context.Context) error {
			<-ctx.Done()
			return ctx.Err()
		}}
		task.Once(t.Context(), slog.New(slog.DiscardHandler))
		if took := time.Since(began); took != time.Minute {
			t.Errorf("it took %s", took)
		}
	})
}

func TestRun_tasks_runAtOnceAndThenAtTheirPace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		hurry := make(chan struct{}, 1)
		var often, seldom atomic.Int32
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() {
			ended <- Run(ctx, slog.New(slog.DiscardHandler),
				&Task{Every: time.Minute, Do: func(context.Context) error { often.Add(1); return nil }},
				&Task{Every: time.Hour, Hurry: hurry, Do: func(context.Context) error { seldom.Add(1); return nil }})
		}()
		expect := func(wantOften, wantSeldom int32) {
			t.Helper()
			synctest.Wait()
			if often.Load() != wantOften || seldom.Load() != wantSeldom {
				t.Errorf("they ran %d and %d times, want %d and %d", often.Load(), seldom.Load(), wantOften, wantSeldom)
			}
		}
		expect(1, 1)
		<-time.After(150 * time.Second)
		expect(3, 1)
		hurry <- struct{}{}
		expect(3, 2)
		<-time.After(58 * time.Minute)
		expect(61, 2)
		<-time.After(2 * time.Minute)
		expect(63, 3)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
