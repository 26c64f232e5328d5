package devdb

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// minMajor is the oldest PostgreSQL that the schema runs on: CREATE OR REPLACE
// TRIGGER came with 14.
const minMajor = 14

// binariesEnv overrides the search; see Options.Binaries.
const binariesEnv = "SONIQ_DEV_POSTGRES"

// download is the choice of programs that are downloaded; 'download:16' says
// which major version.
const download = "download"

// newestMajor is the version that is downloaded where none is asked for.
const newestMajor = 18

// binaries are the server programs of one installation.
type binaries struct {
	dir   string
	major int
}

func (b binaries) postgres() string { return filepath.Join(b.dir, "postgres") }
func (b binaries) initdb() string   { return filepath.Join(b.dir, "initdb") }

// findBinaries chooses an installation that the owner can run. A data folder
// wants its own major version; 0 takes any, the most likely one first.
func findBinaries(ctx context.Context, c *cluster, major int) (binaries, error) {
	choice := c.binaries
	if choice == "" {
		choice = os.Getenv(binariesEnv)
	}
	wanted, downloads, err := wantsDownload(choice)
	if err != nil {
		return binaries{}, err
	}
	var found []binaries
	switch {
	case downloads:
		if major != 0 && wanted != 0 && wanted != major {
			return binaries{}, versionMismatch(c, major, []binaries{{major: wanted}})
		}
	case choice == "":
		for _, dir := range candidates() {
			b, err := inspect(ctx, c.owner, dir)
			if err != nil || b.major < minMajor {
				continue
			}
			if major == 0 || b.major == major {
				return b, nil
			}
			found = append(found, b)
		}
	default:
		b, err := inspect(ctx, c.owner, choice)
		if err != nil {
			return binaries{}, fmt.Errorf("%w in %s: %w", ErrNoBinaries, choice, err)
		}
		if b.major < minMajor {
			return binaries{}, fmt.Errorf("%w in %s: version %d is too old, want %d or later", ErrNoBinaries, choice, b.major, minMajor)
		}
		if major != 0 && b.major != major {
			return binaries{}, versionMismatch(c, major, []binaries{b})
		}
		return b, nil
	}

	// What was downloaded once is as good as installed.
	here := platform()
	p, err := pinFor(here, cmp.Or(major, wanted))
	if err != nil && major != 0 {
		return binaries{}, versionMismatch(c, major, found)
	}
	if err != nil {
		return binaries{}, fmt.Errorf("%w: %w; %s", ErrNoBinaries, err, installHint)
	}
	cache, err := cacheDir()
	if err != nil {
		return binaries{}, fmt.Errorf("%w: %w; %s", ErrNoBinaries, err, installHint)
	}
	return obtain(ctx, cache, here, p, c.owner, c.log)
}

func versionMismatch(c *cluster, major int, found []binaries) error {
	have := "none"
	if len(found) > 0 {
		var list []string
		for _, b := range found {
			list = append(list, strconv.Itoa(b.major))
		}
		have = strings.Join(slices.Compact(list), ", ")
	}
	return fmt.Errorf("%w: %s was made by version %d and the versions at hand are: %s; install PostgreSQL %d, set %s to the folder of its programs, or remove %s, which loses its data",
		ErrVersionMismatch, c.dataDir(), major, have, major, binariesEnv, c.base)
}

// candidates lists folders that may hold server programs: that of PATH first,
// then where packages put them, newest version first.
func candidates() []string {
	var dirs []string
	if path, err := exec.LookPath("postgres"); err == nil {
		// A distribution may link a single program into PATH; its siblings and
		// share folder are beside the real one.
		if real, err := filepath.EvalSymlinks(path); err == nil {
			dirs = append(dirs, filepath.Dir(real))
		}
		dirs = append(dirs, filepath.Dir(path))
	}
	patterns := []string{
		"/usr/lib/postgresql/*/bin", // Debian, Ubuntu
		"/usr/pgsql-*/bin",          // PostgreSQL's own RPMs
		"/usr/lib/postgresql*/bin",  // openSUSE
		"/usr/libexec/postgresql*",  // Alpine
		"/usr/local/pgsql/bin",      // from source
		"/usr/local/bin", "/usr/bin", "/opt/local/lib/postgresql*/bin",
	}
	if runtime.GOOS == "darwin" {
		patterns = append(patterns,
			"/opt/homebrew/opt/postgresql@*/bin", "/usr/local/opt/postgresql@*/bin",
			"/Applications/Postgres.app/Contents/Versions/*/bin", "/Library/PostgreSQL/*/bin",
		)
	}
	for _, pattern := range patterns {
		// The patterns are well-formed, the only error Glob knows.
		matches, _ := filepath.Glob(pattern)
		slices.SortFunc(matches, func(a, b string) int { return lastNumber(b) - lastNumber(a) })
		dirs = append(dirs, matches...)
	}
	return dirs
}

var numbers = regexp.MustCompile(`\d+`)

func lastNumber(s string) int {
	all := numbers.FindAllString(s, -1)
	if len(all) == 0 {
		return 0
	}
	n, _ := strconv.Atoi(all[len(all)-1])
	return n
}

var versionLine = regexp.MustCompile(`\(PostgreSQL\) (\d+)`)

// inspect runs the programs as the server's user: what that user cannot read
// is no use.
func inspect(ctx context.Context, o *owner, dir string) (binaries, error) {
	b := binaries{dir: dir}
	if info, err := os.Stat(b.initdb()); err != nil {
		return binaries{}, err
	} else if info.IsDir() {
		return binaries{}, fmt.Errorf("%s is a folder", b.initdb())
	}
	if err := ctx.Err(); err != nil {
		return binaries{}, err
	}
	out, err := o.command("/", b.postgres(), "--version").Output()
	if err != nil {
		return binaries{}, fmt.Errorf("run %s: %w", b.postgres(), err)
	}
	match := versionLine.FindSubmatch(out)
	if match == nil {
		return binaries{}, errors.New("cannot read the version of " + b.postgres())
	}
	b.major, err = strconv.Atoi(string(match[1]))
	return b, err
}
