package doctor

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

const serverSQL = `
select current_setting('server_version_num')::integer, current_setting('server_version'), pg_is_in_recovery(),
  pg_encoding_to_char(d.encoding)
from pg_database d
where d.datname = current_database()`

func checkServer(ctx context.Context, e *Exam) error {
	var number int
	var version, encoding string
	var standby bool
	if err := e.tx.QueryRow(ctx, serverSQL).Scan(&number, &version, &standby, &encoding); err != nil {
		return err
	}
	if number < 140000 {
		e.find(Critical, "PostgreSQL "+version+" is too old", "upgrade to PostgreSQL 14 or later")
	}
	if standby {
		e.find(Critical, "this is a standby: nothing can be enqueued, run or listened to here",
			"name the primary in the URL, or all servers with target_session_attrs=read-write")
	}
	switch encoding {
	case "UTF8":
	case "SQL_ASCII":
		e.find(Warning, "the database's encoding is SQL_ASCII: nothing stops text that is not UTF-8, which other programs then can't read",
			"move it to a database with the encoding UTF8: pg_dump, createdb --encoding UTF8 --template template0, pg_restore")
	default:
		e.find(Note, "the database's encoding is "+encoding+": characters that it lacks are refused in arguments, and replaced in errors and results",
			"move it to a database with the encoding UTF8: pg_dump, createdb --encoding UTF8 --template template0, pg_restore")
	}
	return nil
}

// $1 the schema.
const unloggedSQL = `
select quote_ident(n.nspname) || '.' || quote_ident(c.relname)
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
where n.nspname = $1
  and c.relname like 'soniq\_%'
  and c.relkind = 'r'
  and c.relpersistence = 'u'
order by 1`

func checkDurability(ctx context.Context, e *Exam) error {
	var table string
	err := e.rows(ctx, unloggedSQL, []any{e.schema.Name()}, []any{&table}, func() {
		e.mend(Critical, "table "+table+" is UNLOGGED: a crash of the server empties it", "alter table "+table+" set logged")
	})
	if err != nil {
		return err
	}
	var fsync, pages, commit string
	const sql = `select current_setting('fsync'), current_setting('full_page_writes'), current_setting('synchronous_commit')`
	if err := e.tx.QueryRow(ctx, sql).Scan(&fsync, &pages, &commit); err != nil {
		return err
	}
	if fsync == "off" {
		e.find(Warning, "fsync is off: a crash of the machine can destroy the whole database", "turn it on in postgresql.conf")
	}
	if pages == "off" {
		e.find(Warning, "full_page_writes is off: a crash of the machine can destroy pages", "turn it on in postgresql.conf")
	}
	if commit == "off" {
		e.find(Note, "synchronous_commit is off: a crash of the server loses the last jobs that were enqueued, and outcomes, whose jobs run again", "turn it on where that matters")
	}
	return nil
}

const connectionsSQL = `
select count(*) filter (where a.backend_type = 'client backend'),
  current_setting('max_connections')::integer - current_setting('superuser_reserved_connections')::integer,
  count(*) filter (where a.datname = current_database() and a.backend_type = 'client backend'),
  (select d.datconnlimit from pg_database d where d.datname = current_database()),
  count(*) filter (where a.usename = current_user and a.backend_type = 'client backend'),
  (select r.rolconnlimit from pg_roles r where r.rolname = current_user),
  quote_ident(current_database()), quote_ident(current_user)
from pg_stat_activity a`

func checkConnections(ctx context.Context, e *Exam) error {
	var all, most, inDatabase, databaseLimit, ofRole, roleLimit int
	var database, role string
	err := e.tx.QueryRow(ctx, connectionsSQL).Scan(&all, &most, &inDatabase, &databaseLimit, &ofRole, &roleLimit, &database, &role)
	if err != nil {
		return err
	}
	for _, c := range []struct {
		used, limit  int
		what, remedy string
		sql          []string
	}{
		{all, most, "of the server (max_connections)", "use smaller pools or a pooler, or raise max_connections", nil},
		{
			inDatabase, databaseLimit, "of database " + database, "alter database " + database + " connection limit -1",
			[]string{"alter database " + database + " connection limit -1"},
		},
		{
			ofRole, roleLimit, "of role " + role, "alter role " + role + " connection limit -1",
			[]string{"alter role " + role + " connection limit -1"},
		},
	} {
		if c.limit < 0 || float64(c.used) < e.limits.Connections*float64(c.limit) {
			continue
		}
		severity := Warning
		if float64(c.used) >= 0.95*float64(c.limit) {
			severity = Critical
		}
		e.find(severity, fmt.Sprintf("%d of %d connections %s are in use: workers that lose theirs may get no other", c.used, c.limit, c.what), c.remedy, c.sql...)
	}
	return nil
}

func checkClock(ctx context.Context, e *Exam) error {
	var at time.Time
	sent := e.config.Now()
	if err := e.tx.QueryRow(ctx, `select clock_timestamp()`, pgx.QueryResultFormats{pgx.TextFormatCode}).Scan(&at); err != nil {
		return err
	}
	received := e.config.Now()
	// Half of the way there and back.
	off := sent.Add(received.Sub(sent) / 2).Sub(at)
	if off.Abs() < e.limits.Skew+received.Sub(sent)/2 {
		return nil
	}
	severity := Note
	if off.Abs() >= 30*e.limits.Skew {
		severity = Warning
	}
	direction := "ahead of"
	if off < 0 {
		direction = "behind"
	}
	e.find(severity, fmt.Sprintf("this machine's clock is %s %s the database's: logs don't fit, and signatures of hooks and --at may be off", off.Abs().Round(time.Millisecond), direction),
		"run NTP on this machine, or on the database's")
	return nil
}
