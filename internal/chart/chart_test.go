package chart

import (
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"soniq/internal/testkit"
)

var update = flag.Bool("update", false, "write the golden files anew")

var begin = time.Date(2026, 10, 24, 22, 0, 0, 0, time.UTC)

func times(n int, step time.Duration) (all []time.Time) {
	for i := range n {
		all = append(all, begin.Add(time.Duration(i)*step))
	}
	return all
}

func wave(n int, most float64) (values []float64) {
	for i := range n {
		values = append(values, math.Round(most*(1+math.Sin(float64(i)/3))/2))
	}
	return values
}

func zone(t *testing.T, name string) *time.Location {
	t.Helper()
	l, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func examples(t *testing.T) map[string]Chart {
	nan := math.NaN()
	return map[string]Chart{
		"bars": {
			Title: "Deaths by reason", Summary: "73 jobs died.", Kind: Bars, Times: times(12, 5*time.Minute), Step: 5 * time.Minute, Late: true,
			Series: []Series{{"timeout", wave(12, 5)}, {"max retries exceeded", wave(12, 9)}, {"none", make([]float64, 12)}},
		},
		"lines with gaps": {
			Title: "Run time", Kind: Lines, Unit: Seconds, Times: times(8, time.Hour), Step: time.Hour,
			Series: []Series{{"p50", []float64{0.01, 0.02, nan, 0.04, nan, nan, 0.2, 0.1}}, {"p99", []float64{1, 2, nan, 4, nan, nan, 90, 3}}},
		},
		"one point": {Title: "Completed", Kind: Lines, Times: times(1, time.Minute), Step: time.Minute, Series: []Series{{"all", []float64{7}}}},
		"empty":     {Title: "Completed", Times: times(60, time.Minute), Step: time.Minute, Series: []Series{{"all", make([]float64, 60)}}},
		"huge": {
			Title: "Huge", Times: times(3, 12*time.Hour), Step: 12 * time.Hour,
			Series: []Series{{"a", []float64{math.MaxFloat64, 1 << 60, -4}}, {"b", []float64{math.MaxFloat64, math.Inf(1), 3}}},
		},
		// The clock is set back by an hour in it.
		"in another zone": {
			Title: "A night in Berlin", Kind: Lines, Times: times(12, time.Hour), Step: time.Hour, Location: zone(t, "Europe/Berlin"),
			Series: []Series{{"<script>alert('x') & \x00\x1b", wave(12, 2000)}},
		},
	}
}

func TestChart_golden(t *testing.T) {
	t.Parallel()
	for name, c := range examples(t) {
		c.ID = "c"
		got := strings.ReplaceAll(string(c.Figure()), "><", ">\n<") + "\n"
		file := filepath.Join("testdata", strings.ReplaceAll(name, " ", "-")+".html")
		if *update {
			if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("%s: 'go test ./internal/chart -update' writes what it is now:\n%s", name, got)
		}
		sound(t, name, c)
	}
}

// A picture of anything is well-formed, stays in its box, and has no label on another.
func TestChart_ofAnything_isSound(t *testing.T) {
	t.Parallel()
	random := testkit.Rand(t)
	zones := []*time.Location{nil, zone(t, "Asia/Kathmandu"), zone(t, "America/St_Johns"), zone(t, "Pacific/Kiritimati")}
	steps := []time.Duration{time.Second, time.Minute, 7 * time.Minute, 30 * time.Minute, 3 * time.Hour, 12 * time.Hour, 24 * time.Hour, 800 * time.Hour}
	for n := range 250 {
		c := Chart{
			ID: "c", Title: anyText(random), Summary: anyText(random), Kind: Kind(random.IntN(2)), Unit: Unit(random.IntN(2)),
			Step: steps[random.IntN(len(steps))], Location: zones[random.IntN(len(zones))], Late: random.IntN(2) == 0,
		}
		c.Times = times(random.IntN(80), c.Step)
		for i := range c.Times {
			c.Times[i] = c.Times[i].Add(time.Duration(n) * 1777 * time.Minute)
		}
		most := math.Pow(10, random.Float64()*330-12)
		for range random.IntN(10) {
			s := Series{Name: anyText(random)}
			for range random.IntN(len(c.Times) + 2) {
				s.Values = append(s.Values, anyValue(random, most))
			}
			c.Series = append(c.Series, s)
		}
		sound(t, fmt.Sprint(n), c)
		if t.Failed() {
			t.Fatalf("%.2000s", fmt.Sprintf("%+v", c))
		}
	}
}

func anyValue(random *rand.Rand, most float64) float64 {
	switch random.IntN(12) {
	case 0:
		return math.NaN()
	case 1:
		return math.Inf(1)
	case 2:
		return -1
	case 3:
		return 0
	case 4:
		return most
	}
	return random.Float64() * most
}

func anyText(random *rand.Rand) string {
	var b strings.Builder
	for range random.IntN(12) {
		b.WriteString([]string{"a", "<", ">", "&", "'", "\"", "\x00", "\x1b", "\xff", "ü", "\u202e", "]]>", "\ufffe", "\n"}[random.IntN(14)])
	}
	return b.String()
}

var numbers = regexp.MustCompile(`-?[0-9.]+(?:e[-+]?[0-9]+)?`)

// sound checks one picture.
func sound(t *testing.T, name string, c Chart) {
	t.Helper()
	wellFormed(t, name, string(c.Figure()))
	type box struct {
		text           string
		x0, y0, x1, y1 float64
	}
	var boxes []box
	var at *box
	decoder := xml.NewDecoder(strings.NewReader(c.SVG()))
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		switch e := token.(type) {
		case xml.StartElement:
			attrs := map[string]string{}
			for _, a := range e.Attr {
				attrs[a.Name.Local] = a.Value
			}
			for _, forbidden := range []string{"style", "onclick", "onload"} {
				if _, ok := attrs[forbidden]; ok {
					t.Errorf("%s: %s has an attribute %s", name, e.Name.Local, forbidden)
				}
			}
			coordinates(t, name, attrs["d"])
			if e.Name.Local == "text" {
				x, y := number(t, attrs["x"]), number(t, attrs["y"])
				at = &box{x0: x, x1: x, y0: y - fontSize*0.75, y1: y + fontSize*0.25}
				boxes = append(boxes, box{})
				at.text = attrs["text-anchor"]
			}
		case xml.CharData:
			if at != nil {
				// Half of the letters of a font are wider than this, half are not.
				w := 0.56 * fontSize * float64(len([]rune(string(e))))
				switch at.text {
				case "end":
					at.x0 -= w
				case "middle":
					at.x0, at.x1 = at.x0-w/2, at.x1+w/2
				}
				at.text = string(e)
				boxes[len(boxes)-1], at = *at, nil
			}
		}
	}
	for i, a := range boxes {
		if a.x0 < 0 || a.x1 > width || a.y0 < 0 || a.y1 > height || a.text == "" {
			t.Errorf("%s: label %+v leaves the picture", name, a)
		}
		for _, b := range boxes[:i] {
			if a.x0 < b.x1 && b.x0 < a.x1 && a.y0 < b.y1 && b.y0 < a.y1 {
				t.Errorf("%s: labels %+v and %+v overlap", name, a, b)
			}
			if a.text == b.text && a.x1 == b.x1 && a.y0 != b.y0 {
				t.Errorf("%s: two labels of the same axis are %q", name, a.text)
			}
		}
	}
	if len(c.Times) > 0 && len(boxes) < 3 {
		t.Errorf("%s: %d labels", name, len(boxes))
	}
}

func wellFormed(t *testing.T, name, text string) {
	t.Helper()
	decoder := xml.NewDecoder(strings.NewReader(text))
	for {
		if _, err := decoder.Token(); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
}

// coordinates checks that a path stays in the picture. Steps within a dot are small.
func coordinates(t *testing.T, name, d string) {
	t.Helper()
	for _, n := range numbers.FindAllString(d, -1) {
		if v := number(t, n); math.Abs(v) > width || v < -3 {
			t.Errorf("%s: a path goes to %s", name, n)
		}
	}
	if strings.Contains(d, "NaN") || strings.Contains(d, "Inf") {
		t.Errorf("%s: a path has no number: %s", name, d)
	}
}

func number(t *testing.T, text string) float64 {
	t.Helper()
	v, err := strconv.ParseFloat(text, 64)
	if err != nil {
		t.Fatalf("%q is no number", text)
	}
	return v
}

func TestUnit_values_areWrittenAsPeopleSayThem(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		unit         Unit
		v            float64
		short, exact string
	}{
		{Count, 0, "0", "0"},
		{Count, 7, "7", "7"},
		{Count, 1500, "1.5k", "1,500"},
		{Count, 2_000_000, "2M", "2,000,000"},
		{Count, 1 << 60, "1.15e18", "1.153e+18"},
		{Count, math.NaN(), "NaN", "–"},
		{Seconds, 0, "0", "0"},
		{Seconds, 0.0004, "<1 ms", "<1 ms"},
		{Seconds, 0.25, "250 ms", "250 ms"},
		{Seconds, 1.5, "1.5 s", "1.5 s"},
		{Seconds, 90, "1.5 min", "1.5 min"},
		{Seconds, 7200, "2 h", "2 h"},
		{Seconds, 3 * 86400, "3 d", "3 d"},
	} {
		if got := c.unit.exact(c.v); got != c.exact {
			t.Errorf("%g is %q, want %q", c.v, got, c.exact)
		}
		if got := c.unit.short(c.v); got != c.short {
			t.Errorf("%g is %q on an axis, want %q", c.v, got, c.short)
		}
	}
}
