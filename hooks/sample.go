package hooks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"soniq/deadletter"
	"soniq/deadletter/classify"
)

const storeOpenSQL = `
select id, name, kind, left(coalesce(url, ''), $2), left(coalesce(secrets, ''), $2),
  case when octet_length(settings::text) <= $2 then settings end, declared_at is not null
from public.soniq_hooks
where name = $1`

// ErrDeclared is the error of [Store.Test] for a hook that another program's
// configuration declares: the table doesn't hold what is needed to send to it.
var ErrDeclared = errors.New("it is in the configuration of a dispatcher, and can be sent to only from there")

// Test sends a sample event to a hook, from this process and without the outbox. The
// delivery that it returns has the answer. If it succeeds, the hook's failures are
// forgotten. d must grant what the hook's row needs.
// declared are the hooks of this program's configuration: a declared hook is sent to
// as it says there.
//
// Errors: [ErrNotFound]; [ErrDeclared] for a hook that is not in declared; a
// [*NeedsError], [ErrExecNotAllowed] or [ErrSealed] if d may not send to it; else
// what the hook returned, such as an [*AnswerError], or those of the database.
func (s *Store) Test(ctx context.Context, d *Dispatcher, name string, declared ...Spec) (*Delivery, error) {
	var h dueHook
	err := s.pool.QueryRow(ctx, storeOpenSQL, name, maxRow).Scan(&h.ID, &h.Name, &h.Kind, &h.URL, &h.Secrets, &h.Settings, &h.Declared)
	if errors.Is(err, pgx.ErrNoRows) {
		err = ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("test hook: %w", err)
	}
	if h.Declared {
		i := slices.IndexFunc(declared, func(spec Spec) bool { return spec.Name == name })
		if i < 0 {
			return nil, fmt.Errorf("test hook: %w", ErrDeclared)
		}
		spec := declared[i]
		d.mu.Lock()
		d.declared[name] = func() Spec { return spec }
		d.mu.Unlock()
	}
	hook, err := d.open(h)
	defer hook.close()
	switch {
	case err != nil:
		return nil, fmt.Errorf("test hook: %w", err)
	case hook.Hook == nil:
		return nil, errors.New("test hook: it is written in Go; only its own program can send to it")
	}
	delivery := sampleDelivery(name)
	if err := deliver(ctx, hook, delivery); err != nil {
		return delivery, fmt.Errorf("test hook: %w", err)
	}
	// The endpoint works. Who may test may not be allowed to write that down.
	_, _ = s.pool.Exec(ctx, outboxSuccessSQL, h.ID)
	return delivery, nil
}

func sampleDelivery(hook string) *Delivery {
	now := time.Now().UTC()
	e := Event{Type: Dead, At: now, Sample: true, Letter: deadletter.Job{
		ID: uuid.New(), JobName: "soniq.sample", Args: json.RawMessage(`{}`), Queue: "default", Attempts: 3, MaxAttempts: 3,
		LastError: "this is a sample: no job has died", Reason: classify.MaxRetriesExceeded, MovedAt: now, OriginalCreatedAt: now,
	}}
	return &Delivery{
		ID: uuid.New(), Hook: hook, Attempt: 1, Event: e,
		Groups: []Group{{Event: e, Count: 1, First: now, Last: now}},
	}
}
