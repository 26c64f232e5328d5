package deadletters

import (
	"testing"
	"time"

	"soniq/internal/cli/app"
)

func TestNameLike(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		pattern, name string
		want          bool
	}{
		{"send_welcome_email", "myapp.tasks.send_welcome_email", true},
		{"Send", "send", false},
		{"%", "send", false},
		{"myapp.*", "myapp.tasks.send", true},
		{"tasks*", "myapp.tasks.send", false},
		{"*send", "myapp.tasks.send", true},
		{"*s*s*d", "myapp.tasks.send", true},
		{"a?c", "abc", true},
		{"a?c", "aéc", true},
		{"a?c", "ac", false},
		{"*", "", true},
		{"a*b*c", "axxbxx", false},
	} {
		if got := nameLike(test.pattern, test.name); got != test.want {
			t.Errorf("nameLike(%q, %q) = %v", test.pattern, test.name, got)
		}
	}
}

func TestCoarse(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		0: "0s", 12*time.Second + 400*time.Millisecond: "12s", 90 * time.Second: "1m30s", time.Hour: "1h",
		3*time.Hour + 59*time.Minute + 59*time.Second: "3h59m", 24 * time.Hour: "1d", 100 * time.Hour: "4d4h",
	} {
		if got := coarse(d); got != want {
			t.Errorf("%s: %q, want %q", d, got, want)
		}
	}
}

func TestSpark_drawsCounts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		counts []int64
		bars   int
		want   string
	}{
		{[]int64{0, 0, 0, 0}, 2, "··"},
		{[]int64{1, 0, 0, 8}, 4, "▁··█"},
		{[]int64{1, 1, 0, 1}, 2, "█▄"},
		{[]int64{1, 1000}, 2, "▁█"},
		{make([]int64, 24), 12, "············"},
	} {
		if got := spark(c.counts, c.bars); got != c.want {
			t.Errorf("spark(%v, %d) = %q, want %q", c.counts, c.bars, got, c.want)
		}
	}
}

func TestParseRate(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]float64{"": 0, "50": 50, "50/s": 50, "30/m": 0.5, "7200/h": 2, "0.5/s": 0.5} {
		if got, err := parseRate(text); err != nil || got != want {
			t.Errorf("parseRate(%q) = %g, %v; want %g", text, got, err, want)
		}
	}
	for _, text := range []string{"0", "-1", "x", "5/", "/s", "5/d", "NaN", "Inf", "1e9"} {
		if got, err := parseRate(text); app.ExitCode(err) != app.ExitUsage {
			t.Errorf("parseRate(%q) = %g, %v", text, got, err)
		}
	}
}
