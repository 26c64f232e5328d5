package opsserver_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"soniq/internal/opsserver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestParseAddress_readsAndPrints(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ text, want, wrong string }{
		{"9090", "127.0.0.1:9090", ""},
		{":9090", "127.0.0.1:9090", ""},
		{"0", "127.0.0.1:0", ""},
		{"127.0.0.1:9090", "127.0.0.1:9090", ""},
		{"localhost:9090", "localhost:9090", ""},
		{"0.0.0.0:9090", "0.0.0.0:9090", ""},
		{"[::]:9090", "[::]:9090", ""},
		{"*:9090", "*:9090", ""},
		{"unix:/run/soniq//h.sock", "unix:/run/soniq/h.sock", ""},
		{"", "", "must be PORT"},
		{"http://127.0.0.1:9090", "", "must be PORT"},
		{"127.0.0.1", "", "must be PORT"},
		{"127.0.0.1:http", "", "must be PORT"},
		{":65536", "", "must be PORT"},
		{"::1:9090", "", "must be PORT"},
		{"unix:", "", "needs a path"},
		{"unix:/" + strings.Repeat("a", 200), "", "at most 103 bytes"},
	} {
		got, err := opsserver.ParseAddress(c.text)
		if c.wrong != "" {
			if err == nil || !strings.Contains(err.Error(), c.wrong) {
				t.Errorf("%q: %v, want %q", c.text, err, c.wrong)
			}
			continue
		}
		if err != nil || got.String() != c.want {
			t.Errorf("%q: %s, %v, want %s", c.text, got, err, c.want)
		}
		if again, err := opsserver.ParseAddress(got.String()); err != nil || again != got {
			t.Errorf("%s is read as %s, %v", got, again, err)
		}
	}
}

// client asks an address, whatever its network is.
func client(t *testing.T, addr string) *http.Client {
	t.Helper()
	address, err := opsserver.ParseAddress(addr)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return address.Dial(ctx) }}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func ask(t *testing.T, addr, method, path string) (status int, body string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, "http://ops"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := client(t, addr).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(text)
}

func says(text string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, text) })
}

func TestServers_oneAddress_servesAll(t *testing.T) {
	t.Parallel()
	socket := "unix:" + filepath.Join(t.TempDir(), "s")
	s := opsserver.New(slog.New(slog.DiscardHandler))
	for _, h := range []struct{ addr, path, text string }{
		{"0", "/metrics", "m"}, {":0", "/livez", "l"}, {socket, "/livez", "u"},
	} {
		if err := s.Handle(h.addr, h.path, says(h.text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Handle("127.0.0.1:0", "/livez", says("")); err == nil {
		t.Error("a path is served twice")
	}
	stop, err := s.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	bound := s.Bound()
	if len(bound) != 2 || !strings.HasPrefix(bound[0], "127.0.0.1:") || bound[1] != socket {
		t.Fatalf("bound to %q", bound)
	}
	for _, c := range []struct {
		addr, method, path string
		status             int
		body               string
	}{
		{bound[0], "GET", "/metrics", 200, "m"},
		{bound[0], "GET", "/livez", 200, "l"},
		{bound[0], "HEAD", "/livez", 200, ""},
		{bound[1], "GET", "/livez", 200, "u"},
		{bound[0], "POST", "/livez", 405, "Method Not Allowed\n"},
		{bound[0], "GET", "/", 404, "404 page not found\n"},
	} {
		if status, body := ask(t, c.addr, c.method, c.path); status != c.status || body != c.body {
			t.Errorf("%s %s: %d %q", c.method, c.path, status, body)
		}
	}
}

func TestServers_addressInUse_bindsNone(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	socket := filepath.Join(t.TempDir(), "s")
	s := opsserver.New(slog.New(slog.DiscardHandler))
	for _, addr := range []string{"unix:" + socket, taken.Addr().String()} {
		if err := s.Handle(addr, "/", says("")); err != nil {
			t.Fatal(err)
		}
	}
	_, err = s.Start(t.Context())
	if err == nil || !strings.Contains(err.Error(), "listen on "+taken.Addr().String()+": ") || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(socket); err == nil {
		t.Error("the first address is still bound")
	}
}

// A process that was killed leaves its socket; that of a living one, and a file, stay.
func TestServers_socketIsThere_onlyALeftOneIsReplaced(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	left, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "left")})
	if err != nil {
		t.Fatal(err)
	}
	left.SetUnlinkOnClose(false)
	left.Close()
	living, err := net.Listen("unix", filepath.Join(dir, "living"))
	if err != nil {
		t.Fatal(err)
	}
	defer living.Close()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, free := range map[string]bool{"left": true, "living": false, "file": false} {
		s := opsserver.New(slog.New(slog.DiscardHandler))
		if err := s.Handle("unix:"+filepath.Join(dir, name), "/", says("")); err != nil {
			t.Fatal(err)
		}
		stop, err := s.Start(t.Context())
		if (err == nil) != free {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			stop()
		}
	}
	if kept, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || string(kept) != "kept" {
		t.Errorf("the file: %q, %v", kept, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "left")); err == nil {
		t.Error("the socket is left behind")
	}
}

// A request under way is answered, and then the address is free.
func TestServers_stop_endsInOrder(t *testing.T) {
	t.Parallel()
	begun, finish := make(chan struct{}), make(chan struct{})
	s := opsserver.New(slog.New(slog.DiscardHandler))
	err := s.Handle("0", "/", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(begun)
		<-finish
		if r.Context().Err() == nil {
			fmt.Fprint(w, "whole")
		}
	}))
	if err != nil {
		t.Fatal(err)
	}
	stop, err := s.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	addr := s.Bound()[0]
	answered := make(chan string)
	go func() {
		_, body := ask(t, addr, "GET", "/")
		answered <- body
	}()
	<-begun
	stopped := make(chan struct{})
	go func() { stop(); close(stopped) }()
	close(finish)
	if body := <-answered; body != "whole" {
		t.Errorf("answered %q", body)
	}
	<-stopped
	again, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatalf("the address is not free: %v", err)
	}
	again.Close()
}

// More connections than the limit wait; those that were there are served.
func TestServers_manyConnections_areBounded(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	s := opsserver.New(slog.New(slog.NewTextHandler(&log, nil)))
	if err := s.Handle("0", "/", says("ok")); err != nil {
		t.Fatal(err)
	}
	stop, err := s.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	const limit = 128
	var idle []net.Conn
	for range limit + 1 {
		conn, err := net.Dial("tcp", s.Bound()[0])
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		idle = append(idle, conn)
	}
	last := idle[limit]
	if _, err := last.Write([]byte("GET / HTTP/1.0\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	// One that ends makes room for it.
	idle[0].Close()
	answer, err := io.ReadAll(last)
	if err != nil || !strings.HasSuffix(string(answer), "ok") {
		t.Errorf("%q, %v", answer, err)
	}
}
