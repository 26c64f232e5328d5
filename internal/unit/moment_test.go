package unit_test

import (
	"encoding/json"
	"errors"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	_ "time/tzdata"

	"soniq/internal/unit"
)

// What is printed of a time, by this program, PostgreSQL or JSON, in any zone, is
// read as that time.
func TestTime_printedFormsAreRead(t *testing.T) {
	t.Parallel()
	zones := []*time.Location{time.UTC}
	for _, name := range []string{"America/New_York", "Europe/Berlin", "Asia/Kathmandu", "Pacific/Apia", "America/St_Johns", "Etc/GMT+12"} {
		zone, err := time.LoadLocation(name)
		if err != nil {
			t.Fatal(err)
		}
		zones = append(zones, zone)
	}
	forms := map[string]struct {
		print func(time.Time) string
		exact time.Duration
	}{
		"for people":        {unit.FormatTime, time.Second},
		"with its age":      {func(t time.Time) string { return unit.FormatTime(t) + " (5m ago)" }, time.Second},
		"log":               {func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05.000Z") }, time.Millisecond},
		"JSON":              {func(t time.Time) string { b, _ := json.Marshal(t); return strings.Trim(string(b), `"`) }, time.Nanosecond},
		"JSON in UTC":       {func(t time.Time) string { b, _ := json.Marshal(t.UTC()); return strings.Trim(string(b), `"`) }, time.Nanosecond},
		"psql":              {psqlTime, time.Microsecond},
		"RFC 3339":          {func(t time.Time) string { return t.Format(time.RFC3339) }, time.Second},
		"in a named zone":   {func(t time.Time) string { return t.Format(time.DateTime) + " " + t.Location().String() }, time.Second},
		"day of the stats":  {func(t time.Time) string { return t.UTC().Format(time.DateOnly) }, 24 * time.Hour},
		"no zone is in UTC": {func(t time.Time) string { return t.UTC().Format(time.DateTime) }, time.Second},
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		at := time.Unix(random.Int64N(4e9), random.Int64N(1e9)).In(zones[random.IntN(len(zones))])
		for name, form := range forms {
			text := form.print(at)
			got, err := unit.ParseTime(text)
			if off := at.Sub(got.Time); err != nil || off < 0 || off >= form.exact {
				// An hour that the clocks repeat is two times in one zone.
				var clock *unit.ClockError
				if name == "in a named zone" && errors.As(err, &clock) && clock.Twice &&
					slices.ContainsFunc(clock.Near[:], at.Truncate(time.Second).Equal) {
					continue
				}
				t.Fatalf("%s: %q is read as %s, %v; it is %s", name, text, got, err, at)
			}
		}
	}
}

// A time that the clocks skip, or show twice, is refused with the two that can be meant.
// Every other one near a change of the clocks is taken.
func TestTime_changeOfClocks_isRefusedWithTheNearest(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"2026-03-29 02:00 Europe/Berlin":          "'2026-03-29 01:59:59 Europe/Berlin' and '2026-03-29 03:00:00 Europe/Berlin'",
		"2026-03-29 02:30 Europe/Berlin":          "'2026-03-29 01:59:59 Europe/Berlin' and '2026-03-29 03:00:00 Europe/Berlin'",
		"2026-03-29T02:59:59.9 Europe/Berlin":     "'2026-03-29 01:59:59 Europe/Berlin' and '2026-03-29 03:00:00 Europe/Berlin'",
		"2026-10-25 02:00 Europe/Berlin":          "'2026-10-25 02:00:00 +02:00' or '2026-10-25 02:00:00 +01:00'",
		"2026-10-25 02:30:15.5 Europe/Berlin":     "'2026-10-25 02:30:15.5 +02:00' or '2026-10-25 02:30:15.5 +01:00'",
		"2026-10-25 02:59:59 Europe/Berlin":       "+02:00' or",
		"2026-03-08 02:30 America/New_York":       "'2026-03-08 01:59:59 America/New_York' and '2026-03-08 03:00:00 America/New_York'",
		"2026-11-01 01:30 America/New_York":       "'2026-11-01 01:30:00 -04:00' or '2026-11-01 01:30:00 -05:00'",
		"2026-10-04 02:15 Australia/Lord_Howe":    "'2026-10-04 01:59:59 Australia/Lord_Howe' and '2026-10-04 02:30:00 Australia/Lord_Howe'",
		"2026-04-05 01:45 Australia/Lord_Howe":    "'2026-04-05 01:45:00 +11:00' or '2026-04-05 01:45:00 +10:30'",
		"2011-12-30 12:00 Pacific/Apia":           "'2011-12-29 23:59:59 Pacific/Apia' and '2011-12-31 00:00:00 Pacific/Apia'",
		"2026-03-29 01:59:59 Europe/Berlin":       "",
		"2026-03-29 03:00 Europe/Berlin":          "",
		"2026-10-25 01:59:59 Europe/Berlin":       "",
		"2026-10-25 03:00 Europe/Berlin":          "",
		"2026-10-25 02:30 +01:00":                 "",
		"2026-10-25 02:30 UTC":                    "",
		"2026-03-29 02:30":                        "",
		"2011-12-29 23:59 Pacific/Apia":           "",
		"2026-10-25 02:30 Africa/Addis_Ababa":     "",
		"2026-10-25 01:59:59.999 Europe/Berlin":   "",
		"2026-03-29 01:59:59.999 Europe/Berlin":   "",
		"2026-11-01 02:00 America/New_York":       "",
		"2026-11-01 00:59:59 America/New_York":    "",
		"2026-10-04 02:30:00 Australia/Lord_Howe": "",
	} {
		_, err := unit.ParseTime(text)
		if want == "" {
			if err != nil {
				t.Errorf("%s: %v", text, err)
			}
			continue
		}
		var clock *unit.ClockError
		if !errors.As(err, &clock) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
			continue
		}
		// What it proposes is taken.
		for _, proposed := range regexp.MustCompile(`'(.*?)'`).FindAllStringSubmatch(err.Error(), -1) {
			if at, err := unit.ParseTime(proposed[1]); err != nil || !slices.ContainsFunc(clock.Near[:], at.Equal) {
				t.Errorf("%s: %s is %s, %v", text, proposed[1], at, err)
			}
		}
	}
}

// psqlTime leaves the minutes of the offset out, where there are none.
func psqlTime(t time.Time) string {
	text := t.Format("2006-01-02 15:04:05.999999-07:00")
	return strings.TrimSuffix(text, ":00")
}

// What is read as a time is one, and is read again as it is printed.
func FuzzTime(f *testing.F) {
	for _, s := range []string{"2006-01-02", "2006-01-02 15:04", "2006-01-02 15:04:05 UTC", "2006-01-02T15:04:05.123Z", "2006-01-02 15:04:05+05:30", "2006-01-02 15:04 Europe/Berlin", "0000-01-01", "9999-12-31 23:59:59 -12"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		at, err := unit.ParseTime(s)
		if err != nil || at.UTC().Year() < 0 || at.UTC().Year() > 9999 {
			return
		}
		again, err := unit.ParseTime(unit.FormatTime(at.Time))
		if err != nil && at.UTC().Year() > 1 || err == nil && !again.Equal(at.Truncate(time.Second)) {
			t.Fatalf("%q is %s, printed that is %s, %v", s, at, again, err)
		}
	})
}

func TestDuration(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	for text, want := range map[string]time.Duration{
		"0": 0, "90s": 90 * time.Second, "1h30m": 90 * time.Minute, "7d": 7 * day, "2w": 14 * day, "1.5d": 36 * time.Hour,
		"1w2d3h": 9*day + 3*time.Hour, "3d4h": 76 * time.Hour, "-1d": -day, "250ms": 250 * time.Millisecond, "+5m": 5 * time.Minute, "106751d": 106751 * day,
	} {
		if got, err := unit.ParseDuration(text); err != nil || got != want {
			t.Errorf("%q: %s, %v", text, got, err)
		}
	}
	for text, want := range map[string]string{
		"30": "30 has no unit: write 30s, 30m, 30h or 30d", "10x": `must be a duration such as 90s, 10m, 2h or 7d, not "10x"`, "": "not",
		"d": "not", "1d2": "not", "1 d": "not", "106752d": "not", "15251w": "not", "100000d100000d": "not", "1e3s": "not", "--1d": "not", "1..5d": "not", "NaNd": "not",
	} {
		if got, err := unit.ParseDuration(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %s, %v", text, got, err)
		}
	}
}
