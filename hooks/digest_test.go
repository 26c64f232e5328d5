package hooks_test

import (
	"context"
	"strconv"
	"testing"
	"time"

	"soniq/hooks"
	"soniq/internal/testdb"
)

// Slack names ten groups in a message. That is no limit of anybody else's: each group
// of another hook's digest has its dead letter, the first hundred wholly.
func TestRegister_digestOfManyGroups_eachHasItsDeadLetter(t *testing.T) {
	t.Parallel()
	const groups = 120
	pool := testdb.New(t)
	digests := make(chan *hooks.Delivery, 10)
	exec(t, pool, `insert into soniq_hooks (name, kind, events) values ('mine', 'go', '{job.dead_lettered}')`)
	for i := range groups {
		die(t, pool, 1, "job"+strconv.Itoa(i), "boom")
	}
	die(t, pool, 2, "job7", "boom") // the largest group
	dispatch(t, pool, func(d *hooks.Dispatcher) {
		err := d.Register(t.Context(), "mine", hookFunc(func(_ context.Context, d *hooks.Delivery) error {
			digests <- d
			return nil
		}), hooks.RegisterOptions{Digest: true})
		if err != nil {
			t.Fatal(err)
		}
	})
	var d *hooks.Delivery
	select {
	case d = <-digests:
	case <-time.After(deadline):
		t.Fatal("no digest has come")
	}
	if len(d.Groups) != groups || d.Groups[0].Count != 3 || d.Groups[0].Event.Letter.JobName != "job7" || d.Event.Letter.ID != d.Groups[0].Event.Letter.ID {
		t.Fatalf("%d groups, the first is %+v", len(d.Groups), d.Groups[0])
	}
	seen := map[string]bool{}
	for i, g := range d.Groups {
		l := g.Event.Letter
		seen[l.JobName] = true
		if l.Queue != "default" || l.Reason != "max_retries_exceeded" || l.Attempts != 3 || l.MovedAt.IsZero() || g.Event.Type != hooks.Dead {
			t.Errorf("group %d: %+v", i, g)
		}
		if whole := i < 100; g.Event.Summary == whole || whole != (l.LastError == "boom") || g.Event.Gone {
			t.Errorf("group %d: summary %t, error %q", i, g.Event.Summary, l.LastError)
		}
	}
	if len(seen) != groups {
		t.Errorf("%d different jobs", len(seen))
	}
}
