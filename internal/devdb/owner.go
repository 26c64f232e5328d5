package devdb

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// owner is the user that a server runs as when this process is root, which
// PostgreSQL refuses to be. A nil owner is this process's own user.
type owner struct {
	name     string
	uid, gid int
}

// findOwner returns nil unless this process is root. The owner of an existing
// data folder stays its owner; a new one belongs to the first of a few users
// that systems have.
func findOwner(dataDir string) (*owner, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	if info, err := os.Stat(dataDir); err == nil {
		if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Uid != 0 {
			return &owner{name: "uid " + strconv.Itoa(int(st.Uid)), uid: int(st.Uid), gid: int(st.Gid)}, nil
		}
	}
	for _, name := range []string{"postgres", "_postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, uidErr := strconv.Atoi(u.Uid)
		gid, gidErr := strconv.Atoi(u.Gid)
		if uidErr == nil && gidErr == nil && uid != 0 {
			return &owner{name: name, uid: uid, gid: gid}, nil
		}
	}
	return nil, fmt.Errorf("run a database as root: PostgreSQL refuses to, and there is no user 'postgres' or 'nobody' to run it as")
}

// command prepares a program of the server's, run as its owner in a session of
// its own, so that the terminal's Ctrl-C reaches this process alone. The
// environment is a bare one: PGDATA, PGPORT and the like are the user's.
func (o *owner) command(dir, path string, args ...string) *exec.Cmd {
	cmd := exec.Command(path, args...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC", "HOME=" + dir}
	if libs, ok := os.LookupEnv("LD_LIBRARY_PATH"); ok {
		cmd.Env = append(cmd.Env, "LD_LIBRARY_PATH="+libs)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if o != nil {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(o.uid), Gid: uint32(o.gid)}
	}
	return cmd
}

// give makes a file or folder the owner's.
func (o *owner) give(path string) error {
	if o == nil {
		return nil
	}
	return os.Chown(path, o.uid, o.gid)
}

// folderMode is for the folders above the data: closed, but the owner must be
// able to pass through them.
func (o *owner) folderMode() fs.FileMode {
	if o == nil {
		return 0o700
	}
	return 0o711
}

// checkEnter reports whether the owner can enter dir. Otherwise initdb would
// fail with a mere 'permission denied'.
func (o *owner) checkEnter(dir string) error {
	if o == nil {
		return nil
	}
	err := o.command("/", "/bin/sh", "-c", `cd "$1"`, "sh", dir).Run()
	var refused *exec.ExitError
	if err != nil && !errors.As(err, &refused) {
		return fmt.Errorf("run programs as user %s, because PostgreSQL refuses to run as root: %w", o.name, err)
	}
	if err != nil {
		return fmt.Errorf("run database in %s: as root the server runs as user %s, who cannot enter that folder; choose another", dir, o.name)
	}
	return nil
}

// makeFolders is os.MkdirAll, but the new folders get just that mode whatever
// the umask: the server's user must be able to pass.
func makeFolders(dir string, mode fs.FileMode) error {
	if info, err := os.Stat(dir); err == nil && info.IsDir() {
		return nil
	}
	if parent := filepath.Dir(dir); parent != dir {
		if err := makeFolders(parent, mode); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, mode); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return nil // by another process, meanwhile
		}
		return err
	}
	return os.Chmod(dir, mode)
}

// checkOurs reports whether another user of the machine could put files into
// dir, or a folder of his own in its place. Root and the server's user are
// trusted. Groups are their administrator's concern.
func checkOurs(dir string, server *owner) error {
	for _, path := range []string{dir, filepath.Dir(dir)} {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return fmt.Errorf("find the owner of %s: not known here", path)
		}
		uid := int(st.Uid)
		if uid != 0 && uid != os.Geteuid() && (server == nil || uid != server.uid) {
			return fmt.Errorf("%s belongs to another user (uid %d), who could change what is in %s; choose another folder", path, uid, dir)
		}
		// In a sticky folder, such as /tmp, everybody keeps what is his.
		if open := info.Mode().Perm()&0o002 != 0; open && (path == dir || info.Mode()&fs.ModeSticky == 0) {
			return fmt.Errorf("everybody may write to %s, and so change what is in %s; choose another folder, or take that right away", path, dir)
		}
	}
	return nil
}
