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

// wardenScript reads process groups from standard input: '+ ID' for one that has
// begun, '- ID' for one that has ended. When the input ends it kills the others.
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

// A Warden ends commands with this process, however that ends. It is a shell that
// reads a pipe. The kernel closes our end, after kill -9 too, and the shell kills
// the commands' process groups. Unlike Linux's parent-death signal this reaches what
// the commands have started, and works on every Unix. Its methods may be called
// concurrently.
type Warden struct {
	mu     sync.Mutex
	cmd    *exec.Cmd
	pipe   io.WriteCloser
	groups map[int]struct{}
}

// NewWarden starts the shell, which runs until Close.
//
// Errors: those of the operating system; no caller decides by them.
func NewWarden() (*Warden, error) {
	w := &Warden{groups: map[int]struct{}{}}
	if err := w.start(); err != nil {
		return nil, fmt.Errorf("start the warden of commands: %w", err)
	}
	return w, nil
}

func (w *Warden) start() error {
	cmd := exec.Command("/bin/sh", "-c", wardenScript)
	// A group of its own: a signal to the worker's group must not reach it.
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

// add tells the warden a process group. When it returns, the kernel has the message,
// which the warden reads even if this process ends now.
func (w *Warden) add(group int) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.groups[group] = struct{}{}
	_, err := fmt.Fprintf(w.pipe, "+ %d\n", group)
	if err == nil {
		return nil
	}
	// Somebody killed the shell. A new one gets all groups.
	_ = w.stop()
	if err := w.start(); err != nil {
		return fmt.Errorf("restart the warden of commands: %w", err)
	}
	return nil
}

// remove tells the warden that a group has ended. If the shell is gone, the next add
// notices.
func (w *Warden) remove(group int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.groups, group)
	_, _ = fmt.Fprintf(w.pipe, "- %d\n", group)
}

// Close kills the groups that are left, and waits for the shell to end.
//
// Errors: those of the operating system; no caller decides by them.
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
