package dashboard

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Rights are what somebody may do.
type Rights struct {
	// See: look at jobs and dead letters, without the secrets in them.
	See bool
	// Act: replay, edit, tag, delete, clean up and export; cancel and retry jobs; pause
	// queues; change hooks.
	Act bool
	// Reveal: see the secrets in arguments and errors. The history records each time.
	Reveal bool
}

// User is who sends a request.
type User struct {
	// Name is what the history records, such as ada@example.com. At most 200 bytes of it
	// are kept.
	Name string
	Rights
}

// Config is the configuration of a [Dashboard]. One of Authenticate, Key and Open is needed:
// nobody sees anything by mistake.
type Config struct {
	// Schema is the schema of Soniq's tables. Default "public".
	Schema string
	// BasePath is the path under which the handler is mounted, such as /admin/soniq. Default
	// "", the root.
	BasePath string
	// Title is what the pages call this installation, such as production. Default "Soniq".
	Title string

	// Authenticate says who sends a request. An error is answered with 401, and its text is
	// not shown; a User that may not See, with 403. A session of your own needs a cookie
	// that is SameSite=Lax or stricter.
	Authenticate func(*http.Request) (User, error)
	// Key is a secret with which people sign in, and scripts authenticate themselves, as
	// 'Authorization: Bearer KEY'. At least 16 bytes.
	Key string
	// KeyRights are the rights of whoever has the Key. See is always one of them.
	KeyRights Rights
	// Open lets everybody see who can reach the address, and nobody act.
	Open bool

	// Hosts are the names under which the dashboard is reached, as in ops.example.com, without
	// a port. Requests for other names are refused, so that no web page can reach it through a
	// name of its own (DNS rebinding). localhost and IP addresses are always allowed. Default,
	// with Authenticate: every name; else none.
	Hosts []string

	// ListenConfig is a direct connection for LISTEN, if the pool is behind a pooler in
	// transaction mode. Default the pool's.
	ListenConfig *pgx.ConnConfig
	// Logger logs failed requests. Default slog.Default().
	Logger *slog.Logger
}

// minKey is the shortest key, in bytes: attempts are limited, and a guess must be hopeless.
const minKey = 16

func (c *Config) check() error {
	ways := 0
	for _, given := range []bool{c.Authenticate != nil, c.Key != "", c.Open} {
		if given {
			ways++
		}
	}
	switch {
	case ways == 0:
		return errors.New("one of Authenticate, Key and Open is needed: who may see the dashboard?")
	case ways > 1:
		return errors.New("the fields Authenticate, Key and Open exclude each other")
	case c.Key != "" && len(c.Key) < minKey:
		return fmt.Errorf("the Key: %d bytes are too short: at least %d", len(c.Key), minKey)
	case c.BasePath != "" && !strings.HasPrefix(c.BasePath, "/"), strings.ContainsAny(c.BasePath, "?#{}\\\"'<> "), strings.Contains(c.BasePath, "//"):
		return fmt.Errorf("the BasePath: %q is not the path of a URL, such as /admin/soniq", c.BasePath)
	}
	for _, host := range c.Hosts {
		if host == "" || strings.ContainsAny(host, "/: ") {
			return fmt.Errorf("the Hosts: %q is not the name of a host, without scheme and port", host)
		}
	}
	return nil
}
