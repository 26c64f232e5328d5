package outfile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const stranger = 12345

// users are the user who writes, and what makes a file another user's. Who may
// give files away does so; to anybody else their own files are a stranger's, since
// the writer is said to be another one.
func users(t *testing.T) (me uint32, theirs func(path string)) {
	t.Helper()
	if os.Geteuid() != 0 {
		return uint32(os.Geteuid()) + 1, func(string) {}
	}
	return 0, func(path string) {
		t.Helper()
		if err := os.Lchown(path, stranger, stranger); err != nil {
			t.Error(err)
		}
	}
}

func mine() uint32 { return uint32(os.Geteuid()) }

// folder is one with that mode.
func folder(t *testing.T, mode fs.FileMode) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, mode); err != nil {
		t.Fatal(err)
	}
	return dir
}

const sticky = 0o777 | fs.ModeSticky

func put(t *testing.T, path, text string, mode fs.FileMode) {
	t.Helper()
	if err := errors.Join(os.WriteFile(path, []byte(text), 0o600), os.Chmod(path, mode)); err != nil {
		t.Fatal(err)
	}
}

func link(t *testing.T, target, path string) {
	t.Helper()
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
}

func content(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func names(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// write writes text to path as the user uid.
func write(ctx context.Context, path, text string, uid uint32) error {
	f, err := create(ctx, path, uid, false)
	if err != nil {
		return shownAs(path, err)
	}
	defer f.Abandon()
	if _, err := io.WriteString(f, text); err != nil {
		return err
	}
	return f.Commit()
}

func TestCreate_newFile_isTheUsersAlone(t *testing.T) {
	t.Parallel()
	dir := folder(t, 0o755)
	path := filepath.Join(dir, "a.json")
	f, err := Create(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(f, "secret"); err != nil {
		t.Fatal(err)
	}
	if got := names(t, dir); len(got) != 1 || !strings.HasPrefix(got[0], ".a.json.") {
		t.Errorf("before it is complete: %v", got)
	}
	if info, err := os.Stat(filepath.Join(dir, names(t, dir)[0])); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if err := f.Commit(); err != nil {
		t.Fatal(err)
	}
	f.Abandon()
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 || content(t, path) != "secret" || len(names(t, dir)) != 1 {
		t.Errorf("%v, %v, %v", info, err, names(t, dir))
	}
}

// What is given up leaves the old file, and nothing beside it.
func TestCreate_abandoned_leavesTheOldFile(t *testing.T) {
	t.Parallel()
	dir := folder(t, 0o700)
	path := filepath.Join(dir, "a.json")
	put(t, path, "old", 0o640)
	f, err := Create(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(f, "half"); err != nil {
		t.Fatal(err)
	}
	f.Abandon()
	f.Abandon()
	if got := names(t, dir); !slices.Equal(got, []string{"a.json"}) || content(t, path) != "old" {
		t.Errorf("%v, %q", got, content(t, path))
	}
}

func TestCreate_existingFile_keepsItsModeAndOwner(t *testing.T) {
	t.Parallel()
	path := filepath.Join(folder(t, 0o755), "a.json")
	for _, mode := range []fs.FileMode{0o664, 0o600, 0o606, 0o200} {
		put(t, path, "old and long", mode)
		_, theirs := users(t)
		theirs(path)
		before := stat(t, path)
		if err := write(t.Context(), path, "new", mine()); err != nil {
			t.Fatal(err)
		}
		after := stat(t, path)
		if after.Mode != before.Mode || after.Uid != before.Uid || after.Gid != before.Gid || after.Ino == before.Ino {
			t.Errorf("%v: %o of %d became %o of %d", mode, before.Mode, before.Uid, after.Mode, after.Uid)
		}
		if err := os.Chmod(path, 0o600); err != nil {
			t.Fatal(err)
		}
		if got := content(t, path); got != "new" {
			t.Errorf("%q", got)
		}
	}
}

func stat(t *testing.T, path string) (is unix.Stat_t) {
	t.Helper()
	if err := unix.Lstat(path, &is); err != nil {
		t.Fatal(err)
	}
	return is
}

// A file that can't be replaced, since something is mounted on it, say, gets the
// new content.
func TestCommit_whereItCantBeReplaced_isWrittenInPlace(t *testing.T) {
	t.Parallel()
	dir := folder(t, 0o755)
	path := filepath.Join(dir, "a.json")
	put(t, path, "old and longer", 0o664)
	before := stat(t, path)
	f, err := Create(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(f, "new"); err != nil {
		t.Fatal(err)
	}
	if err := f.overwrite(); err != nil {
		t.Fatal(err)
	}
	f.Abandon()
	if after := stat(t, path); content(t, path) != "new" || after.Ino != before.Ino || after.Mode != before.Mode || len(names(t, dir)) != 1 {
		t.Errorf("%q, %v", content(t, path), names(t, dir))
	}
	// One with another name may be anything of ours, which somebody linked there.
	shared := folder(t, sticky)
	if err := os.Link(path, filepath.Join(shared, "b.json")); err != nil {
		t.Fatal(err)
	}
	if f, err = Create(t.Context(), filepath.Join(shared, "b.json")); err != nil {
		t.Fatal(err)
	}
	if err := f.overwrite(); err == nil || !strings.Contains(err.Error(), "has other names") || content(t, path) != "new" {
		t.Errorf("%v, %q", err, content(t, path))
	}
	f.Abandon()
}

// A link leads to what is written, as '>' has it, and stays.
func TestCreate_ownLinks_areFollowed(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ link, target string }{
		{"l", "there.json"},
		{"l", "not-there.json"},
		{"l", "sub/not-there.json"},
		{"l", "./sub/../sub//there.json"},
		{"l", "ABS/sub/not-there.json"},
		{"l", "m"},
		{"d/x.json", ""},
		{"abs/x.json", ""},
		{"d/up/there.json", ""},
	} {
		dir := folder(t, sticky) // anybody else's would be refused
		put(t, filepath.Join(dir, "there.json"), "old", 0o600)
		if err := os.Mkdir(filepath.Join(dir, "sub"), 0o700); err != nil {
			t.Fatal(err)
		}
		put(t, filepath.Join(dir, "sub", "there.json"), "old", 0o600)
		link(t, "sub/new.json", filepath.Join(dir, "m"))
		link(t, "sub", filepath.Join(dir, "d"))
		link(t, filepath.Join(dir, "sub"), filepath.Join(dir, "abs"))
		link(t, "..", filepath.Join(dir, "sub", "up"))
		path := filepath.Join(dir, test.link)
		if test.target != "" {
			link(t, strings.Replace(test.target, "ABS", dir, 1), path)
		}
		if err := write(t.Context(), path, "new", mine()); err != nil {
			t.Errorf("%v: %v", test, err)
			continue
		}
		if got := content(t, path); got != "new" {
			t.Errorf("%v: %q", test, got)
		}
		if test.target != "" && stat(t, path).Mode&unix.S_IFMT != unix.S_IFLNK {
			t.Errorf("%v: the link is gone", test)
		}
	}
}

// Whatever another user puts in a folder that both can write to, it doesn't say
// where the file goes, nor who can read it.
func TestCreate_inASharedFolder_whatOthersPutThere_isRefused(t *testing.T) {
	t.Parallel()
	me, theirs := users(t)
	for _, mode := range []fs.FileMode{sticky, 0o777, 0o775} {
		for _, test := range []struct {
			name, path, want string
			put              func(path, victim string)
		}{
			{"link", "x", "symbolic link of another user", func(path, victim string) { link(t, victim+"/file", path) }},
			{"dangling link", "x", "symbolic link of another user", func(path, victim string) { link(t, victim+"/none", path) }},
			{"link to a folder", "x/file", "symbolic link of another user", func(path, victim string) { link(t, victim, path) }},
			{"link to /dev/stdout", "x", "symbolic link of another user", func(path, _ string) { link(t, "/dev/stdout", path) }},
			{"file", "x", "belongs to another user", func(path, _ string) { put(t, path, "", 0o666) }},
			{"pipe", "x", "belongs to another user", func(path, _ string) {
				if err := unix.Mkfifo(path, 0o666); err != nil {
					t.Fatal(err)
				}
			}},
		} {
			dir, victim := folder(t, mode), folder(t, 0o700)
			put(t, filepath.Join(victim, "file"), "mine", 0o600)
			if os.Geteuid() != 0 {
				// The folder has to be a third user's for the files in it to be strangers'.
				continue
			}
			path := filepath.Join(dir, "x")
			test.put(path, victim)
			theirs(path)
			err := write(t.Context(), filepath.Join(dir, test.path), "secret", me)
			if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%v, %s: %v", mode, test.name, err)
			}
			if got := names(t, victim); !slices.Equal(got, []string{"file"}) || content(t, filepath.Join(victim, "file")) != "mine" {
				t.Errorf("%v, %s: %v", mode, test.name, got)
			}
			if got := names(t, dir); !slices.Equal(got, []string{"x"}) {
				t.Errorf("%v, %s: left %v", mode, test.name, got)
			}
		}
	}
}

// A link that only root or the user can have put there is followed, whoever it
// belongs to: nobody else can put anything in the folder.
func TestCreate_inAFolderOfOnesOwn_linksAreFollowed(t *testing.T) {
	t.Parallel()
	dir := folder(t, 0o755)
	_, theirs := users(t)
	link(t, "target.json", filepath.Join(dir, "x"))
	theirs(filepath.Join(dir, "x"))
	if err := write(t.Context(), filepath.Join(dir, "x"), "new", mine()); err != nil || content(t, filepath.Join(dir, "target.json")) != "new" {
		t.Error(err)
	}
}

// A hard link to another file is a name like any other: that file stays.
func TestCreate_hardLink_leavesTheOtherName(t *testing.T) {
	t.Parallel()
	dir, victim := folder(t, sticky), filepath.Join(folder(t, 0o700), "file")
	put(t, victim, "mine", 0o600)
	path := filepath.Join(dir, "a.json")
	if err := os.Link(victim, path); err != nil {
		t.Fatal(err)
	}
	if err := write(t.Context(), path, "new", mine()); err != nil || content(t, victim) != "mine" || content(t, path) != "new" {
		t.Errorf("%v, %q", err, content(t, victim))
	}
}

// Of one's own file each name has the new content, as after '>'.
func TestCreate_ownHardLinks_areKept(t *testing.T) {
	t.Parallel()
	dir := folder(t, 0o700)
	path, other := filepath.Join(dir, "a.json"), filepath.Join(dir, "b.json")
	put(t, other, "a long old text", 0o640)
	if err := os.Link(other, path); err != nil {
		t.Fatal(err)
	}
	if err := write(t.Context(), path, "new", mine()); err != nil || content(t, other) != "new" || content(t, path) != "new" {
		t.Errorf("%v, %q, %q", err, content(t, path), content(t, other))
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
		t.Errorf("%v, %v", entries, err)
	}
}

// While somebody changes what has the name, it is the user's own file that is
// written, or nothing.
func TestCreate_whileLinksComeAndGo_neverWritesThroughOne(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		return // only root can put a stranger's link into a folder of its own
	}
	me, theirs := users(t)
	dir, victim := folder(t, sticky), filepath.Join(folder(t, 0o700), "file")
	put(t, victim, "mine", 0o600)
	path, evil := filepath.Join(dir, "a.json"), filepath.Join(dir, "evil")
	ctx, stop := context.WithCancel(t.Context())
	var attacker sync.WaitGroup
	attacker.Go(func() {
		for ctx.Err() == nil {
			link(t, victim, evil)
			theirs(evil)
			_ = os.Rename(evil, path)
			_ = os.Remove(path)
		}
	})
	written := 0
	for range 2000 {
		if write(ctx, path, "secret", me) == nil {
			written++
		}
	}
	stop()
	attacker.Wait()
	if content(t, victim) != "mine" {
		t.Error("the link was followed")
	}
	if written == 0 || written == 2000 {
		t.Logf("%d of 2000 were written", written)
	}
}

func TestCreate_noFile_isToldInOneLine(t *testing.T) {
	t.Parallel()
	dir := folder(t, 0o755)
	put(t, filepath.Join(dir, "file"), "x", 0o600)
	link(t, "loop", filepath.Join(dir, "loop"))
	for path, want := range map[string]string{
		"":                       "no such file or directory",
		"no/such":                "no such file or directory",
		"file/x":                 "not a directory",
		".":                      "is a directory",
		"..":                     "is a directory",
		"new/":                   "is a directory",
		"a\x00b":                 "invalid argument",
		"loop":                   "too many levels of symbolic links",
		strings.Repeat("x", 300): "file name too long",
	} {
		name := path
		if path != "" {
			name = dir + "/" + path
		}
		err := write(t.Context(), name, "x", mine())
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", path, err, want)
		}
	}
	if got := names(t, dir); !slices.Equal(got, []string{"file", "loop"}) {
		t.Errorf("left %v", got)
	}
	// The longest name has no room for the letters of the temporary one.
	if err := write(t.Context(), filepath.Join(dir, strings.Repeat("x", 255)), "x", mine()); err != nil {
		t.Error(err)
	}
}

func TestCreate_device_isWrittenTo(t *testing.T) {
	t.Parallel()
	if err := write(t.Context(), os.DevNull, "x", mine()); err != nil {
		t.Error(err)
	}
	if err := write(t.Context(), "/dev/full", "x", mine()); !errors.Is(err, unix.ENOSPC) {
		t.Error(err)
	}
	if is := stat(t, os.DevNull); is.Mode&unix.S_IFMT != unix.S_IFCHR {
		t.Errorf("%s has the mode %o", os.DevNull, is.Mode)
	}
}

// A pipe waits for its reader, for as long as the context lasts.
func TestCreate_pipe_waitsForItsReader(t *testing.T) {
	t.Parallel()
	path := filepath.Join(folder(t, 0o700), "pipe")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := write(ctx, path, "x", mine()); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	// Its open goes on, and this is the reader that it waits for.
	read := make(chan string)
	go func() {
		text, err := os.ReadFile(path)
		read <- fmt.Sprint(string(text), err)
	}()
	if err := write(t.Context(), path, "text", mine()); err != nil {
		t.Error(err)
	}
	if got := <-read; got != "text<nil>" {
		t.Error(got)
	}
}

// So does a write to one that nobody reads.
func TestWrite_pipe_endsWithTheContext(t *testing.T) {
	t.Parallel()
	path := filepath.Join(folder(t, 0o700), "pipe")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	reader, err := os.OpenFile(path, os.O_RDWR, 0) // it is there, and reads nothing
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = reader.Close() }()
	ctx, stop := context.WithCancel(t.Context())
	f, err := create(ctx, path, mine(), false)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Abandon()
	done := make(chan error)
	go func() {
		var err error
		for err == nil {
			_, err = f.Write(make([]byte, 1<<16))
		}
		done <- err
	}()
	stop()
	if err := <-done; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(err)
	}
}

func TestCommitNew_leavesWhatIsThereAlone(t *testing.T) {
	t.Parallel()
	dir := folder(t, 0o700)
	path := filepath.Join(dir, "a.json")
	f, err := Create(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	put(t, path, "made meanwhile", 0o600)
	if err := f.CommitNew(); !errors.Is(err, fs.ErrExist) {
		t.Error(err)
	}
	f.Abandon()
	if got := names(t, dir); !slices.Equal(got, []string{"a.json"}) || content(t, path) != "made meanwhile" {
		t.Errorf("%v, %q", got, content(t, path))
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if f, err = Create(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	if err := f.CommitNew(); err != nil {
		t.Error(err)
	}
	f.Abandon()
	if got := names(t, dir); !slices.Equal(got, []string{"a.json"}) || stat(t, path).Mode&0o777 != 0o400 {
		t.Errorf("%v", got)
	}
	// What is nowhere else is not replaced, nor is any read-only file.
	if err := write(t.Context(), path, "new", mine()); !errors.Is(err, ErrReadOnly) || err.Error() != path+" is read-only" || len(names(t, dir)) != 1 {
		t.Error(err)
	}
	if f, err = Replace(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	defer f.Abandon()
	if _, err := io.WriteString(f, "new"); err != nil {
		t.Fatal(err)
	}
	if err := f.Commit(); err != nil || content(t, path) != "new" || stat(t, path).Mode&0o777 != 0o400 || len(names(t, dir)) != 1 {
		t.Errorf("%v, %q", err, content(t, path))
	}
}

// A read-only file that is replaced stays as it was for everybody: neither more nor less can be read.
func TestReplace_readOnlyFile_keepsItsModeAndOwner(t *testing.T) {
	t.Parallel()
	path := filepath.Join(folder(t, 0o755), "a.json")
	for _, mode := range []fs.FileMode{0o400, 0o440, 0o444, 0o555} {
		put(t, path, "old", mode)
		_, theirs := users(t)
		theirs(path)
		before := stat(t, path)
		f, err := Replace(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(f, "new"); err != nil {
			t.Fatal(err)
		}
		err = f.Commit()
		f.Abandon()
		if after := stat(t, path); err != nil || after.Mode != before.Mode || after.Uid != before.Uid || after.Gid != before.Gid || content(t, path) != "new" {
			t.Errorf("%v: %v; %o of %d became %o of %d", mode, err, before.Mode, before.Uid, after.Mode, after.Uid)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}
