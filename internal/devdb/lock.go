package devdb

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"soniq/internal/pause"
)

// How a lock file is locked.
const (
	exclusive = unix.LOCK_EX
	sharedUse = unix.LOCK_SH
)

// errLocked is returned by tryLockFile when someone else is in the way.
var errLocked = errors.New("locked by another process")

// fileLock is a lock that the kernel drops with its process. Two locks on one
// file exclude each other in one process too.
type fileLock struct{ file *os.File }

// lockFile waits for the lock as long as ctx allows. It tries again and again:
// a blocking flock cannot be interrupted.
func lockFile(ctx context.Context, path string, how int) (*fileLock, error) {
	// A start that someone else is at takes hundreds of milliseconds.
	const interval = 10 * time.Millisecond
	for {
		lock, err := tryLockFile(path, how)
		if !errors.Is(err, errLocked) {
			return lock, err
		}
		if err := pause.For(ctx, interval); err != nil {
			return nil, fmt.Errorf("wait for %s: %w", path, err)
		}
	}
}

func tryLockFile(path string, how int) (*fileLock, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(file.Fd()), how|unix.LOCK_NB)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err == nil {
		return &fileLock{file: file}, nil
	}
	_ = file.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, errLocked
	}
	return nil, fmt.Errorf("lock %s: %w", path, err)
}

// release unlocks before it closes: a child that is just being forked holds a
// copy of the descriptor for a moment, and with it the lock.
func (l *fileLock) release() {
	_ = unix.Flock(int(l.file.Fd()), unix.LOCK_UN)
	_ = l.file.Close()
}
