package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

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

// register writes, or renews, the worker's row and the names it handles. A
// worker that someone declared stopped is active again after its next beat.
func (w *Worker) register(ctx context.Context) error {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	_, err = w.pool.Exec(ctx, registerSQL, w.id, host+"/"+w.id.String(), os.Getpid(),
		w.queues, w.config.Concurrency, soniq.WorkerVersion)
	if err != nil {
		return fmt.Errorf("register worker: %w", err)
	}
	return nil
}

func (w *Worker) registerNames(ctx context.Context) error {
	names := w.registry.Names()
	types := make([]string, len(names))
	for i, name := range names {
		types[i] = w.registry.handlers[name].argsType
	}
	if _, err := w.pool.Exec(ctx, registerNamesSQL, w.id.String(), names, types); err != nil {
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
		err := w.register(beatCtx)
		if err == nil && beats%namesEvery == 0 {
			err = w.registerNames(beatCtx)
		}
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
