package notify_test

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"soniq/notify"
)

func TestWakeups_notified_setsTheBitForServedQueuesOnly(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		queues  []string
		payload string
		want    bool
	}{
		{nil, "emails", true},
		{nil, "", true},
		{[]string{"emails"}, "emails", true},
		{[]string{"emails", "default"}, "default", true},
		{[]string{"emails"}, "reports", false},
		{[]string{"emails"}, "email", false},
		{[]string{"emails"}, "", true},
	} {
		w := notify.NewWakeups(c.queues...)
		w.Notify(t.Context(), c.payload)
		if got := dirty(w); got != c.want {
			t.Errorf("queues %q, payload %q: dirty = %t, want %t", c.queues, c.payload, got, c.want)
		}
	}
}

func TestWakeups_connected_setsTheBit(t *testing.T) {
	t.Parallel()
	w := notify.NewWakeups("emails")
	if dirty(w) {
		t.Fatal("a new Wakeups is dirty")
	}
	w.Connected(t.Context())
	if !dirty(w) {
		t.Fatal("Connected left the bit clear")
	}
}

func TestWakeups_cleared_manySetsAreOneWakeup(t *testing.T) {
	t.Parallel()
	w := notify.NewWakeups()
	for range 100 {
		w.Set()
	}
	w.Clear()
	if dirty(w) {
		t.Fatal("the bit is set after Clear")
	}
	w.Clear() // on a clear bit: must not block
	w.Set()
	if !dirty(w) {
		t.Fatal("Set after Clear left the bit clear")
	}
}

// Work is committed, then announced; the worker clears, then fetches. Whatever
// the interleaving, the worker must not sleep while there is work.
func TestWakeups_concurrentSetAndFetch_noWakeupIsLost(t *testing.T) {
	t.Parallel()
	const producers, each = 4, 25_000
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()

	w := notify.NewWakeups("emails")
	var committed atomic.Int64
	var wg sync.WaitGroup
	// Producers wait for each other's work to be fetched now and then, so that
	// the worker really does fall asleep between wake-ups.
	var fetched atomic.Int64
	for range producers {
		wg.Go(func() {
			for i := range each {
				n := committed.Add(1)
				w.Notify(ctx, "emails")
				for i%100 == 0 && fetched.Load() < n && ctx.Err() == nil {
					runtime.Gosched()
				}
			}
		})
	}
	for fetched.Load() < producers*each {
		w.Clear()
		if now := committed.Load(); now > fetched.Load() {
			fetched.Store(now)
			continue
		}
		select {
		case <-w.C():
		case <-ctx.Done():
			t.Fatalf("asleep with %d of %d fetched and %d committed: a wake-up was lost", fetched.Load(), producers*each, committed.Load())
		}
	}
	wg.Wait()
}

func dirty(w *notify.Wakeups) bool {
	select {
	case <-w.C():
		return true
	default:
		return false
	}
}

func ExampleWakeups() {
	w := notify.NewWakeups("emails")
	var jobs []string
	announce := func(queue, job string) {
		jobs = append(jobs, job)
		w.Notify(context.Background(), queue)
	}

	announce("emails", "welcome")
	announce("emails", "reminder")
	<-w.C()
	w.Clear() // before looking: what is announced from here on sets the bit anew
	fmt.Println(jobs)

	announce("reports", "not ours")
	select {
	case <-w.C():
		fmt.Println("woken")
	default:
		fmt.Println("asleep")
	}
	// Output:
	// [welcome reminder]
	// asleep
}
