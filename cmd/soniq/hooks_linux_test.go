package main

import (
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"soniq/internal/testdb"
)

// A certificate that nobody vouches for is refused; SSL_CERT_FILE names a
// company's own authority.
func TestHooks_certificate_isChecked(t *testing.T) {
	t.Parallel()
	database := testdb.NewURL(t)
	dir := t.TempDir()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // the handshake that fails
	server.StartTLS()
	t.Cleanup(server.Close)
	authority := filepath.Join(dir, "authority.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(authority, block, 0o600); err != nil {
		t.Fatal(err)
	}
	newShell(t, database).ok("hooks", "add", "webhook", server.URL+"/hunter2", "--allow", "127.0.0.1")
	refused := program(t, dir, database, "hooks", "test", "webhook")
	if err := refused.Run(); err == nil {
		t.Error("a certificate that nobody vouches for is good enough")
	}
	wantIn(t, "refusal", refused.err.String(), "certificate signed by unknown authority")
	trusted := program(t, dir, database, "hooks", "test", "webhook")
	trusted.Env = append(trusted.Env, "SSL_CERT_FILE="+authority)
	if err := trusted.Run(); err != nil {
		t.Errorf("%v: %s", err, trusted.err.String())
	}
	wantIn(t, "answer", trusted.out.String(), "Delivered; the answer was 200")
}
