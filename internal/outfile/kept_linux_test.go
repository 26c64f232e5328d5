package outfile

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// full is a file that can be emptied, and takes nothing any more.
func full(t *testing.T) *os.File {
	t.Helper()
	fd, err := unix.MemfdCreate("full", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_GROW)
	}
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fd), "full")
}

// An old file that is written in place, and can't take all of the new content, isn't all that is left:
// the new content stays, and the error says where.
func TestCommit_inPlace_failsHalfway_keepsTheNewContent(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ isFull, elsewhere bool }{
		"disk full":                   {isFull: true},
		"disk full, folder read-only": {isFull: true, elsewhere: true},
		"the folder can't be written": {elsewhere: true},
	} {
		dir := folder(t, 0o700)
		path := filepath.Join(dir, "a.json")
		put(t, path, "old and longer", 0o640)
		link(t, path, filepath.Join(dir, "link"))
		before := stat(t, path)
		f, err := Create(t.Context(), filepath.Join(dir, "link"))
		if err != nil {
			t.Fatal(err)
		}
		where := filepath.Join(dir, f.temporary)
		if test.elsewhere {
			spool, err := os.CreateTemp(t.TempDir(), "soniq-")
			if err := errors.Join(err, f.file.Close(), os.Remove(where)); err != nil {
				t.Fatal(err)
			}
			where = spool.Name()
			f.file, f.temporary = spool, where
		}
		if test.isFull {
			_ = f.old.Close()
			f.old = full(t)
		}
		f.was.Nlink = 2 // so it is written in place
		if _, err := io.WriteString(f, "new"); err != nil {
			t.Fatal(err)
		}
		err = f.Commit()
		f.Abandon()
		if !test.isFull {
			if _, there := os.Stat(where); err != nil || content(t, path) != "new" || stat(t, path).Ino != before.Ino || there == nil {
				t.Errorf("%s: %v, %q", name, err, content(t, path))
			}
			continue
		}
		var kept *KeptError
		if !errors.As(err, &kept) || kept.Kept != where || content(t, where) != "new" || !errors.Is(err, unix.EPERM) {
			t.Errorf("%s: %v, want %s kept", name, err, where)
		}
	}
}
