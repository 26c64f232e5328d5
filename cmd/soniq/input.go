package main

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

// What a command reads, it reads by what is here: it ends with the command's
// context, and as a whole only up to a limit. A file that somebody else wrote, a
// pipe that nobody writes to, or a terminal, must not keep a command from
// ending, nor fill the memory.

// await returns what f returns, or the error of ctx once that has ended: some
// calls of the system can't be given up. f then goes on until it returns or the
// process ends, and nobody has what it returns.
func await[T any](ctx context.Context, f func() (T, error)) (T, error) {
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

// openInput opens a file to be read. A named pipe waits for somebody who writes
// to it, until ctx ends.
func openInput(ctx context.Context, path string) (*os.File, error) {
	if info, err := os.Stat(path); err == nil && info.Mode()&fs.ModeNamedPipe != 0 {
		return openPipe(ctx, path)
	}
	return await(ctx, func() (*os.File, error) { return os.Open(path) })
}

// pipeLook is how often a pipe that waits for a writer looks whether ctx has
// ended.
const pipeLook = 50 * time.Millisecond

// openPipe opens a named pipe without a wait that nothing could end, and then
// waits for a writer: one that has written, or has come and gone.
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
			ready, pollErr = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(pipeLook.Milliseconds()))
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

// tooLongError says that an input is longer than it may be.
type tooLongError struct{ most int }

func (e *tooLongError) Error() string { return fmt.Sprintf("longer than %d bytes", e.most) }

// readWhole reads all of in, or returns a *tooLongError where that is more than
// most bytes.
func readWhole(ctx context.Context, in io.Reader, most int) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(&patientReader{ctx, in}, int64(most)+1))
	if err == nil && len(data) > most {
		err = &tooLongError{most}
	}
	if err != nil {
		return nil, err
	}
	return data, nil
}

// readFile is readWhole of the file with that name.
func readFile(ctx context.Context, path string, most int) ([]byte, error) {
	f, err := openInput(ctx, path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return readWhole(ctx, f, most)
}

// readFound is readFile of a file that nobody has named, which must not be one
// that another user left there.
func readFound(ctx context.Context, path string, most int) ([]byte, error) {
	f, err := outfile.OpenFound(path, func(path string) (*os.File, error) { return openInput(ctx, path) })
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return readWhole(ctx, f, most)
}

// patientReader gives up a read when ctx ends. The read itself goes on until
// there is input or the process ends: nothing else can end one of a terminal
// or a pipe.
type patientReader struct {
	ctx context.Context
	in  io.Reader
}

func (r *patientReader) Read(p []byte) (n int, err error) {
	if r.ctx.Err() != nil {
		return 0, r.ctx.Err()
	}
	// A read that was given up may still write to memory that is then nobody
	// else's.
	own := make([]byte, min(len(p), 64<<10))
	type result struct {
		n   int
		err error
	}
	got, err := await(r.ctx, func() (result, error) {
		n, err := r.in.Read(own)
		return result{n, err}, nil
	})
	if err != nil {
		return 0, err
	}
	return copy(p, own[:got.n]), got.err
}

// endingReader ends with ctx, between two reads: for what never waits, such as a
// regular file.
type endingReader struct {
	ctx context.Context
	in  io.Reader
}

func (r *endingReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.in.Read(p)
}
