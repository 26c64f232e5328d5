package cli_test

import (
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"

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

// isAmount reports whether the flag is a number or a duration.
func isAmount(flag *kong.Flag) bool {
	target := flag.Target.Type()
	if target.Kind() == reflect.Pointer {
		target = target.Elem()
	}
	return target.Kind() == reflect.Int || target == reflect.TypeFor[time.Duration]() ||
		slices.Contains([]string{"N", "N/s", "AGE", "DURATION", "PERCENT"}, flag.PlaceHolder)
}
