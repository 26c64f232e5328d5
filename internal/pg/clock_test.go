package pg_test

import (
	"testing"
	"time"

	"soniq/internal/pg"
)

func TestClock_steps_areSeen(t *testing.T) {
	t.Parallel()
	var c pg.Clock
	mono, database := time.Now(), time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	read := func(passed, step, delay time.Duration) time.Duration {
		mono = mono.Add(passed)
		database = database.Add(passed + step)
		return c.Note(database.Add(delay/3), mono, mono.Add(delay))
	}
	if step := read(0, time.Hour, 0); step != 0 || !c.Steady(time.Hour) {
		t.Errorf("the first reading: a step of %s", step)
	}
	for range 10 {
		if step := read(30*time.Second, 10*time.Millisecond, 40*time.Millisecond); step != 0 || !c.Steady(time.Hour) {
			t.Errorf("a steady clock: a step of %s", step)
		}
	}
	// The answer took two seconds: what came between can't be told.
	if step := read(time.Second, 0, 2*time.Second); step != 0 {
		t.Errorf("a slow answer: a step of %s", step)
	}
	mono = mono.Add(2 * time.Second)
	database = database.Add(2 * time.Second)
	read(time.Second, 0, time.Millisecond)
	for _, want := range []time.Duration{time.Second, -time.Second, time.Minute, -time.Minute, time.Hour, -time.Hour} {
		step := read(10*time.Second, want, time.Millisecond)
		if (step-want).Abs() > 10*time.Millisecond || c.Steady(time.Hour) {
			t.Errorf("a step of %s was seen as %s", want, step)
		}
		if step := read(10*time.Second, 0, time.Millisecond); step != 0 {
			t.Errorf("after a step of %s: a step of %s", want, step)
		}
	}
}
