//go:build unix

package command

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// gateScript holds the command back until the warden knows its process group:
// if the process dies before, the read fails and nothing has run.
const gateScript = `read -r go <&3 && exec 3<&- /bin/sh -c "$1"`

func (w *Warden) run(ctx context.Context, c Command) error {
	cmd := exec.Command("/bin/sh", "-c", gateScript, "/bin/sh", c.Line)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.Stdin, c.Stdout, c.Stderr
	cmd.Dir, cmd.Env = c.Dir, c.Env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = PipeGrace

	group, err := w.begin(cmd)
	if err != nil {
		return fmt.Errorf("start command: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err = <-ended:
	case <-ctx.Done():
		err = terminate(group, c.Grace, ended)
	}
	_ = syscall.Kill(-group, syscall.SIGKILL)
	w.remove(group)
	var exit *exec.ExitError
	switch {
	case err == nil || errors.Is(err, exec.ErrWaitDelay):
		// What it left behind held the pipes open; it ended well itself.
		return nil
	case errors.As(err, &exit):
		return err
	default:
		return fmt.Errorf("run command: %w", err)
	}
}

// begin starts the command behind its gate, puts its process group under the
// warden, and opens the gate.
func (w *Warden) begin(cmd *exec.Cmd) (group int, err error) {
	gate, open, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer func() { _ = open.Close() }()
	cmd.ExtraFiles = []*os.File{gate}
	err = cmd.Start()
	_ = gate.Close()
	if err != nil {
		return 0, err
	}
	group = cmd.Process.Pid
	if err = w.add(group); err == nil {
		_, err = open.WriteString("\n")
	}
	if err != nil {
		_ = open.Close()
		_ = cmd.Wait()
		w.remove(group)
		return 0, err
	}
	return group, nil
}

// terminate ends the group, politely first, and returns what Wait returned.
func terminate(group int, polite time.Duration, ended <-chan error) error {
	_ = syscall.Kill(-group, syscall.SIGTERM)
	grace := time.NewTimer(polite)
	defer grace.Stop()
	select {
	case err := <-ended:
		return err
	case <-grace.C:
		_ = syscall.Kill(-group, syscall.SIGKILL)
		return <-ended
	}
}
