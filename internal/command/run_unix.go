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

// gateScript starts the command only when the warden knows its process group. If
// this process ends before that, the read fails and nothing has run.
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
		// The command succeeded. What it left behind held the pipes open.
		return nil
	case errors.As(err, &exit):
		return err
	default:
		return fmt.Errorf("run command: %w", err)
	}
}

// WasStopped reports whether err is that of a command which SIGTERM, SIGINT or SIGHUP has
// ended, or which says so by the exit code that shells use: 128 and the signal's number.
func WasStopped(err error) bool {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return false
	}
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP} {
		status, ok := exit.Sys().(syscall.WaitStatus)
		if exit.ExitCode() == 128+int(signal) || ok && status.Signaled() && status.Signal() == signal {
			return true
		}
	}
	return false
}

// begin starts the command behind its gate, tells the warden its process group, and
// opens the gate.
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

// terminate sends the group SIGTERM and, after grace, SIGKILL. It returns what Wait
// returned.
func terminate(group int, grace time.Duration, ended <-chan error) error {
	_ = syscall.Kill(-group, syscall.SIGTERM)
	over := time.NewTimer(grace)
	defer over.Stop()
	select {
	case err := <-ended:
		return err
	case <-over.C:
		_ = syscall.Kill(-group, syscall.SIGKILL)
		return <-ended
	}
}
