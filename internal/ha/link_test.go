package main

import (
	"bufio"
	"context"
	"net"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

// A frozen link keeps its connections, accepts new ones, and passes nothing on; thawed, it delivers what
// was under way.
func TestLink_frozen_holdsEverythingAndLosesNothing(t *testing.T) {
	t.Parallel()
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer echo.Close()
	l, err := newLink(echo.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var group errgroup.Group
	group.Go(func() error { return l.run(ctx) })
	heard := make(chan string, 10)
	group.Go(func() error {
		for {
			conn, err := echo.Accept()
			if err != nil {
				return nil
			}
			group.Go(func() error {
				defer conn.Close()
				for lines := bufio.NewScanner(conn); lines.Scan(); {
					heard <- lines.Text()
				}
				return nil
			})
		}
	})
	dial := func(text string) net.Conn {
		t.Helper()
		conn, err := net.Dial("tcp", l.addr())
		if err == nil {
			_, err = conn.Write([]byte(text + "\n"))
		}
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	expect := func(want ...string) {
		t.Helper()
		got := map[string]bool{}
		for range want {
			select {
			case text := <-heard:
				got[text] = true
			case <-time.After(time.Minute):
				t.Fatalf("heard %v, want %v", got, want)
			}
		}
		for _, text := range want {
			if !got[text] {
				t.Errorf("heard %v, want %v", got, want)
			}
		}
	}
	first := dial("one")
	expect("one")
	l.freeze()
	l.freeze() // again is the same
	if _, err := first.Write([]byte("two\n")); err != nil {
		t.Error(err)
	}
	second := dial("three")
	select {
	case text := <-heard:
		t.Errorf("a frozen link passes on %q", text)
	case <-time.After(50 * time.Millisecond):
	}
	l.thaw()
	l.thaw()
	expect("two", "three")
	for _, conn := range []net.Conn{first, second} {
		_ = conn.Close()
	}
	cancel()
	_ = echo.Close()
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
}
