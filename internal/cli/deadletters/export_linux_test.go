package deadletters_test

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"soniq/internal/cli/clitest"
	"soniq/internal/testdb"
)

// A terminal that --output names is as safe as standard output is.
func TestExport_toATerminalsName_neverDrivesIt(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	clitest.Seed(t, pool, clitest.Letter{Error: "a\x1b[2Jb\u009b2Jc"})
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = master.Close() }()
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	terminal := fmt.Sprintf("/dev/pts/%d", number)
	// While it is open, what was written stays to be read.
	slave, err := os.OpenFile(terminal, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = slave.Close() }()
	lines := bufio.NewReader(master)
	s := clitest.NewShell(t, pool.Config().ConnString())
	for _, format := range []string{"csv", "jsonl"} {
		s.OK("dead-letter", "export", "--format", format, "--output", terminal)
		line, err := lines.ReadString('\n')
		if err == nil && format == "csv" {
			line, err = lines.ReadString('\n') // after the header
		}
		if err != nil {
			t.Fatal(err)
		}
		if strings.ContainsAny(line, "\x1b\u009b") || !strings.Contains(line, "2J") {
			t.Errorf("%s: %q", format, line)
		}
	}
}
