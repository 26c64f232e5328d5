package cli_test

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"soniq/internal/cli/clitest"
	"soniq/internal/eventually"
)

// orphansScript leaves twenty orphans, which end at once, and waits until no zombie of
// the first process is left.
const orphansScript = `
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
  (setsid sh -c 'exit 0' &)
done
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30; do
  zombies=0
  for f in /proc/[0-9]*/stat; do
    read -r id name state parent rest < "$f" 2>/dev/null || continue
    [ "$state $parent" = 'Z 1' ] && zombies=$((zombies + 1))
  done
  [ $zombies = 0 ] && break
  sleep 0.5
done
echo "{\"zombies\": $zombies, \"parent\": $PPID}"`

// firstProcess prepares 'soniq args' as process 1 of a namespace of its own.
func firstProcess(t *testing.T, args ...string) *clitest.Program {
	t.Helper()
	// It needs root, or a kernel that lets users make namespaces.
	if out, err := exec.Command("unshare", "--pid", "--fork", "--mount-proc", "true").CombinedOutput(); err != nil {
		t.Skipf("unshare can't make a process namespace here: %v, %s", err, out)
	}
	p := clitest.NewProgram(t, t.TempDir(), "", args...)
	self := p.Path
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		t.Fatal(err)
	}
	p.Path = unshare
	p.Args = append([]string{"unshare", "--pid", "--fork", "--kill-child", "--mount-proc", self}, args...)
	return p
}

// As process 1 of a container, soniq waits for the children that commands leave, and
// passes on the exit code of the program.
func TestFirstProcess_orphans_areReaped(t *testing.T) {
	t.Parallel()
	p := firstProcess(t, "worker", "run-once", "j", "--handle", "j=exec:"+orphansScript)
	p.Begin(t)
	if err := p.Wait(); err != nil || !strings.Contains(strings.ReplaceAll(p.Out.String(), " ", ""), `"zombies":0`) {
		t.Errorf("%v, %s%s", err, p.Out.String(), p.Err.String())
	}
	p = firstProcess(t, "worker", "run-once", "j", "--handle", "j=exec:exit 3")
	p.Begin(t)
	if err := p.Wait(); p.ProcessState.ExitCode() != 1 {
		t.Errorf("%v, %s", err, p.Err.String())
	}
}

// What process 1 is sent reaches the program, which ends in good order.
func TestFirstProcess_signalled_endsInGoodOrder(t *testing.T) {
	t.Parallel()
	p := firstProcess(t, "worker", "run-once", "j", "--handle", "j=exec:echo running >&2; exec sleep 300")
	p.Begin(t)
	eventually.True(t, "the command", func() bool { return strings.Contains(p.Err.String(), "running") })
	// unshare ignores the signal while it waits; its child is process 1.
	children, err := os.ReadFile("/proc/" + strconv.Itoa(p.Process.Pid) + "/task/" + strconv.Itoa(p.Process.Pid) + "/children")
	if err != nil {
		t.Fatal(err)
	}
	first, err := strconv.Atoi(strings.TrimSpace(string(children)))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(first, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = p.Wait() // it has failed: its command was ended
	clitest.WantIn(t, "stderr", p.Err.String(), "soniq: interrupted")
}
