package app

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// lockWaitTold is how long a statement runs before somebody looks whether it waits for a lock.
	lockWaitTold = 3 * time.Second
	// lockWaitAgain is the pause before the next look.
	lockWaitAgain = 10 * time.Second
)

// lockWaits says for whom a command waits, whose statement waits for a lock: PostgreSQL says nothing, for as long
// as the other transaction is open, and a prepared one stays open for days. It is a tracer of pgx.
type lockWaits struct {
	log    *slog.Logger
	config *pgx.ConnConfig // without a tracer
	told   sync.Map        // the lines that were logged
}

type lockWaitKey struct{}

// watchLocks has the statements of connections that config makes watched.
func watchLocks(config *pgx.ConnConfig, log *slog.Logger) {
	own := config.Copy()
	own.ConnectTimeout = lockWaitAgain
	config.Tracer = &lockWaits{log: log, config: own}
}

func (w *lockWaits) start(ctx context.Context, conn *pgx.Conn) context.Context {
	ended, end := context.WithCancel(context.WithoutCancel(ctx))
	pid := conn.PgConn().PID()
	var again func()
	again = func() {
		if w.look(ended, pid) == nil && ended.Err() == nil {
			time.AfterFunc(lockWaitAgain, again)
		}
	}
	timer := time.AfterFunc(lockWaitTold, again)
	return context.WithValue(ctx, lockWaitKey{}, func() { timer.Stop(); end() })
}

func (w *lockWaits) end(ctx context.Context) {
	if end, ok := ctx.Value(lockWaitKey{}).(func()); ok {
		end()
	}
}

// $1 the process. Behind a pooler it is another number, and nothing is found. A prepared transaction has no
// process; pg_blocking_pids has 0 for it.
const lockWaitSQL = `
select coalesce((
    select c.oid::regclass::text
    from pg_locks n
    join pg_class c on c.oid = n.relation
    where n.pid = w.pid and c.relkind in ('r', 'p')
    order by n.granted, n.locktype = 'tuple' desc
    limit 1
  ), ''),
  coalesce(
    'process ' || a.pid || coalesce(' (' || nullif(a.application_name, '') || ')', '') || coalesce(', ' || a.state, '')
      || coalesce(', since ' || to_char(a.xact_start at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS') || ' UTC', ''),
    'the prepared transaction ' || quote_literal(p.gid) || ', which only ''commit prepared'' or ''rollback prepared'' ends',
    'a prepared transaction (see pg_prepared_xacts)')
from pg_locks w
cross join lateral unnest(pg_blocking_pids(w.pid)) b (pid)
left join pg_stat_activity a on a.pid = nullif(b.pid, 0)
left join pg_prepared_xacts p on b.pid = 0 and (
  p.transaction = w.transactionid
  or exists (
    select from pg_locks h
    join pg_locks x on x.virtualtransaction = h.virtualtransaction and x.pid is null and x.locktype = 'transactionid'
    where h.pid is null and h.granted and h.relation = w.relation and x.transactionid = p.transaction
  )
)
where not w.granted
  and w.pid = $1
order by a.xact_start, p.prepared
limit 1`

// look logs who holds the lock that a process of the server waits for, once each.
func (w *lockWaits) look(ctx context.Context, pid uint32) error {
	conn, err := pgx.ConnectConfig(ctx, w.config)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }() // it has read only
	var table, holder string
	err = conn.QueryRow(ctx, lockWaitSQL, pgx.QueryExecModeExec, int64(pid)).Scan(&table, &holder)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil
	case err != nil:
		return err
	}
	if _, told := w.told.LoadOrStore(holder, true); !told {
		w.log.Warn("waiting for a lock that another transaction holds; the command goes on when that ends", "table", table, "held_by", holder)
	}
	return nil
}

// TraceQueryStart implements [pgx.QueryTracer].
func (w *lockWaits) TraceQueryStart(ctx context.Context, conn *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return w.start(ctx, conn)
}

// TraceQueryEnd implements [pgx.QueryTracer].
func (w *lockWaits) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryEndData) {
	w.end(ctx)
}

// TraceBatchStart implements [pgx.BatchTracer].
func (w *lockWaits) TraceBatchStart(ctx context.Context, conn *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	return w.start(ctx, conn)
}

// TraceBatchQuery implements [pgx.BatchTracer].
func (w *lockWaits) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}

// TraceBatchEnd implements [pgx.BatchTracer].
func (w *lockWaits) TraceBatchEnd(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchEndData) {
	w.end(ctx)
}
