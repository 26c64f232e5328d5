package devdb

import (
	"testing"
)

func TestStopAndReset_endTheServerWhoeverHoldsIt(t *testing.T) {
	t.Parallel()
	dir := initialised(t)
	o := Options{Dir: dir, Fast: true}
	old := acquireIn(t, dir)
	memory := remember(t, old.URL())
	status, err := Inspect(o)
	must(t, err)
	if status.PID == 0 || status.Port == 0 || !status.Exists || status.Major < minMajor {
		t.Errorf("status of a running server: %+v", status)
	}

	must(t, Stop(t.Context(), o))
	must(t, Stop(t.Context(), o))
	if alive(status.PID) || serverPID(t, dir) != 0 {
		t.Error("the server runs after Stop")
	}
	lease := acquireIn(t, dir)
	if !remembers(t, lease.URL(), memory) {
		t.Error("Stop lost data")
	}

	must(t, Reset(t.Context(), o))
	if status, err := Inspect(o); err != nil || status.Exists || status.PID != 0 {
		t.Errorf("status after Reset: %+v, %v", status, err)
	}
	lease = acquireIn(t, dir)
	if remembers(t, lease.URL(), memory) {
		t.Error("Reset kept data")
	}
}

func TestInspectStopReset_ofNothing_areFine(t *testing.T) {
	t.Parallel()
	o := Options{Dir: t.TempDir()}
	must(t, Stop(t.Context(), o))
	must(t, Reset(t.Context(), o))
	status, err := Inspect(o)
	must(t, err)
	if status.Exists || status.PID != 0 || status.Port != 0 || exists(status.Dir) {
		t.Errorf("status of nothing: %+v", status)
	}
}
