package devdb

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"soniq/internal/pause"
)

// watchdogScript is the parent of a server; see the package comment. Its
// arguments are the folder for answers, the data folder, a folder to remove in
// the end (or nothing), and the server's command line. It reads the pipe on
// standard input; descriptor 3 is a pipe that only the server keeps, whose end
// tells the starter that the server died. Higher ones may be a caller's, such as
// a build's lock, and are not for keeping.
//
// A line is 'keep', which takes back the removal, or a token to answer with a
// file of that name. At the end of the pipe the server is shut down, unless a
// newer server has taken over the data folder meanwhile: ours died then. A
// signal that comes before the server has set up its handlers is lost, so it is
// repeated, and sharpened at last.
const watchdogScript = `
answers=$1 data=$2 scratch=$3
shift 3
exec 4<&0 </dev/null 5>&- 6>&- 7>&- 8>&- 9>&-
{
  "$@" 4<&- &
  server=$!
  exec 3>&-
  while read -r line <&4; do
    case $line in
    keep) scratch= ;;
    *[!0-9a-zA-Z]*) ;;
    *) echo >"$answers/$line" ;;
    esac
  done
  exec 4<&-
  running=$server
  read -r running 2>/dev/null <"$data/postmaster.pid"
  if [ "$running" = "$server" ]; then
    kill -s INT "$server" 2>/dev/null
    {
      tries=0
      while sleep 1; do
        tries=$((tries + 1))
        if [ "$tries" -lt 15 ]; then signal=INT; else signal=QUIT; fi
        kill -s "$signal" "$server" || exit
      done
    } 2>/dev/null &
    wait "$server"
    kill "$!" 2>/dev/null
  fi
  if [ -n "$scratch" ]; then rm -rf "$scratch"; fi
} &
`

// keepLine takes back the removal of a folder.
const keepLine = "keep\n"

// handshakeTimeout bounds the wait for a watchdog that reads its pipe.
const handshakeTimeout = 30 * time.Second

// errNoWatchdog is returned by openPipe when no watchdog reads the pipe, or
// only one that has already read its end.
var errNoWatchdog = errors.New("no watchdog")

// makePipe makes the pipe anew and opens both its ends. A pipe is never used
// for a second watchdog: while the first one lived, neither would see the end.
func makePipe(path string) (reader, writer *os.File, err error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	if err := unix.Mkfifo(path, 0o600); err != nil {
		return nil, nil, fmt.Errorf("make pipe %s: %w", path, err)
	}
	// Without a writer, a blocking open for reading would wait for one.
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("open pipe %s: %w", path, err)
	}
	// The shell reads it, and knows no EAGAIN.
	if err := unix.SetNonblock(fd, false); err != nil {
		_ = unix.Close(fd)
		return nil, nil, fmt.Errorf("open pipe %s: %w", path, err)
	}
	reader = os.NewFile(uintptr(fd), path)
	writer, err = openWriter(path)
	if err != nil {
		_ = reader.Close()
		return nil, nil, err
	}
	return reader, writer, nil
}

// openPipe takes hold of a running server: once it returns, the watchdog keeps
// the server until the file is closed.
func openPipe(ctx context.Context, path, answers string) (*os.File, error) {
	writer, err := openWriter(path)
	if err != nil {
		return nil, err
	}
	if err := shakeHands(ctx, writer, answers); err != nil {
		_ = writer.Close()
		return nil, err
	}
	return writer, nil
}

func openWriter(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENOENT) {
		return nil, errNoWatchdog
	}
	if err != nil {
		return nil, fmt.Errorf("open pipe %s: %w", path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// shakeHands writes a token and waits for the watchdog's answer. A watchdog
// that is alive answers in milliseconds. One that doesn't is no reason to take
// the server from its other holders: it may be a stopped process, a full disk
// or a machine that is thrashing.
func shakeHands(ctx context.Context, pipe *os.File, answers string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, handshakeTimeout,
		fmt.Errorf("no answer in %s after %s", answers, handshakeTimeout))
	defer cancel()
	token := rand.Text()
	if _, err := pipe.WriteString(token + "\n"); err != nil {
		return errNoWatchdog // EPIPE: it has closed its end
	}
	answer := filepath.Join(answers, token)
	for {
		err := os.Remove(answer)
		if err == nil {
			return nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("read the watchdog's answer: %w", err)
		}
		if hungUp(pipe) {
			return errNoWatchdog
		}
		if err := pause.For(ctx, 2*time.Millisecond); err != nil {
			return fmt.Errorf("wait for the watchdog: %w", err)
		}
	}
}

// hungUp reports whether nobody reads the pipe any more.
func hungUp(pipe *os.File) bool {
	fds := []unix.PollFd{{Fd: int32(pipe.Fd()), Events: unix.POLLOUT}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0 && fds[0].Revents&unix.POLLERR != 0
}
