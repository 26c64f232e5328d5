// Command soniq sets up the database, runs workers whose handlers are
// commands and HTTP endpoints, enqueues jobs, and inspects, replays, cleans
// and exports the dead-letter queue.
//
// The grammar is in cli.go: structs with tags, which kong parses. Each command
// has a file of its own with a Run method that gets an *app: its streams,
// clock, environment, signals and database. Nothing else reaches for the
// process, so the tests parse and run commands in theirs.
//
// Data goes to standard output, notes and logs to standard error. Exit codes
// are in exit.go.
package main

import (
	"os"
	"os/signal"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/term"

	"soniq/internal/cli/app"
)

func main() {
	// Room for three: drain, cancel, exit.
	signals := make(chan os.Signal, 3)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	// A terminal that is closed stops what runs in it in good order too, unless
	// nohup has said otherwise.
	if !signal.Ignored(syscall.SIGHUP) {
		signal.Notify(signals, syscall.SIGHUP)
	}
	width := 0
	if w, _, err := term.GetSize(int(os.Stdout.Fd())); err == nil {
		width = w
	}
	os.Exit(run(app.Process{
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
	}, os.Args[1:]))
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
