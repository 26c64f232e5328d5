package devdb

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"soniq/internal/eventually"
)

func TestServer_killedAndRestarted_keepsDataAndURLUntilStop(t *testing.T) {
	t.Parallel()
	s := startPrivate(t)
	url := s.URL()
	memory := remember(t, url)
	must(t, s.Kill(t.Context()))
	if _, err := tryQuery(t.Context(), url, `select ''`); err == nil {
		t.Fatal("a killed server answers")
	}
	must(t, s.Restart(t.Context()))
	must(t, s.Restart(t.Context())) // without a Kill too
	if s.URL() != url {
		t.Error("another URL after a restart")
	}
	if !remembers(t, url, memory) {
		t.Error("data was lost")
	}
	pid, err := s.cluster.postmaster()
	must(t, err)
	must(t, s.Stop(t.Context()))
	if alive(pid) || exists(s.Dir()) {
		t.Error("Stop left the server or its folder")
	}
}

func TestServer_makerKilled_leavesNothing(t *testing.T) {
	t.Parallel()
	h := startHolder(t, private)
	h.await(t)
	query(t, h.url, `select 'it runs'`)
	h.kill()
	eventually.True(t, "server and folder are gone", func() bool {
		_, err := tryQuery(t.Context(), h.url, `select ''`)
		return err != nil && !exists(h.dir)
	})
}

func TestServer_isPrivateAndNormal(t *testing.T) {
	t.Parallel()
	s := startPrivate(t)
	for setting, want := range map[string]string{
		"listen_addresses":        "127.0.0.1",
		"unix_socket_directories": "",
		"server_encoding":         "UTF8",
		"lc_messages":             "C",
		"TimeZone":                "UTC",
		"password_encryption":     "scram-sha-256",
		"fsync":                   "off",
	} {
		if got := query(t, s.URL(), `select current_setting('`+setting+`')`); got != want {
			t.Errorf("%s is %q, want %q", setting, got, want)
		}
	}
	if got := query(t, s.URL(), `select datcollate::text from pg_database where datname = 'soniq'`); got != "C" {
		t.Errorf("collation is %q, want C", got)
	}
	info, err := os.Stat(filepath.Join(s.Dir(), "password"))
	must(t, err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("password file has mode %v", info.Mode())
	}
	if hba, err := os.ReadFile(filepath.Join(s.Dir(), "data", "pg_hba.conf")); err != nil || strings.Contains(string(hba), " trust") {
		t.Errorf("someone is trusted without a password (or %v)", err)
	}

	// SIGINT is ignored in what a shell starts in the background; a server that
	// inherited that could not cancel a query.
	_, err = tryQuery(t.Context(), s.URL(), `select pg_cancel_backend(pg_backend_pid())::text from pg_sleep(0)`)
	if refusal := (*pgconn.PgError)(nil); !errors.As(err, &refusal) || refusal.Code != "57014" {
		t.Errorf("cancelling a query: got %v", err)
	}

	password, err := os.ReadFile(filepath.Join(s.Dir(), "password"))
	must(t, err)
	wrong := strings.Replace(s.URL(), string(password), "guess", 1)
	if _, err := tryQuery(t.Context(), wrong, `select ''`); err == nil {
		t.Error("a wrong password was accepted")
	}
	must(t, s.Kill(t.Context()))
	if _, err := tryQuery(t.Context(), s.URL(), `select ''`); err == nil || strings.Contains(err.Error(), string(password)) {
		t.Errorf("want an error without the password, got %v", err)
	}
}
