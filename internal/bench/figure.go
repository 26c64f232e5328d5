package bench

import (
	"math"
	"slices"
	"time"
)

// A Figure is one measured number.
type Figure struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	// Unit is 'jobs/s', 'ms', 'B' or the like.
	Unit string `json:"unit"`
	// Lower says that less is better.
	Lower bool `json:"lower_is_better,omitempty"`
	// Ratio is Value in that of the match's first system; 0 where there is
	// none.
	Ratio float64 `json:"ratio,omitempty"`
}

func perSecond(name string, n int, in time.Duration) Figure {
	return Figure{Name: name, Value: float64(n) / in.Seconds(), Unit: "jobs/s"}
}

// delays are the percentiles of what was waited.
func delays(waited []time.Duration) []Figure {
	slices.Sort(waited)
	var figures []Figure
	for _, p := range []struct {
		name string
		part float64
	}{{"p50", 0.50}, {"p95", 0.95}, {"p99", 0.99}, {"max", 1}} {
		figures = append(figures, Figure{Name: p.name, Value: milliseconds(percentile(waited, p.part)), Unit: "ms", Lower: true})
	}
	return figures
}

// percentile is the least value that the part is not above; sorted has one at
// least.
func percentile(sorted []time.Duration, part float64) time.Duration {
	return sorted[max(int(math.Ceil(part*float64(len(sorted))))-1, 0)]
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// Median is that of values, which must not be empty.
func Median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}
