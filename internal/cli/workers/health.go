package workers

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"soniq/engine"
	"soniq/internal/cli/app"
	"soniq/internal/cli/terminal"
	"soniq/internal/cli/workerflags"
	"soniq/internal/health"
	"soniq/internal/opsserver"
)

// HealthCommand asks a worker, or a dispatcher, how it is.
type HealthCommand struct {
	Address      string        `arg:"" optional:"" placeholder:"ADDR" help:"The address of its --health-listen: PORT, HOST:PORT or unix:PATH. Default $$SONIQ_HEALTH_LISTEN."`
	Live         bool          `help:"Ask whether it is live. Default: whether it is ready."`
	FromDatabase bool          `help:"Ask the database instead whether a worker of this host lives, a Python worker too. Such a worker may be draining."`
	Host         string        `placeholder:"NAME" help:"With --from-database: the host. Default this one."`
	Timeout      time.Duration `default:"2s" placeholder:"DURATION" help:"Fail if there is no answer after DURATION, above 0. Default 2s."`
}

// Help implements [kong.HelpProvider].
func (HealthCommand) Help() string {
	return `For exec probes of containers: needs no shell, and exits with 0 if the worker is ready, or live, and with 1 if it isn't or gives no answer.

    soniq worker --health-listen 9091 &
    soniq health 9091
    soniq health --live 9091
    SONIQ_HEALTH_LISTEN=unix:/run/soniq/health.sock soniq health
    soniq health --from-database --host app-7

A live worker needs no restart: it may be busy, stop, or have lost its database. A ready one takes jobs. docs/worker.md has the details.`
}

// maxAnswer is far more than a worker says.
const maxAnswer = 64 << 10

// Run runs the command.
func (c HealthCommand) Run(a *app.App) error {
	ctx, cancel := context.WithTimeout(a.Ctx, c.Timeout)
	defer cancel()
	switch {
	case c.Timeout <= 0:
		return app.Usagef("--timeout must be above 0, not %s", c.Timeout)
	case c.FromDatabase && c.Address != "":
		return app.Usagef("give an address or --from-database, not both")
	case c.FromDatabase:
		a.Ctx = ctx
		return c.fromDatabase(a)
	case c.Host != "":
		return app.Usagef("--host is for --from-database")
	}
	addr := cmp.Or(c.Address, a.Getenv(workerflags.HealthVariable))
	if addr == "" {
		return app.Usagef("which worker? give the ADDR of its --health-listen, or set %s; --from-database asks the database", workerflags.HealthVariable)
	}
	address, err := opsserver.ParseAddress(addr)
	if err != nil {
		return app.Usagef("ADDR %w", err)
	}
	ok, report, err := c.ask(ctx, address)
	if err != nil {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			err = fmt.Errorf("no answer within %s", c.Timeout)
		}
		return fmt.Errorf("ask %s: %w", address, err)
	}
	return c.print(a, ok, report)
}

// ask asks the worker. ok is what its status code says.
func (c HealthCommand) ask(ctx context.Context, address opsserver.Address) (ok bool, r health.Report, err error) {
	path := health.ReadyPath
	if c.Live {
		path = health.LivePath
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://worker"+path, nil)
	if err != nil {
		return false, r, err
	}
	request.Header.Set("Accept", "application/json")
	transport := &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return address.Dial(ctx) },
		DisableKeepAlives: true,
	}
	answer, err := transport.RoundTrip(request)
	if err != nil {
		return false, r, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	if err != nil {
		return false, r, err
	}
	switch answer.StatusCode {
	case http.StatusOK, http.StatusServiceUnavailable:
		if err := json.Unmarshal(body, &r); err != nil || len(r.Checks) == 0 {
			return false, r, errors.New("it is no worker: its answer is not a worker's")
		}
		return answer.StatusCode == http.StatusOK, r, nil
	}
	return false, r, fmt.Errorf("it is no worker: it answered %s", terminal.OneLine(answer.Status))
}

// print prints the checks that failed or warn; all of them as JSON.
func (c HealthCommand) print(a *app.App, ok bool, r health.Report) error {
	if a.JSON {
		if err := a.Out.Document(r); err != nil {
			return err
		}
	} else {
		word := "ready"
		if c.Live {
			word = "live"
		}
		if !ok {
			word = "not " + word
		}
		var reasons []string
		for _, check := range r.Checks {
			if check.Verdict != health.OK {
				reasons = append(reasons, terminal.OneLine(check.Name+": "+check.Detail))
			}
		}
		if len(reasons) > 0 {
			word += " (" + strings.Join(reasons, "; ") + ")"
		}
		a.Out.Printf("%s", word)
	}
	if !ok {
		return &app.ExitError{Code: app.ExitFailed, Err: app.ErrReported}
	}
	return nil
}

// healthOfHost is what --from-database prints as JSON.
type healthOfHost struct {
	Host    string                `json:"host"`
	Live    bool                  `json:"live"`
	Workers []engine.WorkerStatus `json:"workers"`
}

// fromDatabase looks for live workers of a host.
func (c HealthCommand) fromDatabase(a *app.App) error {
	h := healthOfHost{Host: c.Host, Workers: []engine.WorkerStatus{}}
	if h.Host == "" {
		var err error
		if h.Host, err = os.Hostname(); err != nil {
			return fmt.Errorf("which host is this? give --host: %w", err)
		}
	}
	all, err := func() ([]engine.WorkerStatus, error) {
		client, err := a.Client()
		if err != nil {
			return nil, err
		}
		return client.Workers(a.Ctx)
	}()
	if err != nil {
		if errors.Is(a.Ctx.Err(), context.DeadlineExceeded) {
			err = fmt.Errorf("the database did not answer within %s", c.Timeout)
		}
		return err
	}
	live := 0
	for _, w := range all {
		// A Go worker's host has its id behind it.
		if strings.TrimSuffix(w.Hostname, "/"+w.ID.String()) != h.Host {
			continue
		}
		h.Workers = append(h.Workers, w)
		if w.Live {
			live++
		}
	}
	h.Live = live > 0
	if a.JSON {
		err = a.Out.Document(h)
	} else {
		a.Out.Printf("%d of %d workers of host %s live", live, len(h.Workers), terminal.OneLine(h.Host))
	}
	if err == nil && !h.Live {
		err = &app.ExitError{Code: app.ExitFailed, Err: app.ErrReported}
	}
	return err
}
