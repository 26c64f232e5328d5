package reaper

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"

	"golang.org/x/term"
)

// passedOn are the signals that the program gets. SIGPIPE is none: nothing is written
// here.
var passedOn = []os.Signal{
	syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGWINCH, syscall.SIGCONT,
}

// Run starts this program again with the same arguments, environment and streams, passes
// signals on to it, and waits for every child until the program has ended. It returns the
// program's exit code: 128 and the signal's number where a signal has ended it.
//
// Errors: that the program could not be started.
func Run() (code int, err error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, passedOn...)
	defer signal.Stop(signals)
	// The kernel sends Pdeathsig when the thread ends that has started the child.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	program := exec.Command(self)
	program.Args = os.Args
	program.Stdin, program.Stdout, program.Stderr = os.Stdin, os.Stdout, os.Stderr
	// In a group of its own, Ctrl-C at a terminal reaches the program once: from the
	// terminal, whose foreground it is, and not from here too.
	program.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if term.IsTerminal(0) {
		program.SysProcAttr.Foreground, program.SysProcAttr.Ctty = true, 0
	}
	if err := program.Start(); err != nil {
		return 0, fmt.Errorf("start the program: %w", err)
	}
	id := program.Process.Pid
	go func() {
		for s := range signals {
			_ = syscall.Kill(id, s.(syscall.Signal)) // it may have ended
		}
	}()
	return wait(id)
}

// wait waits for all children until the program has ended.
func wait(program int) (code int, err error) {
	for {
		var status syscall.WaitStatus
		id, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil:
			return 0, fmt.Errorf("wait for children: %w", err)
		case id != program:
		case status.Signaled():
			return 128 + int(status.Signal()), nil
		default:
			return status.ExitStatus(), nil
		}
	}
}
