package hooks

import (
	"context"
	"errors"
	"testing"

	"github.com/google/uuid"
)

type stubborn struct{ release chan struct{} }

func (h stubborn) Deliver(_ context.Context, d *Delivery) error {
	<-h.release
	d.Answer = "too late"
	return nil
}

// It takes abandonAfter, the time that a hook has to return.
func TestDeliver_hookIgnoresItsContext_isAbandoned(t *testing.T) {
	t.Parallel()
	h := stubborn{make(chan struct{})}
	defer close(h.release)
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("stopped")
	cancel(cause)
	d := &Delivery{ID: uuid.New()}
	if err := deliver(ctx, opened{Hook: h}, d); err == nil || err.Error() != cause.Error() || d.Answer != "" {
		t.Errorf("%v, %q", err, d.Answer)
	}
}
