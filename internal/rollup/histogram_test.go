package rollup_test

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"soniq/internal/rollup"
	"soniq/internal/testkit"
)

// However times are shared out over workers, minutes and jobs, what they add up to has the same quantiles, and
// these are no further from the exact ones than a bucket is wide.
func TestHistogram_merged_hasTheQuantilesOfAll(t *testing.T) {
	t.Parallel()
	random := testkit.Rand(t)
	shapes := map[string]func() time.Duration{
		"milliseconds": func() time.Duration { return time.Duration(random.Int64N(int64(50 * time.Millisecond))) },
		"any":          func() time.Duration { return time.Duration(random.ExpFloat64() * float64(20*time.Second)) },
		"hours":        func() time.Duration { return time.Duration(random.Int64N(int64(100 * time.Hour))) },
		"two kinds": func() time.Duration {
			if random.IntN(10) == 0 {
				return time.Duration(random.Int64N(int64(10 * time.Minute)))
			}
			return time.Duration(random.Int64N(int64(3 * time.Millisecond)))
		},
		"one time": func() time.Duration { return 250 * time.Millisecond },
	}
	for name, shape := range shapes {
		var all []time.Duration
		parts := make([]rollup.Histogram, 7)
		for range 3000 {
			d := shape()
			all = append(all, d)
			parts[random.IntN(len(parts))].Add(d)
		}
		var merged rollup.Histogram
		for _, i := range random.Perm(len(parts)) {
			merged.Merge(parts[i])
		}
		if merged.Count() != int64(len(all)) {
			t.Fatalf("%s: %d of %d", name, merged.Count(), len(all))
		}
		slices.Sort(all)
		for _, q := range []float64{0, 0.01, 0.5, 0.9, 0.99, 1} {
			exact := all[min(int(q*float64(len(all))), len(all)-1)]
			got, ok := merged.Quantile(q)
			least, most := time.Duration(float64(exact)/1.19)-time.Millisecond, time.Duration(float64(exact)*1.19)+time.Millisecond
			if limit := time.Duration(rollup.Bound(rollup.MaxBucket - 1)); exact > limit {
				least, most = limit, limit
			}
			if !ok || got < least || got > most {
				t.Errorf("%s: the quantile %g is %s, want %s", name, q, got, exact)
			}
		}
	}
}

// Each time is in the bucket between whose bounds it is: also at the bounds, and beyond the last.
func TestHistogram_bounds_areExact(t *testing.T) {
	t.Parallel()
	for i := range rollup.MaxBucket {
		bound := time.Duration(rollup.Bound(i))
		for _, step := range []struct {
			d      time.Duration
			bucket int
		}{{bound - 1, i}, {bound, i + 1}, {bound + 1, i + 1}} {
			var h rollup.Histogram
			h.Add(step.d)
			if len(h) != step.bucket+1 || h[step.bucket] != 1 {
				t.Errorf("%s is in %d, want %d", step.d, len(h)-1, step.bucket)
			}
		}
	}
	for _, d := range []time.Duration{0, -1, -1 << 63, 1<<63 - 1} {
		var h rollup.Histogram
		h.Add(d)
		if h.Count() != 1 || len(h) > rollup.MaxBucket+1 {
			t.Errorf("%d: %v", d, h)
		}
	}
}

func TestHistogram_whatNobodyWrote_doesNoHarm(t *testing.T) {
	t.Parallel()
	var h rollup.Histogram
	if _, ok := h.Quantile(0.5); ok {
		t.Error("an empty histogram has a median")
	}
	h.Merge(rollup.Histogram{-5, 1 << 62, 1 << 62, 1 << 62})
	h.Merge(make(rollup.Histogram, 5000))
	if h.Count() != 1<<63-1 || len(h) > rollup.MaxBucket+1 {
		t.Errorf("%d in %d buckets", h.Count(), len(h))
	}
	for range 100 {
		if d, ok := h.Quantile(rand.Float64()*4 - 1); !ok || d < 0 {
			t.Errorf("%s, %t", d, ok)
		}
	}
}
