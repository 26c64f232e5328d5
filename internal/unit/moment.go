package unit

import (
	"errors"
	"fmt"
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

// A ClockError is a time that the clocks of a zone skip, or that they show twice.
type ClockError struct {
	// Text is the time, Zone the zone's name.
	Text, Zone string
	// Near are the last second before the gap and the first one after it, or the two
	// times that Text can mean.
	Near [2]time.Time
	// Twice says that the clocks show the time twice.
	Twice bool
}

// Error completes a sentence that begins with the name of what was read.
func (e *ClockError) Error() string {
	if e.Twice {
		const form = "2006-01-02 15:04:05.999999999 -07:00"
		return fmt.Sprintf("%q comes twice in %s, where the clocks are set back: give '%s' or '%s'",
			e.Text, e.Zone, e.Near[0].Format(form), e.Near[1].Format(form))
	}
	return fmt.Sprintf("%q does not exist in %s, where the clocks are set forward: the nearest are '%s %[2]s' and '%[4]s %[2]s'",
		e.Text, e.Zone, e.Near[0].Format(time.DateTime), e.Near[1].Format(time.DateTime))
}

// checkClock returns a [*ClockError] if the clocks of a zone never show a time, or twice.
func checkClock(text string, zone *time.Location) error {
	wall, err := time.Parse(time.DateTime, text)
	if err != nil {
		return err
	}
	// The clocks change by a day at most, and not twice in two days.
	const day = 24 * time.Hour
	_, before := wall.Add(-day).In(zone).Zone()
	_, after := wall.Add(day).In(zone).Zone()
	first := wall.Add(-time.Duration(before) * time.Second).In(zone)
	second := wall.Add(-time.Duration(after) * time.Second).In(zone)
	shown := func(t time.Time) bool { return t.Format(time.DateTime) == wall.Format(time.DateTime) }
	switch {
	case before == after:
		return nil
	case shown(first) && shown(second):
		return &ClockError{Text: text, Zone: zone.String(), Near: [2]time.Time{first, second}, Twice: true}
	case shown(first) || shown(second):
		return nil
	}
	change, _ := first.ZoneBounds()
	return &ClockError{Text: text, Zone: zone.String(), Near: [2]time.Time{change.Add(-time.Second), change}}
}

var errNoTime = errors.New("no time")

// ParseTime reads a date or a time: 2006-01-02, 2006-01-02 15:04, with seconds and a
// fraction of them, with a space or a T before the time of day, and with Z, UTC, an
// offset such as +01:00, or the name of a time zone such as Europe/Berlin behind it.
// Without a zone it is in UTC. So it reads what this program, PostgreSQL and JSON
// print.
//
// Errors: a [*ClockError] for a time that a zone's clocks skip or show twice; else one
// without details.
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
	if err == nil && strings.Contains(zone, "/") {
		if err := checkClock(text, where); err != nil {
			return Moment{}, err
		}
	}
	// The first moment of the year 1 would mean any time.
	if err != nil || m.IsZero() {
		return Moment{}, errNoTime
	}
	return m, nil
}
