package hooks_test

import (
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"soniq/internal/cli/clitest"
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
	clitest.NewShell(t, database).OK("hooks", "add", "webhook", server.URL+"/hunter2", "--allow", "127.0.0.1")
	refused := clitest.NewProgram(t, dir, database, "hooks", "test", "webhook")
	if err := refused.Run(); err == nil {
		t.Error("a certificate that nobody vouches for is good enough")
	}
	clitest.WantIn(t, "refusal", refused.Err.String(), "certificate signed by unknown authority")
	trusted := clitest.NewProgram(t, dir, database, "hooks", "test", "webhook")
	trusted.Env = append(trusted.Env, "SSL_CERT_FILE="+authority)
	if err := trusted.Run(); err != nil {
		t.Errorf("%v: %s", err, trusted.Err.String())
	}
	clitest.WantIn(t, "answer", trusted.Out.String(), "Delivered; the answer was 200")
}
