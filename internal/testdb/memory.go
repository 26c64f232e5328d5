package testdb

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// memoryDir is where Linux has a file system in memory.
const memoryDir = "/dev/shm"

const (
	// tmpfsMagic is what statfs calls a file system in memory.
	tmpfsMagic = 0x01021994
	// memoryNeeded is more than twice what the tests of all packages have there at once.
	memoryNeeded = 4 << 30
)

// inMemory returns a folder in memory, or else "": where there is none, or little room, or
// where SONIQ_DEV_DIR says which folder it shall be. A test's database has some 700 files,
// that are made and soon removed. ext4 takes no inode for a file that was freed in the last
// minutes, and to look for another among so many is three quarters of the server's work.
func inMemory() string {
	if os.Getenv("SONIQ_DEV_DIR") != "" || !hasRoom(memoryDir) {
		return ""
	}
	return ownFolder(memoryDir)
}

// ownFolder returns this user's folder in one where everybody may have some, or else "":
// where another user has taken its name, or may write to it.
func ownFolder(parent string) string {
	dir := filepath.Join(parent, "soniq-"+strconv.Itoa(os.Geteuid()))
	switch err := os.Mkdir(dir, 0o700); {
	case err == nil:
		// As root the server runs as another user, who passes through.
		if err := os.Chmod(dir, 0o711); err != nil { //nolint:gosec // Nobody else may list or write.
			return ""
		}
	case !errors.Is(err, fs.ErrExist):
		return ""
	}
	info, err := os.Lstat(dir)
	if err != nil || !info.IsDir() || info.Mode().Perm()&0o022 != 0 {
		return ""
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || int(st.Uid) != os.Geteuid() {
		return ""
	}
	return dir
}

// hasRoom tells whether dir is in memory of which enough is free, in the file system and
// in the machine.
func hasRoom(dir string) bool {
	var stat unix.Statfs_t
	if err := unix.Statfs(dir, &stat); err != nil || stat.Type != tmpfsMagic {
		return false
	}
	free := stat.Bavail * uint64(stat.Bsize) //nolint:gosec // A size is positive.
	return free >= memoryNeeded && memoryAvailable() >= memoryNeeded
}

var availableLine = regexp.MustCompile(`(?m)^MemAvailable: +(\d+) kB$`)

// memoryAvailable is how many bytes programs may still take, by Linux; 0 if that is not known.
func memoryAvailable() uint64 {
	info, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	match := availableLine.FindSubmatch(info)
	if match == nil {
		return 0
	}
	kilobytes, err := strconv.ParseUint(string(match[1]), 10, 64)
	if err != nil {
		return 0
	}
	return kilobytes << 10
}
