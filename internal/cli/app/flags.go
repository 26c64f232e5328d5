package app

import (
	"strings"
	"time"

	"github.com/google/uuid"

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

// ParseTime reads a time: an age before now, or a date or time, which is local
// where it doesn't say. Of a flag that wasn't given it is the zero time.
func ParseTime(flag string, value *string, now time.Time) (time.Time, error) {
	if value == nil {
		return time.Time{}, nil
	}
	text := *value
	if age, err := unit.ParseAge(text); err == nil && age >= 0 {
		return now.Add(-age), nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly, time.DateTime, "2006-01-02 15:04", "2006-01-02T15:04:05", "2006-01-02T15:04"} {
		// The first moment of the year 1 would mean any time.
		if t, err := time.ParseInLocation(layout, text, now.Location()); err == nil && !t.IsZero() {
			return t, nil
		}
	}
	return time.Time{}, Usagef("%s must be an age such as 24h or 7d, a date such as 2006-01-02 or an RFC 3339 time, not %q", flag, text)
}

// ParseID reads the id of a job. Errors: a usage error.
func ParseID(text string) (uuid.UUID, error) {
	id, err := uuid.Parse(text)
	if err != nil {
		return id, Usagef("%q is not a job id: ids are UUIDs such as 01890a5d-ac96-774b-bcce-b302099a8057", text)
	}
	return id, nil
}
