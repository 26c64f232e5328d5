package devdb

import (
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAcquire_dataOfAnotherVersion_namesFolderAndWaysOut(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	data := filepath.Join(dir, "dev", "data")
	must(t, os.MkdirAll(data, 0o711))
	must(t, os.WriteFile(filepath.Join(data, "PG_VERSION"), []byte("13\n"), 0o600))
	_, err := Acquire(t.Context(), Options{Dir: dir})
	if !errors.Is(err, ErrVersionMismatch) {
		t.Fatalf("got %v", err)
	}
	for _, part := range []string{data, "13", "remove", binariesEnv} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q is not in %q", part, err)
		}
	}
}

func TestAcquire_testDataOfAnotherVersion_isMadeAnew(t *testing.T) {
	t.Parallel()
	dir := initialised(t)
	version := filepath.Join(dir, "dev", "data", "PG_VERSION")
	must(t, os.WriteFile(version, []byte("13\n"), 0o600))
	query(t, acquireIn(t, dir).URL(), `select 'it runs'`)
}

func TestAcquire_noProgramsInChosenFolder_saysSo(t *testing.T) {
	t.Parallel()
	empty := t.TempDir()
	_, err := Acquire(t.Context(), Options{Dir: folder(t), Binaries: empty})
	if !errors.Is(err, ErrNoBinaries) || !strings.Contains(err.Error(), empty) {
		t.Errorf("got %v", err)
	}
}

// Not parallel: the environment is the process's.
func TestObtain_downloadFails_saysWhatToInstallInOneLine(t *testing.T) {
	down := httptest.NewServer(http.NotFoundHandler())
	down.Close()
	missing := httptest.NewServer(http.NotFoundHandler())
	defer missing.Close()
	garbage := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("this is no archive"))
	}))
	defer garbage.Close()
	for name, url := range map[string]string{"down": down.URL, "missing": missing.URL, "garbage": garbage.URL} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(repositoryEnv, url)
			cache := t.TempDir()
			_, err := obtain(t.Context(), cache, nil, slog.New(slog.DiscardHandler))
			if !errors.Is(err, ErrNoBinaries) || !strings.Contains(err.Error(), "install PostgreSQL") || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v", err)
			}
			if left, err := filepath.Glob(filepath.Join(cache, "unpack-*")); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}
