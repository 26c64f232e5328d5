package opsserver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Address is where a server listens, or is asked.
type Address struct {
	// network is 'tcp' or 'unix'.
	network, text string
}

const unixPrefix = "unix:"

// maxSocketPath is what the kernels of Linux and macOS take, with room for the zero byte.
const maxSocketPath = 103

// ParseAddress reads PORT, :PORT, HOST:PORT or unix:PATH. Without a host it is 127.0.0.1;
// 0.0.0.0:PORT, [::]:PORT and *:PORT are all networks of the machine. Port 0 is any free one.
//
// Errors: one that says what an address looks like.
func ParseAddress(text string) (Address, error) {
	if path, ok := strings.CutPrefix(text, unixPrefix); ok {
		switch {
		case path == "":
			return Address{}, errors.New("an address unix:PATH needs a path")
		case len(path) > maxSocketPath:
			return Address{}, fmt.Errorf("the path of a socket has at most %d bytes, not %d: %s", maxSocketPath, len(path), path)
		}
		return Address{"unix", filepath.Clean(path)}, nil
	}
	host, port := "", text
	if strings.Contains(text, ":") {
		var err error
		if host, port, err = net.SplitHostPort(text); err != nil {
			return Address{}, badAddress(text)
		}
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return Address{}, badAddress(text)
	}
	switch host {
	case "":
		host = "127.0.0.1"
	case "*":
		host = "" // all of them, IPv4 and IPv6
	}
	return Address{"tcp", net.JoinHostPort(host, strconv.FormatUint(number, 10))}, nil
}

func badAddress(text string) error {
	return fmt.Errorf("must be PORT, HOST:PORT or unix:PATH, such as 9090, 0.0.0.0:9090 or unix:/run/soniq/health.sock, not %q", text)
}

// String is the address as [ParseAddress] reads it.
func (a Address) String() string {
	if a.network == "unix" {
		return unixPrefix + a.text
	}
	if port, ok := strings.CutPrefix(a.text, ":"); ok {
		return "*:" + port
	}
	return a.text
}

// of is where a listener of the address listens: the port too, where any was asked for.
func (a Address) of(bound net.Listener) string {
	if a.network == "unix" {
		return a.String()
	}
	return bound.Addr().String()
}

// Dial connects to whoever listens there.
//
// Errors: those of the network.
func (a Address) Dial(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, a.network, a.text)
}

// listen binds the address. A socket that a process left behind when it was killed is
// replaced; one that somebody listens on is not.
func (a Address) listen(ctx context.Context) (net.Listener, error) {
	l, err := a.bind(ctx)
	if errors.Is(err, syscall.EADDRINUSE) && a.network == "unix" && a.abandoned(ctx) {
		if err := os.Remove(a.text); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("listen on %s: %w", a, err)
		}
		l, err = a.bind(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", a, reason(err))
	}
	return l, nil
}

func (a Address) bind(ctx context.Context) (net.Listener, error) {
	var c net.ListenConfig
	l, err := c.Listen(ctx, a.network, a.text)
	if err != nil || a.network != "unix" {
		return l, err
	}
	// The process's own user and group: a probe runs as one of them.
	if err := os.Chmod(a.text, 0o660); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// abandoned reports whether the path is a socket that nobody listens on.
func (a Address) abandoned(ctx context.Context) bool {
	info, err := os.Lstat(a.text)
	if err != nil || info.Mode().Type() != fs.ModeSocket {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	conn, err := a.Dial(ctx)
	if err == nil {
		conn.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

// reason is an error of the network without the address, which is said already.
func reason(err error) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Err != nil {
		return op.Err
	}
	return err
}
