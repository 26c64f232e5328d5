package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/jackc/pgx/v5"

	"soniq"
)

// The hostname column carries the worker's id too: (hostname, pid) is unique,
// and containers share both.
const registerSQL = `
insert into soniq_workers (id, hostname, pid, queues, concurrency, status, version, last_heartbeat, started_at)
values ($1, $2, $3, $4, $5, 'active', $6, now(), now())
on conflict (id) do update
set status = 'active', last_heartbeat = now()`

const registerNamesSQL = `
insert into soniq_task_registry (task_name, worker_id, last_seen_at, args_model_repr)
select n.task_name, $1, now(), n.args_model_repr
from unnest($2::text[], $3::text[]) as n (task_name, args_model_repr)
on conflict (task_name, worker_id) do update
set last_seen_at = now()`

// The names stay: a fleet between two releases has not forgotten its jobs.
const unregisterSQL = `
update soniq_workers
set status = 'stopped', last_heartbeat = now()
where id = $1`

// register writes, or renews, the worker's row. A worker that someone declared
// stopped is active again after its next beat.
func (w *Worker) register(ctx context.Context, db querier) error {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	_, err = db.Exec(ctx, registerSQL, w.id, host+"/"+w.id.String(), os.Getpid(),
		w.queues, w.config.Concurrency, soniq.WorkerVersion)
	if err != nil {
		return fmt.Errorf("register worker: %w", err)
	}
	return nil
}

// registerNames writes, or renews, the names that the worker handles.
func (w *Worker) registerNames(ctx context.Context, db querier) error {
	names := w.registry.Names()
	types := make([]string, len(names))
	for i, name := range names {
		types[i] = w.registry.handlers[name].argsType
	}
	if _, err := db.Exec(ctx, registerNamesSQL, w.id.String(), names, types); err != nil {
		return fmt.Errorf("register job names: %w", err)
	}
	return nil
}

// beat renews the worker's row until ctx ends, which is after its last job.
func (w *Worker) beat(ctx context.Context) error {
	ticker := time.NewTicker(heartbeatInterval)
	defer ticker.Stop()
	failing := false
	for beats := 1; ; beats++ {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		beatCtx, cancel := context.WithTimeout(ctx, heartbeatInterval)
		err := w.renew(beatCtx, beats%namesEvery == 0)
		cancel()
		switch {
		case err != nil && !failing && ctx.Err() == nil:
			w.logger.Warn("heartbeat failed; trying again", "error", err)
			failing = true
		case err == nil && failing:
			w.logger.Info("heartbeat is back")
			failing = false
		}
	}
}

// poolPatience is how long a heartbeat waits for a connection of the pool.
const poolPatience = 2 * time.Second

// renew is one heartbeat. Handlers may hold all connections of the pool for as
// long as they like; their worker must not be taken for dead, nor their jobs
// be run by someone else. So where the pool has no connection to spare, the
// beat makes one of its own.
func (w *Worker) renew(ctx context.Context, names bool) error {
	write := func(ctx context.Context, db querier) error {
		err := w.register(ctx, db)
		if err == nil && names {
			err = w.registerNames(ctx, db)
		}
		return err
	}
	poolCtx, cancel := context.WithTimeout(ctx, poolPatience)
	defer cancel()
	err := write(poolCtx, w.pool)
	if !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	conn, err := w.connect(ctx)
	if err != nil {
		return fmt.Errorf("connect for the heartbeat: %w", err)
	}
	defer conn.Close(ctx)
	return write(ctx, conn)
}

// connect makes a connection as the pool makes its own.
func (w *Worker) connect(ctx context.Context) (*pgx.Conn, error) {
	config := w.pool.Config()
	if config.BeforeConnect != nil {
		if err := config.BeforeConnect(ctx, config.ConnConfig); err != nil {
			return nil, err
		}
	}
	conn, err := pgx.ConnectConfig(ctx, config.ConnConfig)
	if err != nil {
		return nil, err
	}
	if config.AfterConnect != nil {
		if err := config.AfterConnect(ctx, conn); err != nil {
			return nil, errors.Join(err, conn.Close(ctx))
		}
	}
	return conn, nil
}

// unregister marks the worker stopped. The database may be away: that is no
// failure of a worker that has written all its outcomes.
func (w *Worker) unregister(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if _, err := w.pool.Exec(ctx, unregisterSQL, w.id); err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			err = errors.New("no answer within 5 s")
		}
		w.logger.Warn("could not mark the worker as stopped; others will notice", "error", err)
	}
	return nil
}
