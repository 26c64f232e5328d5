package outfile

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxLinks is how many symbolic links are followed, as on Linux.
const maxLinks = 40

// A place is a name in a folder that is held open.
type place struct {
	dir  *os.File
	name string
	// folder is what the folder is; shared says that others than root and the user
	// can write to it.
	folder unix.Stat_t
	shared bool
	// exists says that something has the name, no symbolic link, and what it is.
	exists bool
	what   unix.Stat_t
	// descriptor is the one of this process that the name stands for, as
	// /dev/stdout does, or -1. It is written to where it is: who opened it has said
	// how ('>>').
	descriptor int
}

func (p *place) fd() int { return int(p.dir.Fd()) }

func (p *place) close() {
	if p.dir != nil {
		_ = p.dir.Close()
	}
}

// find follows path to where it leads for the user uid.
func find(path string, uid uint32) (*place, error) {
	if path == "" {
		return nil, unix.ENOENT
	}
	if strings.IndexByte(path, 0) >= 0 {
		return nil, unix.EINVAL
	}
	p := &place{descriptor: -1}
	if err := p.walk(path, uid); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

func (p *place) walk(path string, uid uint32) error {
	if err := p.start(path); err != nil {
		return err
	}
	rest := path
	for links := 0; ; {
		name, after, more := strings.Cut(strings.TrimLeft(rest, "/"), "/")
		last := strings.Trim(after, "/") == ""
		switch {
		case name == "" || last && (more || name == "." || name == ".."):
			return unix.EISDIR
		case name == ".":
			rest = after
			continue
		}
		if err := p.look(name, uid); err != nil {
			return err
		}
		if p.exists && modeOf(p.what)&unix.S_IFMT == unix.S_IFLNK {
			if last && p.isDescriptor() {
				return nil
			}
			if links++; links > maxLinks {
				return unix.ELOOP
			}
			target, err := p.follow(uid)
			if err != nil {
				return err
			}
			if strings.HasPrefix(target, "/") {
				if err := p.start(target); err != nil {
					return err
				}
			}
			if rest = target; !last {
				rest += "/" + after
			}
			continue
		}
		if last {
			return nil
		}
		if !p.exists {
			return unix.ENOENT
		}
		if err := p.enter(name); err != nil {
			return err
		}
		rest = after
	}
}

// start begins at the root or the working directory.
func (p *place) start(path string) error {
	from := "."
	if strings.HasPrefix(path, "/") {
		from = "/"
	}
	return p.openFolder(unix.AT_FDCWD, from)
}

func (p *place) enter(name string) error { return p.openFolder(p.fd(), name) }

func (p *place) openFolder(at int, name string) error {
	fd, err := unix.Openat(at, name, searchOnly|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	p.close()
	p.dir = os.NewFile(uintptr(fd), name)
	return unix.Fstat(fd, &p.folder)
}

// look finds what has the name in the folder.
func (p *place) look(name string, uid uint32) error {
	p.name = name
	p.shared = p.folder.Uid != uid && p.folder.Uid != 0 || modeOf(p.folder)&0o022 != 0
	err := unix.Fstatat(p.fd(), name, &p.what, unix.AT_SYMLINK_NOFOLLOW)
	p.exists = err == nil
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// follow reads the symbolic link, if the user may rely on it.
func (p *place) follow(uid uint32) (string, error) {
	link := p.what
	if p.shared && link.Uid != uid && link.Uid != 0 {
		return "", &refusal{p.name, fmt.Sprintf("is a symbolic link of another user (%d), in a folder that others can write to; name what it leads to", link.Uid)}
	}
	target := make([]byte, 4096)
	n, err := unix.Readlinkat(p.fd(), p.name, target)
	if err != nil {
		return "", err
	}
	if n == len(target) {
		return "", unix.ENAMETOOLONG
	}
	// That it was this one which was read, and not another in its place: a link
	// itself can't be changed.
	if err := p.look(p.name, uid); err != nil {
		return "", err
	}
	if !p.exists || !same(p.what, link) || p.what.Ctim != link.Ctim {
		return "", &refusal{p.name, "is being changed by somebody else"}
	}
	return string(target[:n]), nil
}

func same(a, b unix.Stat_t) bool { return a.Dev == b.Dev && a.Ino == b.Ino }

// mayWrite reports whether what is there can be trusted to be what the user means:
// in a folder that others can write to, anybody may have put it there to read what
// is written.
func (p *place) mayWrite(uid uint32) bool {
	return !p.shared || p.what.Uid == uid || p.what.Uid == 0 || p.what.Uid == p.folder.Uid
}

// openSame opens what was found, and nothing that has taken its place.
func (p *place) openSame(ctx context.Context) (*os.File, error) {
	type answer struct {
		fd  int
		err error
	}
	// A copy of the folder's descriptor, that is still open when a pipe has waited
	// for a reader for longer than ctx lasted.
	dir, err := unix.FcntlInt(p.dir.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	name, done := p.name, make(chan answer, 1)
	go func() {
		fd, err := unix.Openat(dir, name, unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
		for errors.Is(err, unix.EINTR) {
			fd, err = unix.Openat(dir, name, unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
		}
		_ = unix.Close(dir)
		done <- answer{fd, err}
	}()
	var a answer
	select {
	case <-ctx.Done():
		go func() {
			if late := <-done; late.err == nil {
				_ = unix.Close(late.fd)
			}
		}()
		return nil, ctx.Err()
	case a = <-done:
	}
	if a.err != nil {
		return nil, a.err
	}
	var is unix.Stat_t
	if err := unix.Fstat(a.fd, &is); err != nil || !same(is, p.what) {
		_ = unix.Close(a.fd)
		if err == nil {
			err = &refusal{p.name, "is being changed by somebody else"}
		}
		return nil, err
	}
	if modeOf(is)&unix.S_IFMT == unix.S_IFIFO {
		// So that a deadline ends a write.
		if err := unix.SetNonblock(a.fd, true); err != nil {
			_ = unix.Close(a.fd)
			return nil, err
		}
	}
	return os.NewFile(uintptr(a.fd), p.name), nil
}

// isDescriptor finds that the name is one of /proc/self/fd, to which /dev/stdout
// and /dev/fd lead.
func (p *place) isDescriptor() bool {
	var own unix.Stat_t
	if unix.Stat(ownDescriptors, &own) != nil || !same(own, p.folder) {
		return false
	}
	n, err := strconv.Atoi(p.name)
	if err != nil {
		return false
	}
	p.descriptor = n
	return true
}

// sync makes the names in the folder durable.
func (p *place) sync() error {
	fd, err := unix.Openat(p.fd(), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	folder := os.NewFile(uintptr(fd), ".")
	return errors.Join(folder.Sync(), folder.Close())
}
