package testdb

import (
	"os"
	"path/filepath"
	"testing"
)

func TestOwnFolder_isThisUsersAlone(t *testing.T) {
	t.Parallel()
	parent := t.TempDir()
	dir := ownFolder(parent)
	if filepath.Dir(dir) != parent || ownFolder(parent) != dir {
		t.Fatalf("made %q, and then %q", dir, ownFolder(parent))
	}
	for what, change := range map[string]func() error{
		"others may write": func() error { return os.Chmod(dir, 0o777) },
		"a group may write": func() error {
			return os.Chmod(dir, 0o771)
		},
		"a link":  func() error { return os.Symlink(t.TempDir(), dir) },
		"a file":  func() error { return os.WriteFile(dir, nil, 0o600) },
		"nowhere": func() error { return os.Symlink(filepath.Join(parent, "none"), dir) },
	} {
		must(t, os.RemoveAll(dir))
		if what == "others may write" || what == "a group may write" {
			must(t, os.Mkdir(dir, 0o700))
		}
		must(t, change())
		if got := ownFolder(parent); got != "" {
			t.Errorf("%s: took %s", what, got)
		}
	}
}

func TestHasRoom_onlyInMemory(t *testing.T) {
	t.Parallel()
	for _, dir := range []string{"/proc", filepath.Join(t.TempDir(), "none")} {
		if hasRoom(dir) {
			t.Errorf("%s is taken for a file system in memory with room", dir)
		}
	}
}
