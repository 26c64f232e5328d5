package devdb

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"
	"golang.org/x/sys/unix"
)

func TestAcquire_folderThatOthersCanChange_isRefused(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(dir string) (want string){
		"everybody may write to it": func(dir string) string {
			must(t, os.Mkdir(filepath.Join(dir, "dev"), 0o711))
			must(t, os.Chmod(filepath.Join(dir, "dev"), 0o1777))
			return "everybody may write to " + filepath.Join(dir, "dev")
		},
		"everybody may replace it": func(dir string) string {
			must(t, os.Chmod(dir, 0o777))
			return "everybody may write to " + dir
		},
		"it is another user's": func(dir string) string {
			if os.Geteuid() != 0 {
				t.Log("only root can make a folder of another user's: not tried")
				return ""
			}
			must(t, os.Mkdir(filepath.Join(dir, "dev"), 0o700))
			must(t, os.Chown(filepath.Join(dir, "dev"), 54321, 54321))
			return "belongs to another user (uid 54321)"
		},
		"its parent is another user's": func(dir string) string {
			if os.Geteuid() != 0 {
				return ""
			}
			must(t, os.Chown(dir, 54321, 54321))
			return "belongs to another user (uid 54321)"
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := makeFolder(t)
			defer os.RemoveAll(dir)
			want := prepare(dir)
			if want == "" {
				return
			}
			_, err := Acquire(t.Context(), Options{Dir: dir, Fast: true})
			if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want %q", err, want)
			}
			if exists(dir, "dev", "password") || exists(dir, "dev", "data") {
				t.Error("a database was made")
			}
		})
	}
}

// A temporary folder belongs to the server's user, and this process may be
// root: nothing that lies there is followed.
func TestFiles_linksAndPipes_areNotFollowed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	victim := filepath.Join(dir, "victim")
	must(t, os.WriteFile(victim, []byte("precious"), 0o600))
	at := filepath.Join(dir, "password")
	must(t, os.Symlink(victim, at))
	must(t, os.Symlink(victim, at+".tmp"))
	if text, err := readFile(at); err == nil {
		t.Errorf("read %q", text)
	}
	if _, err := tryLockFile(at, exclusive); err == nil {
		t.Error("locked the file that a link leads to")
	}
	must(t, writeFile(at, "new"))
	if text, err := readFile(at); err != nil || string(text) != "new" {
		t.Errorf("%q, %v", text, err)
	}
	if text, err := os.ReadFile(victim); err != nil || string(text) != "precious" {
		t.Errorf("the victim holds %q, %v", text, err)
	}
	if info, err := os.Lstat(at); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	pipe := filepath.Join(dir, "pipe")
	must(t, unix.Mkfifo(pipe, 0o600))
	if _, err := readFile(pipe); err == nil {
		t.Error("a pipe was read")
	}
}

// Another user's program at the port, while the server is down, asks for the
// password itself.
func TestPing_impostorAtThePort_getsNoPassword(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	said := make(chan string, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			said <- err.Error()
			return
		}
		defer conn.Close()
		server := pgproto3.NewBackend(conn, conn)
		if _, err := server.ReceiveStartupMessage(); err != nil {
			said <- err.Error()
			return
		}
		server.Send(&pgproto3.AuthenticationCleartextPassword{})
		if err := server.Flush(); err != nil {
			said <- err.Error()
			return
		}
		_ = server.SetAuthType(pgproto3.AuthTypeCleartextPassword)
		message, err := server.Receive()
		if err != nil {
			said <- "nothing"
			return
		}
		said <- fmt.Sprintf("%#v", message)
	}()
	c := &cluster{base: t.TempDir()}
	must(t, writeFile(c.passwordPath(), "hunter2"))
	err = c.ping(t.Context(), l.Addr().(*net.TCPAddr).Port, database, nil)
	if err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("got %v", err)
	}
	if got := <-said; got != "nothing" {
		t.Errorf("the impostor was told %s", got)
	}
}
