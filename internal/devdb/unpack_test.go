package devdb

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func unpackBytes(t testing.TB, archive []byte, most limits) (dir string, err error) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "programs")
	must(t, os.Mkdir(dir, 0o755))
	return dir, unpack(context.Background(), bytes.NewReader(archive), int64(len(archive)), dir, most)
}

var plenty = limits{1 << 20, 100}

// What an archive may not do, though its checksum is right.
func TestUnpack_hostileArchive_writesNothingOutside(t *testing.T) {
	t.Parallel()
	file := func(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o755} }
	link := func(name, to string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to}
	}
	folder := tar.Header{Name: "a/b", Typeflag: tar.TypeDir, Mode: 0o777}
	for name, test := range map[string]struct {
		entries []tar.Header
		want    string
	}{
		"up":                        {[]tar.Header{file("../x")}, "outside"},
		"up within":                 {[]tar.Header{file("a/../../x")}, "outside"},
		"absolute":                  {[]tar.Header{file("/tmp/soniq-x")}, "outside"},
		"link up":                   {[]tar.Header{link("a/b", "../../x")}, "outside"},
		"link up by the way":        {[]tar.Header{link("a/b", "c/../../../x")}, "outside"},
		"link that only looks fine": {[]tar.Header{link("l", "."), link("m", "l/../x")}, "outside"},
		"absolute link":             {[]tar.Header{link("a", "/etc/passwd")}, "outside"},
		"link to nothing":           {[]tar.Header{link("a", "")}, "outside"},
		"file through a link":       {[]tar.Header{link("l", "a"), folder, file("l/x")}, "exist"},
		"file over a link":          {[]tar.Header{link("l", "a"), file("l")}, "exist"},
		"link through a link":       {[]tar.Header{folder, link("l", "a"), link("l/x", "b")}, "exist"},
		"link over a folder":        {[]tar.Header{folder, link("a", "b")}, "exist"},
		"file twice":                {[]tar.Header{file("x"), file("x")}, "exist"},
		"link twice":                {[]tar.Header{link("l", "a"), link("l", "b")}, "twice"},
		"folder over a file":        {[]tar.Header{file("a"), folder}, ""},
		"hard link":                 {[]tar.Header{file("x"), {Name: "y", Typeflag: tar.TypeLink, Linkname: "x"}}, "no file, folder or link"},
		"pipe":                      {[]tar.Header{{Name: "p", Typeflag: tar.TypeFifo}}, "no file, folder or link"},
		"device":                    {[]tar.Header{{Name: "d", Typeflag: tar.TypeBlock, Devmajor: 8}}, "no file, folder or link"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, err := unpackBytes(t, pack(t, test.entries...), plenty)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
			outside, err := filepath.Glob(filepath.Join(filepath.Dir(dir), "*"))
			if err != nil || len(outside) != 1 || exists("/tmp/soniq-x") {
				t.Errorf("outside there is %v", outside)
			}
		})
	}
}

func TestUnpack_mode_isNotTheArchives(t *testing.T) {
	t.Parallel()
	dir, err := unpackBytes(t, pack(t, tar.Header{Name: "x", Typeflag: tar.TypeReg, Mode: 0o6777}), plenty)
	must(t, err)
	info, err := os.Stat(filepath.Join(dir, "x"))
	must(t, err)
	if info.Mode() != 0o755 {
		t.Errorf("mode %v", info.Mode())
	}
}

func TestUnpack_tooMuch_isRefused(t *testing.T) {
	t.Parallel()
	zeros := compressed(t, make([]byte, 2<<20))
	var long bytes.Buffer
	w := tar.NewWriter(&long)
	must(t, w.WriteHeader(&tar.Header{Name: "x", Typeflag: tar.TypeReg, Size: 2 << 20}))
	_, err := w.Write(make([]byte, 2<<20))
	must(t, err)
	must(t, w.Close())
	many := make([]tar.Header, 101)
	for i := range many {
		many[i] = tar.Header{Name: "a", Typeflag: tar.TypeDir}
	}
	for name, test := range map[string]struct {
		archive []byte
		want    string
	}{
		"one file":     {packed(t, map[string][]byte{"a.txz": compressed(t, long.Bytes())}), "more than it may"},
		"sparse file":  {packed(t, map[string][]byte{"a.txz": compressed(t, sparse(t))}), "more than it may"},
		"many entries": {pack(t, many...), "more than 100 entries"},
		"two archives": {packed(t, map[string][]byte{"a.txz": zeros, "b.txz": zeros}), "two archives"},
		"none":         {packed(t, map[string][]byte{"a.txt": zeros}), "no archive of programs"},
		"no xz":        {packed(t, map[string][]byte{"a.txz": []byte("abc")}), ""},
		"no zip":       {[]byte("this is no archive"), "zip"},
	} {
		dir, err := unpackBytes(t, test.archive, plenty)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
		if info, err := os.Stat(filepath.Join(dir, "x")); err == nil && info.Size() > plenty.bytes {
			t.Errorf("%s: %d bytes were written", name, info.Size())
		}
	}
}

// sparse is a tar of a kilobyte whose one file is a terabyte of nothing.
func sparse(t testing.TB) []byte {
	t.Helper()
	const length = "1099511627776"
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	must(t, w.WriteHeader(&tar.Header{Name: "x", Typeflag: tar.TypeReg, Size: 0, PAXRecords: map[string]string{
		"GNV.sparse.major": "0", "GNV.sparse.minor": "1", "GNV.sparse.size": length, "GNV.sparse.numblocks": "1", "GNV.sparse.map": length + ",0",
	}}))
	must(t, w.Close())
	// The package reads such records and refuses to write them. The names have
	// the same length, as the records of a PAX header must.
	return bytes.ReplaceAll(b.Bytes(), []byte("GNV.sparse"), []byte("GNU.sparse"))
}

func TestUnpack_contextEnds_stops(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	archive := pack(t, programs...)
	if err := unpack(ctx, bytes.NewReader(archive), int64(len(archive)), t.TempDir(), plenty); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// Whatever is in a tar, no link leads out of its folder and nothing but files,
// folders and links is made.
func FuzzUntar(f *testing.F) {
	for _, entries := range [][]tar.Header{
		programs,
		{{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "."}, {Name: "l/m", Typeflag: tar.TypeSymlink, Linkname: "../x"}},
		{{Name: "a/l", Typeflag: tar.TypeSymlink, Linkname: "../a/../x"}, {Name: "../x", Typeflag: tar.TypeReg}},
	} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range entries {
			must(f, w.WriteHeader(&h))
		}
		must(f, w.Close())
		f.Add(b.Bytes())
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		parent := t.TempDir()
		dir := filepath.Join(parent, "programs")
		must(t, os.Mkdir(dir, 0o755))
		root, err := os.OpenRoot(dir)
		must(t, err)
		defer root.Close()
		_ = untar(t.Context(), io.LimitReader(bytes.NewReader(data), 1<<16), root, plenty)
		if outside, err := filepath.Glob(filepath.Join(parent, "*")); err != nil || len(outside) != 1 {
			t.Fatalf("outside there is %v", outside)
		}
		must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if d.Type()&^(fs.ModeDir|fs.ModeSymlink) != 0 {
				t.Errorf("%s is a %v", path, d.Type())
			}
			name, err := filepath.Rel(dir, path)
			if err != nil {
				return err
			}
			if d.Type()&fs.ModeSymlink == 0 {
				return nil
			}
			// Root.Stat follows links, and refuses those that lead outside.
			if _, err := root.Stat(name); err != nil && strings.Contains(err.Error(), "escapes") {
				t.Errorf("%s leads outside: %v", name, err)
			}
			return nil
		}))
	})
}
