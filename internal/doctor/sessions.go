package doctor

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"soniq/internal/redact"
)

// said is a text of somebody else's for a line: bounded, without secrets.
func said(text string) string {
	const most = 80
	text = strings.Join(strings.Fields(redact.Text(text)), " ")
	if runes := []rune(text); len(runes) > most {
		text = string(runes[:most]) + "..."
	}
	return text
}

// span is a duration for people, in its two largest units: 3d4h, 1h5m, 12s.
func span(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second)).Truncate(time.Second)
	const day = 24 * time.Hour
	switch {
	case d >= day:
		return fmt.Sprintf("%dd%dh", d/day, d%day/time.Hour)
	case d >= time.Hour:
		return fmt.Sprintf("%dh%dm", d/time.Hour, d%time.Hour/time.Minute)
	case d >= time.Minute:
		return fmt.Sprintf("%dm%ds", d/time.Minute, d%time.Minute/time.Second)
	}
	return fmt.Sprintf("%ds", d/time.Second)
}

// size is a number of bytes for people.
func size(bytes int64) string {
	const mib = 1 << 20
	if bytes >= 1<<30 {
		return fmt.Sprintf("%.1f GiB", float64(bytes)/(1<<30))
	}
	return fmt.Sprintf("%.1f MiB", float64(bytes)/mib)
}

// literal is a text as SQL writes it.
func literal(text string) string { return "'" + strings.ReplaceAll(text, "'", "''") + "'" }

// aged is the severity of something this old: critical from twelve times the limit on.
func (e *Exam) aged(seconds float64) Severity {
	if limit := e.limits.OldTransaction.Seconds(); limit > 0 && seconds >= 12*limit {
		return Critical
	}
	return Warning
}

// $1 seconds. Only transactions of this database, and of walsenders, keep its dead rows.
const transactionsSQL = `
select a.pid, coalesce(quote_ident(a.usename), ''), coalesce(a.application_name, ''), coalesce(a.state, ''),
  extract(epoch from clock_timestamp() - a.xact_start)::float8, coalesce(age(a.backend_xmin), 0)
from pg_stat_activity a
where a.pid <> pg_backend_pid()
  and a.xact_start <= clock_timestamp() - make_interval(secs => $1::float8)
  and a.datname = current_database()
  and a.backend_type = 'client backend'
order by a.xact_start
limit 5`

// $1 the schema.
const deadRowsSQL = `
select coalesce(sum(s.n_dead_tup), 0)::bigint
from pg_stat_user_tables s
where s.schemaname = $1
  and s.relname like 'soniq\_%'`

// $1 seconds.
const preparedSQL = `
select p.gid, extract(epoch from clock_timestamp() - p.prepared)::float8
from pg_prepared_xacts p
where p.database = current_database()
  and p.prepared <= clock_timestamp() - make_interval(secs => $1::float8)
order by p.prepared
limit 5`

const blindSQL = `
select count(*) filter (where a.backend_type is null and a.pid <> pg_backend_pid()), quote_ident(current_user)
from pg_stat_activity a`

func checkTransactions(ctx context.Context, e *Exam) error {
	var dead int64
	if err := e.tx.QueryRow(ctx, deadRowsSQL, e.schema.Name()).Scan(&dead); err != nil {
		return err
	}
	limit := e.limits.OldTransaction.Seconds()
	var pid int
	var role, app, state string
	var seconds float64
	var behind int64
	err := e.rows(ctx, transactionsSQL, []any{limit}, []any{&pid, &role, &app, &state, &seconds, &behind}, func() {
		e.mend(e.aged(seconds), fmt.Sprintf("session %d of role %s (%s, %s) has been in a transaction for %s: vacuum keeps what died in the last %d transactions, and %d rows of Soniq's are dead",
			pid, role, said(app), state, span(seconds), behind, dead), fmt.Sprintf("select pg_terminate_backend(%d)", pid))
	})
	if err != nil {
		return err
	}
	var gid string
	err = e.rows(ctx, preparedSQL, []any{limit}, []any{&gid, &seconds}, func() {
		sql := "rollback prepared " + literal(gid)
		e.find(e.aged(seconds), fmt.Sprintf("transaction %s was prepared %s ago and is still open: it keeps dead rows and locks, and dead letters after it are in no feed", said(gid), span(seconds)),
			"commit prepared, or: "+sql, sql)
	})
	if err != nil {
		return err
	}
	var hidden int
	if err := e.tx.QueryRow(ctx, blindSQL).Scan(&hidden, &role); err != nil {
		return err
	}
	if hidden > 0 {
		e.find(Unknown, fmt.Sprintf("%d sessions of other roles can't be looked at", hidden), "grant pg_monitor to "+role, "grant pg_monitor to "+role)
	}
	return nil
}

const slotsSQL = `
select s.slot_name::text, s.slot_type, s.xmin is not null or s.catalog_xmin is not null, coalesce(s.wal_status, ''),
  coalesce(pg_wal_lsn_diff(case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_lsn() end, s.restart_lsn), 0)::bigint
from pg_replication_slots s
where not s.active
  and (s.database is null or s.database = current_database() or s.catalog_xmin is null)
order by 1`

func checkSlots(ctx context.Context, e *Exam) error {
	var name, kind, status string
	var holds bool
	var retained int64
	return e.rows(ctx, slotsSQL, nil, []any{&name, &kind, &holds, &status, &retained}, func() {
		sql := "select pg_drop_replication_slot(" + literal(name) + ")"
		remedy := "start what uses it, or: " + sql
		switch {
		case status == "lost":
			e.find(Warning, "replication slot "+name+" has lost its WAL: whoever used it has to begin anew", sql, sql)
		case holds:
			e.find(Warning, fmt.Sprintf("nobody uses the %s replication slot %s, which keeps dead rows and %s of WAL", kind, name, size(retained)), remedy, sql)
		case retained >= e.limits.RetainedWAL:
			e.find(Warning, fmt.Sprintf("nobody uses the %s replication slot %s, which keeps %s of WAL: the disk fills up", kind, name, size(retained)), remedy, sql)
		}
	})
}

// $1 the schema, $2 seconds. A session that waits for a row waits for a transaction, and holds a
// lock on the table meanwhile.
const locksSQL = `
with ours as (
  select c.oid, c.relname
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
  where n.nspname = $1
    and c.relname like 'soniq\_%'
), waiting as (
  select a.pid, extract(epoch from clock_timestamp() - a.query_start)::float8 as seconds, min(o.relname::text) as relname
  from pg_stat_activity a
  join pg_locks l on l.pid = a.pid
  join ours o on o.oid = l.relation
  where a.wait_event_type = 'Lock'
    and a.query_start <= clock_timestamp() - make_interval(secs => $2::float8)
  group by a.pid, a.query_start
)
select b.pid, coalesce(quote_ident(h.usename), ''), coalesce(h.application_name, ''), count(*), max(w.seconds), min(w.relname)
from waiting w
cross join unnest(pg_blocking_pids(w.pid)) b (pid)
left join pg_stat_activity h on h.pid = b.pid
where b.pid not in (select pid from waiting)
group by 1, 2, 3
order by 5 desc
limit 5`

func checkLocks(ctx context.Context, e *Exam) error {
	var pid, waiting int
	var role, app, table string
	var seconds float64
	return e.rows(ctx, locksSQL, []any{e.schema.Name(), e.limits.LockWait.Seconds()}, []any{&pid, &role, &app, &waiting, &seconds, &table}, func() {
		if pid == 0 {
			e.find(Warning, fmt.Sprintf("a prepared transaction holds up %d sessions on %s, for %s", waiting, table, span(seconds)), "see pg_prepared_xacts: commit or roll it back")
			return
		}
		e.mend(Warning, fmt.Sprintf("session %d of role %s (%s) holds up %d sessions on %s, for %s", pid, role, said(app), waiting, table, span(seconds)),
			fmt.Sprintf("select pg_terminate_backend(%d)", pid))
	})
}

const notifyQueueSQL = `
select pg_notification_queue_usage(), coalesce(o.pid, 0), coalesce(quote_ident(o.datname), ''), coalesce(o.seconds, 0)
from (select) one
left join lateral (
  select a.pid, a.datname, extract(epoch from clock_timestamp() - a.xact_start)::float8 as seconds
  from pg_stat_activity a
  where a.pid <> pg_backend_pid()
    and a.backend_type = 'client backend'
    and a.xact_start is not null
  order by a.xact_start
  limit 1
) o on true`

func checkNotifyQueue(ctx context.Context, e *Exam) error {
	var usage, seconds float64
	var pid int
	var database string
	err := e.tx.QueryRow(ctx, notifyQueueSQL, pgx.QueryResultFormats{pgx.TextFormatCode}).Scan(&usage, &pid, &database, &seconds)
	if err != nil || usage <= e.limits.NotifyQueue {
		return err
	}
	severity := Warning
	if usage >= 0.5 {
		severity = Critical
	}
	problem := fmt.Sprintf("the server's queue of notifications is %.2g %% full, because a session that listens does not read: when it is full, no transaction that notifies can commit", 100*usage)
	if pid == 0 {
		e.find(severity, problem, "end the session that has listened for longest: see pg_stat_activity")
		return nil
	}
	sql := fmt.Sprintf("select pg_terminate_backend(%d)", pid)
	e.find(severity, fmt.Sprintf("%s; the oldest transaction is of session %d in database %s, for %s", problem, pid, database, span(seconds)), sql, sql)
	return nil
}
