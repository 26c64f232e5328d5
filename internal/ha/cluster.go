package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
)

const nodes = 3

// A node is one machine: Patroni and its PostgreSQL.
type node struct {
	name, dir string
	// pg and rest are where its programs listen. All others know only its links.
	pg, rest                   string
	pgLink, restLink, etcdLink *link
	patroni                    *process
}

func (n *node) data() string   { return filepath.Join(n.dir, "data") }
func (n *node) links() []*link { return []*link{n.pgLink, n.restLink, n.etcdLink} }

// direct is a URL of the node past its links.
func (n *node) direct() string { return "postgres://postgres@" + n.pg + "/app?sslmode=disable" }

// postmaster is the pid of its server, 0 if there is none.
func (n *node) postmaster() int {
	content, err := os.ReadFile(filepath.Join(n.data(), "postmaster.pid"))
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(content), "\n")
	pid, _ := strconv.Atoi(first)
	return pid
}

// cluster is everything between the clients and the disks.
type cluster struct {
	*bench
	bin           string // of the server's programs
	ttl           int
	etcd, haproxy *process
	etcdAddr      string
	haproxyAddr   string
	pgbouncerAddr string
	pooler        *pooler
	nodes         []*node
}

func newCluster(b *bench, bin string, ttl int) (*cluster, error) {
	c := &cluster{bench: b, bin: bin, ttl: ttl}
	for _, addr := range []*string{&c.etcdAddr, &c.haproxyAddr, &c.pgbouncerAddr} {
		var err error
		if *addr, err = freeAddress(); err != nil {
			return nil, err
		}
	}
	for i := range nodes {
		n := &node{name: fmt.Sprintf("node%d", i+1)}
		n.dir = filepath.Join(b.dir, n.name)
		var errs [5]error
		n.pg, errs[0] = freeAddress()
		n.rest, errs[1] = freeAddress()
		n.pgLink, errs[2] = newLink(n.pg)
		n.restLink, errs[3] = newLink(n.rest)
		n.etcdLink, errs[4] = newLink(c.etcdAddr)
		if err := errors.Join(errs[:]...); err != nil {
			return nil, err
		}
		if err := errors.Join(os.MkdirAll(n.dir, 0o700), b.ownedByServer(n.dir)); err != nil {
			return nil, err
		}
		c.nodes = append(c.nodes, n)
	}
	return c, nil
}

// pass runs the links until ctx ends.
func (c *cluster) pass(ctx context.Context, group *errgroup.Group) {
	for _, n := range c.nodes {
		for _, l := range n.links() {
			group.Go(func() error { return l.run(ctx) })
		}
	}
}

// begin starts all of it, and makes the database app.
func (c *cluster) begin(ctx context.Context) (err error) {
	peer, err := freeAddress()
	if err != nil {
		return err
	}
	c.etcd, err = c.start("etcd", c.command(true, "etcd", "--name=etcd", "--data-dir="+filepath.Join(c.nodes[0].dir, "etcd"),
		"--listen-client-urls=http://"+c.etcdAddr, "--advertise-client-urls=http://"+c.etcdAddr,
		"--listen-peer-urls=http://"+peer, "--initial-advertise-peer-urls=http://"+peer, "--initial-cluster=etcd=http://"+peer,
		"--heartbeat-interval=500", "--election-timeout=5000", "--auto-compaction-retention=1h"))
	if err != nil {
		return err
	}
	if err := until(ctx, time.Minute, "etcd", func(ctx context.Context) error {
		return get(ctx, "http://"+c.etcdAddr+"/health", nil)
	}); err != nil {
		return err
	}
	for i, n := range c.nodes {
		if err := os.WriteFile(filepath.Join(n.dir, "patroni.yml"), []byte(c.patroniYAML(n)), 0o644); err != nil {
			return err
		}
		if err := c.startPatroni(n); err != nil {
			return err
		}
		if i == 0 { // the first one makes the cluster
			if err := until(ctx, 2*time.Minute, "the first primary", func(ctx context.Context) error {
				_, err := c.leader(ctx)
				return err
			}); err != nil {
				return err
			}
		}
	}
	if err := c.startHAProxy(); err != nil {
		return err
	}
	c.pooler = &pooler{bench: c.bench, listen: c.pgbouncerAddr, server: c.haproxyAddr}
	if err := c.pooler.begin(); err != nil {
		return err
	}
	if err := until(ctx, time.Minute, "the database", func(ctx context.Context) error {
		err := execute(ctx, strings.Replace(c.viaHAProxy(), "/app", "/postgres", 1), "create database app")
		if err != nil && strings.Contains(err.Error(), "already exists") {
			return nil
		}
		return err
	}); err != nil {
		return err
	}
	return c.whole(ctx, 2*time.Minute, false)
}

func (c *cluster) startPatroni(n *node) (err error) {
	n.patroni, err = c.start("patroni-"+n.name, c.command(true, "patroni", filepath.Join(n.dir, "patroni.yml")))
	return err
}

// The three ways to the database. Node addresses are those of the links.
func (c *cluster) viaHAProxy() string {
	return "postgres://postgres@" + c.haproxyAddr + "/app?sslmode=disable"
}

func (c *cluster) viaPgBouncer() string {
	return "postgres://postgres@" + c.pgbouncerAddr + "/app?sslmode=disable"
}

func (c *cluster) viaHosts() string {
	var hosts []string
	for _, n := range c.nodes {
		hosts = append(hosts, n.pgLink.addr())
	}
	return "postgres://postgres@" + strings.Join(hosts, ",") + "/app?sslmode=disable&target_session_attrs=read-write&connect_timeout=5"
}

// leader is the node that its Patroni calls the primary.
func (c *cluster) leader(ctx context.Context, but ...*node) (*node, error) {
	for _, n := range c.nodes {
		if len(but) > 0 && n == but[0] {
			continue
		}
		if err := get(ctx, "http://"+n.rest+"/primary", nil); err == nil {
			return n, nil
		}
	}
	return nil, errors.New("no node is the primary")
}

// whole waits until there is a primary to which all others stream, and with sync one of them
// synchronously: as PostgreSQL says, and as etcd has it, since no other one would be promoted.
func (c *cluster) whole(ctx context.Context, patience time.Duration, sync bool) error {
	return until(ctx, patience, "a primary with two standbys", func(ctx context.Context) error {
		n, err := c.leader(ctx)
		if err != nil {
			return err
		}
		var streaming, synchronous int
		err = query(ctx, n.direct(), `select count(*) filter (where pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn) < 1 << 20),
			count(*) filter (where sync_state = 'sync') from pg_stat_replication where state = 'streaming' and application_name like 'node%'`,
			[]any{&streaming, &synchronous})
		if err != nil {
			return err
		}
		if streaming < nodes-1 || sync && synchronous == 0 {
			return fmt.Errorf("%s has %d standbys, %d of them synchronous", n.name, streaming, synchronous)
		}
		var known struct {
			Members []struct {
				Role string `json:"role"`
			} `json:"members"`
		}
		if err := get(ctx, "http://"+n.rest+"/cluster", &known); err != nil || !sync {
			return err
		}
		for _, m := range known.Members {
			if m.Role == "sync_standby" {
				return nil
			}
		}
		return fmt.Errorf("etcd has no synchronous standby: %+v", known.Members)
	})
}

// configure changes Patroni's configuration of the whole cluster.
func (c *cluster) configure(ctx context.Context, change map[string]any) error {
	n, err := c.leader(ctx)
	if err != nil {
		return err
	}
	return send(ctx, http.MethodPatch, "http://"+n.rest+"/config", change)
}

// checkpoint has each node write what it has: a standby of PostgreSQL 15 that is promoted before its
// first restartpoint has lost unlogged sequences. docs/restore.md tells of it.
func (c *cluster) checkpoint(ctx context.Context) error {
	for range 2 { // a standby's restartpoint is at a checkpoint that the primary has made
		for _, n := range c.nodes {
			if err := execute(ctx, n.direct(), "checkpoint"); err != nil {
				return err
			}
		}
	}
	return nil
}

// end stops everything, at once.
func (c *cluster) end() {
	if c.pooler != nil {
		c.pooler.end()
	}
	c.haproxy.end(syscall.SIGTERM, 5*time.Second)
	for _, n := range c.nodes {
		n.patroni.end(syscall.SIGKILL, time.Second)
		if pid := n.postmaster(); pid != 0 {
			_ = syscall.Kill(pid, syscall.SIGQUIT)
			_ = gone(context.Background(), []int{pid})
		}
	}
	c.etcd.end(syscall.SIGTERM, 5*time.Second)
}

// query reads one row.
func query(ctx context.Context, url, sql string, into []any, args ...any) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	return conn.QueryRow(ctx, sql, args...).Scan(into...)
}

func execute(ctx context.Context, url string, statements ...string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	for _, sql := range statements {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return err
		}
	}
	return nil
}

// get asks one of the programs by HTTP, and expects 200.
func get(ctx context.Context, url string, into any) error {
	return exchange(ctx, http.MethodGet, url, nil, into)
}

func send(ctx context.Context, method, url string, body any) error {
	content, err := json.Marshal(body)
	if err != nil {
		return err
	}
	return exchange(ctx, method, url, content, nil)
}

func exchange(ctx context.Context, method, url string, body []byte, into any) error {
	request, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Close = true
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: %s: %s", method, url, response.Status, answer)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(answer, into)
}
