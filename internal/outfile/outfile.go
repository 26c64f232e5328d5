// Package outfile writes a file that a person named on a command line. The file may hold
// secrets, and its folder may be one that other users can write to.
//
// The file is written under a temporary name beside its own, and renamed when it is
// complete: nobody reads half of it, and an old file stays until then. A new file has the
// mode 0600. A file that is replaced keeps its mode and its owner. One that nobody may write to is
// replaced by [Replace] alone. A pipe, a socket or a device is written to directly.
//
// The path is opened one name at a time, and each folder is held open for the next step, so
// that no other user can put another folder in its place. Symbolic links are followed, as a
// shell does: the target is written, also if it doesn't exist yet, and the link stays. Two
// things are refused in a folder that other users can write to: a link of another user,
// which would decide where the file goes, and a file or named pipe of another user, which
// that user could read.
package outfile

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

const (
	// newMode is the mode of a new file: what is exported may hold secrets.
	newMode = 0o600
	// onlyMode is the mode of a file whose content is nowhere else.
	onlyMode = 0o400
)

// ErrReadOnly says that a file is there already and that its mode lets nobody write to it.
var ErrReadOnly = errors.New("is read-only")

// A File is a file that is being written. Its methods are for one goroutine, but for
// Abandon.
type File struct {
	file *os.File
	// shown is the name as the person gave it.
	shown string
	// temporary is the name until Commit; empty if file is what was asked for, and
	// nothing has to be put in its place. With a slash it is in another folder, and the content
	// is copied.
	temporary string
	place     *place
	// old is the file that is replaced, open to be written; nil where there is
	// none. truncate says that file is that one, with its old content.
	old      *os.File
	was      unix.Stat_t
	truncate bool
	// forced says that the file takes the place of a read-only one.
	forced bool

	end  sync.Once
	stop func() bool
}

// Create opens path for writing. It creates no file under that name; Commit does. Opening a
// named pipe waits for a reader. When ctx ends, nothing waits for a reader any more.
//
// Errors: *fs.PathError with the operating system's error; one that says which other
// user's file or link was refused; [ErrReadOnly], also for who may write to any file.
func Create(ctx context.Context, path string) (*File, error) {
	return open(ctx, path, false)
}

// Replace is [Create] that puts a new file in the place of a read-only one too. It has that one's mode and,
// where the user may give files away, its owner; where not, it is the user's alone.
//
// Errors: those of Create, but for ErrReadOnly.
func Replace(ctx context.Context, path string) (*File, error) {
	return open(ctx, path, true)
}

func open(ctx context.Context, path string, force bool) (*File, error) {
	f, err := create(ctx, path, uint32(os.Geteuid()), force)
	if err != nil {
		return nil, shownAs(path, err)
	}
	return f, nil
}

// shownAs returns err with the path as the person gave it.
func shownAs(path string, err error) error {
	var refused *refusal
	var kept *KeptError
	var errno unix.Errno
	switch {
	case errors.As(err, &kept):
		return kept
	case errors.As(err, &refused):
		return refused
	case errors.Is(err, ErrReadOnly):
		return fmt.Errorf("%s %w", path, err)
	case errors.As(err, &errno):
		return &fs.PathError{Op: "write", Path: path, Err: errno}
	}
	return err
}

func create(ctx context.Context, path string, uid uint32, force bool) (*File, error) {
	p, err := find(path, uid)
	if err != nil {
		return nil, err
	}
	f := &File{shown: path, place: p}
	if err := f.open(ctx, uid, force); err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

func (f *File) open(ctx context.Context, uid uint32, force bool) error {
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
		if kind == unix.S_IFREG && modeOf(p.what)&0o222 == 0 {
			if !force {
				return ErrReadOnly
			}
			f.forced = true
			return f.begin()
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
		return f.beginOver()
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

// beginOver makes the file that is to take over from the old one.
func (f *File) beginOver() error {
	err := f.begin()
	if !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EROFS) {
		return err
	}
	// It can't be replaced, but it can be written, once all of the content is somewhere.
	if spool, err := os.CreateTemp("", "soniq-"); err == nil {
		f.file, f.temporary = spool, spool.Name()
		return nil
	}
	f.file, f.old, f.truncate = f.old, nil, true
	return nil
}

// IsTerminal reports whether the file is a terminal.
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
		// An old file keeps its content until there is new content.
		if err := f.file.Truncate(0); err != nil {
			return 0, err
		}
		f.truncate = false
	}
	return f.file.Write(p)
}

// Commit renames the file to its own name, once all of it is on disk. Where that isn't
// possible (something is mounted on the old file, its owner can't be kept, or it has other names or
// an access control list), it writes the content to the old file. If that fails halfway, because the
// disk is full for example, the content stays in a file beside it, which the error names.
//
// Errors: *fs.PathError, *[KeptError], and one that says why the old file can't be overwritten.
func (f *File) Commit() error {
	if f.temporary == "" {
		return f.commitInPlace()
	}
	if err := f.file.Sync(); err != nil {
		return err
	}
	inPlace := f.isElsewhere()
	var err error
	if !inPlace {
		err, inPlace = f.likeOld(), f.isMore()
	}
	if err == nil && !inPlace {
		err = unix.Renameat(f.place.fd(), f.temporary, f.place.fd(), f.place.name)
	}
	if (err != nil || inPlace) && f.old != nil {
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

// commitInPlace ends a file that was written under its own name.
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

// CommitNew is [File.Commit] for a file that must not exist yet and whose content is nowhere else: it
// is made read-only. When it returns, the name is on disk too.
//
// Errors: fs.ErrExist if the file exists, which is left as it is; else *fs.PathError.
func (f *File) CommitNew() error {
	if f.temporary == "" || f.isElsewhere() {
		return &fs.PathError{Op: "create", Path: f.shown, Err: fs.ErrExist}
	}
	_ = f.file.Chmod(onlyMode) // not every file system has modes
	if err := f.file.Sync(); err != nil {
		return err
	}
	if err := f.rename(); err != nil {
		return shownAs(f.shown, err)
	}
	f.temporary = ""
	return errors.Join(f.file.Close(), f.place.sync())
}

// rename gives the file its name, unless a file of that name exists.
func (f *File) rename() error {
	fd := f.place.fd()
	err := unix.Linkat(fd, f.temporary, fd, f.place.name, 0)
	switch {
	case err == nil:
		return unix.Unlinkat(fd, f.temporary, 0)
	case errors.Is(err, unix.EEXIST):
		return err
	}
	// A file system without hard links. There it takes two steps.
	var what unix.Stat_t
	if err := unix.Fstatat(fd, f.place.name, &what, unix.AT_SYMLINK_NOFOLLOW); !errors.Is(err, unix.ENOENT) {
		if err == nil {
			err = unix.EEXIST
		}
		return err
	}
	return unix.Renameat(fd, f.temporary, fd, f.place.name)
}

// isMore reports whether the old file has what a file in its place wouldn't have: other names, or an
// access control list. In a folder that others can write to, the other names may be theirs.
func (f *File) isMore() bool {
	return f.old != nil && !f.place.shared && (f.was.Nlink > 1 || hasACL(int(f.old.Fd())))
}

// likeOld gives the file the owner and the mode of the file that it replaces.
func (f *File) likeOld() error {
	if f.old == nil && !f.forced {
		return nil
	}
	mode := modeOf(f.was) & 0o777
	fd := int(f.file.Fd())
	var is unix.Stat_t
	if err := unix.Fstat(fd, &is); err != nil {
		return err
	}
	if is.Uid != f.was.Uid || is.Gid != f.was.Gid {
		err := unix.Fchown(fd, int(f.was.Uid), int(f.was.Gid))
		if err != nil && !f.forced {
			return err
		}
		if err != nil {
			mode &= 0o700 // the group is another one
		}
	}
	return unix.Fchmod(fd, mode)
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
	_, err := io.Copy(f.old, f.file)
	if err == nil {
		err = f.old.Sync()
	}
	if err != nil {
		err = f.keep(err)
	}
	return err
}

// A KeptError says that a file was overwritten in part.
type KeptError struct {
	// Path is the file, and Kept the one that has all of the new content.
	Path, Kept string
	Err        error
}

// Error implements error.
func (e *KeptError) Error() string {
	return fmt.Sprintf("%s was overwritten in part: %v; all of the new content is in %s", e.Path, e.Err, e.Kept)
}

// Unwrap returns what went wrong.
func (e *KeptError) Unwrap() error { return e.Err }

// keep leaves the temporary file where it is.
func (f *File) keep(err error) error {
	var errno unix.Errno
	if errors.As(err, &errno) {
		err = errno
	}
	kept := f.temporary
	if !f.isElsewhere() {
		at := f.shown
		if target, err := filepath.EvalSymlinks(at); err == nil {
			at = target
		}
		kept = filepath.Join(filepath.Dir(at), f.temporary)
	}
	f.temporary = ""
	return &KeptError{Path: f.shown, Kept: kept, Err: err}
}

// isElsewhere reports whether the temporary file is in another folder.
func (f *File) isElsewhere() bool { return strings.Contains(f.temporary, "/") }

// Abandon removes a file that was not committed, and closes one that was. It may be called
// while another goroutine writes.
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
	if f.isElsewhere() {
		_ = os.Remove(f.temporary)
	} else if f.temporary != "" {
		_ = unix.Unlinkat(f.place.fd(), f.temporary, 0)
	}
	f.place.close()
}

// A refusal says why a name is not written to.
type refusal struct{ path, why string }

func (e *refusal) Error() string { return e.path + " " + e.why }
