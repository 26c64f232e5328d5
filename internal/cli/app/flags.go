package app

import (
	"errors"
	"math"
	"strings"
	"time"

	"github.com/google/uuid"

	"soniq/deadletter"
	"soniq/internal/unit"
)

// SplitAll splits each value at its commas.
func SplitAll(values []string) (parts []string) {
	for _, v := range values {
		parts = append(parts, strings.Split(v, ",")...)
	}
	return parts
}

// Values is a flag's value as a list, empty where the flag wasn't given.
func Values(value *string) []string {
	if value == nil {
		return nil
	}
	return []string{*value}
}

// ParseTime reads a time: an age before now, or what [unit.ParseTime] reads. Of a
// flag that wasn't given it is the zero time.
func ParseTime(flag string, value *string, now time.Time) (time.Time, error) {
	m, err := parseMoment(flag, value, now)
	return m.Time, err
}

// ParseUntil is ParseTime for the end of a window, which is a part of it. A time
// that names a second means all of it: so a window that ends at a printed time has
// the row that it was printed for.
func ParseUntil(flag string, value *string, now time.Time) (time.Time, error) {
	m, err := parseMoment(flag, value, now)
	if m.Second {
		// PostgreSQL's times have microseconds.
		m.Time = m.Add(time.Second - time.Microsecond)
	}
	return m.Time, err
}

func parseMoment(flag string, value *string, now time.Time) (unit.Moment, error) {
	if value == nil {
		return unit.Moment{}, nil
	}
	if age, err := unit.ParseDuration(*value); err == nil && age >= 0 {
		return unit.Moment{Time: now.Add(-age)}, nil
	}
	m, err := unit.ParseTime(*value)
	var clock *unit.ClockError
	if errors.As(err, &clock) {
		return m, Usagef("%s: %w", flag, clock)
	}
	if err != nil {
		return m, Usagef("%s must be an age such as 24h or 7d, or a time such as 2006-01-02, '2006-01-02 15:04:05 UTC' or 2006-01-02T15:04:05Z, not %q", flag, *value)
	}
	return m, nil
}

// ParseDuration reads the value of a flag as a duration that is not negative.
// Errors: a usage error.
func ParseDuration(flag, value string) (time.Duration, error) {
	d, err := unit.ParseDuration(value)
	switch {
	case err != nil:
		return 0, Usagef("%s %w", flag, err)
	case d < 0:
		return 0, Usagef("%s must not be negative: %s", flag, value)
	}
	return d, nil
}

// CheckIDs checks all ids of jobs before the first is used. The first digits of an id
// are enough. Errors: a usage error.
func CheckIDs(texts ...string) error {
	for _, text := range texts {
		if _, err := uuid.Parse(text); err != nil && !deadletter.IsPrefix(text) {
			return Usagef("%q is not a job id: an id is a UUID such as 01890a5d-ac96-774b-bcce-b302099a8057, or the first %d or more of its digits",
				text, deadletter.MinPrefix)
		}
	}
	return nil
}

// ListLimit returns the limit for a command that reads, from the value of its --limit: 0
// means no limit. Commands that change something refuse 0 instead.
func ListLimit(n int) (int, error) {
	switch {
	case n < 0:
		return 0, Usagef("--limit must not be negative: %d", n)
	case n == 0 || n > math.MaxInt32:
		return math.MaxInt32, nil
	}
	return n, nil
}
