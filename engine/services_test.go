package engine_test

import (
	"context"
	"errors"
	"strings"
	"testing"

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
