package outfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What another user left in a folder that both can write to is not taken for the
// file that a program looks for there.
func TestOpenFound_inASharedFolder_whatOthersLeft_isRefused(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		return // the folder has to be a third user's for the files in it to be strangers'
	}
	me, theirs := users(t)
	for _, mode := range []fs.FileMode{sticky, 0o777, 0o775} {
		for name, left := range map[string]func(path, mine string){
			"belongs to another user":       func(path, _ string) { put(t, path, "theirs", 0o644) },
			"symbolic link of another user": func(path, mine string) { link(t, mine, path) },
		} {
			dir, mine := folder(t, mode), filepath.Join(folder(t, 0o700), "file")
			put(t, mine, "mine", 0o600)
			path := filepath.Join(dir, "soniq.yaml")
			left(path, mine)
			theirs(path)
			f, err := openFound(path, me, os.Open)
			if err == nil {
				_ = f.Close()
			}
			if err == nil || !strings.Contains(err.Error(), name) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%v: %v, want %q", mode, err, name)
			}
		}
	}
}

// One's own file is opened anywhere, and another's where nobody else can have
// put it.
func TestOpenFound_whatNobodyElseLeft_isOpened(t *testing.T) {
	t.Parallel()
	me, theirs := users(t)
	own, safe := filepath.Join(folder(t, sticky), "x"), filepath.Join(folder(t, 0o755), "x")
	for _, path := range []string{own, safe} {
		put(t, path, "text", 0o600)
	}
	uid := mine()
	if me == 0 {
		theirs(safe)
	}
	for _, path := range []string{own, safe} {
		f, err := openFound(path, uid, os.Open)
		if err != nil {
			t.Error(err)
			continue
		}
		_ = f.Close()
	}
	if _, err := openFound(own+"none", uid, os.Open); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

// A file that is put there between the look and the open is not the one that was
// looked at.
func TestOpenFound_changedMeanwhile_isRefused(t *testing.T) {
	t.Parallel()
	dir := folder(t, 0o755)
	path := filepath.Join(dir, "x")
	put(t, path, "mine", 0o600)
	put(t, filepath.Join(dir, "y"), "theirs", 0o600)
	_, err := openFound(path, mine(), func(path string) (*os.File, error) {
		if err := os.Rename(filepath.Join(dir, "y"), path); err != nil {
			t.Error(err)
		}
		return os.Open(path)
	})
	if err == nil || !strings.Contains(err.Error(), "being changed") {
		t.Error(err)
	}
}
