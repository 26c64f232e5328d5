package unit_test

import (
	"encoding/json"
	"math/rand/v2"
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
				if name == "in a named zone" && err == nil && got.Format(time.DateTime) == at.Format(time.DateTime) {
					continue
				}
				t.Fatalf("%s: %q is read as %s, %v; it is %s", name, text, got, err, at)
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
