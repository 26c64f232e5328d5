package recordfile

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// A when is a time of a file.
type when struct {
	// nearest is the time, or the nearest one in the years 1 to 9999.
	nearest time.Time
	// exact is what PostgreSQL reads as the time, where nearest isn't it.
	exact string
}

func (a *assignment) time(name string, raw json.RawMessage) (time.Time, error) {
	if t, ok := ownTime(plainString(raw)); ok {
		return t, nil
	}
	w, err := parseTime(scalar(raw))
	if err != nil {
		return time.Time{}, fmt.Errorf("%s %w", shown(raw), err)
	}
	if w.exact != "" {
		a.exact[name] = w.exact
	}
	return w.nearest, nil
}

func (a *assignment) optionalTime(name string, field **time.Time, raw json.RawMessage) error {
	t, err := a.time(name, raw)
	if err == nil && a.exact[name] == "" {
		*field = &t
	}
	return err
}

// ownTime reads a time as [appendTimeText] writes it, which is that of most files.
func ownTime(s []byte) (t time.Time, ok bool) {
	const form = "0000-00-00T00:00:00.000000Z"
	if len(s) != len(form) {
		return t, false
	}
	for i := range len(form) {
		if digit := '0' <= s[i] && s[i] <= '9'; form[i] == '0' && !digit || form[i] != '0' && s[i] != form[i] {
			return t, false
		}
	}
	number := func(from, to int) (n int) {
		for _, c := range s[from:to] {
			n = 10*n + int(c-'0')
		}
		return n
	}
	year, month, day := number(0, 4), time.Month(number(5, 7)), number(8, 10)
	hour, minute, second := number(11, 13), number(14, 16), number(17, 19)
	t = time.Date(year, month, day, hour, minute, second, number(20, 26)*int(time.Microsecond), time.UTC)
	// time.Date makes another day of the 30th of February.
	return t, t.Day() == day && t.Month() == month && hour <= 23 && minute <= 59 && second <= 59 &&
		!t.Before(EarliestTime) && !t.After(LatestTime)
}

var errNoTime = errors.New("is not a time such as 2026-01-02T03:04:05Z")

// timeForm has the year, month, day, hour, minute, second, fraction, zone and era.
var timeForm = regexp.MustCompile(`^(\d{4,6})-(\d\d)-(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d{1,9}))?)?)?` +
	` ?(?i:(Z|UTC|[+-]\d\d(?::?\d\d(?::?\d\d)?)?))?( BC)?$`)

// parseTime reads the times that programs write: RFC 3339 as we do, a space in the place of the T,
// offsets of hours alone (psql, DuckDB), no seconds, no time at all (midnight) and no offset: that
// is UTC, as in all our files. Digits beyond a microsecond are cut. PostgreSQL's own times are
// 'infinity' and those with BC or a year of more than four digits. A number is since 1970, in
// seconds, or in the thousandths, millionths or billionths that its length says (pandas).
func parseTime(s string) (when, error) {
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return whenOf(t), nil
	}
	switch strings.ToLower(s) {
	case "infinity":
		return when{LatestTime, "infinity"}, nil
	case "-infinity":
		return when{EarliestTime, "-infinity"}, nil
	}
	if f, ok := wholeFloat(s); ok && len(strings.TrimLeft(s, "-")) >= leastEpochDigits {
		return sinceEpoch(s, f)
	}
	part := timeForm.FindStringSubmatch(s)
	if part == nil {
		return when{}, errNoTime
	}
	var n [6]int
	for i := range n {
		n[i], _ = strconv.Atoi(part[i+1]) // digits, or nothing
	}
	year, month, day, hour, minute, second := n[0], n[1], n[2], n[3], n[4], n[5]
	nanos, _ := strconv.Atoi((part[7] + "000000000")[:9])
	if part[9] != "" {
		year = 1 - year
	}
	t := time.Date(year, time.Month(month), day, hour, minute, second, nanos, time.UTC)
	// time.Date makes another day of the 30th of February.
	if t.Day() != day || t.Month() != time.Month(month) || hour > 23 || minute > 59 || second > 59 {
		return when{}, errNoTime
	}
	return whenOf(t.Add(-offsetOf(part[8]))), nil
}

// offsetOf reads +hh, +hh:mm or +hh:mm:ss, with or without colons. Anything else is UTC.
func offsetOf(zone string) time.Duration {
	if zone == "" || zone[0] != '+' && zone[0] != '-' {
		return 0
	}
	digits := strings.ReplaceAll(zone[1:], ":", "") + "0000"
	var offset time.Duration
	for i, unit := range []time.Duration{time.Hour, time.Minute, time.Second} {
		n, _ := strconv.Atoi(digits[2*i : 2*i+2]) // digits
		offset += time.Duration(n) * unit
	}
	if zone[0] == '-' {
		return -offset
	}
	return offset
}

// leastEpochDigits: a number of nine digits is a time of 1973 or later.
const leastEpochDigits = 9

// sinceEpoch reads a number of seconds since 1970, or of its thousandth, millionth or billionth part:
// each unit has its range, up to the year 5138.
func sinceEpoch(s string, f float64) (when, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		n = int64(f)
	}
	size := n
	if size < 0 {
		size = -size
	}
	switch {
	case size < 1e11:
		return whenOf(time.Unix(n, 0)), nil
	case size < 1e14:
		return whenOf(time.UnixMilli(n)), nil
	case size < 1e17:
		return whenOf(time.UnixMicro(n)), nil
	default:
		return whenOf(time.Unix(0, n)), nil
	}
}

// whenOf returns a time that Go has, also one that a record hasn't.
func whenOf(t time.Time) when {
	t = t.UTC().Truncate(time.Microsecond)
	switch year := t.Year(); {
	case t.Before(EarliestTime):
		return when{EarliestTime, fmt.Sprintf("%04d-%s+00 BC", 1-year, t.Format("01-02 15:04:05.000000"))}
	case t.After(LatestTime):
		return when{LatestTime, fmt.Sprintf("%d-%s+00", year, t.Format("01-02 15:04:05.000000"))}
	}
	return when{t, ""}
}

// appendTimeText appends a time in UTC with six digits, so that the texts have the order of the
// times, and a reader that guesses at a column's form by its first row has guessed that of all.
func appendTimeText(b []byte, t time.Time) []byte {
	year, month, day := t.Date()
	hour, minute, second := t.Clock()
	b = appendDigits(b, year, 4)
	b = appendDigits(append(b, '-'), int(month), 2)
	b = appendDigits(append(b, '-'), day, 2)
	b = appendDigits(append(b, 'T'), hour, 2)
	b = appendDigits(append(b, ':'), minute, 2)
	b = appendDigits(append(b, ':'), second, 2)
	b = appendDigits(append(b, '.'), t.Nanosecond()/int(time.Microsecond), 6)
	return append(b, 'Z')
}

func appendDigits(b []byte, n, digits int) []byte {
	from := len(b)
	for range digits {
		b = append(b, '0')
	}
	for i := len(b) - 1; i >= from; i-- {
		b[i] += byte(n % 10)
		n /= 10
	}
	return b
}
