package devdb

import (
	"errors"
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
