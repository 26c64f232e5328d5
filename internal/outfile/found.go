package outfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// OpenFound opens a file for reading that no person named, such as one that a program looks
// for in its working folder. In a folder that other users can write to, any of them may have
// put it there, and the program would follow it with the rights of the user who runs it. So
// OpenFound refuses another user's file or link there. open must open what has the name at
// that moment.
//
// Errors: those of open, and one that says why the file was refused.
func OpenFound(path string, open func(path string) (*os.File, error)) (*os.File, error) {
	return openFound(path, uint32(os.Geteuid()), open)
}

func openFound(path string, uid uint32, open func(string) (*os.File, error)) (*os.File, error) {
	p, err := find(path, uid)
	if err != nil {
		var refused *refusal
		if errors.As(err, &refused) {
			err = errors.New(refused.why)
		}
		return nil, notOpened(path, err)
	}
	defer p.close()
	switch {
	case p.descriptor >= 0:
		return open(path)
	case !p.exists:
		return nil, notOpened(path, unix.ENOENT)
	case !p.mayWrite(uid):
		return nil, notOpened(path, fmt.Errorf("belongs to another user (%d), in a folder that others can write to", p.what.Uid))
	}
	f, err := open(path)
	if err != nil {
		return nil, err
	}
	var is unix.Stat_t
	conn, err := f.SyscallConn()
	if err == nil {
		err = errors.Join(conn.Control(func(fd uintptr) { err = unix.Fstat(int(fd), &is) }), err)
	}
	// Between the look and the open somebody may have put another one there.
	if err == nil && !same(is, p.what) {
		err = notOpened(path, errors.New("is being changed by somebody else"))
	}
	if err == nil {
		return f, nil
	}
	_ = f.Close() // nothing was read
	return nil, err
}

func notOpened(path string, why error) error { return &fs.PathError{Op: "open", Path: path, Err: why} }
