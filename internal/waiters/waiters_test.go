package waiters

import (
	"testing"
	"time"

	"github.com/google/uuid"
)

// A fetch after which no writer is left proves that the worker may rely on
// notifications only if it looked at everything.
func TestWaiters_fetchThatWasNotWhole_provesNothing(t *testing.T) {
	t.Parallel()
	for _, whole := range []bool{false, true} {
		w := New(nil, uuid.Nil, nil, []string{"q"})
		w.Invalidate()
		w.seen = 1
		w.rows["q"].declared = true
		w.proof = proof{generation: 1, ended: true}
		if _, err := w.Park(t.Context(), []string{"q"}, time.Minute, whole, false); err != nil || w.proof.proved != whole {
			t.Errorf("proved %t after a fetch that was whole: %t; %v", w.proof.proved, whole, err)
		}
	}
}
