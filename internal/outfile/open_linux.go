package outfile

import "golang.org/x/sys/unix"

const (
	// searchOnly opens a folder of which only names are to be looked for: it needs
	// no right to list them.
	searchOnly = unix.O_PATH
	// ownDescriptors is the folder with the open files of this process.
	ownDescriptors = "/proc/self/fd"
)

// modeOf is the mode, whose size is the system's.
func modeOf(s unix.Stat_t) uint32 { return s.Mode }

// hasACL reports whether the file has an access control list beside its mode.
func hasACL(fd int) bool {
	n, err := unix.Fgetxattr(fd, "system.posix_acl_access", nil)
	return err == nil && n > 0
}
