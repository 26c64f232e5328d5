package engine_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"soniq/engine"
	"soniq/internal/testdb"
	"soniq/notify"
)

// service runs by its function; hears passes on when it is woken.
type service struct {
	channel string
	hears   *notify.Wakeups
	run     func(ctx context.Context) error
}

func (s service) Channels() map[string]notify.Handler {
	return map[string]notify.Handler{s.channel: s.hears}
}

func (s service) Run(ctx context.Context) error { return s.run(ctx) }

func TestBackgroundService_hearsAndEndsAfterTheLastOutcome(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	begun, finish := make(chan struct{}), make(chan struct{})
	engine.Handle(reg, "j", func(context.Context, struct{}) error {
		close(begun)
		<-finish
		return nil
	})
	hears := notify.NewWakeups()
	status := make(chan string, 1)
	client := newClient(t, pool)
	id := enqueue(t, client, "j", struct{}{})
	log := &journal{}
	w := start(t, pool, reg, engine.WorkerConfig{Logger: log.logger(), Services: []engine.BackgroundService{
		service{"one", notify.NewWakeups(), func(context.Context) error { return errors.New("no luck") }},
		service{"two", notify.NewWakeups(), func(context.Context) error { panic("boom") }},
		service{"three", hears, func(ctx context.Context) error {
			<-ctx.Done()
			j, err := client.Job(context.WithoutCancel(ctx), id)
			if err != nil {
				return err
			}
			status <- string(j.Status)
			return nil
		}},
	}})
	receive(t, "the job", begun)
	receive(t, "the connection", hears.C())
	hears.Clear()
	exec(t, pool, `select pg_notify('three', '')`)
	receive(t, "the notification", hears.C())
	w.cancel()
	close(finish)
	if err := w.stop(); err != nil {
		t.Error(err)
	}
	if got := receive(t, "the service's end", status); got != string(engine.StatusDone) {
		t.Errorf("when the service was stopped, the job was %s", got)
	}
	for _, want := range []string{"a background service failed", "no luck", "a background service panicked", "boom"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log lacks %q: %s", want, log.String())
		}
	}
}

// A worker stops within StopTimeout whatever its parts do: here a handler and a service
// never end. By default that is less than Kubernetes waits for.
func TestWorker_stop_fitsItsTime(t *testing.T) {
	t.Parallel()
	const kubernetes, margin = 30 * time.Second, 2 * time.Second
	if got := (engine.WorkerConfig{}).StopTimeout(); got > kubernetes-margin {
		t.Errorf("by default a worker stops within %s", got)
	}
	config := engine.WorkerConfig{ShutdownTimeout: time.Minute, CancelGrace: 10 * time.Second}
	if got := config.StopTimeout(); got != 76*time.Second {
		t.Errorf("a minute and 10 s make %s", got)
	}
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	begun, never := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() { close(never) })
	engine.Handle(reg, "j", func(context.Context, struct{}) error {
		close(begun)
		<-never
		return nil
	})
	enqueue(t, newClient(t, pool), "j", struct{}{})
	log := &journal{}
	w := start(t, pool, reg, engine.WorkerConfig{
		ShutdownTimeout: time.Millisecond, CancelGrace: time.Millisecond, Logger: log.logger(),
		Services: []engine.BackgroundService{service{"one", notify.NewWakeups(), func(context.Context) error { <-never; return nil }}},
	}, engine.Timing{Trust: -1, Tail: time.Millisecond})
	receive(t, "the job", begun)
	if err := w.stop(); err != nil {
		t.Error(err)
	}
	for _, want := range []string{"a handler is still running after cancellation", "a background service has not ended in time"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log lacks %q: %s", want, log.String())
		}
	}
}

// A handler that can't use the rest of its time gives its job back once the worker was
// told to stop. Before that the same error is a failure.
func TestStopping_handlerGivesItsJobBack(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	// The claim that is under way when the worker is told to stop may bring the job again.
	begun := make(chan struct{}, 1)
	engine.Handle(reg, "early", func(context.Context, struct{}) error { return fmt.Errorf("no: %w", engine.ErrShutdown) },
		engine.Retry(engine.Delays{time.Hour}))
	engine.Handle(reg, "late", func(ctx context.Context, _ struct{}) error {
		select {
		case begun <- struct{}{}:
		default:
		}
		<-engine.Stopping(ctx)
		return fmt.Errorf("it stops: %w", engine.ErrShutdown)
	})
	client := newClient(t, pool)
	early, late := enqueue(t, client, "early", struct{}{}), enqueue(t, client, "late", struct{}{})
	w := start(t, pool, reg, engine.WorkerConfig{})
	receive(t, "the job", begun)
	waitUntil(t, pool, "the early one has failed", `select attempts = 1 and status = 'queued' from soniq_jobs where id = $1`, early)
	if err := w.stop(); err != nil {
		t.Error(err)
	}
	for id, attempts := range map[uuid.UUID]int{early: 1, late: 0} {
		j, err := client.Job(t.Context(), id)
		if err != nil || j.Status != engine.StatusQueued || j.Attempts != attempts {
			t.Errorf("%s: %s after %d attempts, %v", j.Name, j.Status, j.Attempts, err)
		}
	}
}
