package cli_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"soniq/internal/cli/app"
	"soniq/internal/cli/clitest"
	"soniq/internal/testdb"
)

// namedPipe is a pipe that nobody writes to, nor reads from.
func namedPipe(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// openEnds lets go of what waits for the other end of the pipe.
func openEnds(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// A command that waits for somebody at the other end of a pipe, or reads without
// an end, ends with the first signal.
func TestInput_pipeThatNobodyWritesTo_endsWithASignal(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	id := clitest.Seed(t, pool, clitest.Letter{}).String()
	for _, args := range [][]string{
		{"dead-letter", "import", "PIPE", "--format", "jsonl"},
		{"enqueue", "--from", "PIPE"},
		{"enqueue", "j", "--args", "@PIPE"},
		{"dead-letter", "replay", id, "--args", "@PIPE"},
		{"worker", "--config", "PIPE", "--log-format", "text"},
		{"worker", "--config", "PIPE", "--check-config", "--log-format", "text"},
		{"worker", "run-once", "j", "--config", "PIPE"},
		{"worker", "run-once", "j", "--handle", "j=exec:true", "--args", "@PIPE"},
		{"hooks", "run", "--config", "PIPE", "--log-format", "text"},
	} {
		pipe := namedPipe(t, "in")
		line := strings.Split(strings.ReplaceAll(strings.Join(args, "\x00"), "PIPE", pipe), "\x00")
		s := clitest.NewShell(t, pool.Config().ConnString())
		running := s.Start(line...)
		s.Signals <- syscall.SIGTERM
		if code := running.Wait(t); code != app.ExitFailed || !strings.HasSuffix(running.Err.String(), "interrupted\n") {
			t.Errorf("%q: exit code %d, %q", args, code, running.Err.String())
		}
		openEnds(t, pipe)
	}
	if n := clitest.CountJobs(t, pool); n != 0 {
		t.Errorf("%d jobs", n)
	}
}

// Input without an end is refused at the limit, in one line.
func TestInput_withoutAnEnd_isRefusedAtTheLimit(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	id := clitest.Seed(t, pool, clitest.Letter{}).String()
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"enqueue", "j", "--args", "@/dev/zero"}, "--args are over the limit of 1048576 bytes"},
		{[]string{"enqueue", "j", "--args", "@/dev/zero", "--max-args-bytes", "2000000"}, "--args are over the limit of 2000000 bytes; store large data elsewhere and enqueue a reference to it, or allow more with --max-args-bytes"},
		{[]string{"enqueue", "j", "--args", `{"a":1}`, "--max-args-bytes", "6"}, "--args are over the limit of 6 bytes"},
		{[]string{"enqueue", "--from", "/dev/zero"}, "/dev/zero: line 1 has no end within 268435456 bytes; nothing was enqueued"},
		{[]string{"dead-letter", "replay", id, "--args", "@/dev/zero"}, "--args: /dev/zero is longer than 67108864 bytes"},
		{[]string{"dead-letter", "import", "/dev/zero", "--format", "jsonl"}, "/dev/zero: line 1, record 1: it is longer than 67108864 bytes, and this is no regular file"},
		{[]string{"dead-letter", "import", "/dev/zero", "--format", "csv"}, "/dev/zero: line 1: it is longer than 67108864 bytes, and this is no regular file"},
		{[]string{"worker", "--config", "/dev/zero", "--log-format", "text"}, "/dev/zero is longer than 1048576 bytes: it can't be a configuration file"},
	} {
		r := clitest.NewShell(t, pool.Config().ConnString()).Run(test.args...)
		clitest.WantCode(t, r, app.ExitUsage)
		clitest.WantIn(t, "stderr", r.Err, test.want)
		clitest.CheckComplaint(t, r)
	}
	if n := clitest.CountJobs(t, pool); n != 0 {
		t.Errorf("%d jobs", n)
	}
}

// UTF-16, which Windows PowerShell's '>' writes, is called that wherever a file is read.
func TestInput_utf16_isNamed(t *testing.T) {
	t.Parallel()
	s := clitest.NewShell(t, testdb.NewURL(t))
	dir := t.TempDir()
	for name, order := range map[string]struct {
		mark string
		low  int // the place of the lower byte
	}{"LE with a mark": {"\xff\xfe", 0}, "BE with a mark": {"\xfe\xff", 1}, "LE": {"", 0}, "BE": {"", 1}} {
		utf16 := func(ascii string) string {
			text := []byte(order.mark)
			for _, c := range []byte(ascii) {
				unit := [2]byte{}
				unit[order.low] = c
				text = append(text, unit[:]...)
			}
			path := filepath.Join(dir, strings.ReplaceAll(name+ascii[:1], "{", "args"))
			if err := os.WriteFile(path, text, 0o600); err != nil {
				t.Fatal(err)
			}
			return path
		}
		object, yaml := utf16(`{"name": "a"}`), utf16("jobs:\n  a: {exec: b}\n")
		for _, args := range [][]string{
			{"enqueue", "a", "--args", "@" + object},
			{"enqueue", "--from", object},
			{"worker", "--check-config", "--config", yaml},
		} {
			r := s.Run(args...)
			clitest.WantCode(t, r, app.ExitUsage)
			clitest.WantIn(t, name, r.Err, "UTF-16; save it as UTF-8")
		}
	}
}
