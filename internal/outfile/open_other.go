//go:build unix && !linux

package outfile

import "golang.org/x/sys/unix"

const (
	// searchOnly opens a folder of which only names are to be looked for.
	searchOnly = unix.O_RDONLY
	// ownDescriptors is the folder with the open files of this process.
	ownDescriptors = "/dev/fd"
)

// modeOf is the mode, whose size is the system's.
func modeOf(s unix.Stat_t) uint32 { return uint32(s.Mode) }

// hasACL is not known here.
func hasACL(int) bool { return false }
