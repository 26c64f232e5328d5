package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// patroniYAML is the configuration of a node. docs/high-availability.md explains its settings. The
// times are for a drill: a third of what Patroni has by default, so that a failover takes
// some fifteen seconds. fsync is off since nothing here turns off a machine: who kills a
// process leaves what it wrote with the kernel.
func (c *cluster) patroniYAML(n *node) string {
	retry := max(3, (c.ttl-2)/2)
	return fmt.Sprintf(`scope: soniq
name: %[1]s
restapi: {listen: %[2]q, connect_address: %[3]q}
etcd3: {hosts: [%[4]q], use_proxies: true}
bootstrap:
  dcs:
    ttl: %[5]d
    loop_wait: 2
    retry_timeout: %[6]d
    maximum_lag_on_failover: 16777216
    postgresql:
      use_pg_rewind: true
      remove_data_directory_on_rewind_failure: true
      remove_data_directory_on_diverged_timelines: true
      parameters:
        max_connections: 100
        max_wal_senders: 8
        shared_buffers: 32MB
        max_wal_size: 256MB
        wal_keep_size: 256MB
        wal_log_hints: 'on'
        wal_sender_timeout: 10s
        wal_receiver_timeout: 10s
        tcp_keepalives_idle: 10
        tcp_keepalives_interval: 5
        tcp_keepalives_count: 3
        tcp_user_timeout: 15s
        fsync: 'off'
  initdb: [encoding: UTF8, locale: C]
  pg_hba:
  - host all all 127.0.0.1/32 trust
  - host replication all 127.0.0.1/32 trust
postgresql:
  listen: %[7]q
  connect_address: %[8]q
  data_dir: %[9]q
  bin_dir: %[10]q
  pgpass: %[11]q
  authentication:
    superuser: {username: postgres, password: none}
    replication: {username: replicator, password: none}
  parameters: {unix_socket_directories: ''}
  basebackup: [checkpoint: fast]
`, n.name, n.rest, n.restLink.addr(), n.etcdLink.addr(), c.ttl, retry, n.pg, n.pgLink.addr(),
		n.data(), c.bin, filepath.Join(n.dir, "pgpass"))
}

// startHAProxy starts the proxy that knows the primary by Patroni's REST interface, and closes
// the sessions of a server that is it no longer.
func (c *cluster) startHAProxy() (err error) {
	var config strings.Builder
	fmt.Fprintf(&config, `global
  maxconn 500
defaults
  mode tcp
  retries 2
  timeout connect 3s
  timeout client 60m
  timeout server 60m
  timeout check 2s
  option clitcpka
  option srvtcpka
listen primary
  bind %s
  option httpchk OPTIONS /primary
  http-check expect status 200
  default-server inter 1s fall 2 rise 1 on-marked-down shutdown-sessions
`, c.haproxyAddr)
	for _, n := range c.nodes {
		fmt.Fprintf(&config, "  server %s %s check port %s\n", n.name, n.pgLink.addr(), portOf(n.restLink.addr()))
	}
	path := filepath.Join(c.dir, "haproxy.cfg")
	if err := os.WriteFile(path, []byte(config.String()), 0o644); err != nil {
		return err
	}
	c.haproxy, err = c.start("haproxy", c.command(false, "haproxy", "-db", "-f", path))
	return err
}

// A pooler is PgBouncer in transaction mode. Someone starts it again when it ends, as a
// supervisor would.
type pooler struct {
	*bench
	listen, server string

	mu sync.Mutex
	*process
	ending bool
	// unasked is how often it has ended although nobody ended it.
	unasked int
	asked   bool
}

func (p *pooler) begin() error {
	config := fmt.Sprintf(`[databases]
app = host=127.0.0.1 port=%s dbname=app
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %s
unix_socket_dir =
auth_type = trust
auth_file = %s
pool_mode = transaction
max_client_conn = 300
default_pool_size = 20
server_connect_timeout = 3
server_login_retry = 1
server_check_delay = 5
query_wait_timeout = 30
tcp_keepidle = 10
tcp_keepintvl = 5
tcp_keepcnt = 3
ignore_startup_parameters = extra_float_digits
admin_users = postgres
`, portOf(p.server), portOf(p.listen), filepath.Join(p.dir, "users.txt"))
	err := errors.Join(
		os.WriteFile(filepath.Join(p.dir, "pgbouncer.ini"), []byte(config), 0o644),
		os.WriteFile(filepath.Join(p.dir, "users.txt"), []byte("\"postgres\" \"none\"\n"), 0o644))
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.launch()
}

func (p *pooler) launch() (err error) {
	program := "pgbouncer"
	if _, err := os.Stat("/usr/sbin/pgbouncer"); err == nil {
		program = "/usr/sbin/pgbouncer"
	}
	if p.process, err = p.start("pgbouncer", p.command(true, program, filepath.Join(p.dir, "pgbouncer.ini"))); err != nil {
		return err
	}
	go p.supervise(p.process)
	return nil
}

// supervise starts it again a second after it has ended.
func (p *pooler) supervise(was *process) {
	<-was.done
	<-time.After(time.Second)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ending {
		return
	}
	if !p.asked {
		p.unasked++
	}
	p.asked = false
	_ = p.launch()
}

// restart ends it, by a signal or by kill -9, and its supervisor starts it again.
func (p *pooler) restart(signal syscall.Signal) {
	p.mu.Lock()
	p.asked = true
	was := p.process
	p.mu.Unlock()
	was.end(signal, 5*time.Second)
}

func (p *pooler) end() {
	p.mu.Lock()
	p.ending = true
	was := p.process
	p.mu.Unlock()
	was.end(syscall.SIGTERM, 5*time.Second)
}
