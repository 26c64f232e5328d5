package cli_test

import (
	"cmp"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"

	"soniq/internal/cli"
	"soniq/internal/cli/app"
	"soniq/internal/cli/clitest"
	"soniq/internal/testdb"
)

// leaf is a command of the grammar, and the words that call it.
type leaf struct {
	*kong.Node
	path  []string // without arguments
	words []string
}

type kongFlag = kong.Flag

// leaves are all commands but the one for shells.
func leaves(t *testing.T) (parser *kong.Kong, all []leaf) {
	t.Helper()
	var g cli.Grammar
	parser, err := kong.New(&g, kong.ExplicitGroups(cli.Groups), kong.Vars{"version": ""})
	if err != nil {
		t.Fatal(err)
	}
	for _, node := range parser.Model.Leaves(false) {
		if node.Name == "__complete" {
			continue
		}
		var words []string
		for n := node; n.Parent != nil; n = n.Parent {
			words = append([]string{n.Name}, words...)
		}
		path := slices.Clone(words)
		for _, p := range node.Positional {
			if p.Required {
				words = append(words, cmp.Or(p.EnumSlice()[0], "x"))
			}
		}
		all = append(all, leaf{node, path, words})
	}
	return parser, all
}

// oneValue is a value that the flag's type takes, or "" for a flag without one.
func oneValue(flag *kong.Flag) string {
	target := flag.Target.Type()
	if target.Kind() == reflect.Pointer {
		target = target.Elem()
	}
	switch {
	case flag.Name == "from" && flag.PlaceHolder == "CURSOR":
		return "0"
	case flag.IsBool():
		return ""
	case flag.EnumSlice()[0] != "":
		return flag.EnumSlice()[0]
	case target.Kind() == reflect.Map:
		return "k=1"
	case target == reflect.TypeFor[time.Duration]():
		return "1s"
	case target.Kind() == reflect.Int:
		return "1"
	default:
		return "k=x"
	}
}

// Whatever is typed twice is refused, or means both: no flag is dropped.
func TestFlags_givenTwice(t *testing.T) {
	t.Parallel()
	parser, all := leaves(t)
	for i, command := range all {
		flags := command.Flags
		if i == 0 {
			flags = append(flags, parser.Model.Flags...) // the same ones everywhere
		}
		for _, flag := range flags {
			name := "--" + flag.Name
			if flag.IsCumulative() && !strings.Contains(flag.Help, "Repeatable") {
				t.Errorf("%s %s: the help doesn't say what it means twice: %q", command.words, name, flag.Help)
			}
			words := slices.Clone(command.words)
			for _, f := range flags {
				if f.Required && f != flag {
					words = append(words, "--"+f.Name+"="+oneValue(f))
				}
			}
			for _, pair := range twice(flag) {
				for _, f := range flags {
					f.Set = false // a parser is for one line
				}
				cmd, err := parser.Parse(append(slices.Clone(words), pair...))
				if err == nil {
					err = cli.CheckOnce(cmd)
				}
				if err == nil || !strings.Contains(err.Error(), flag.Name) || !strings.Contains(err.Error(), "twice") {
					t.Errorf("%s %s: %v", command.words, pair, err)
				}
			}
		}
	}
}

// twice are the ways to type a flag twice that must be refused.
func twice(flag *kong.Flag) (pairs [][]string) {
	keyed := strings.Contains(flag.FormatPlaceHolder(), "=") || flag.Tag.Get("once") != ""
	// A worker reads its file before it looks at the names of --handle.
	if flag.Name == "help" || flag.Name == "version" || flag.IsCumulative() && !keyed || flag.Name == "handle" {
		return nil
	}
	value := oneValue(flag)
	if value != "" {
		value = "=" + value
	}
	one := "--" + flag.Name + value
	pairs = [][]string{{one, one}}
	switch flag.Tag.Negatable {
	case "":
	case "_":
		pairs = append(pairs, []string{one, "--no-" + flag.Name})
	default:
		pairs = append(pairs, []string{one, "--" + flag.Tag.Negatable})
	}
	if flag.Short != 0 {
		pairs = append(pairs, []string{one, "-" + string(flag.Short) + value})
	}
	return pairs
}

// An empty value is a variable of a script that isn't set. It is refused: no flag, and no
// argument that may be left out, is taken for one that isn't there.
func TestFlags_givenEmpty(t *testing.T) {
	t.Parallel()
	parser, all := leaves(t)
	for i, command := range all {
		flags := command.Flags
		if i == 0 {
			flags = append(flags, parser.Model.Flags...) // the same ones everywhere
		}
		for _, flag := range flags {
			if flag.IsBool() || flag.Name == "comment" || flag.PlaceHolder == "CURSOR" {
				continue // no comment is an empty one, and an empty cursor is the beginning
			}
			words := slices.Clone(command.words)
			for _, f := range flags {
				f.Set = false // a parser is for one line
				if f.Required && f != flag {
					words = append(words, "--"+f.Name+"="+oneValue(f))
				}
			}
			// A number, a duration or one of a list of words is refused as it is read.
			cmd, err := parser.Parse(append(words, "--"+flag.Name+"="))
			if err == nil {
				err = cli.CheckFilled(cmd)
			}
			if err == nil || !strings.Contains(err.Error(), "--"+flag.Name) {
				t.Errorf("%s --%s=: %v", command.words, flag.Name, err)
			}
		}
	}
	for _, words := range [][]string{
		{"hooks", "deliveries", ""},
		{"dead-letter", "history", ""},
		{"dead-letter", "list", "--job", "a", "--job", ""},
		{"worker", "--handle", "a=exec:true", "--queues", "a,,b"},
	} {
		r := clitest.NewShell(t, "postgres://127.0.0.1:1/none").Run(words...)
		if r.Code != app.ExitUsage || !strings.Contains(r.Err, "is empty") {
			t.Errorf("%q: exit code %d, %q", words, r.Code, r.Err)
		}
		clitest.CheckComplaint(t, r)
	}
}

func TestFlags_keysGivenTwice(t *testing.T) {
	t.Parallel()
	const id = "01890a5d-ac96-774b-bcce-b302099a8057"
	for _, test := range []struct{ line, want string }{
		{"dead-letter delete --tag team=a --tag team=b --yes", `--tag is given twice for "team"`},
		{"dead-letter delete --filter aaa --filter bbb --dry-run", "--filter is given twice"},
		{"dead-letter list --replayed --no-replayed", "--[no-]replayed is given twice"},
		{"dead-letter replay " + id + " --set a.b=1 --set a.b=2", `--set is given twice for "a.b"`},
		{"dead-letter replay " + id + " --set a.b=1 --unset a.b", `--set and --unset both name "a.b"`},
		{"dead-letter tag " + id + " k=1 k=2", `"k" is given twice`},
		{"hooks add webhook https://example.com --header A:1 --header a:2", `--header is given twice for "a"`},
		{"worker --handle a=exec:true --queue-concurrency q=1,q=2", `is given twice for "q"`},
		{"status --json --json", "--json is given twice"},
		{"--log-level debug status --log-level info", "--log-level is given twice"},
	} {
		r := clitest.NewShell(t, "").Run(strings.Fields(test.line)...)
		if r.Code != app.ExitUsage || !strings.Contains(r.Err, test.want) {
			t.Errorf("%s: exit code %d, %q, want %q", test.line, r.Code, r.Err, test.want)
		}
		clitest.CheckComplaint(t, r)
	}
}

// A time as it is printed, with what tells its zone.
var printedTime = regexp.MustCompile(`\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:\.\d+)?(?: UTC|Z|[+-]\d\d(?::?\d\d)?)?`)

// wantTimes checks that each time in text has its zone, and that a flag reads it.
func wantTimes(t *testing.T, what, text string) {
	t.Helper()
	for _, printed := range printedTime.FindAllString(text, -1) {
		if !strings.HasSuffix(printed, "UTC") && !strings.HasSuffix(printed, "Z") {
			t.Errorf("%s prints %q, without UTC or Z", what, printed)
		}
		if _, err := app.ParseUntil("--until", &printed, time.Now()); err != nil {
			t.Errorf("%s prints %q: %v", what, printed, err)
		}
	}
}

// What show prints picks its own row.
func TestTimes_printedOnesPasteBack(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	id := clitest.Seed(t, pool, clitest.Letter{}).String()
	times := printedTime.FindAllString(s.OK("dead-letter", "show", id).Out, -1)
	listed := clitest.Decode[[]map[string]any](t, s.OK("dead-letter", "list", "--json").Out)
	for _, printed := range append(times, fmt.Sprint(listed[0]["moved_to_dead_letter_at"])) {
		if out := s.OK("dead-letter", "list", "--since", printed, "--until", printed).Out; !strings.Contains(out, id) {
			t.Errorf("--since and --until %q: %s", printed, out)
		}
	}
	if len(times) < 2 {
		t.Errorf("only %q", times)
	}
}

// A variable and a flag are no two flags: the flag counts.
func TestFlags_besideTheEnvironment(t *testing.T) {
	t.Parallel()
	s := clitest.NewShell(t, "postgres://127.0.0.1:1/x")
	r := s.Run("status", "--database-url", fmt.Sprintf("postgres://%s/y", clitest.ClosedPort(t)))
	if r.Code != app.ExitFailed || strings.Contains(r.Err, "127.0.0.1:1:") {
		t.Errorf("exit code %d, %q", r.Code, r.Err)
	}
}
