package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// logSQL makes the table that has each step of each job, in the transaction of that step.
var logSQL = []string{
	`create schema ha`,
	`create table ha.log (
	  id uuid primary key default gen_random_uuid(),
	  job uuid not null,
	  what text not null,
	  at timestamptz not null default clock_timestamp()
	)`,
	`create index on ha.log (at)`,
	`create function ha.note() returns trigger language plpgsql security definer set search_path = pg_catalog as $$
	begin
	  if tg_table_name = 'soniq_dead_letter_jobs' then
	    insert into ha.log (job, what) values (new.id, 'dead');
	  elsif tg_op = 'DELETE' then
	    insert into ha.log (job, what) values (old.id, 'gone');
	  elsif tg_op = 'INSERT' or new.status is distinct from old.status or new.claim_token is distinct from old.claim_token then
	    insert into ha.log (job, what) values (new.id, new.status);
	  end if;
	  return null;
	end
	$$`,
	`create trigger ha_note after insert or update or delete on public.soniq_jobs for each row execute function ha.note()`,
	`create trigger ha_note after insert on public.soniq_dead_letter_jobs for each row execute function ha.note()`,
}

// steps reads the log from a time on.
func steps(ctx context.Context, url string, since time.Time) ([]step, error) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close(ctx) }()
	rows, _ := conn.Query(ctx, "select id, job, what, at from ha.log where at >= $1 order by at", since)
	return pgx.CollectRows(rows, pgx.RowToStructByPos[step])
}

// A loss is what a failover has lost.
type loss struct {
	// Steps are those of the old primary that the new one hasn't.
	Steps []step
	// Bytes are what the old primary's WAL has after the place where the new timeline begins.
	Bytes int64
}

// compare reads the logs of an old primary, at a URL, and of the new one.
func compare(ctx context.Context, old, promoted string, since time.Time) (loss, error) {
	var l loss
	had, err := steps(ctx, old, since)
	if err != nil {
		return l, fmt.Errorf("read the log of the old primary: %w", err)
	}
	has, err := steps(ctx, promoted, since)
	if err != nil {
		return l, fmt.Errorf("read the log of the new primary: %w", err)
	}
	kept := make(map[uuid.UUID]bool, len(has))
	for _, s := range has {
		kept[s.ID] = true
	}
	for _, s := range had {
		if !kept[s.ID] {
			l.Steps = append(l.Steps, s)
		}
	}
	var history string
	if err := query(ctx, promoted, `select pg_read_file('pg_wal/' || left(pg_walfile_name(pg_current_wal_lsn()), 8) || '.history')`,
		[]any{&history}); err != nil {
		return l, fmt.Errorf("read the new primary's timeline: %w", err)
	}
	switched, err := lastSwitch(history)
	if err != nil {
		return l, err
	}
	err = query(ctx, old, `select (pg_last_wal_replay_lsn() - $1::text::pg_lsn)::bigint`, []any{&l.Bytes}, switched)
	return l, err
}

// lastSwitch is the place at which the newest timeline of a history begins.
func lastSwitch(history string) (string, error) {
	lines := strings.Split(strings.TrimSpace(history), "\n")
	fields := strings.Fields(lines[len(lines)-1])
	if len(fields) < 2 || !strings.Contains(fields[1], "/") {
		return "", fmt.Errorf("no timeline history: %q", history)
	}
	return fields[1], nil
}

// ofTheDead compares the files of a node whose processes are gone with the new primary. It starts
// a copy of them as a standby of nobody, which reads its WAL to the end and writes no
// timeline of its own.
func (c *cluster) ofTheDead(ctx context.Context, n *node, promoted string, since time.Time) (l loss, err error) {
	dir := filepath.Join(n.dir, "copy")
	defer func() { _ = os.RemoveAll(dir) }()
	if _, err := c.output(ctx, c.command(true, "cp", "-a", n.data(), dir)); err != nil {
		return l, err
	}
	if err := os.Remove(filepath.Join(dir, "postmaster.pid")); err != nil && !os.IsNotExist(err) {
		return l, err
	}
	signal := filepath.Join(dir, "standby.signal")
	if err := os.WriteFile(signal, nil, 0o600); err != nil {
		return l, err
	}
	if err := c.ownedByServer(signal); err != nil {
		return l, err
	}
	addr, err := freeAddress()
	if err != nil {
		return l, err
	}
	server, err := c.start("copy", c.command(true, filepath.Join(c.bin, "postgres"), "-D", dir, "-p", portOf(addr),
		"-c", "listen_addresses=127.0.0.1", "-c", "primary_conninfo=", "-c", "primary_slot_name=", "-c", "restore_command=",
		"-c", "recovery_target_timeline=current", "-c", "hot_standby=on", "-c", "cluster_name=copy"))
	if err != nil {
		return l, err
	}
	defer server.end(syscall.SIGQUIT, 10*time.Second)
	url := "postgres://postgres@" + addr + "/app?sslmode=disable"
	err = until(ctx, time.Minute, "the copy of a dead primary", func(ctx context.Context) error {
		var in bool
		return query(ctx, url, "select pg_is_in_recovery()", []any{&in})
	})
	if err != nil {
		return l, err
	}
	return compare(ctx, url, promoted, since)
}

// timeline of the primary at a URL.
func timeline(ctx context.Context, url string) (int, error) {
	var hex string
	if err := query(ctx, url, "select left(pg_walfile_name(pg_current_wal_lsn()), 8)", []any{&hex}); err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(hex, 16, 64)
	return int(n), err
}
