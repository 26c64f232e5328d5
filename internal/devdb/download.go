package devdb

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// cacheDir keeps the downloaded programs. As root they must be readable by the
// server's user.
func cacheDir() (string, error) {
	if os.Geteuid() == 0 {
		return "/var/cache/soniq", nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find cache folder: %w", err)
	}
	return filepath.Join(dir, "soniq"), nil
}

// obtain returns the downloaded programs of a pin in the cache folder,
// downloading them (15 to 70 MB) the first time. Processes that need them at
// once take turns.
func obtain(ctx context.Context, cache, platform string, p pin, o *owner, log *slog.Logger) (binaries, error) {
	if err := makeFolders(cache, 0o755); err != nil {
		return binaries{}, fmt.Errorf("%w: make cache folder: %w; %s", ErrNoBinaries, err, installHint)
	}
	// What lies there is run.
	if err := checkOurs(cache, nil); err != nil {
		return binaries{}, fmt.Errorf("%w: %w", ErrNoBinaries, err)
	}
	target := filepath.Join(cache, "postgres-"+p.version)
	if b, err := inspect(ctx, o, filepath.Join(target, "bin")); err == nil {
		return b, nil
	}
	lock, err := lockFile(ctx, filepath.Join(cache, "download.lock"), exclusive)
	if err != nil {
		return binaries{}, fmt.Errorf("wait for another download of PostgreSQL: %w", err)
	}
	defer lock.release()
	if b, err := inspect(ctx, o, filepath.Join(target, "bin")); err == nil {
		return b, nil
	}

	// Left by a download that was killed; the lock says that none is under way.
	leftovers, _ := filepath.Glob(filepath.Join(cache, "unpack-*"))
	for _, dir := range leftovers {
		if err := os.RemoveAll(dir); err != nil {
			return binaries{}, fmt.Errorf("clear cache folder: %w", err)
		}
	}

	log.Info("downloading PostgreSQL, once", "version", p.version, "to", target)
	aside, err := os.MkdirTemp(cache, "unpack-")
	if err != nil {
		return binaries{}, fmt.Errorf("%w: make cache folder: %w; %s", ErrNoBinaries, err, installHint)
	}
	defer os.RemoveAll(aside)
	programs, err := downloadInto(ctx, aside, platform, p)
	if err != nil {
		return binaries{}, fmt.Errorf("%w: download PostgreSQL %s: %w; %s", ErrNoBinaries, p.version, err, installHint)
	}
	// What is there and didn't run is broken; the lock is ours.
	if err := os.RemoveAll(target); err != nil {
		return binaries{}, fmt.Errorf("unpack PostgreSQL: %w", err)
	}
	if err := os.Rename(programs, target); err != nil {
		return binaries{}, fmt.Errorf("unpack PostgreSQL: %w", err)
	}
	b, err := inspect(ctx, o, filepath.Join(target, "bin"))
	if err != nil {
		return binaries{}, fmt.Errorf("%w: the downloaded ones do not run here: %w; %s", ErrNoBinaries, err, installHint)
	}
	return b, nil
}

const installHint = "install PostgreSQL 14 or later (for example 'apt-get install postgresql', 'dnf install postgresql-server' or 'brew install postgresql@17'), or give the URL of a server of yours"

// downloadInto fetches the archive into dir and unpacks it there.
func downloadInto(ctx context.Context, dir, platform string, p pin) (programs string, err error) {
	from, err := findSource()
	if err != nil {
		return "", err
	}
	archive, err := from.fetch(ctx, platform, p, filepath.Join(dir, "archive.jar"))
	if err != nil {
		return "", err
	}
	defer archive.Close()
	programs = filepath.Join(dir, "programs")
	if err := makeFolders(programs, 0o755); err != nil {
		return "", err
	}
	if err := unpack(ctx, archive, p.size, programs, limits{maxUnpacked, maxEntries}); err != nil {
		return "", fmt.Errorf("unpack: %w", err)
	}
	return programs, nil
}

// wantsDownload takes a choice of binaries apart: 'download', or
// 'download:16' for a major version; 0 stands for any.
func wantsDownload(choice string) (major int, ok bool, err error) {
	if choice == download {
		return 0, true, nil
	}
	version, ok := strings.CutPrefix(choice, download+":")
	if !ok {
		return 0, false, nil
	}
	if major, err = strconv.Atoi(version); err != nil || major < minMajor {
		return 0, true, fmt.Errorf("%w: %q: want a major version of PostgreSQL from %d, such as %s:%d", ErrNoBinaries, choice, minMajor, download, newestMajor)
	}
	return major, true, nil
}
