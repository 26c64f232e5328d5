package deadletters_test

import (
	"net"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"soniq/internal/cli/clitest"
	"soniq/internal/testdb"
)

// oldestFigure is the one figure of a line that time changes.
var oldestFigure = regexp.MustCompile(`oldest=\d+s`)

func TestCheck_eachVerdictHasItsCodeAndOneLine(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	check := func(code int, want string, args ...string) {
		t.Helper()
		r := s.Run(append([]string{"dead-letter", "check"}, args...)...)
		clitest.WantCode(t, r, code)
		if got := oldestFigure.ReplaceAllString(r.Out, "oldest=Ns"); got != want+"\n" || r.Err != "" {
			t.Errorf("%s:\n got %q, %q\nwant %q", args, r.Out, r.Err, want)
		}
	}
	check(0, "DEAD LETTERS OK - 0 dead | dead=0;;0;0 oldest=Ns;;3600;0", "--max", "0", "--max-age", "1h")

	for _, age := range []time.Duration{30 * time.Minute, 65*time.Minute + time.Second, 20 * time.Minute} {
		clitest.Seed(t, pool, clitest.Letter{Age: age})
	}
	clitest.Seed(t, pool, clitest.Letter{Reason: "timeout", Age: 65 * time.Minute})
	clitest.Seed(t, pool, clitest.Letter{State: "resolved", Age: 100 * time.Hour})
	check(0, "DEAD LETTERS OK - 4 dead, the oldest died 1h5m ago | dead=4;;4;0 oldest=Ns;;;0", "--max", "4")
	check(1, "DEAD LETTERS WARNING - 4 dead (more than 3), the oldest died 1h5m ago | dead=4;3;4;0 oldest=Ns;;;0", "--warn", "3", "--max", "4")
	check(2, "DEAD LETTERS CRITICAL - 4 dead (more than 2), the oldest died 1h5m ago | dead=4;1;2;0 oldest=Ns;;;0", "--warn", "1", "--max", "2")
	check(1, "DEAD LETTERS WARNING - 4 dead, the oldest died 1h5m ago (longer than 1h) | dead=4;;9;0 oldest=Ns;3600;604800;0", "--max", "9", "--warn-age", "1h", "--max-age", "7d")
	check(2, "DEAD LETTERS CRITICAL - 4 dead (more than 3), the oldest died 1h5m ago (longer than 45m) | dead=4;3;;0 oldest=Ns;;2700;0", "--warn", "3", "--max-age", "45m")
	// As an operator would narrow it.
	check(2, "DEAD LETTERS CRITICAL - 1 dead, the oldest died 1h5m ago (longer than 1h) | dead=1;;100;0 oldest=Ns;;3600;0", "--max", "100", "--max-age", "1h", "--reason", "timeout")
	check(2, "DEAD LETTERS CRITICAL - 1 resolved (more than 0), the oldest died 4d4h ago | resolved=1;;0;0 oldest=Ns;;;0", "--max", "0", "--state", "resolved")
}

func TestCheck_json(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	id := clitest.Seed(t, pool, clitest.Letter{Age: 2 * time.Hour})
	type answer struct {
		Status, State, Error string
		Count                int
		Warn, Max            *int
		OldestID             uuid.UUID `json:"oldest_id"`
		Age                  float64   `json:"oldest_age_seconds"`
		MaxAge               *float64  `json:"max_age_seconds"`
	}
	r := s.Run("dead-letter", "check", "--max", "5", "--max-age", "1h", "--json")
	clitest.WantCode(t, r, 2)
	got := clitest.Decode[answer](t, r.Out)
	if got.Status != "critical" || got.State != "dead" || got.Count != 1 || got.Warn != nil || got.Max == nil || *got.Max != 5 ||
		got.OldestID != id || got.Age < 7200 || got.MaxAge == nil || *got.MaxAge != 3600 {
		t.Errorf("%+v", got)
	}
	r = s.Run("dead-letter", "check", "--json")
	clitest.WantCode(t, r, 3)
	if got := clitest.Decode[answer](t, r.Out); got.Status != "unknown" || !strings.Contains(got.Error, "how many are too many") {
		t.Errorf("%+v", got)
	}
}

// Whatever goes wrong is an answer too: a monitor that sees nothing is silent.
func TestCheck_noAnswer_isUnknown(t *testing.T) {
	t.Parallel()
	const password = "hunter2"
	good := testdb.NewURL(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and never speaks
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	for name, test := range map[string]struct {
		database string
		args     []string
		want     string
	}{
		"nobody listens":     {"postgres://u:" + password + "@" + clitest.ClosedPort(t) + "/db", []string{"--max", "1"}, "cannot reach PostgreSQL at 127.0.0.1:"},
		"password refused":   {"postgres://u:" + password + "@" + clitest.RefusingServer(t) + "/db", []string{"--max", "1"}, "refused user"},
		"it doesn't answer":  {"postgres://u:" + password + "@" + silent.Addr().String() + "/db?sslmode=disable", []string{"--max", "1", "--timeout", "300ms"}, "the database did not answer within 300ms"},
		"no tables":          {testdb.EmptyURL(t), []string{"--max", "1"}, "soniq setup"},
		"no database":        {"", []string{"--max", "1"}, "no database"},
		"no URL":             {"postgres://u:" + password + "@h:x/y", []string{"--max", "1"}, "is not a database URL"},
		"no limit":           {good, nil, "give --warn, --max, --warn-age or --max-age (see 'soniq dead-letter check --help')"},
		"negative":           {good, []string{"--max=-1"}, "--max must not be negative"},
		"no number":          {good, []string{"--max", "many"}, "--max"},
		"unknown flag":       {good, []string{"--maximum", "3"}, "unknown flag --maximum"},
		"no age":             {good, []string{"--max-age", "old"}, `--max-age must be a duration such as 90s, 10m, 2h or 7d, not "old"`},
		"negative age":       {good, []string{"--warn-age=-1h"}, "--warn-age must not be negative"},
		"warning above":      {good, []string{"--warn", "5", "--max", "4"}, "--warn 5 is above --max 4"},
		"age warning above":  {good, []string{"--warn-age", "2d", "--max-age", "1d"}, "--warn-age 2d is above --max-age 1d"},
		"reason":             {good, []string{"--max", "1", "--reason", "a|b\x1b[2J"}, `unknown reason "a/b\x1b[2J"`},
		"no patience":        {good, []string{"--max", "1", "--timeout", "0s"}, "--timeout must be above 0"},
		"an empty parameter": {good, []string{"--max", "1", "--queue", ""}, "--queue is empty"},
	} {
		s := clitest.NewShell(t, test.database)
		r := s.Run(append([]string{"dead-letter", "check"}, test.args...)...)
		clitest.WantCode(t, r, 3)
		if !strings.HasPrefix(r.Out, "DEAD LETTERS UNKNOWN - ") || strings.Count(r.Out, "\n") != 1 || r.Err != "" ||
			!strings.Contains(r.Out, test.want) || strings.Contains(r.Out, password) || strings.Contains(r.Out, "|") {
			t.Errorf("%s: %+v", name, r)
		}
		clitest.CheckSafe(t, r.Out)
	}
}

func TestCheck_interrupted_isUnknown(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	s := clitest.NewShell(t, "postgres://u@"+silent.Addr().String()+"/db?sslmode=disable")
	w := s.Start("dead-letter", "check", "--max", "1", "--timeout", "1m")
	s.Signals <- syscall.SIGINT
	if code := w.Wait(t); code != 3 || w.Out.String() != "DEAD LETTERS UNKNOWN - interrupted\n" {
		t.Errorf("exit %d, %q, %q", code, w.Out.String(), w.Err.String())
	}
}
