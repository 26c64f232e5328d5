package soniq

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/internal/pause"
	"soniq/internal/pg"
)

// migrationsLock is the session advisory lock that Python Soniq takes for its
// migrations: blake2b-64 of 'soniq.leadership.v1/soniq.migrations' as a signed
// big-endian integer.
const migrationsLock int64 = -3170183739012905038

// errLockHeld: another program has the migration lock.
var errLockHeld = errors.New("another program holds the migration lock")

// takeMigrationLock takes the lock until the transaction ends: a lock of the session would
// stay on the connection of a pooler, and hold up everybody. It tries. A wait in the
// database would end by the role's lock_timeout or statement_timeout, which are meant for
// quick statements, and not by ctx; and it would hold back vacuum meanwhile.
func takeMigrationLock(ctx context.Context, tx pgx.Tx) error {
	var locked bool
	err := tx.QueryRow(ctx, `select pg_catalog.pg_try_advisory_xact_lock($1::pg_catalog.int8)`, migrationsLock).Scan(&locked)
	switch {
	case err != nil:
		return fmt.Errorf("take migration lock: %w", err)
	case !locked:
		return errLockHeld
	}
	return nil
}

// lockWait is a wait for the migration lock.
type lockWait struct{ begun, told time.Time }

// wait pauses until the next try, and tells of a wait that is long.
func (w *lockWait) wait(ctx context.Context, db beginner, cfg Config) error {
	const interval = 20 * time.Millisecond
	// A wait that is longer is told of, and again after each of these.
	const long = 2 * time.Second
	if w.begun.IsZero() {
		w.begun, w.told = time.Now(), time.Now()
	}
	if cfg.OnProgress != nil && time.Since(w.told) > long {
		w.told = time.Now()
		holders, err := blockers(ctx, db, migrationLockHoldersSQL, migrationsLock)
		if err != nil {
			return err
		}
		cfg.progress("waiting %s for the migration lock%s", seconds(time.Since(w.begun)), heldBy(holders))
	}
	return pause.For(ctx, interval)
}

// withMigrationLock runs do on one connection whose session holds the migration lock, for
// statements that can't be in a transaction.
//
// Errors: [ErrPooled].
func withMigrationLock(ctx context.Context, pool *pgxpool.Pool, cfg Config, do func(*pgx.Conn) error) error {
	return pool.AcquireFunc(ctx, func(c *pgxpool.Conn) (err error) {
		conn := c.Conn()
		if err := checkSession(ctx, pool, conn); err != nil {
			return err
		}
		if err := lockSession(ctx, conn, cfg); err != nil {
			return fmt.Errorf("take migration lock: %w", err)
		}
		defer func() {
			// ctx may be over; a session that still holds the lock must not
			// go back to the pool.
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			if _, unlockErr := pg.Plain(conn).Exec(ctx, `select pg_catalog.pg_advisory_unlock($1::pg_catalog.int8)`, migrationsLock); unlockErr != nil {
				err = errors.Join(err, fmt.Errorf("release migration lock: %w", unlockErr), conn.Close(ctx))
			}
		}()
		return do(conn)
	})
}

// lockSession takes the lock by trying, as [takeMigrationLock] does.
func lockSession(ctx context.Context, conn *pgx.Conn, cfg Config) error {
	for w := (lockWait{}); ; {
		var locked bool
		if err := pg.Plain(conn).QueryRow(ctx, `select pg_catalog.pg_try_advisory_lock($1::pg_catalog.int8)`, migrationsLock).Scan(&locked); err != nil {
			return err
		}
		if locked {
			return nil
		}
		if err := w.wait(ctx, conn, cfg); err != nil {
			return err
		}
	}
}

// ErrPooled is returned where a connection does not stay with one session of the server,
// as behind a pooler in transaction mode, and a session is needed.
var ErrPooled = errors.New("a pooler in transaction mode is in between: this needs a session of its own; use a direct connection or one in session mode")

// checkSession refuses a connection that a pooler moves between sessions.
func checkSession(ctx context.Context, pool *pgxpool.Pool, conn *pgx.Conn) error {
	pooled, err := pg.IsPooled(ctx, conn)
	if err != nil || !pooled {
		return err
	}
	// Not of the pool, which may have one connection only.
	other, err := pg.Schema{}.Pool(pool).Connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = other.Close(ctx) }() // its work is done
	shared, err := pg.SharesSessions(ctx, conn, other)
	if err == nil && shared {
		err = ErrPooled
	}
	return err
}

// blocker is a session that holds a lock. What its own role alone may know is NULL.
type blocker struct {
	PID         *int32
	Application *string
	State       *string
	// Open is for how many seconds its transaction has been open.
	Open *float64
	// Prepared is the name of a prepared transaction, which has no process.
	Prepared *string
}

// $1 the key. A key of 64 bits stands in two columns.
const migrationLockHoldersSQL = `
select a.pid, a.application_name, a.state, null::float8, null::text
from pg_locks l
join pg_stat_activity a on a.pid = l.pid
where l.locktype = 'advisory'
  and l.granted
  and l.database = (select d.oid from pg_database d where d.datname = current_database())
  and l.objsubid = 1
  and (l.classid::int8 << 32) | l.objid::int8 = $1`

// blockers are the sessions that a query finds.
func blockers(ctx context.Context, db beginner, sql string, args ...any) (found []blocker, err error) {
	err = readPinned(ctx, db, func(tx pgx.Tx) error {
		rows, _ := tx.Query(ctx, sql, args...)
		found, err = pgx.CollectRows(rows, pgx.RowToStructByPos[blocker])
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look who holds a lock: %w", err)
	}
	return found, nil
}

// $1 the tables and indexes, $2 whether those are in the way who only read. Prepared transactions have
// no process.
const blockersSQL = `
with wanted (id) as (
  select to_regclass(n)::oid
  from unnest($1::text[]) n
  union
  select i.indrelid
  from unnest($1::text[]) n
  join pg_index i on i.indexrelid = to_regclass(n)
)
select distinct on (l.virtualtransaction) l.pid, a.application_name, a.state,
  extract(epoch from clock_timestamp() - coalesce(a.xact_start, p.prepared))::float8, p.gid
from pg_locks l
left join pg_stat_activity a on a.pid = l.pid
left join pg_locks x on l.pid is null and x.pid is null and x.locktype = 'transactionid' and x.virtualtransaction = l.virtualtransaction
left join pg_prepared_xacts p on p.transaction = x.transactionid
where l.locktype = 'relation'
  and l.granted
  and l.relation in (select id from wanted)
  and l.database = (select d.oid from pg_database d where d.datname = current_database())
  and l.pid is distinct from pg_backend_pid()
  and a.state is distinct from 'idle' -- its transaction has just ended
  and ($2 or l.mode not in ('AccessShareLock', 'RowShareLock'))
order by l.virtualtransaction`

// tellBlockers tells who holds a lock that the last statement has waited for. The transaction is over: it
// sees who is still there.
func (r *runner) tellBlockers(ctx context.Context, h *home, what string, waited time.Duration) error {
	if r.cfg.OnProgress == nil || h == nil {
		return nil
	}
	var tables []string
	statement := r.statement
	if !strings.HasPrefix(statement, "do ") { // what a function names is not locked when it is made
		statement = bodySQL.ReplaceAllString(statement, "")
	}
	for _, name := range namedSQL.FindAllString(statement, -1) {
		tables = append(tables, h.sql(name))
	}
	// Others than CREATE INDEX and CREATE TRIGGER let nobody read meanwhile.
	readers := !strings.HasPrefix(r.statement, "create ")
	holders, err := blockers(ctx, r.pool, blockersSQL, tables, readers)
	if err != nil {
		return err
	}
	if what == "" {
		what = "the migration"
	}
	r.cfg.progress("%s has waited %s for a lock (%s)%s; it tries again", what, seconds(waited), firstLine(r.statement), heldBy(holders))
	return nil
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }

// heldBy is the end of a line.
func heldBy(holders []blocker) string {
	const most = 3
	var list []string
	for _, b := range holders[:min(len(holders), most)] {
		list = append(list, b.String())
	}
	if n := len(holders) - most; n > 0 {
		list = append(list, fmt.Sprintf("%d more", n))
	}
	if len(list) == 0 {
		return ""
	}
	return ", held by " + strings.Join(list, ", ")
}

func (b blocker) String() string {
	if b.PID == nil {
		text := "a prepared transaction (see pg_prepared_xacts)"
		if b.Prepared != nil {
			text = "the prepared transaction '" + strings.ReplaceAll(*b.Prepared, "'", "''") + "'"
		}
		if b.Open != nil {
			text += fmt.Sprintf(" of %.0f s ago", *b.Open)
		}
		return text + ", which only 'commit prepared' or 'rollback prepared' ends"
	}
	text := fmt.Sprintf("process %d", *b.PID)
	if b.Application != nil && *b.Application != "" {
		text += fmt.Sprintf(" (%q)", *b.Application)
	}
	if b.State != nil {
		text += ", " + *b.State
	}
	if b.Open != nil {
		text += fmt.Sprintf(", whose transaction has been open for %.0f s", *b.Open)
	}
	return text
}
