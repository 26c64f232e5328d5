package hooks

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/uuid"

	"soniq/internal/testdb"
)

// try is one answer of an endpoint, some time after the one before it.
type try struct {
	after time.Duration
	what  string // 'failed', 'sent' or 'asked': for a pause
}

// judge is what an endpoint's tries come to: when it counts as dead, if it does. It
// judges from the whole of them, and knows nothing of health.
func judge(start time.Time, tries []try) (dead time.Time) {
	var run []time.Time
	now := start
	for _, t := range tries {
		now = now.Add(t.after)
		switch t.what {
		case "sent":
			run = nil
		case "failed":
			if len(run) > 0 && now.Sub(run[len(run)-1]) > 36*time.Hour {
				run = nil
			}
			if run = append(run, now); len(run) >= 20 && now.Sub(run[0]) >= 120*time.Hour {
				return now
			}
		}
	}
	return time.Time{}
}

// follow is the same by health.
func follow(start time.Time, tries []try) (dead time.Time) {
	var h health
	now := start
	for _, t := range tries {
		now = now.Add(t.after)
		switch t.what {
		case "sent":
			h = health{}
		case "failed":
			if h = h.failed(now); h.isDead() {
				return now
			}
		}
	}
	return time.Time{}
}

// Six weeks of random tries, ten thousand times over. Whatever mixture of failures,
// pauses, successes and quiet there is, an endpoint is dead if and when the definition
// says so. Requests for a pause change nothing, wherever they are.
func TestHealth_simulatedWeeks_deadByDefinition(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	random := rand.New(rand.NewPCG(20261201, 7))
	dead := 0
	for range 10_000 {
		// Each endpoint has its own mixture.
		sent, asked, longest := random.IntN(4), random.IntN(40), time.Duration(1+random.IntN(48))*time.Hour
		var tries, failures []try
		skipped := time.Duration(0)
		for at := time.Duration(0); at < 6*7*24*time.Hour; {
			next := try{time.Duration(random.Int64N(int64(longest))), "failed"}
			switch n := random.IntN(100); {
			case n < sent:
				next.what = "sent"
			case n < sent+asked:
				next.what = "asked"
			}
			at += next.after
			tries = append(tries, next)
			if next.what == "asked" {
				skipped += next.after
				continue
			}
			failures = append(failures, try{next.after + skipped, next.what})
			skipped = 0
		}
		want := judge(start, tries)
		if got := follow(start, tries); !got.Equal(want) {
			t.Fatalf("dead at %s, want %s: %v", got, want, tries)
		}
		if got := follow(start, failures); !got.Equal(want) {
			t.Fatalf("without the requests for a pause: dead at %s, want %s: %v", got, want, tries)
		}
		if !want.IsZero() {
			dead++
		}
	}
	if dead < 1000 || dead > 9000 {
		t.Errorf("%d of 10,000 endpoints died: that tests little", dead)
	}
}

// The cases that people met.
func TestHealth_knownCases(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	repeat := func(n int, each ...try) (tries []try) {
		for range n {
			tries = append(tries, each...)
		}
		return tries
	}
	oneDelivery := []try{{0, "failed"}}
	for _, wait := range schedule {
		oneDelivery = append(oneDelivery, try{wait * 12 / 10, "failed"})
	}
	for name, test := range map[string]struct {
		tries []try
		dead  bool
	}{
		"it asks for pauses for two weeks":           {repeat(14*24, try{time.Hour, "asked"}), false},
		"one failure, then pauses, then a failure":   {append(append([]try{{0, "failed"}}, repeat(7*24, try{time.Hour, "asked"})...), try{time.Hour, "failed"}), false},
		"away for three days, quiet, one failure":    {append(repeat(3*24, try{time.Hour, "failed"}), try{30 * 24 * time.Hour, "failed"}), false},
		"all tries of one delivery, twice in a week": {append(oneDelivery, append([]try{{4 * 24 * time.Hour, "failed"}}, oneDelivery...)...), false},
		"two failures, five days apart":              {[]try{{0, "failed"}, {121 * time.Hour, "failed"}}, false},
		"it fails each hour for five days":           {repeat(5*24+1, try{time.Hour, "failed"}), true},
		"it fails each day for weeks":                {repeat(30, try{24 * time.Hour, "failed"}), true},
		"it works once in four days":                 {repeat(20, append(repeat(4*24, try{time.Hour, "failed"}), try{time.Hour, "sent"})...), false},
	} {
		if got := !follow(start, test.tries).IsZero(); got != test.dead {
			t.Errorf("%s: dead %t", name, got)
		}
	}
	// The clock is set back and forth, and 0.1.0 has counted before.
	h := health{failures: 50, since: start.Add(-200 * time.Hour)}.failed(start)
	if h.isDead() || h.failures != 51 || !h.since.Equal(start) {
		t.Errorf("after 0.1.0: %+v", h)
	}
	if h = (health{30, start, start.Add(119 * time.Hour)}).failed(start.Add(-time.Hour)); h.isDead() || h.failures != 31 {
		t.Errorf("a clock that was set back: %+v", h)
	}
	for failures, want := range map[int]time.Duration{4: 0, 5: time.Minute, 6: 2 * time.Minute, 10: 32 * time.Minute, 11: time.Hour, 1000: time.Hour} {
		if got := (health{failures: failures}).pause(); got != want {
			t.Errorf("after %d failures: %s", failures, got)
		}
	}
}

// The table keeps the health between the tries, for all dispatchers.
func TestOutbox_recordFailure_followsHealth(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	o := outboxOf(t, pool)
	hook := scalar[uuid.UUID](t, pool, `insert into soniq_hooks (name, kind) values ('h', 'log') returning id`)
	later := func(hours int) {
		t.Helper()
		if _, err := pool.Exec(t.Context(), `
			update soniq_hooks
			set failing_since = failing_since - $1 * interval '1 hour', last_failed_at = last_failed_at - $1 * interval '1 hour'`, hours); err != nil {
			t.Fatal(err)
		}
	}
	fails := func(gone, counts bool) string {
		t.Helper()
		_, disabled, err := o.recordFailure(t.Context(), hook, time.Second, gone, counts)
		if err != nil {
			t.Fatal(err)
		}
		return disabled
	}
	for hour := range 150 {
		if disabled := fails(false, false); disabled != "" {
			t.Fatalf("hour %d of pauses: %s", hour, disabled)
		}
		later(1)
	}
	if got := scalar[string](t, pool, `select failures || coalesce(failing_since::text, '') from soniq_hooks`); got != "0" {
		t.Errorf("requests for a pause were counted: %s", got)
	}
	for hour := range 120 {
		if disabled := fails(false, true); disabled != "" {
			t.Fatalf("hour %d: %s", hour, disabled)
		}
		later(1)
	}
	if disabled := fails(false, true); disabled != "it failed for five days" || fails(false, true) != "" {
		t.Errorf("after five days: %q", disabled)
	}
	if got := scalar[string](t, pool, `select enabled || ' ' || disabled_reason from soniq_hooks`); got != "false it failed for five days" {
		t.Error(got)
	}
	if _, err := pool.Exec(t.Context(), `update soniq_hooks set enabled = true`); err != nil {
		t.Fatal(err)
	}
	later(40)
	if disabled := fails(false, true); disabled != "" {
		t.Errorf("after 40 quiet hours: %s", disabled)
	}
	if disabled := fails(true, true); disabled == "" {
		t.Error("it is gone, and not disabled")
	}
}
