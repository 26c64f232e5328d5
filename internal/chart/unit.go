package chart

import (
	"math"
	"strconv"
	"strings"
)

// mostTicks is how many labels the values have beside 0.
const mostTicks = 4

// ticks are the values that have a label, from 0 to one that is no less than most.
func (u Unit) ticks(most float64) []float64 {
	step := u.step(most / mostTicks)
	ticks := []float64{0}
	for i := 1; i <= 10; i++ {
		v := step * float64(i)
		if math.IsInf(v, 0) {
			break
		}
		ticks = append(ticks, v)
		if v >= most {
			return ticks
		}
	}
	// The next one would be infinite.
	return append(ticks[:max(len(ticks)-1, 1)], math.MaxFloat64)
}

// timeSteps are the steps in seconds that are no 1, 2 or 5 with zeros.
var timeSteps = []float64{10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 2 * 3600, 6 * 3600, 12 * 3600, 86400}

// step is the least step that people count in which is no less than least.
func (u Unit) step(least float64) float64 {
	switch {
	case u == Count && least <= 1:
		return 1
	case u == Seconds && least <= 0.001:
		return 0.001
	case u == Seconds && least > 5 && least <= 86400:
		for _, s := range timeSteps {
			if s >= least {
				return s
			}
		}
	case u == Seconds && least > 86400:
		return 86400 * Count.step(least/86400)
	}
	// The powers are written in decimal: 10^-2 made of a logarithm is not 0.01.
	e := int(math.Floor(math.Log10(least)))
	for ; e <= 308; e++ {
		power, err := strconv.ParseFloat("1e"+strconv.Itoa(e), 64)
		if err != nil {
			break
		}
		for _, m := range []float64{1, 2, 5} {
			if v := m * power; v >= least {
				return v
			}
		}
	}
	return math.MaxFloat64
}

// short is a value on an axis.
func (u Unit) short(v float64) string {
	if u == Seconds {
		return duration(v)
	}
	for _, s := range []struct {
		least  float64
		suffix string
	}{{1e12, "T"}, {1e9, "G"}, {1e6, "M"}, {1e3, "k"}} {
		if v >= 1e15 {
			break
		}
		if v >= s.least {
			return trimmed(v/s.least) + s.suffix
		}
	}
	if v >= 1e15 {
		return power(v)
	}
	return trimmed(v)
}

// exact is a value in a table. A missing one is a dash.
func (u Unit) exact(v float64) string {
	switch {
	case math.IsNaN(v):
		return "–"
	case u == Seconds:
		return duration(v)
	case v >= 1<<53:
		return strconv.FormatFloat(v, 'g', 4, 64)
	}
	digits := strconv.FormatFloat(math.Round(v), 'f', 0, 64)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

// duration is a number of seconds as people say it, with three digits.
func duration(s float64) string {
	switch {
	case s == 0:
		return "0"
	case s < 0.001:
		return "<1 ms"
	case s < 1:
		return trimmed(s*1000) + " ms"
	case s < 60:
		return trimmed(s) + " s"
	case s < 3600:
		return trimmed(s/60) + " min"
	case s < 48*3600:
		return trimmed(s/3600) + " h"
	case s < 1e11:
		return trimmed(s/86400) + " d"
	}
	return power(s/86400) + " d"
}

// power is a very large number with up to three digits.
func power(v float64) string {
	return strings.Replace(strconv.FormatFloat(v, 'g', 3, 64), "e+", "e", 1)
}

// trimmed is a number with three digits and no zeros at its end.
func trimmed(v float64) string {
	decimals := 0
	switch {
	case v < 10:
		decimals = 2
	case v < 100:
		decimals = 1
	}
	text := strconv.FormatFloat(v, 'f', decimals, 64)
	if strings.Contains(text, ".") {
		text = strings.TrimRight(strings.TrimRight(text, "0"), ".")
	}
	return text
}

// Duration is how a duration of so many seconds is written everywhere in a chart.
func Duration(seconds float64) string {
	if math.IsNaN(seconds) {
		return "–"
	}
	return duration(seconds)
}
