package rollup

import (
	"math"
	"time"
)

// A Histogram counts times in buckets that are the same everywhere, so that histograms of workers, minutes and
// jobs add up to a right one. Bucket 0 is below 1 ms; each bound after that is greater by a fifth, four to each
// doubling, up to 37 hours: a quantile is off by a tenth of itself at most. Trailing empty buckets are left out.
type Histogram []int64

const (
	bucketsPerDoubling = 4
	// maxBucket has everything from 2^27 ms on.
	maxBucket = 27*bucketsPerDoubling + 1
)

// bounds are the lower bounds of the buckets after the first.
var bounds = func() (all [maxBucket]time.Duration) {
	for i := range all {
		all[i] = time.Duration(math.Round(math.Exp2(float64(i)/bucketsPerDoubling) * float64(time.Millisecond)))
	}
	return all
}()

// bucket finds the bucket of a time.
func bucket(d time.Duration) int {
	if d < time.Millisecond {
		return 0
	}
	i := int(math.Log2(float64(d)/float64(time.Millisecond)) * bucketsPerDoubling)
	i = min(max(i, 0), maxBucket-1)
	// The logarithm may be off by the last bit.
	for i > 0 && d < bounds[i] {
		i--
	}
	for i < maxBucket-1 && d >= bounds[i+1] {
		i++
	}
	return i + 1
}

// Add counts one time.
func (h *Histogram) Add(d time.Duration) {
	i := bucket(d)
	h.grow(i + 1)
	(*h)[i]++
}

func (h *Histogram) grow(n int) {
	for len(*h) < n {
		*h = append(*h, 0)
	}
}

// Merge adds another histogram. What no worker could have written counts for nothing.
func (h *Histogram) Merge(other Histogram) {
	other = other[:min(len(other), maxBucket+1)]
	h.grow(len(other))
	for i, n := range other {
		(*h)[i] = plus((*h)[i], max(n, 0))
	}
}

// plus stops at the greatest number.
func plus(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

// Count is how many times were counted.
func (h Histogram) Count() (n int64) {
	for _, bucket := range h {
		n = plus(n, bucket)
	}
	return n
}

// Quantile returns the time that a part q of all times, from 0 to 1, doesn't exceed, and false if there is none.
// Within a bucket the times are taken to be spread evenly on its logarithmic scale.
func (h Histogram) Quantile(q float64) (time.Duration, bool) {
	count := h.Count()
	if count <= 0 {
		return 0, false
	}
	rank := min(max(q, 0), 1) * float64(count)
	seen, last := 0.0, 0
	for i, n := range h {
		if n <= 0 {
			continue
		}
		last = i
		if seen+float64(n) >= rank {
			return within(i, (rank-seen)/float64(n)), true
		}
		seen += float64(n)
	}
	return within(last, 1), true
}

// within is a place in a bucket: part is from 0 at its lower bound to 1 at its upper one.
func within(i int, part float64) time.Duration {
	switch {
	case i == 0:
		return time.Duration(part * float64(time.Millisecond))
	case i >= maxBucket:
		return bounds[maxBucket-1]
	}
	from, to := float64(bounds[i-1]), float64(bounds[i])
	return time.Duration(from * math.Pow(to/from, part))
}
