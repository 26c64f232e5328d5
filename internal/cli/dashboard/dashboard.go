// Package dashboard has the command that serves the dashboard.
package dashboard

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"soniq/dashboard"
	"soniq/deadletter"
	"soniq/internal/cli/app"
)

const (
	// The variables are those of Python Soniq.
	writeVariable = "SONIQ_DASHBOARD_WRITE_ENABLED"
	keyVariable   = "SONIQ_DASHBOARD_API_KEY"

	headerTimeout  = 10 * time.Second
	idleTimeout    = 2 * time.Minute
	maxHeaderBytes = 64 << 10
	// stopTimeout is how long requests under way may go on at the end.
	stopTimeout = 5 * time.Second
)

// Command serves the dashboard.
type Command struct {
	Host      string   `default:"127.0.0.1" placeholder:"HOST" help:"The address to serve on. Other machines reach it only under another one than the default, 127.0.0.1; that needs a key, or --insecure."`
	Port      int      `default:"6161" placeholder:"PORT" help:"The port; 0 is any free one. Default 6161."`
	AllowHost []string `sep:"none" placeholder:"NAME" help:"A host name under which it is reached, such as that of a proxy. IP addresses, localhost and --host need none. Repeatable."`
	Insecure  bool     `help:"Serve other machines without a key: whoever reaches the port reads jobs and dead letters, without the secrets that are recognised."`
	Title     string   `default:"Soniq" placeholder:"TEXT" help:"What the pages call this installation, such as production. Default Soniq."`
	app.ListenFlag
}

// Help implements [kong.HelpProvider].
func (Command) Help() string {
	return `Serves a web page of the dead letters: groups of one cause, each one with its error, attempts, arguments and history. docs/dashboard.md describes it.

Without a key it serves this machine alone, and changes nothing. With SONIQ_DASHBOARD_API_KEY, of 16 characters or more, everybody signs in with the key; with SONIQ_DASHBOARD_WRITE_ENABLED=true too, they may replay, edit and delete, and see secrets. The history records the name that they sign in with. Scripts send 'Authorization: Bearer KEY'.

    soniq dashboard
    soniq dashboard --dev
    SONIQ_DASHBOARD_WRITE_ENABLED=true SONIQ_DASHBOARD_API_KEY="$KEY" soniq dashboard
    soniq dashboard --host 0.0.0.0 --allow-host ops.example.com

It speaks plain HTTP: for other machines, put it behind a proxy with TLS that keeps the Host header.`
}

// Run runs the command.
func (c *Command) Run(a *app.App) error {
	config, err := c.config(a)
	if err != nil {
		return err
	}
	pool, err := a.Open()
	if err != nil {
		return err
	}
	if config.ListenConfig, err = c.Listen(a, pool); err != nil {
		return err
	}
	l, d, err := c.open(a, pool, config)
	if err != nil {
		return err
	}
	return Serve(a.Ctx, a.Log, l, d)
}

// open binds the address, once it is known that the dead letters can be read: what is wrong with
// the tables or with rights is told at once.
func (c *Command) open(a *app.App, pool *pgxpool.Pool, config dashboard.Config) (net.Listener, *dashboard.Dashboard, error) {
	queue, err := a.DeadLetters(pool)
	if err != nil {
		return nil, nil, err
	}
	if _, err := queue.Backlog(a.Ctx, deadletter.Filter{Limit: 1}); err != nil {
		return nil, nil, err
	}
	d, err := dashboard.New(pool, config)
	if err != nil {
		return nil, nil, err
	}
	var listen net.ListenConfig
	l, err := listen.Listen(a.Ctx, "tcp", net.JoinHostPort(c.Host, strconv.Itoa(c.Port)))
	if err != nil {
		return nil, nil, err
	}
	a.Log.Info("serving the dashboard", "url", "http://"+l.Addr().String()+"/", "changes", config.KeyRights.Act)
	return l, d, nil
}

// Flag serves the dashboard beside another command.
type Flag struct {
	Dashboard string `placeholder:"ADDR" help:"Serve the dashboard on ADDR too: PORT, on this machine only, or HOST:PORT. 'soniq dashboard' has the variables for its key. Default none."`
}

// Beside checks the flag. It is nil if that was not given.
//
// Errors: a usage error.
func (f Flag) Beside(a *app.App) (*Command, error) {
	if f.Dashboard == "" {
		return nil, nil
	}
	host, port := "127.0.0.1", f.Dashboard
	if strings.Contains(port, ":") {
		var err error
		if host, port, err = net.SplitHostPort(f.Dashboard); err != nil {
			return nil, app.Usagef("--dashboard must be PORT or HOST:PORT, such as 6161, not %q", f.Dashboard)
		}
	}
	n, err := strconv.Atoi(port)
	if err != nil || host == "" {
		return nil, app.Usagef("--dashboard must be PORT or HOST:PORT, such as 6161, not %q", f.Dashboard)
	}
	c := &Command{Host: host, Port: n, Title: "Soniq"}
	_, err = c.config(a)
	return c, err
}

// Start serves the dashboard until stop is called. listen is the connection to LISTEN on, or nil
// for the pool's. A nil command serves nothing.
//
// Errors: those of the database and of the network.
func (c *Command) Start(a *app.App, pool *pgxpool.Pool, listen *pgx.ConnConfig) (stop func(), err error) {
	if c == nil {
		return func() {}, nil
	}
	config, err := c.config(a)
	if err != nil {
		return nil, err
	}
	config.ListenConfig = listen
	l, d, err := c.open(a, pool, config)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(a.Ctx))
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := Serve(ctx, a.Log, l, d); err != nil {
			a.Log.Error("the dashboard is not served any more", "error", err)
		}
	})
	return func() {
		cancel()
		serving.Wait()
	}, nil
}

// config checks the flags and the variables.
func (c *Command) config(a *app.App) (config dashboard.Config, err error) {
	key, writes := a.Getenv(keyVariable), false
	if text := a.Getenv(writeVariable); text != "" {
		if writes, err = strconv.ParseBool(text); err != nil {
			return config, app.Usagef("%s is neither true nor false: %q", writeVariable, text)
		}
	}
	switch {
	case writes && key == "":
		return config, app.Usagef("%s needs %s, a secret of 16 characters or more: 'openssl rand -hex 32' makes one", writeVariable, keyVariable)
	case key != "" && len(key) < 16:
		return config, app.Usagef("%s is too short: it needs 16 characters or more; 'openssl rand -hex 32' makes one", keyVariable)
	case c.Port < 0 || c.Port > math.MaxUint16:
		return config, app.Usagef("--port must be from 0 to %d, not %d", math.MaxUint16, c.Port)
	case key == "" && !c.Insecure && !isLoopback(c.Host):
		return config, app.Usagef("--host %s can be reached from other machines: set %s, or say --insecure to let everybody there read", c.Host, keyVariable)
	}
	for _, name := range c.AllowHost {
		if name == "" || strings.ContainsAny(name, "/: ") {
			return config, app.Usagef("--allow-host must be the name of a host, without scheme and port, not %q", name)
		}
	}
	config = dashboard.Config{
		Schema: a.SchemaName(), Title: c.Title, Key: key, KeyRights: dashboard.Rights{See: true, Act: writes, Reveal: writes},
		Open: key == "", Hosts: append(c.AllowHost, c.Host), Logger: a.Log,
	}
	if name, err := os.Hostname(); err == nil && !isLoopback(c.Host) {
		config.Hosts = append(config.Hosts, name)
	}
	return config, nil
}

// isLoopback reports whether only this machine reaches an address.
func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && addr.IsLoopback()
}

// Serve serves a dashboard until ctx ends.
//
// Errors: those of the dashboard, and of the network.
func Serve(ctx context.Context, log *slog.Logger, l net.Listener, d *dashboard.Dashboard) error {
	server := &http.Server{
		Handler: d.Handler(), ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return d.Run(ctx) })
	group.Go(func() error {
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	group.Go(func() error {
		<-ctx.Done()
		patience, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer cancel()
		if err := server.Shutdown(patience); err != nil {
			return server.Close()
		}
		return nil
	})
	return group.Wait()
}
