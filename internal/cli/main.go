package cli

import (
	"fmt"
	"os"
	"os/signal"
	"os/user"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/term"

	"soniq/internal/cli/app"
	"soniq/internal/reaper"
)

// Main runs the command line of the process, and returns its exit code.
func Main() int {
	if runtime.GOOS == "linux" && os.Getpid() == reaper.FirstProcess {
		code, err := reaper.Run()
		if err == nil {
			return code
		}
		// Without it children stay as zombies, and all else works.
		_, _ = fmt.Fprintf(os.Stderr, "soniq: process 1: %s\n", err)
	}
	// Room for three: drain, cancel, exit.
	signals := make(chan os.Signal, 3)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	// A terminal that is closed stops what runs in it in good order too, unless
	// nohup has said otherwise.
	if !signal.Ignored(syscall.SIGHUP) {
		signal.Notify(signals, syscall.SIGHUP)
	}
	// A write to a pipe that nobody reads fails, and does not end the process: a worker
	// outlives the reader of its log, and bulk work is recorded as stopped. Nobody reads
	// the channel.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	width := 0
	if w, _, err := term.GetSize(int(os.Stdout.Fd())); err == nil {
		width = w
	}
	return Run(app.Process{
		Self:        invocation(os.Args[0]),
		Actor:       actor(),
		Stdin:       os.Stdin,
		Stdout:      os.Stdout,
		Stderr:      os.Stderr,
		StdinIsTTY:  term.IsTerminal(int(os.Stdin.Fd())),
		StdoutIsTTY: term.IsTerminal(int(os.Stdout.Fd())),
		StderrIsTTY: term.IsTerminal(int(os.Stderr.Fd())),
		Width:       width,
		Getenv:      os.Getenv,
		Now:         time.Now,
		Signals:     signals,
		Exit:        os.Exit,
	}, os.Args[1:])
}

// actor is the person at the keyboard, as far as the machine knows.
func actor() string {
	name := "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if host, err := os.Hostname(); err == nil {
		name += "@" + host
	}
	return name
}

// invocation is how to run this program again from the same folder. A program
// that 'go run' built is gone when it ends.
func invocation(arg0 string) string {
	if strings.Contains(filepath.ToSlash(arg0), "/go-build") {
		return "go run ./cmd/soniq"
	}
	return "soniq"
}
