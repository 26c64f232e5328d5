package jobs

import (
	"testing"

	"github.com/google/uuid"

	"soniq/notify"
)

func TestDeathWatch_wakesForItsOwnJobsOnly(t *testing.T) {
	t.Parallel()
	own := uuid.Must(uuid.NewV7()).String()
	d := &deathWatch{Wakeups: notify.NewWakeups(), ids: map[string]struct{}{own: {}}}
	awake := func() bool {
		select {
		case <-d.C():
			return true
		default:
			return false
		}
	}
	for payload, want := range map[string]bool{
		`{"id": "` + own + `"}`:                    true,
		`{"id": "` + uuid.Nil.String() + `"}`:      false,
		`not JSON`:                                 false,
		`{"id": 42}`:                               false,
		`{"v": 1, "id": "` + own + `", "x": null}`: true,
	} {
		d.Notify(t.Context(), payload)
		if got := awake(); got != want {
			t.Errorf("%s wakes: %t", payload, got)
		}
	}
	d.Connected(t.Context())
	if !awake() {
		t.Error("a new connection doesn't wake")
	}
}
