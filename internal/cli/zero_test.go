package cli_test

import (
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"

	"soniq/internal/cli/app"
	"soniq/internal/cli/clitest"
	"soniq/internal/testdb"
)

// saysZero is a help that says what 0 means, or that it is refused.
var saysZero = regexp.MustCompile(`\b0\b|\b(from 1 on|at least 1)\b`)

// refusesZero are helps that say that 0 is refused.
var refusesZero = regexp.MustCompile(`\b(from 1 on|at least 1|above 0)\b`)

// aroundZero is what a command needs beside a flag, to look at its value.
var aroundZero = map[string][]string{
	"worker run":         {"--handle=x=exec:true"},
	"worker run-once":    {"x", "--handle=x=exec:true"},
	"hooks run":          {},
	"enqueue":            {"x", "--wait"},
	"job show":           {"01890a5d-ac96-774b-bcce-b302099a8057", "--wait"},
	"dead-letter replay": {"--all", "--yes"},
	"dead-letter delete": {"--all", "--yes"},
	"dead-letter check":  {"--max=1"},
}

// The help of each number and each duration says what 0 means: nothing is refused in one command and
// everything in another. What it says is refused is.
func TestFlags_zero_isSaidOrRefused(t *testing.T) {
	t.Parallel()
	sh := clitest.NewShell(t, testdb.NewURL(t))
	_, all := leaves(t)
	n := 0
	for _, command := range all {
		for _, flag := range command.Flags {
			// Among priorities, 0 is one like any other.
			if !isAmount(flag) || strings.HasSuffix(flag.Name, "priority") {
				continue
			}
			if !saysZero.MatchString(flag.Help) {
				t.Errorf("%s --%s doesn't say what 0 is: %q", command.path, flag.Name, flag.Help)
			}
			if !refusesZero.MatchString(flag.Help) {
				continue
			}
			n++
			words, known := aroundZero[strings.Join(command.path, " ")]
			if !known {
				words = command.words[len(command.path):]
			}
			words = append(slices.Concat(command.path, words), "--"+flag.Name+"=0")
			if r := sh.Run(words...); !strings.Contains(r.Out+r.Err, "must be") || r.Code != 2 && r.Code != 3 {
				t.Errorf("%q: exit code %d, %s%s", words, r.Code, r.Out, r.Err)
			}
		}
	}
	if n < 12 {
		t.Errorf("only %d flags refuse 0", n)
	}
}

// notForPeople is what a program says whose number was not looked at.
var notForPeople = regexp.MustCompile(`(?i)encode|overflow|\bOID\b|SQLSTATE|panic|\bint4\b`)

// A number of any size is one that the command can do something with, or it is refused as wrong usage: by the
// command, and not by what the number meets further on.
func TestFlags_huge_areTakenOrRefused(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	clitest.Seed(t, pool, clitest.Letter{Age: 48 * time.Hour})
	sh := clitest.NewShell(t, pool.Config().ConnString())
	around := map[string][]string{
		"worker run":         {"--handle=x=exec:true", "--check-config"},
		"dead-letter replay": {"--all", "--dry-run"},
		"dead-letter delete": {"--all", "--dry-run"},
		"enqueue":            {"x"},
		"job show":           {"01890a5d-ac96-774b-bcce-b302099a8057"},
	}
	_, all := leaves(t)
	n := 0
	for _, command := range all {
		path := strings.Join(command.path, " ")
		words, known := around[path]
		if !known {
			words, known = aroundZero[path]
		}
		if !known {
			words = command.words[len(command.path):]
		}
		for _, flag := range command.Flags {
			if !isAmount(flag) || path == "bench" || path == "hooks run" {
				continue
			}
			n++
			for _, number := range []string{"99999999999", "9223372036854775807", "92233720368547758070"} {
				words := append(slices.Concat(command.path, words), "--"+flag.Name+"="+number)
				r := sh.Run(words...)
				if r.Code == app.ExitFailed || notForPeople.MatchString(r.Out+r.Err) {
					t.Errorf("%q: exit code %d, %s%s", words, r.Code, r.Out, r.Err)
				}
			}
		}
	}
	if n < 30 {
		t.Errorf("only %d flags take a number", n)
	}
}

// isAmount reports whether the flag is a number or a duration.
func isAmount(flag *kong.Flag) bool {
	target := flag.Target.Type()
	if target.Kind() == reflect.Pointer {
		target = target.Elem()
	}
	return target.Kind() == reflect.Int || target == reflect.TypeFor[time.Duration]() ||
		slices.Contains([]string{"N", "N/s", "AGE", "DURATION", "PERCENT"}, flag.PlaceHolder)
}
