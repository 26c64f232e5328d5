package opsserver

import (
	"net"
	"sync"
	"testing"
)

// endless has a connection for whoever asks, and counts the open ones.
type endless struct {
	net.Listener
	mu         sync.Mutex
	open, most int
}

type counted struct {
	net.Conn
	of   *endless
	once sync.Once
}

func (e *endless) Accept() (net.Conn, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.open++
	e.most = max(e.most, e.open)
	return &counted{of: e}, nil
}

func (c *counted) Close() error {
	c.once.Do(func() {
		c.of.mu.Lock()
		defer c.of.mu.Unlock()
		c.of.open--
	})
	return nil
}

func TestLimit_manyAtOnce_holdsAndIsFreedOnce(t *testing.T) {
	t.Parallel()
	const most, rounds = 3, 300
	e := &endless{}
	l := limit(e, most)
	conns := make(chan net.Conn, rounds)
	for range 10 {
		go func() {
			for range rounds / 10 {
				conn, err := l.Accept()
				if err != nil {
					t.Error(err)
				}
				conns <- conn
			}
		}()
	}
	for range rounds {
		conn := <-conns
		conn.Close()
		conn.Close() // net/http may
	}
	if e.most > most || e.open != 0 {
		t.Errorf("%d were open at once, %d still are; the limit is %d", e.most, e.open, most)
	}
}
