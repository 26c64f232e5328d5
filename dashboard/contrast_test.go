package dashboard_test

import (
	"math"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// luminance is the relative luminance of a colour such as #1b1f27, by WCAG.
func luminance(t *testing.T, colour string) float64 {
	t.Helper()
	if len(colour) == 4 {
		colour = "#" + strings.Repeat(colour[1:2], 2) + strings.Repeat(colour[2:3], 2) + strings.Repeat(colour[3:4], 2)
	}
	sum := 0.0
	for i, weight := range []float64{0.2126, 0.7152, 0.0722} {
		n, err := strconv.ParseUint(colour[1+2*i:3+2*i], 16, 8)
		if err != nil {
			t.Fatalf("%s: %v", colour, err)
		}
		part := float64(n) / 255
		if part <= 0.04045 {
			part /= 12.92
		} else {
			part = math.Pow((part+0.055)/1.055, 2.4)
		}
		sum += weight * part
	}
	return sum
}

// Text has a contrast of 4.5 and more on whatever it stands on, and what one must find, such as the
// border of a field and the focus, of 3: level AA, in light and dark.
func TestColours_haveContrast(t *testing.T) {
	t.Parallel()
	css, err := os.ReadFile("static/soniq.css")
	if err != nil {
		t.Fatal(err)
	}
	sets := regexp.MustCompile(`(?s):root[^{]*\{([^}]*)\}`).FindAllStringSubmatch(string(css), -1)
	sets = slices.DeleteFunc(sets, func(set []string) bool { return !strings.Contains(set[1], "--ink:") })
	if len(sets) != 3 {
		t.Fatalf("%d sets of colours, want light, dark and dark by choice", len(sets))
	}
	for i, set := range sets {
		colours := map[string]string{}
		for _, c := range regexp.MustCompile(`--([a-z-]+): (#[0-9a-f]+);`).FindAllStringSubmatch(set[1], -1) {
			colours[c[1]] = c[2]
		}
		for _, rule := range []struct {
			least         float64
			front, behind string
		}{
			{4.5, "ink soft link bad good busy", "paper card mark"},
			{4.5, "main-ink", "main"},
			{4.5, "bad ink", "bad-bg"},
			{4.5, "good ink", "good-bg"},
			{4.5, "busy ink", "busy-bg"},
			{3, "field focus", "paper card"},
		} {
			for _, front := range strings.Fields(rule.front) {
				for _, behind := range strings.Fields(rule.behind) {
					a, b := luminance(t, colours[front]), luminance(t, colours[behind])
					if ratio := (math.Max(a, b) + 0.05) / (math.Min(a, b) + 0.05); ratio < rule.least {
						t.Errorf("set %d: %s on %s has %.2f, want %.1f", i+1, front, behind, ratio, rule.least)
					}
				}
			}
		}
	}
	if strings.Join(strings.Fields(sets[1][1]), " ") != strings.Join(strings.Fields(sets[2][1]), " ") {
		t.Error("dark is not the same by the system and by choice")
	}
}
