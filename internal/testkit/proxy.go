package testkit

import (
	"net"
	"net/url"
	"sync"
	"testing"
)

// A Proxy is a stretch of network between a program and its server: it can lose
// every byte on its way while both ends believe in their connections, it can cut
// them, and it can lead to another server.
type Proxy struct {
	listener net.Listener

	mu      sync.Mutex
	servers []string // connections lead to each in turn
	closed  bool
	hole    bool
	down    bool
	seen    int
	conns   map[net.Conn]struct{}
	ended   sync.WaitGroup
}

// StartProxy starts a proxy before the server of a URL. It ends with the test.
func StartProxy(t testing.TB, serverURL string) *Proxy {
	t.Helper()
	u, err := url.Parse(serverURL)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{listener: listener, servers: []string{u.Host}, conns: map[net.Conn]struct{}{}}
	p.ended.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

// Through leads a URL through the proxy.
func (p *Proxy) Through(t testing.TB, serverURL string) string {
	t.Helper()
	u, err := url.Parse(serverURL)
	if err != nil {
		t.Fatal(err)
	}
	u.Host = p.listener.Addr().String()
	return u.String()
}

// BlackHole has bytes vanish, both ways, until the next cut. New connections
// are accepted and lead nowhere.
func (p *Proxy) BlackHole() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hole = true
}

// Cut ends a black hole, and all connections.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hole = false
	for conn := range p.conns {
		_ = conn.Close()
	}
}

// Down cuts all connections, and closes new ones at once until Up.
func (p *Proxy) Down() {
	p.mu.Lock()
	p.down = true
	p.mu.Unlock()
	p.Cut()
}

// Up has the proxy carry again, to the servers of these URLs in turn.
func (p *Proxy) Up(t testing.TB, serverURLs ...string) {
	t.Helper()
	var servers []string
	for _, serverURL := range serverURLs {
		u, err := url.Parse(serverURL)
		if err != nil {
			t.Fatal(err)
		}
		servers = append(servers, u.Host)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.servers, p.down = servers, false
}

// Accepted is how many connections have come so far.
func (p *Proxy) Accepted() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen
}

// Carried is how many connections the proxy carries.
func (p *Proxy) Carried() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns) / 2 // two ends each
}

func (p *Proxy) close() {
	_ = p.listener.Close()
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.Cut()
	p.ended.Wait()
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.ended.Go(func() { p.carry(client) })
	}
}

// carry ends with either side.
func (p *Proxy) carry(client net.Conn) {
	defer client.Close()
	p.mu.Lock()
	address, down := p.servers[p.seen%len(p.servers)], p.down
	p.seen++
	p.mu.Unlock()
	if down {
		return
	}
	server, err := net.Dial("tcp", address)
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

func (p *Proxy) pour(from, to net.Conn) {
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

func (p *Proxy) inHole() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.hole
}

func (p *Proxy) add(conns ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.down {
		return false
	}
	for _, conn := range conns {
		p.conns[conn] = struct{}{}
	}
	return true
}

func (p *Proxy) remove(conns ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, conn := range conns {
		delete(p.conns, conn)
	}
}
