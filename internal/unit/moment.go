package unit

import (
	"errors"
	"regexp"
	"strings"
	"time"
)

// TimeLayout is how times are printed for people: in UTC, with its name.
// [ParseTime] reads it.
const TimeLayout = "2006-01-02 15:04:05 UTC"

// FormatTime prints t as a person reads it: 2006-01-02 15:04:05 UTC.
func FormatTime(t time.Time) string { return t.UTC().Format(TimeLayout) }

// momentForm is a date, or a date with a time of day and maybe a zone, and maybe
// the age that is printed behind it.
var momentForm = regexp.MustCompile(`^(\d{4}-\d{2}-\d{2})(?:[T ](\d{2}:\d{2})(:\d{2})?([.,]\d{1,9})?)? ?([A-Za-z][A-Za-z0-9_+/-]*|[+-]\d{2}(?::?\d{2})?)?(?: \((?:in )?\d+[smhd](?: ago)?\))?$`)

// A Moment is a time that a person wrote.
type Moment struct {
	time.Time
	// Second says that it names a second as a whole, as printed times do, and no
	// part of one.
	Second bool
}

var errNoTime = errors.New("no time")

// ParseTime reads a date or a time: 2006-01-02, 2006-01-02 15:04, with seconds and a
// fraction of them, with a space or a T before the time of day, and with Z, UTC, an
// offset such as +01:00, or the name of a time zone such as Europe/Berlin behind it.
// Without a zone it is in UTC. So it reads what this program, PostgreSQL and JSON
// print.
//
// Errors: one without details; no caller decides by it.
func ParseTime(text string) (Moment, error) {
	part := momentForm.FindStringSubmatch(text)
	if part == nil || part[2] == "" && part[5] != "" {
		return Moment{}, errNoTime
	}
	date, clock, seconds, fraction, zone := part[1], part[2], part[3], strings.Replace(part[4], ",", ".", 1), part[5]
	if fraction != "" && seconds == "" {
		return Moment{}, errNoTime
	}
	if clock == "" {
		clock = "00:00"
	}
	m := Moment{Second: seconds != "" && fraction == ""}
	if seconds == "" {
		seconds = ":00"
	}
	layout, text := "2006-01-02 15:04:05", date+" "+clock+seconds+fraction
	where := time.UTC
	switch {
	case zone == "" || strings.EqualFold(zone, "Z") || strings.EqualFold(zone, "UTC"):
	case zone[0] == '+' || zone[0] == '-':
		digits := strings.ReplaceAll(zone[1:], ":", "")
		layout, text = layout+"-0700", text+zone[:1]+digits+"00"[:4-len(digits)]
	default:
		var err error
		// An abbreviation such as EST means several zones, and Local that of
		// somebody else.
		if where, err = time.LoadLocation(zone); err != nil || !strings.Contains(zone, "/") {
			return Moment{}, errNoTime
		}
	}
	var err error
	m.Time, err = time.ParseInLocation(layout, text, where)
	// The first moment of the year 1 would mean any time.
	if err != nil || m.IsZero() {
		return Moment{}, errNoTime
	}
	return m, nil
}
