package main

import (
	"bufio"
	"context"
	"embed"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/internal/bench"
)

// Graphile is graphile-worker in Node, as its own benchmark runs it: 24 jobs at
// once, a local queue of 500, and completions in batches. It deletes done jobs.
// It takes part in burn-downs alone.
type Graphile struct {
	dir string
	// filled is how many jobs wait.
	filled int
}

//go:embed graphile/package.json graphile/worker.mjs
var graphileFiles embed.FS

// newGraphile installs graphile-worker into the user's cache. It fails where
// there is no Node.
func newGraphile(ctx context.Context) (*Graphile, error) {
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			return nil, err
		}
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(cache, "soniq", "bench-graphile")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	for _, name := range []string{"package.json", "worker.mjs"} {
		raw, err := graphileFiles.ReadFile("graphile/" + name)
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(dir, name), raw, 0o644); err != nil {
			return nil, err
		}
	}
	install := exec.CommandContext(ctx, "npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--silent")
	install.Dir = dir
	if out, err := install.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("npm install: %w: %s", err, out)
	}
	return &Graphile{dir: dir}, nil
}

// Name implements [bench.System].
func (*Graphile) Name() string { return "graphile-worker" }

func (g *Graphile) node(ctx context.Context, pool *pgxpool.Pool, what string) *exec.Cmd {
	config := pool.Config().ConnConfig
	cmd := exec.CommandContext(ctx, "node", "worker.mjs", what)
	cmd.Dir = g.dir
	// A URL of the parts: the pool's database is not that of its own URL.
	cmd.Env = append(os.Environ(), "BENCH_URL="+databaseURL(config))
	cmd.Stderr = os.Stderr
	return cmd
}

// Setup implements [bench.System].
func (g *Graphile) Setup(ctx context.Context, pool *pgxpool.Pool) error {
	return g.node(ctx, pool, "setup").Run()
}

const graphileFillSQL = `
select count(*)
from graphile_worker.add_jobs(array(
  select ('noop', json_build_object('seq', s), null, null, null, null, null, null)::graphile_worker.job_spec
  from generate_series($1::bigint, $2::bigint) s
))`

// Fill implements [bench.System].
func (g *Graphile) Fill(ctx context.Context, pool *pgxpool.Pool, n int) error {
	g.filled = n
	return bench.Batches(n, func(first int64, size int) error {
		_, err := pool.Exec(ctx, graphileFillSQL, first, first+int64(size)-1)
		return err
	})
}

// Inserter implements [bench.System].
func (*Graphile) Inserter(*pgxpool.Pool) (bench.Inserter, error) {
	return nil, errors.New("graphile-worker takes part in burn-downs alone")
}

// leftPause is between two looks whether the last batch was written.
const leftPause = 2 * time.Millisecond

// Work implements [bench.System]. Jobs are told as settled all at once: Node
// tells of a job before its row is deleted, and only a look at the table says
// when the last was.
func (g *Graphile) Work(ctx context.Context, pool *pgxpool.Pool, probe bench.Probe) error {
	cmd := g.node(context.WithoutCancel(ctx), pool, "work")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = stdin.Close() })
	defer stop()
	err = g.count(ctx, pool, bufio.NewScanner(stdout), probe)
	if err != nil {
		_ = stdin.Close()
	}
	return errors.Join(err, cmd.Wait())
}

// count reads how many jobs have ended until the output does.
func (g *Graphile) count(ctx context.Context, pool *pgxpool.Pool, lines *bufio.Scanner, probe bench.Probe) error {
	ended, began := 0, false
	for lines.Scan() {
		if !began {
			began = true
			probe.Began()
		}
		n, err := strconv.Atoi(lines.Text())
		if err != nil {
			return fmt.Errorf("output of node: %w", err)
		}
		if ended += n; ended < g.filled || g.filled == 0 {
			continue
		}
		for left := 1; left > 0; {
			if err := pool.QueryRow(context.WithoutCancel(ctx), g.Left()).Scan(&left); err != nil {
				return err
			}
			<-time.After(leftPause)
		}
		probe.Settled(g.filled)
	}
	return lines.Err()
}

// Left implements [bench.System].
func (*Graphile) Left() string { return `select count(*) from graphile_worker._private_jobs` }

// Expire implements [bench.System]. Nothing is kept.
func (*Graphile) Expire() string { return `select` }

// databaseURL is a URL that Node's pg understands.
func databaseURL(c *pgx.ConnConfig) string {
	u := url.URL{Scheme: "postgres", User: url.UserPassword(c.User, c.Password), Path: "/" + c.Database}
	if filepath.IsAbs(c.Host) {
		u.RawQuery = url.Values{"host": {c.Host}, "port": {strconv.Itoa(int(c.Port))}}.Encode()
	} else {
		u.Host = net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port)))
	}
	return u.String()
}
