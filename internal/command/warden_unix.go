//go:build unix

package command

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
)

// wardenScript reads process groups from standard input, '+ ID' for one that
// has begun and '- ID' for one that has ended, and kills those that are left
// when the input ends.
const wardenScript = `
trap '' HUP INT QUIT TERM
groups=' '
while read -r what id; do
  case $what in
    +) groups="$groups$id " ;;
    -) groups="${groups%% $id *} ${groups#* $id }" ;;
  esac
done
for id in $groups; do
  kill -s KILL -- "-$id" 2>/dev/null
done
`

// A Warden makes commands die with this process, however that dies. It is a
// shell that waits on a pipe: the kernel closes our end, after kill -9 too,
// and the shell kills the commands' process groups. Unlike Linux's
// parent-death signal it reaches what the commands have started, and it works
// on every Unix.
type Warden struct {
	mu     sync.Mutex
	cmd    *exec.Cmd
	pipe   io.WriteCloser
	groups map[int]struct{}
}

// NewWarden starts the shell. It runs until Close.
func NewWarden() (*Warden, error) {
	w := &Warden{groups: map[int]struct{}{}}
	if err := w.start(); err != nil {
		return nil, fmt.Errorf("start the warden of commands: %w", err)
	}
	return w, nil
}

func (w *Warden) start() error {
	cmd := exec.Command("/bin/sh", "-c", wardenScript)
	// Its own group: what kills the worker's must not reach it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	cmd.Stdin = read
	err = cmd.Start()
	_ = read.Close()
	if err != nil {
		_ = write.Close()
		return err
	}
	w.cmd, w.pipe = cmd, write
	for id := range w.groups {
		if _, err := fmt.Fprintf(write, "+ %d\n", id); err != nil {
			return err
		}
	}
	return nil
}

// add puts a process group under the warden. The kernel has the message when
// it returns.
func (w *Warden) add(group int) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.groups[group] = struct{}{}
	_, err := fmt.Fprintf(w.pipe, "+ %d\n", group)
	if err == nil {
		return nil
	}
	// Somebody killed the shell: another one takes over all groups.
	_ = w.stop()
	if err := w.start(); err != nil {
		return fmt.Errorf("restart the warden of commands: %w", err)
	}
	return nil
}

// remove takes a group that has ended off the list. A shell that is gone is
// noticed by the next add.
func (w *Warden) remove(group int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.groups, group)
	_, _ = fmt.Fprintf(w.pipe, "- %d\n", group)
}

// Close kills the groups that are left and waits for the shell.
func (w *Warden) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stop()
}

func (w *Warden) stop() error {
	err := w.pipe.Close()
	var exit *exec.ExitError
	if waitErr := w.cmd.Wait(); waitErr != nil && !errors.As(waitErr, &exit) {
		err = errors.Join(err, waitErr)
	}
	return err
}
