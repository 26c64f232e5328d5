package engine_test

import (
	"io"
	"net"
	"net/url"
	"sync"
	"testing"
)

// proxy is a stretch of network between a program and its server: it can lose
// every byte on its way while both ends believe in their connections, and it
// can cut them.
type proxy struct {
	listener net.Listener
	server   string

	mu     sync.Mutex
	closed bool
	hole   bool
	conns  map[net.Conn]struct{}
	ended  sync.WaitGroup
}

// startProxy stands before the server of a URL until the test ends.
func startProxy(t *testing.T, serverURL string) *proxy {
	t.Helper()
	u, err := url.Parse(serverURL)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: listener, server: u.Host, conns: map[net.Conn]struct{}{}}
	p.ended.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

// through leads a URL through the proxy.
func (p *proxy) through(t *testing.T, serverURL string) string {
	t.Helper()
	u, err := url.Parse(serverURL)
	if err != nil {
		t.Fatal(err)
	}
	u.Host = p.listener.Addr().String()
	return u.String()
}

// blackHole has bytes vanish, both ways, until the next cut. New connections
// are accepted and lead nowhere.
func (p *proxy) blackHole() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hole = true
}

// cut ends a black hole, and all connections.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hole = false
	for conn := range p.conns {
		_ = conn.Close()
	}
}

func (p *proxy) close() {
	_ = p.listener.Close()
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.cut()
	p.ended.Wait()
}

func (p *proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.ended.Go(func() { p.carry(client) })
	}
}

// carry ends with either side.
func (p *proxy) carry(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", p.server)
	if err != nil {
		return
	}
	defer server.Close()
	if !p.add(client, server) {
		return
	}
	defer p.remove(client, server)
	var both sync.WaitGroup
	both.Go(func() { p.pour(client, server) })
	both.Go(func() { p.pour(server, client) })
	both.Wait()
}

func (p *proxy) pour(from, to net.Conn) {
	// Either end of a connection takes the other with it.
	defer from.Close()
	defer to.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 && !p.inHole() {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (p *proxy) inHole() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.hole
}

func (p *proxy) add(conns ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, conn := range conns {
		p.conns[conn] = struct{}{}
	}
	return !p.closed
}

func (p *proxy) remove(conns ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, conn := range conns {
		delete(p.conns, conn)
	}
}

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
	p := startProxy(t, "tcp://"+echo.Addr().String())
	dial := func() net.Conn {
		conn, err := net.Dial("tcp", p.listener.Addr().String())
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
	p.blackHole()
	send(first, "b")
	lost := dial()
	send(lost, "c")
	waitTrue(t, "both connections in the hole", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.conns) == 4 // two ends each
	})
	p.cut()
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
		if got := receive(t, "what came through", received); got != want {
			t.Errorf("%s came through, want %s", got, want)
		}
	}
}
