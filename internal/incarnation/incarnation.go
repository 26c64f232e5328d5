// Package incarnation tells whether a database is the one that Soniq was set up for, or a copy: a restored
// dump or backup, a clone for staging, a standby that was promoted.
//
// A database belongs on one server, under one number, on one timeline: its [ID]. The table
// soniq_incarnations names it. Whoever starts first on a database that names none writes it. Where it names
// another, programs that tell the outside world something (hooks) hold until somebody says that this
// is the one: [Adopt].
package incarnation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"soniq/internal/pg"
)

// An ID is where a database is.
type ID struct {
	// System is the server's system identifier, from initdb. It is empty where the server doesn't tell, and
	// then equal to every other.
	System string `json:"system_identifier"`
	// Database is the database's oid: a copy on the same server has another.
	Database int64 `json:"database_oid"`
	// Timeline grows with each promotion and each recovery to a point in time. 0 is unknown, and equal
	// to every other.
	Timeline int64 `json:"timeline"`
}

func (id ID) sameSystem(other ID) bool {
	return id.System == other.System || id.System == "" || other.System == ""
}

func (id ID) same(other ID) bool {
	return id.sameSystem(other) && id.Database == other.Database &&
		(id.Timeline == other.Timeline || id.Timeline == 0 || other.Timeline == 0)
}

// A Row is one of soniq_incarnations.
type Row struct {
	ID
	How       string     `json:"how"`
	AdoptedAt time.Time  `json:"adopted_at"`
	AdoptedBy string     `json:"adopted_by"`
	Replaced  *time.Time `json:"replaced_at"`
}

// A View is what was read at a moment.
type View struct {
	// Now is where the database is.
	Now ID
	// Server is when the server was started.
	Server time.Time
	// Position is how far the server's WAL is on disk, in bytes. On one timeline of one server it never goes
	// back. 0 where the server doesn't tell.
	Position int64
	// Standby: the server only follows another one.
	Standby bool
	// Rows are the table's.
	Rows []Row
	// Ahead: the table is empty, and there are dead letters of transactions that this server has not
	// had yet.
	Ahead bool
}

// others are the rows that say that the database belongs elsewhere.
func (v View) others() (others []Row, own bool) {
	for _, r := range v.Rows {
		switch {
		case r.Replaced != nil:
		case r.same(v.Now):
			own = true
		default:
			others = append(others, r)
		}
	}
	return others, own
}

// Held returns why hooks and schedules must hold on this database: it isn't the one that they were made
// for. It is empty where they need not. A standby isn't held: nothing can be sent from there.
func (v View) Held() string {
	others, own := v.others()
	const copied = "this database is a copy of another one"
	switch {
	case v.Standby:
		return ""
	case len(v.Rows) == 0 && v.Ahead:
		return copied + ": it has dead letters of transactions that this server has not had yet (a restored dump or backup)"
	case len(v.Rows) == 0 || own && len(others) == 0:
		return ""
	case len(others) == 0:
		return "this database was moved to another server and back"
	}
	from := slices.MaxFunc(others, func(a, b Row) int { return a.AdoptedAt.Compare(b.AdoptedAt) })
	since := " of " + from.AdoptedAt.UTC().Format("2006-01-02 15:04:05Z")
	switch {
	case own:
		return "rows of another server's database" + since + " were restored or replicated into this one"
	case !from.sameSystem(v.Now):
		return copied + since + ", on another server: a restored dump, an upgrade by pg_upgrade, or a logical replica"
	case from.Database != v.Now.Database:
		return copied + since + " on the same server"
	case from.Timeline < v.Now.Timeline:
		return copied + since + ": a promoted standby or a recovery to a point in time (timeline " +
			fmt.Sprint(v.Now.Timeline) + ", it was " + fmt.Sprint(from.Timeline) + ")"
	}
	return copied + since + ": an older state of it, on timeline " + fmt.Sprint(v.Now.Timeline)
}

// Remedy is what ends a hold.
const Remedy = "if this database takes the other's place, run 'soniq adopt'; a copy for tests needs nothing (docs/restore.md)"

const rowsSQL = `
  (
    select coalesce(jsonb_agg(jsonb_build_object(
      'system_identifier', i.system_identifier, 'database_oid', i.database_oid, 'timeline', i.timeline,
      'how', i.how, 'adopted_at', i.adopted_at, 'adopted_by', coalesce(i.adopted_by, ''), 'replaced_at', i.replaced_at)), '[]')
    from public.soniq_incarnations i
  ),
  not exists (select from public.soniq_incarnations)
    and exists (
      select from public.soniq_dead_letter_jobs d
      where d.moved_epoch = 0
        and d.moved_xid >= pg_snapshot_xmax(pg_current_snapshot())
    )`

const whereSQL = `
select pg_is_in_recovery(), pg_postmaster_start_time(),
  (select d.oid::bigint from pg_database d where d.datname = current_database()),`

const timelineSQL = `
  case when pg_is_in_recovery() then 0 else ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint end,
  case when pg_is_in_recovery() then 0 else (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::bigint end,`

// Managed servers refuse one or both of these functions.
var readSQL = []string{
	whereSQL + timelineSQL + `
  (select c.system_identifier::text from pg_control_system() c),` + rowsSQL,
	whereSQL + timelineSQL + ` '',` + rowsSQL,
	whereSQL + ` 0::bigint, 0::bigint, '',` + rowsSQL,
}

// Read reads where the database is and where it belongs. It writes nothing.
//
// Errors: those of the database; one that [soniq.IsMissing] knows where migration 0175 is missing.
func Read(ctx context.Context, db pg.Querier) (v View, err error) {
	for _, statement := range readSQL {
		var rows []byte
		err = db.QueryRow(ctx, statement).Scan(&v.Standby, &v.Server, &v.Now.Database, &v.Now.Timeline, &v.Position, &v.Now.System, &rows, &v.Ahead)
		if err == nil {
			err = json.Unmarshal(rows, &v.Rows)
		}
		var refused *pgconn.PgError
		if !errors.As(err, &refused) || pg.IsCode(err, pg.UndefinedTable, pg.UndefinedColumn) || pg.IsClass(err, pg.ClassConnection, pg.ClassOperatorIntervention) {
			break
		}
	}
	if err != nil {
		return v, fmt.Errorf("read where the database belongs: %w", err)
	}
	return v, nil
}

const adoptFirstSQL = `
insert into public.soniq_incarnations (system_identifier, database_oid, timeline, how, adopted_by)
select $1, $2, $3, 'first', current_user
where not exists (select from public.soniq_incarnations)
on conflict do nothing`

// adoptFirst names this database where none is named.
func adoptFirst(ctx context.Context, db pg.Querier, now ID) error {
	_, err := db.Exec(ctx, adoptFirstSQL, now.System, now.Database, now.Timeline)
	return err
}

// $1 to $3 the ID, $4 how, $5 who.
const adoptSQL = `
with others as (
  update public.soniq_incarnations i
  set replaced_at = now()
  where i.replaced_at is null
    and (i.system_identifier, i.database_oid, i.timeline) <> ($1, $2, $3)
)
insert into public.soniq_incarnations as i (system_identifier, database_oid, timeline, how, adopted_by)
values ($1, $2, $3, $4, coalesce(nullif($5, ''), current_user))
on conflict (system_identifier, database_oid, timeline) do update
set how = excluded.how,
  adopted_at = excluded.adopted_at,
  adopted_by = excluded.adopted_by,
  replaced_at = null`

func adopt(ctx context.Context, db pg.Querier, now ID, how, who string) error {
	_, err := db.Exec(ctx, adoptSQL, now.System, now.Database, now.Timeline, how, who)
	return err
}
