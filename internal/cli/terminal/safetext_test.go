package terminal_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"soniq/internal/cli/app"
	"soniq/internal/cli/clitest"
	"soniq/internal/cli/terminal"
	"soniq/internal/testdb"
)

// evil is what jobs may write to take over a terminal.
var evil = map[string]string{
	"clear screen":        "\x1b[2J\x1b[H",
	"window title":        "\x1b]0;owned\x07",
	"hyperlink":           "\x1b]8;;http://evil\x1b\\click\x1b]8;;\x1b\\",
	"C1 CSI":              "\u009b31mred",
	"C1 OSC":              "\u009d0;owned\u009c",
	"raw C1 byte":         "\x9b31m",
	"carriage return":     "failed\rfine  ",
	"backspace":           "rm -rf\b\b\b\b\b\bls",
	"bell, NUL-like, DEL": "\a\x01\x7f",
	"vertical":            "a\vb\fc",
	"bidi override":       "abc\u202edef\u202c",
	"bidi isolate":        "\u2066abc\u2069",
	"arabic letter mark":  "\u061cx",
	"line separator":      "one\u2028two\u2029three",
	"zero width":          "pay\u200bpal \ufeff",
	"tag characters":      "a\U000e0041b",
	"soft hyphen":         "a\u00adb",
	"truncated rune":      "abc\xe2\x80",
	"invalid":             "\xff\xfe",
	"tint's own escape":   `\x1b[31m with a space`,
}

func TestOneLine_letsNothingThrough(t *testing.T) {
	t.Parallel()
	for name, text := range evil {
		safe := terminal.OneLine(text + "\n\tx")
		clitest.CheckSafe(t, safe)
		if strings.ContainsAny(safe, "\n\t") {
			t.Errorf("%s: more than one line: %q", name, safe)
		}
	}
	for _, plain := range []string{"", "connection refused", "naïve 日本語 👩\u200d💻 می\u200cخواهم", `C:\temp`} {
		if got := terminal.OneLine(plain); got != plain {
			t.Errorf("oneLine(%q) = %q", plain, got)
		}
	}
}

// A character must not slip through in two halves.
func TestSafeWriter_isTheSameHoweverItIsCut(t *testing.T) {
	t.Parallel()
	for name, text := range evil {
		text += " end"
		var whole bytes.Buffer
		if _, err := terminal.NewSafeWriter(&whole).Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		clitest.CheckSafe(t, whole.String())
		for cut := range len(text) {
			var parts bytes.Buffer
			w := terminal.NewSafeWriter(&parts)
			for _, part := range []string{text[:cut], text[cut:]} {
				if n, err := w.Write([]byte(part)); n != len(part) || err != nil {
					t.Fatalf("Write = %d, %v", n, err)
				}
			}
			if parts.String() != whole.String() {
				t.Errorf("%s, cut at %d: %q, whole %q", name, cut, parts.String(), whole.String())
			}
		}
	}
}

func TestSafeJSONWriter_keepsTheMeaning(t *testing.T) {
	t.Parallel()
	for name, text := range evil {
		raw, err := json.Marshal(text)
		if err != nil {
			t.Fatal(err)
		}
		var want, got string
		if err := json.Unmarshal(raw, &want); err != nil {
			t.Fatal(err)
		}
		var safe bytes.Buffer
		if _, err := terminal.NewSafeJSONWriter(&safe).Write(raw); err != nil {
			t.Fatal(err)
		}
		clitest.CheckSafe(t, safe.String())
		if err := json.Unmarshal(safe.Bytes(), &got); err != nil || got != want {
			t.Errorf("%s: %q, %v, want %q: %s", name, got, err, want, safe.String())
		}
	}
}

func TestLogger_textNeverDrivesTheTerminal(t *testing.T) {
	t.Parallel()
	for name, text := range evil {
		for _, format := range []string{"text", "json"} {
			var out bytes.Buffer
			a := &app.App{
				Process: app.Process{Stderr: &out, StderrIsTTY: true, Getenv: func(string) string { return "" }},
				Globals: app.Globals{LogFormat: format, LogLevel: "info"},
			}
			log, err := a.NewLogger()
			if err != nil {
				t.Fatal(err)
			}
			log.Info("message "+text, "error", text, "wrapped", app.ErrNoDatabase, text, 1, "any", []string{text})
			printed := out.String()
			// tint's own colours.
			for _, colour := range []string{"\x1b[0m", "\x1b[2m", "\x1b[22m", "\x1b[92m"} {
				printed = strings.ReplaceAll(printed, colour, "")
			}
			if format == "json" && !json.Valid(out.Bytes()) {
				t.Errorf("%s: not JSON: %q", name, printed)
			}
			clitest.CheckSafe(t, printed)
		}
	}
}

// Every command that prints what a job wrote, with all of the corpus in every
// field that a job can fill.
func TestCommands_hostileDeadLettersAreHarmless(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	s.TTY, s.Width = true, 200
	all := ""
	for _, text := range evil {
		all += strings.ToValidUTF8(text, "") + " "
	}
	args, err := json.Marshal(map[string]string{all: all})
	if err != nil {
		t.Fatal(err)
	}
	tags := string(args)
	id := clitest.Seed(t, pool, clitest.Letter{Job: all, Args: string(args), Queue: all, Reason: all, Error: all + "\nsecond " + all, Tags: &tags}).String()
	for _, command := range []string{
		"dead-letter show " + id,
		"dead-letter show " + id + " --json",
		"job " + id,
		"job " + id + " --json",
		"dead-letter replay " + id + " --dry-run",
		"dead-letter list",
		"dead-letter list --json",
		"dead-letter stats",
		"dead-letter stats --json",
		"dead-letter export",
		"dead-letter export --format jsonl",
		"dead-letter export --format csv",
		"dead-letter delete --all --dry-run",
		"dead-letter replay " + id,
		"status",
		"status --json",
	} {
		r := s.OK(strings.Fields(command)...)
		clitest.CheckSafe(t, r.Out)
		clitest.CheckSafe(t, r.Err)
		if t.Failed() {
			t.Fatal(command)
		}
	}
}
