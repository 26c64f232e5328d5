// Package input reads files and streams for a command. Every read ends with the
// command's context, and a whole file is read only up to a limit: a file that
// somebody else wrote, a pipe without a writer, or a terminal must not keep a
// command from ending, nor fill the memory.
package input

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"soniq/internal/outfile"
)

// Await returns what f returns, or the error of ctx once ctx has ended. It is for
// system calls that can't be given up: f goes on until it returns or the process
// ends, and its result is dropped.
//
// Errors: those of f, or ctx.Err().
func Await[T any](ctx context.Context, f func() (T, error)) (T, error) {
	type answer struct {
		value T
		err   error
	}
	done := make(chan answer, 1)
	go func() {
		value, err := f()
		done <- answer{value, err}
	}()
	select {
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	case a := <-done:
		return a.value, a.err
	}
}

// Open opens a file for reading. For a named pipe it waits until somebody writes
// to it, or until ctx ends.
//
// Errors: those of [os.Open], or ctx.Err().
func Open(ctx context.Context, path string) (*os.File, error) {
	if info, err := os.Stat(path); err == nil && info.Mode()&fs.ModeNamedPipe != 0 {
		return openPipe(ctx, path)
	}
	return Await(ctx, func() (*os.File, error) { return os.Open(path) })
}

// pipePoll is how often a pipe that waits for a writer checks whether ctx has
// ended.
const pipePoll = 50 * time.Millisecond

// openPipe opens a named pipe without blocking, and then polls for a writer: one
// that has written, or has come and gone.
func openPipe(ctx context.Context, path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	conn, err := f.SyscallConn()
	for ready := 0; ready == 0 && err == nil; {
		if err = ctx.Err(); err != nil {
			break
		}
		var pollErr error
		err = conn.Control(func(fd uintptr) {
			ready, pollErr = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(pipePoll.Milliseconds()))
		})
		if pollErr != nil && !errors.Is(pollErr, unix.EINTR) {
			err = &fs.PathError{Op: "wait for a writer to", Path: path, Err: pollErr}
		}
		ready = max(ready, 0)
	}
	if err != nil {
		_ = f.Close() // nothing was read
		return nil, err
	}
	return f, nil
}

// TooLongError says that an input has more than Most bytes.
type TooLongError struct{ Most int }

func (e *TooLongError) Error() string { return fmt.Sprintf("longer than %d bytes", e.Most) }

// ReadAll reads all of in, at most so many bytes.
//
// Errors: a [*TooLongError] where there is more, those of in, or ctx.Err().
func ReadAll(ctx context.Context, in io.Reader, most int) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(Stream(ctx, in), int64(most)+1))
	if err == nil && len(data) > most {
		err = &TooLongError{most}
	}
	if err != nil {
		return nil, err
	}
	return data, nil
}

// ReadFile reads the whole file path, at most so many bytes.
//
// Errors: those of [Open] and [ReadAll].
func ReadFile(ctx context.Context, path string, most int) ([]byte, error) {
	f, err := Open(ctx, path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return ReadAll(ctx, f, most)
}

// ReadFound is [ReadFile] for a file that nobody has named, such as a soniq.yaml
// in the working folder. It refuses a file that another user may have put there.
//
// Errors: those of [outfile.OpenFound] and [ReadAll].
func ReadFound(ctx context.Context, path string, most int) ([]byte, error) {
	f, err := outfile.OpenFound(path, func(path string) (*os.File, error) { return Open(ctx, path) })
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return ReadAll(ctx, f, most)
}

// Stream returns a reader of in that gives a read up when ctx ends. The read itself
// goes on until there is input or the process ends: nothing else can end a read
// of a terminal or a pipe.
func Stream(ctx context.Context, in io.Reader) io.Reader { return &streamReader{ctx, in} }

type streamReader struct {
	ctx context.Context
	in  io.Reader
}

func (r *streamReader) Read(p []byte) (n int, err error) {
	if r.ctx.Err() != nil {
		return 0, r.ctx.Err()
	}
	// A read that was given up may still write to its buffer, so that must not be
	// the caller's.
	own := make([]byte, min(len(p), 64<<10))
	type result struct {
		n   int
		err error
	}
	got, err := Await(r.ctx, func() (result, error) {
		n, err := r.in.Read(own)
		return result{n, err}, nil
	})
	if err != nil {
		return 0, err
	}
	return copy(p, own[:got.n]), got.err
}

// Regular returns a reader of in that ends with ctx between two reads. It is for
// what never blocks, such as a regular file.
func Regular(ctx context.Context, in io.Reader) io.Reader { return &regularReader{ctx, in} }

type regularReader struct {
	ctx context.Context
	in  io.Reader
}

func (r *regularReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.in.Read(p)
}

// ErrUTF16 is the error of a command that was given text as UTF-16, which Windows
// PowerShell's '>' writes.
var ErrUTF16 = errors.New("the text is UTF-16; save it as UTF-8 ('iconv -f UTF-16 -t UTF-8', or in PowerShell 'Out-File -Encoding utf8')")

// IsUTF16 reports whether text begins as UTF-16 does: with its byte order mark, or with
// a character of ASCII in two bytes. JSON and YAML in UTF-8 have no zero byte.
func IsUTF16(text []byte) bool {
	if len(text) < 2 {
		return false
	}
	mark := string(text[:2])
	return mark == "\xff\xfe" || mark == "\xfe\xff" || (text[0] == 0) != (text[1] == 0)
}
