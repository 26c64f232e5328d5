package devdb

import (
	"archive/tar"
	"archive/zip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/ulikunitz/xz"
)

const (
	// maxUnpacked bounds what an archive unpacks to, in bytes: the largest
	// pinned one has 340 MB.
	maxUnpacked = 1 << 30
	// maxEntries bounds its files, folders and links: the pinned ones have
	// some 1,100.
	maxEntries = 20_000
)

// limits bound what is unpacked.
type limits struct {
	bytes   int64
	entries int
}

// unpack unpacks the one .txz of a zip archive into dir, an empty folder. What
// would land outside of it, and what is no file, folder or link within it, is
// an error. Everybody may read the files, only their owner may write them.
func unpack(ctx context.Context, archive io.ReaderAt, size int64, dir string, most limits) error {
	z, err := zip.NewReader(archive, size)
	if err != nil {
		return err
	}
	var inner *zip.File
	for _, f := range z.File {
		if !strings.HasSuffix(f.Name, ".txz") {
			continue
		}
		if inner != nil {
			return errors.New("the archive has two archives in it")
		}
		inner = f
	}
	if inner == nil {
		return errors.New("the archive has no archive of programs in it")
	}
	packed, err := inner.Open()
	if err != nil {
		return err
	}
	defer packed.Close()
	plain, err := xz.ReaderConfig{SingleStream: true}.NewReader(packed)
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return untar(ctx, plain, root, most)
}

// untar makes the links last: until then every folder is a folder, so that no
// file can be written through a link.
//
// The bound on bytes holds for all that is read, and again for all that is
// written: a sparse file is longer than what is read of it.
func untar(ctx context.Context, r io.Reader, root *os.Root, most limits) error {
	links := map[string]string{}
	t := tar.NewReader(&bounded{ctx: ctx, r: r, left: most.bytes})
	content := &bounded{ctx: ctx, r: t, left: most.bytes}
	for n := 0; ; n++ {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if n >= most.entries {
			return fmt.Errorf("the archive has more than %d entries", most.entries)
		}
		name := path.Clean(h.Name)
		if !filepath.IsLocal(name) {
			return fmt.Errorf("the archive has an entry outside of it: %q", h.Name)
		}
		switch h.Typeflag {
		case tar.TypeDir:
			err = makeFoldersIn(root, name)
		case tar.TypeReg:
			err = writeIn(root, name, h, content)
		case tar.TypeSymlink:
			if !within(name, h.Linkname) {
				return fmt.Errorf("the archive has a link that leads outside of it: %q to %q", h.Name, h.Linkname)
			}
			if _, twice := links[name]; twice {
				return fmt.Errorf("the archive has %q twice", h.Name)
			}
			links[name] = h.Linkname
			err = makeFoldersIn(root, path.Dir(name))
		default:
			return fmt.Errorf("the archive has an entry that is no file, folder or link: %q", h.Name)
		}
		if err != nil {
			return err
		}
	}
	for name, target := range links {
		if err := root.Symlink(target, name); err != nil {
			return err
		}
	}
	return context.Cause(ctx)
}

// within reports whether the target of a link stays in the archive. Up steps
// count only at its beginning, where the folders are no links.
func within(name, target string) bool {
	return target != "" && target == path.Clean(target) && !path.IsAbs(target) && filepath.IsLocal(path.Join(path.Dir(name), target))
}

func makeFoldersIn(root *os.Root, name string) error {
	if name == "." {
		return nil
	}
	if err := makeFoldersIn(root, path.Dir(name)); err != nil {
		return err
	}
	err := root.Mkdir(name, 0o755)
	if errors.Is(err, fs.ErrExist) {
		if info, statErr := root.Lstat(name); statErr == nil && info.IsDir() {
			return nil
		}
	}
	if err != nil {
		return err
	}
	return root.Chmod(name, 0o755) // whatever the umask
}

func writeIn(root *os.Root, name string, h *tar.Header, content io.Reader) error {
	if err := makeFoldersIn(root, path.Dir(name)); err != nil {
		return err
	}
	mode := fs.FileMode(0o644)
	if h.Mode&0o100 != 0 {
		mode = 0o755
	}
	f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	return errors.Join(err, f.Chmod(mode), f.Close())
}

// bounded reads until ctx ends, and not more than it should.
type bounded struct {
	ctx  context.Context
	r    io.Reader
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.ctx.Err() != nil {
		return 0, context.Cause(b.ctx)
	}
	// One byte beyond the bound tells a longer one from one that just fits.
	n, err := b.r.Read(p[:min(int64(len(p)), b.left+1)])
	if b.left -= int64(n); b.left < 0 {
		return 0, errors.New("the archive unpacks to more than it may")
	}
	return n, err
}
