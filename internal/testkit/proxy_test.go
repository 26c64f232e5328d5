package testkit_test

import (
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"soniq/internal/eventually"
	"soniq/internal/testkit"
)

func TestProxy_blackHole_losesBothWaysUntilTheCut(t *testing.T) {
	t.Parallel()
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var echoing sync.WaitGroup
	t.Cleanup(echoing.Wait)
	t.Cleanup(func() { _ = echo.Close() })
	received := make(chan string, 10)
	echoing.Go(func() {
		for {
			conn, err := echo.Accept()
			if err != nil {
				return
			}
			echoing.Go(func() {
				defer conn.Close()
				buf := make([]byte, 1)
				for {
					if _, err := conn.Read(buf); err != nil {
						return
					}
					received <- string(buf)
					if _, err := conn.Write(buf); err != nil {
						return
					}
				}
			})
		}
	})
	p := testkit.StartProxy(t, "tcp://"+echo.Addr().String())
	dial := func() net.Conn {
		conn, err := net.Dial("tcp", strings.TrimPrefix(p.Through(t, "tcp://echo"), "tcp://"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	send := func(conn net.Conn, text string) {
		if _, err := io.WriteString(conn, text); err != nil {
			t.Fatal(err)
		}
	}
	buf := make([]byte, 1)
	first := dial()
	send(first, "a")
	if _, err := io.ReadFull(first, buf); err != nil || buf[0] != 'a' {
		t.Fatalf("read %q, %v", buf, err)
	}
	p.BlackHole()
	send(first, "b")
	lost := dial()
	send(lost, "c")
	eventually.True(t, "both connections in the hole", func() bool { return p.Carried() == 2 })
	p.Cut()
	for _, conn := range []net.Conn{first, lost} {
		if n, err := conn.Read(buf); err == nil {
			t.Errorf("read %d bytes of a connection that was cut", n)
		}
	}
	again := dial()
	send(again, "d")
	if _, err := io.ReadFull(again, buf); err != nil || buf[0] != 'd' {
		t.Errorf("after the cut: read %q, %v", buf, err)
	}
	for _, want := range []string{"a", "d"} {
		if got := <-received; got != want {
			t.Errorf("%s came through, want %s", got, want)
		}
	}
}
