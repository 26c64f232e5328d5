package hooks

import (
	"context"
	"errors"
	"testing"

	"github.com/google/uuid"
)

type deaf struct{ release chan struct{} }

func (h deaf) Deliver(_ context.Context, d *Delivery) error {
	<-h.release
	d.Answer = "too late"
	return nil
}

// It takes as long as a hook that has ended its work may take to say so.
func TestDeliver_hookIgnoresItsContext_isLeftBehind(t *testing.T) {
	t.Parallel()
	h := deaf{make(chan struct{})}
	defer close(h.release)
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("stopped")
	cancel(cause)
	d := &Delivery{ID: uuid.New()}
	if err := deliver(ctx, opened{Hook: h}, d); err == nil || err.Error() != cause.Error() || d.Answer != "" {
		t.Errorf("%v, %q", err, d.Answer)
	}
}
