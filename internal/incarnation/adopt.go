package incarnation

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"soniq/internal/pg"
)

// A Counter is a column that counts by a sequence that is behind its rows: logical replication and the
// restore of single tables bring rows and no sequences. Each insert would fail until the sequence has passed
// them.
type Counter struct {
	Table    string `json:"table"`
	Column   string `json:"column"`
	Sequence int64  `json:"sequence"`
	Greatest int64  `json:"greatest"`
}

// $1 the schema. The columns of our tables that have a sequence, and begin an index.
const countersSQL = `
select c.relname::text, a.attname::text,
  coalesce(pg_sequence_last_value(pg_get_serial_sequence(quote_ident(n.nspname) || '.' || quote_ident(c.relname), a.attname)::regclass), 0)
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
where n.nspname = $1
  and c.relkind = 'r'
  and c.relname like 'soniq\_%'
  and (a.attidentity <> '' or a.atthasdef)
  and pg_get_serial_sequence(quote_ident(n.nspname) || '.' || quote_ident(c.relname), a.attname) is not null
  and exists (select from pg_index i where i.indrelid = c.oid and i.indkey[0] = a.attnum)
order by 1, 2`

// Behind returns the columns whose sequence is behind.
//
// Errors: those of the database.
func Behind(ctx context.Context, db pg.Querier, schema pg.Schema) (behind []Counter, err error) {
	rows, _ := db.Query(ctx, countersSQL, schema.Name())
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (c Counter, err error) {
		return c, row.Scan(&c.Table, &c.Column, &c.Sequence)
	})
	if err != nil {
		return nil, fmt.Errorf("read identity columns: %w", err)
	}
	for _, c := range all {
		greatest := fmt.Sprintf("select coalesce(max(t.%s), 0)::bigint from public.%s t", pgx.Identifier{c.Column}.Sanitize(), c.Table)
		if err := db.QueryRow(ctx, greatest).Scan(&c.Greatest); err != nil {
			return nil, fmt.Errorf("read the greatest %s of %s: %w", c.Column, c.Table, err)
		}
		if c.Greatest > c.Sequence {
			behind = append(behind, c)
		}
	}
	return behind, nil
}

// CatchUp sets the sequences of columns that are behind.
//
// Errors: those of the database.
func CatchUp(ctx context.Context, db pg.Querier, schema pg.Schema, behind []Counter) error {
	for _, c := range behind {
		set := fmt.Sprintf(`
select setval(pg_get_serial_sequence(quote_ident($1) || '.' || quote_ident($2), $3)::regclass,
  greatest($4::bigint, (select max(t.%s) from public.%s t)))`, pgx.Identifier{c.Column}.Sanitize(), c.Table)
		if _, err := db.Exec(ctx, set, schema.Name(), c.Table, c.Column, c.Greatest); err != nil {
			return fmt.Errorf("set the sequence of %s.%s: %w", c.Table, c.Column, err)
		}
	}
	return nil
}

// A Plan is what [Adopt] has to do.
type Plan struct {
	// Now is where the database is, and Held why its hooks hold; empty: they don't.
	Now  ID     `json:"database"`
	Held string `json:"held"`
	// Counters are behind.
	Counters []Counter `json:"identity_columns"`
	// Epoch: there are dead letters of a later epoch than this server's, so a new one begins.
	Epoch bool `json:"new_epoch"`
	// Pending are the deliveries that wait.
	Pending int64 `json:"pending_deliveries"`
}

// Nothing reports whether there is nothing to do.
func (p Plan) Nothing() bool { return p.Held == "" && len(p.Counters) == 0 && !p.Epoch }

const epochBehindSQL = `
select exists (
  select from public.soniq_dead_letter_jobs d
  where d.moved_epoch > coalesce(pg_sequence_last_value('public.soniq_epochs'::regclass), 0)
)`

const pendingSQL = `
select count(*)
from public.soniq_hook_deliveries d
where d.state = 'pending'`

// Look reads what [Adopt] has to do.
//
// Errors: those of the database.
func Look(ctx context.Context, db pg.Querier, schema pg.Schema) (p Plan, err error) {
	v, err := Read(ctx, db)
	if err != nil {
		return p, err
	}
	p.Now, p.Held = v.Now, v.Held()
	if p.Counters, err = Behind(ctx, db, schema); err != nil {
		return p, err
	}
	switch err := db.QueryRow(ctx, epochBehindSQL).Scan(&p.Epoch); {
	case pg.IsCode(err, pg.InternalError):
		p.Epoch = true // the sequence can't be read: setup makes it anew
	case err != nil:
		return p, fmt.Errorf("read epochs: %w", err)
	}
	if err := db.QueryRow(ctx, pendingSQL).Scan(&p.Pending); err != nil {
		return p, fmt.Errorf("count pending deliveries: %w", err)
	}
	return p, nil
}

// Nobody is writing a dead letter while a second epoch begins in one run of the server: a reader would pass
// a row that is not there yet.
const lockLettersSQL = `
set local lock_timeout = '10s';
lock table public.soniq_dead_letter_jobs in share mode`

const newEpochSQL = `
select coalesce(pg_sequence_last_value('public.soniq_epochs'::regclass), 0),
  setval('public.soniq_epochs', greatest(
      (date_part('epoch', clock_timestamp()) * 1000000)::bigint >> 20,
      (coalesce(pg_sequence_last_value('public.soniq_epochs'::regclass), 0) >> 20) + 1,
      ((select max(d.moved_epoch) from public.soniq_dead_letter_jobs d) >> 20) + 1
    ) << 20 | ((date_part('epoch', pg_postmaster_start_time()) * 1000000)::bigint & 1048575))`

// What died here after the last row of the other server came: readers have passed its epoch. $1 the epoch of
// this server, $2 the new one.
const restampSQL = `
update public.soniq_dead_letter_jobs d
set moved_epoch = $2,
  moved_xid = pg_current_xact_id()
where d.moved_epoch = $1
  and $1 > 0
  and d.moved_to_dead_letter_at > (
    select max(o.moved_to_dead_letter_at)
    from public.soniq_dead_letter_jobs o
    where o.moved_epoch > $1
      and o.moved_epoch < $2
  )`

// Rows of an old dump, without an epoch of their own, came in as this run's.
const oldRowsSQL = `
update public.soniq_dead_letter_jobs d
set moved_epoch = 0
where d.moved_epoch = pg_sequence_last_value('public.soniq_epochs'::regclass)
  and d.moved_xid >= pg_snapshot_xmax(pg_current_snapshot())`

const dropPendingSQL = `
update public.soniq_hook_deliveries d
set state = 'failed',
  lease = null,
  last_error = 'dropped when the database was adopted: it was pending before the move'
where d.state = 'pending'`

const wakeSQL = `select pg_notify('soniq_hook', '')`

// LOCK takes no snapshot: what follows sees what was committed before the lock.
const alone = `lock table public.soniq_incarnations in share row exclusive mode`

// Options of [Adopt]. The zero value keeps pending deliveries.
type Options struct {
	// Drop marks the deliveries that are pending as failed, if hooks hold. If they don't, what is
	// pending is from after the move.
	Drop bool
	// By is who adopts, for the record. Default the role.
	By string
}

// Adopt makes this database the one: hooks go on. It sets right what does not survive a move: sequences
// that are behind, and the epoch of dead letters. It needs the rights of the tables' owner. It must begin a
// transaction: of several at once, each sees what the one before has done. It returns what it had to do, and
// how many deliveries it dropped.
//
// Errors: those of the database; then nothing is changed but sequences.
func Adopt(ctx context.Context, tx pg.Querier, schema pg.Schema, o Options) (p Plan, dropped int64, err error) {
	if _, err := tx.Exec(ctx, alone); err != nil {
		return p, 0, fmt.Errorf("wait for others that adopt it: %w", err)
	}
	if p, err = Look(ctx, tx, schema); err != nil {
		return p, 0, err
	}
	if err := CatchUp(ctx, tx, schema, p.Counters); err != nil {
		return p, 0, err
	}
	if _, err := tx.Exec(ctx, oldRowsSQL); err != nil {
		return p, 0, fmt.Errorf("set the epoch of restored dead letters: %w", err)
	}
	if p.Epoch {
		if err := beginEpoch(ctx, tx); err != nil {
			return p, 0, err
		}
	}
	if o.Drop && p.Held != "" {
		tag, err := tx.Exec(ctx, dropPendingSQL)
		if err != nil {
			return p, 0, fmt.Errorf("drop pending deliveries: %w", err)
		}
		dropped = tag.RowsAffected()
	}
	if err := adopt(ctx, tx, p.Now, "adopt", o.By); err != nil {
		return p, 0, fmt.Errorf("write where the database belongs: %w", err)
	}
	if _, err := tx.Exec(ctx, wakeSQL); err != nil {
		return p, 0, fmt.Errorf("wake the dispatchers: %w", err)
	}
	return p, dropped, nil
}

func beginEpoch(ctx context.Context, tx pg.Querier) error {
	if _, err := tx.Exec(ctx, lockLettersSQL, pgx.QueryExecModeSimpleProtocol); err != nil {
		return fmt.Errorf("wait for writers of dead letters: %w", err)
	}
	var before, now int64
	if err := tx.QueryRow(ctx, newEpochSQL).Scan(&before, &now); err != nil {
		return fmt.Errorf("begin an epoch: %w", err)
	}
	if _, err := tx.Exec(ctx, restampSQL, before, now); err != nil {
		return fmt.Errorf("set the epoch of dead letters: %w", err)
	}
	return nil
}
