// Package outfile writes a file that a person named on a command line, which may
// hold what nobody else should read, in a folder that others may write to.
//
// A file is written beside its name and takes that over when it is complete:
// nobody reads half of it, and an old one stays until then. A new file has the
// mode 0600. One that is replaced keeps its mode and its owner. What is no
// regular file is written to as it is.
//
// The folder is looked for one name at a time and held open, and all that follows
// is done relative to it, so that nobody can put another one in its place.
// Symbolic links are followed, as a shell does it: what a link leads to is
// written, and the link stays, also where that is a file which isn't there yet.
// But one that another user put there, in a folder that others can write to, is
// not: it would say whose file is written, and where. Nor is such a user's file or
// named pipe written to, which they could read.
package outfile

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// newMode is that of a new file: what is exported holds secrets.
const newMode = 0o600

// A File is being written. Its methods are for one goroutine, but for Abandon.
type File struct {
	file *os.File
	// shown is the name as the person gave it.
	shown string
	// temporary is the name until Commit; empty if file is what was asked for, and
	// nothing has to be put in its place.
	temporary string
	place     *place
	// old is the file that is replaced, open to be written; nil where there is
	// none. truncate says that file is that one, with its old content.
	old      *os.File
	was      unix.Stat_t
	truncate bool

	end  sync.Once
	stop func() bool
}

// Create makes sure that path can be written. A named pipe waits for a reader.
// After ctx has ended nothing waits for one any more.
func Create(ctx context.Context, path string) (*File, error) {
	f, err := create(ctx, path, uint32(os.Geteuid()))
	if err != nil {
		return nil, shownAs(path, err)
	}
	return f, nil
}

// shownAs is err with the name that the person knows.
func shownAs(path string, err error) error {
	var refused *refusal
	var errno unix.Errno
	switch {
	case errors.As(err, &refused):
		return refused
	case errors.As(err, &errno):
		return &fs.PathError{Op: "write", Path: path, Err: errno}
	}
	return err
}

func create(ctx context.Context, path string, uid uint32) (*File, error) {
	p, err := find(path, uid)
	if err != nil {
		return nil, err
	}
	f := &File{shown: path, place: p}
	if err := f.open(ctx, uid); err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

func (f *File) open(ctx context.Context, uid uint32) error {
	p := f.place
	if p.descriptor >= 0 {
		fd, err := unix.FcntlInt(uintptr(p.descriptor), unix.F_DUPFD_CLOEXEC, 0)
		if err == nil {
			f.file = os.NewFile(uintptr(fd), f.shown)
		}
		return err
	}
	if !p.exists {
		return f.begin()
	}
	f.was = p.what
	switch kind := modeOf(p.what) & unix.S_IFMT; kind {
	case unix.S_IFDIR:
		return unix.EISDIR
	case unix.S_IFREG, unix.S_IFIFO, unix.S_IFSOCK:
		if !p.mayWrite(uid) {
			return &refusal{f.shown, fmt.Sprintf("is there already, and belongs to another user (%d), in a folder that others can write to", p.what.Uid)}
		}
		old, err := p.openSame(ctx)
		if err != nil {
			return err
		}
		if kind != unix.S_IFREG {
			f.file = old
			// A write to a pipe that nobody reads waits.
			f.stop = context.AfterFunc(ctx, func() { _ = old.SetWriteDeadline(time.Unix(1, 0)) })
			return nil
		}
		f.old = old
		switch err := f.begin(); {
		case errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EROFS):
			// It can't be replaced, but it can be written.
			f.file, f.old, f.truncate = old, nil, true
			return nil
		default:
			return err
		}
	default:
		special, err := p.openSame(ctx)
		f.file = special
		return err
	}
}

// begin makes the file that is to take over the name.
func (f *File) begin() error {
	name := f.place.name
	f.temporary = "." + name[:min(len(name), 200)] + "." + rand.Text()[:8]
	fd, err := unix.Openat(f.place.fd(), f.temporary, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, newMode)
	if err != nil {
		f.temporary = ""
		return err
	}
	f.file = os.NewFile(uintptr(fd), f.shown)
	return nil
}

// IsTerminal reports whether it is a person's.
func (f *File) IsTerminal() bool {
	var is unix.Stat_t
	fd := -1
	if c, err := f.file.SyscallConn(); err == nil {
		_ = c.Control(func(of uintptr) { fd = int(of) })
	}
	return fd >= 0 && unix.Fstat(fd, &is) == nil && modeOf(is)&unix.S_IFMT == unix.S_IFCHR && term.IsTerminal(fd)
}

// Write writes to the file.
func (f *File) Write(p []byte) (int, error) {
	if f.truncate {
		// Not before there is something to put in its place.
		if err := f.file.Truncate(0); err != nil {
			return 0, err
		}
		f.truncate = false
	}
	return f.file.Write(p)
}

// Commit gives the file its name, once all of it is on disk. Where it can't take
// that over (a file that something is mounted on, or whose owner can't be kept)
// the old file gets the new content.
func (f *File) Commit() error {
	if f.temporary == "" {
		return f.commitInPlace()
	}
	if err := f.file.Sync(); err != nil {
		return err
	}
	err := f.likeOld()
	if err == nil {
		err = unix.Renameat(f.place.fd(), f.temporary, f.place.fd(), f.place.name)
	}
	if err != nil && f.old != nil {
		err = f.overwrite()
	} else if err == nil {
		f.temporary = ""
		err = f.file.Close()
	}
	if err != nil {
		return shownAs(f.shown, err)
	}
	return nil
}

// commitInPlace ends what was written where it belongs.
func (f *File) commitInPlace() error {
	if f.truncate { // nothing was written
		if err := f.file.Truncate(0); err != nil {
			return err
		}
	}
	if f.place.exists && modeOf(f.was)&unix.S_IFMT == unix.S_IFREG {
		return f.file.Sync()
	}
	return nil
}

// CommitNew is Commit for a file that must not be there yet, which it leaves
// alone if it is: the error then is fs.ErrExist. The name is on disk as well when
// it returns.
func (f *File) CommitNew() error {
	if f.temporary == "" {
		return &fs.PathError{Op: "create", Path: f.shown, Err: fs.ErrExist}
	}
	if err := f.file.Sync(); err != nil {
		return err
	}
	if err := f.rename(); err != nil {
		return shownAs(f.shown, err)
	}
	f.temporary = ""
	return errors.Join(f.file.Close(), f.place.sync())
}

// rename gives the file its name unless there is one of that name.
func (f *File) rename() error {
	fd := f.place.fd()
	err := unix.Linkat(fd, f.temporary, fd, f.place.name, 0)
	switch {
	case err == nil:
		return unix.Unlinkat(fd, f.temporary, 0)
	case errors.Is(err, unix.EEXIST):
		return err
	}
	// A file system without hard links. There the two steps can't be one.
	var what unix.Stat_t
	if err := unix.Fstatat(fd, f.place.name, &what, unix.AT_SYMLINK_NOFOLLOW); !errors.Is(err, unix.ENOENT) {
		if err == nil {
			err = unix.EEXIST
		}
		return err
	}
	return unix.Renameat(fd, f.temporary, fd, f.place.name)
}

// likeOld gives the file the owner and the mode of the one that it replaces.
func (f *File) likeOld() error {
	if f.old == nil {
		return nil
	}
	fd := int(f.file.Fd())
	var is unix.Stat_t
	if err := unix.Fstat(fd, &is); err != nil {
		return err
	}
	if is.Uid != f.was.Uid || is.Gid != f.was.Gid {
		if err := unix.Fchown(fd, int(f.was.Uid), int(f.was.Gid)); err != nil {
			return err
		}
	}
	return unix.Fchmod(fd, modeOf(f.was)&0o777)
}

// overwrite copies the content to the old file.
func (f *File) overwrite() error {
	if f.was.Nlink > 1 && f.place.shared {
		return &refusal{f.shown, "has other names, and is in a folder that others can write to"}
	}
	if _, err := f.file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if err := f.old.Truncate(0); err != nil {
		return err
	}
	if _, err := io.Copy(f.old, f.file); err != nil {
		return err
	}
	return f.old.Sync()
}

// Abandon leaves nothing behind of a file that was not committed, and lets go of
// one that was. It may be called while another goroutine writes.
func (f *File) Abandon() { f.end.Do(f.close) }

func (f *File) close() {
	if f.stop != nil {
		f.stop()
	}
	if f.file != nil {
		_ = f.file.Close()
	}
	if f.old != nil {
		_ = f.old.Close()
	}
	if f.temporary != "" {
		_ = unix.Unlinkat(f.place.fd(), f.temporary, 0)
	}
	f.place.close()
}

// A refusal says why a name is not written to.
type refusal struct{ path, why string }

func (e *refusal) Error() string { return e.path + " " + e.why }
