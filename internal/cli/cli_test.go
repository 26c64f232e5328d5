package cli_test

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"

	"soniq/internal/cli"
	"soniq/internal/cli/app"
	"soniq/internal/cli/clitest"
	"soniq/internal/cli/terminal"
	"soniq/internal/unit"
)

func TestHelp_everyCommandHasOne(t *testing.T) {
	t.Parallel()
	s := clitest.NewShell(t, "")
	var g cli.Grammar
	parser, err := kong.New(&g, kong.ExplicitGroups(cli.Groups), kong.Vars{"version": ""})
	if err != nil {
		t.Fatal(err)
	}
	example := regexp.MustCompile(`(?m)^ {2,}(\S.*[|<(] ?)?soniq [a-z]`)
	for _, node := range parser.Model.Leaves(false) {
		if node.Name == "__complete" {
			continue // for shells, and not for people
		}
		path := strings.Fields(strings.ReplaceAll(node.Path(), "(dlq) ", ""))
		var command []string
		for _, word := range path {
			if !strings.HasPrefix(word, "<") && !strings.HasPrefix(word, "[") {
				command = append(command, word)
			}
		}
		r := s.OK(append(command, "--help")...)
		clitest.WantIn(t, "help", r.Out, "Usage: soniq", "--database-url", "--json")
		if !example.MatchString(r.Out) {
			t.Errorf("the help of %s has no example: %s", command, r.Out)
		}
		if node.Help == "" || r.Err != "" {
			t.Errorf("%s: help %q, stderr %q", command, node.Help, r.Err)
		}
	}
}

func TestSoniq_alonePrintsHelp(t *testing.T) {
	t.Parallel()
	r := clitest.NewShell(t, "").OK()
	clitest.WantIn(t, "help", r.Out, "Usage: soniq <command>", "dead-letter (dlq)", "Getting started:")
}

func TestVersion(t *testing.T) {
	t.Parallel()
	s := clitest.NewShell(t, "")
	clitest.WantIn(t, "version", s.OK("version").Out, "soniq 0.")
	clitest.WantIn(t, "--version", s.OK("--version").Out, "soniq 0.")
	if v := clitest.Decode[map[string]string](t, s.OK("version", "--json").Out); v["version"] == "" {
		t.Errorf("no version: %v", v)
	}
}

func TestDatabase_selection(t *testing.T) {
	t.Parallel()
	const own, shared, flag = "postgres://own", "postgres://shared", "postgres://flag"
	for _, test := range []struct {
		name string
		args app.Globals
		env  map[string]string
		want app.Database
		fail string
	}{
		{name: "nothing", fail: "no database: give --database-url (or set SONIQ_DATABASE_URL or DATABASE_URL), or use --dev"},
		{name: "a misspelt variable", env: map[string]string{"SONIQ_DATABSE_URL": own}, fail: "no database"},
		{name: "empty variables", env: map[string]string{"SONIQ_DATABASE_URL": "", "DATABASE_URL": "", "SONIQ_DEV": ""}, fail: "no database"},
		{name: "own", env: map[string]string{"SONIQ_DATABASE_URL": own, "DATABASE_URL": shared}, want: app.Database{URL: own, Source: "SONIQ_DATABASE_URL"}},
		{name: "shared", env: map[string]string{"DATABASE_URL": shared}, want: app.Database{URL: shared, Source: "DATABASE_URL"}},
		{name: "flag", args: app.Globals{DatabaseURL: flag}, env: map[string]string{"SONIQ_DATABASE_URL": own, "SONIQ_DEV": "1"}, want: app.Database{URL: flag, Source: "--database-url"}},
		{name: "dev flag", args: app.Globals{Dev: true}, env: map[string]string{"SONIQ_DATABASE_URL": own}, want: app.Database{Dev: true, Source: "--dev"}},
		{name: "dev variable", env: map[string]string{"SONIQ_DEV": "1", "DATABASE_URL": shared}, want: app.Database{Dev: true, Source: "SONIQ_DEV"}},
		{name: "dev off", env: map[string]string{"SONIQ_DEV": "0", "DATABASE_URL": shared}, want: app.Database{URL: shared, Source: "DATABASE_URL"}},
		{name: "dev of two minds", env: map[string]string{"SONIQ_DEV": "1", "SONIQ_DATABASE_URL": own}, fail: "both set"},
		{name: "dev nonsense", env: map[string]string{"SONIQ_DEV": "maybe"}, fail: "neither 1 nor 0"},
		{name: "both flags", args: app.Globals{Dev: true, DatabaseURL: flag}, fail: "exclude each other"},
	} {
		a := &app.App{Globals: test.args, Process: app.Process{Getenv: func(name string) string { return test.env[name] }}}
		got, err := a.Database()
		switch {
		case test.fail == "" && (err != nil || got != test.want):
			t.Errorf("%s: %+v, %v, want %+v", test.name, got, err, test.want)
		case test.fail != "" && (err == nil || app.ExitCode(err) != app.ExitUsage || !strings.Contains(err.Error(), test.fail)):
			t.Errorf("%s: %v (exit %d), want %q (exit 2)", test.name, err, app.ExitCode(err), test.fail)
		}
	}
}

func TestTimes_ofFlags(t *testing.T) {
	t.Parallel()
	berlin := time.FixedZone("CET", 3600)
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, berlin)
	for text, want := range map[string]time.Time{
		"90m":                                        now.Add(-90 * time.Minute),
		"7d":                                         now.Add(-7 * 24 * time.Hour),
		"2w":                                         now.Add(-14 * 24 * time.Hour),
		"3d4h":                                       now.Add(-76 * time.Hour),
		"2026-11-01":                                 time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC),
		"2026-11-01 08:30":                           time.Date(2026, 11, 1, 8, 30, 0, 0, time.UTC),
		"2026-11-01 08:30 UTC":                       time.Date(2026, 11, 1, 8, 30, 0, 0, time.UTC),
		"2026-11-01 08:30:07 UTC (3m ago)":           time.Date(2026, 11, 1, 8, 30, 7, 0, time.UTC),
		"2026-11-01T08:30:00Z":                       time.Date(2026, 11, 1, 8, 30, 0, 0, time.UTC),
		"2026-11-01T08:30:00+01:00":                  time.Date(2026, 11, 1, 8, 30, 0, 0, berlin),
		"2026-11-01 08:30:00.123456+01":              time.Date(2026, 11, 1, 8, 30, 0, 123456000, berlin),
		"2026-11-01 08:30:00 +0530":                  time.Date(2026, 11, 1, 3, 0, 0, 0, time.UTC),
		"2026-11-01 08:30:00 Europe/Berlin":          time.Date(2026, 11, 1, 8, 30, 0, 0, berlin),
		"2026-07-01 08:30 America/New_York":          time.Date(2026, 7, 1, 12, 30, 0, 0, time.UTC),
		"2026-11-01 08:30:00.5Z":                     time.Date(2026, 11, 1, 8, 30, 0, 5e8, time.UTC),
		"2026-11-01T08:30:00.123456789-03:00":        time.Date(2026, 11, 1, 11, 30, 0, 123456789, time.UTC),
		"2026-11-01 08:30:00.000Z":                   time.Date(2026, 11, 1, 8, 30, 0, 0, time.UTC),
		"2026-11-01 08:30:00 UTC (in 4095d)":         time.Date(2026, 11, 1, 8, 30, 0, 0, time.UTC),
		"2026-11-01 08:30:00 Etc/GMT+12":             time.Date(2026, 11, 1, 20, 30, 0, 0, time.UTC),
		"2026-11-01 08:30:00 America/Port-au-Prince": time.Date(2026, 11, 1, 13, 30, 0, 0, time.UTC),
	} {
		got, err := app.ParseTime("--since", &text, now)
		if err != nil || !got.Equal(want) {
			t.Errorf("moment(%q) = %s, %v, want %s", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", "yesterday", "-1h", "d", "99999999d", "2026-13-01", "2026-11-01 UTC", "2026-11-01 08:30 EST", "2026-11-01 08:30 Local",
		"2026-11-01 25:00", "08:30", "2026-11-01 08:30 Nowhere/City", "2026-11-01 08:30.5", "0001-01-01", "2026-11-01 08:30 +25:00", "2026-11-01 08:30 UTC (soon)",
	} {
		if got, err := app.ParseTime("--since", &text, now); app.ExitCode(err) != app.ExitUsage {
			t.Errorf("moment(%q): %s, %v", text, got, err)
		}
	}
}

// A window that ends at a printed time has the row that it was printed for.
func TestTimes_untilNamesTheWholeSecond(t *testing.T) {
	t.Parallel()
	died := time.Date(2026, 11, 1, 8, 30, 7, 654321000, time.UTC)
	for text, want := range map[string]time.Time{
		unit.FormatTime(died):         died.Truncate(time.Second).Add(999999 * time.Microsecond),
		died.Format(time.RFC3339Nano): died,
		"2026-11-01":                  died.Truncate(24 * time.Hour),
		"2026-11-01 08:30":            died.Truncate(time.Minute),
	} {
		if got, err := app.ParseUntil("--until", &text, died); err != nil || !got.Equal(want) {
			t.Errorf("%q: %s, %v, want %s", text, got, err, want)
		}
	}
}

func TestWords(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]string{0: "0 dead letters", 1: "1 dead letter", 999: "999 dead letters", 1234: "1,234 dead letters", 1234567: "1,234,567 dead letters"} {
		if got := terminal.Letters(n); got != want {
			t.Errorf("letters(%d) = %q, want %q", n, got, want)
		}
	}
	now := time.Now()
	for d, want := range map[time.Duration]string{-time.Hour: "0s", 59 * time.Second: "59s", time.Minute: "1m", 47 * time.Hour: "47h", 72 * time.Hour: "3d"} {
		if got := terminal.Age(now, now.Add(-d)); got != want {
			t.Errorf("age(%s) = %q, want %q", d, got, want)
		}
	}
}
