package devdb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"soniq/internal/pause"
)

// postmaster is the pid of the server that runs on the data folder, or 0. The
// pid in a file that a crash left behind may belong to anybody by now, so the
// process must have the folder on its command line.
func (c *cluster) postmaster() (int, error) {
	text, err := readFile(c.pidPath())
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	line, _, _ := strings.Cut(string(text), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil || pid <= 0 {
		return 0, nil
	}
	if !bytes.Contains(commandLine(pid), []byte(c.dataDir())) {
		return 0, nil
	}
	return pid, nil
}

// commandLine is empty for a process that is gone or a zombie.
func commandLine(pid int) []byte {
	if line, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline")); err == nil {
		return line
	}
	if _, err := os.Stat("/proc/self/cmdline"); err == nil {
		return nil
	}
	// No Linux: ask ps. It fails for a pid that is no process's.
	line, err := exec.Command("ps", "-ww", "-o", "command=", "-p", strconv.Itoa(pid)).Output()
	if err != nil {
		return nil
	}
	return line
}

// waitGone waits until the process of a server has ended. The pid file goes
// some time before it, and the port after.
func (c *cluster) waitGone(ctx context.Context, pid int) error {
	for pid != 0 && bytes.Contains(commandLine(pid), []byte(c.dataDir())) {
		if err := pause.For(ctx, 5*time.Millisecond); err != nil {
			return fmt.Errorf("wait for server %d on %s to end: %w", pid, c.dataDir(), err)
		}
	}
	return nil
}

// shutDown ends a server that may be running: in good order at first, at once
// if that takes too long.
func (c *cluster) shutDown(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	patient, cancelPatience := context.WithTimeout(ctx, stopPatience)
	defer cancelPatience()
	err := c.end(patient, syscall.SIGINT)
	if patient.Err() == nil || ctx.Err() != nil {
		return err
	}
	return c.kill(ctx)
}

// kill ends the server at once, as a crash would.
func (c *cluster) kill(ctx context.Context) error { return c.end(ctx, syscall.SIGQUIT) }

// end signals the server, if one runs, and waits until it has ended.
func (c *cluster) end(ctx context.Context, sig syscall.Signal) error {
	pid, err := c.postmaster()
	if err != nil || pid == 0 {
		return err
	}
	if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("signal server %d on %s: %w", pid, c.dataDir(), err)
	}
	return c.waitGone(ctx, pid)
}
