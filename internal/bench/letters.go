package bench

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/deadletter"
	"soniq/deadletter/classify"
)

// fillLettersSQL makes dead letters of 30 names and 10 queues, in the order of their deaths, a
// second from each other. One in four has the reason that is replayed. $1 how many.
const fillLettersSQL = `
insert into public.soniq_dead_letter_jobs (
  id, job_name, args, queue, priority, max_attempts, attempts, last_error, dead_letter_reason,
  original_created_at, moved_to_dead_letter_at, error_kind, error_type, decided_by, fingerprint, args_hash, errors
)
select
  gen_random_uuid(), 'team.job' || n % 30, jsonb_build_object('user_id', n, 'order', 'order-' || n, 'locale', 'en'), 'queue.' || n % 10, 100, 4, 4,
  message, case when n % 4 = 0 then 'timeout' else 'max_retries_exceeded' end,
  at - interval '10 minutes', at, 'error', '*net.OpError', 'budget', substr(md5((n % 30)::text), 1, 16), md5(n::text),
  jsonb_build_array(
    jsonb_build_object('attempt', 1, 'kind', 'error', 'type', '*net.OpError', 'failed_at', at, 'decided_by', 'budget', 'message', message),
    jsonb_build_object('attempt', 4, 'kind', 'error', 'type', '*net.OpError', 'failed_at', at, 'decided_by', 'budget', 'message', message)
  )
from (
  select
    n, now() - ($1::bigint - n) * interval '1 second' as at,
    'call service for order ' || n || ': dial tcp 10.0.0.7:443: connection refused' as message
  from generate_series(1, $1::bigint) n
) letters`

// oldReplaySQL leaves the statistics that an earlier bulk replay leaves, which was analyzed when a
// part of it was done.
var oldReplaySQL = []string{
	`insert into public.soniq_dead_letter_operations (id, action, state) values ('00000000-0000-7000-8000-000000000001', 'replay', 'done')`,
	`insert into public.soniq_dead_letter_selections (operation_id, place, dead_letter_id)
	 select '00000000-0000-7000-8000-000000000001', n, gen_random_uuid() from generate_series(1, 20000) n`,
	`analyze public.soniq_dead_letter_selections, public.soniq_dead_letter_operations, public.soniq_dead_letter_audit, public.soniq_jobs`,
	`delete from public.soniq_dead_letter_selections`,
	`vacuum public.soniq_dead_letter_selections`,
}

// sql is a statement with the name of Soniq's schema in it. These workloads are for Soniq alone.
func (s *stage) sql(statement string) string {
	system, _ := s.system.(Soniq)
	return system.sql(statement)
}

// letters is the queue of Soniq's dead letters.
func (s *stage) letters() (*deadletter.Queue, error) {
	system, _ := s.system.(Soniq)
	return deadletter.NewQueue(s.pool, deadletter.QueueConfig{Schema: system.Schema})
}

// fillLetters makes n dead letters, and lets the server finish what that left behind.
func (s *stage) fillLetters(ctx context.Context, n int) error {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	for _, sql := range []string{`set soniq.silent = on`, `set soniq.notify = off`} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return err
		}
	}
	if _, err := conn.Exec(ctx, s.sql(fillLettersSQL), n); err != nil {
		return fmt.Errorf("fill: %w", err)
	}
	for _, sql := range []string{`reset soniq.silent`, `reset soniq.notify`, s.sql(`vacuum analyze public.soniq_dead_letter_jobs`)} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return err
		}
	}
	return s.calm(ctx)
}

// bulkReplay replays Jobs of four times as many dead letters, with the statistics that an earlier
// replay has left, as the command does it.
func bulkReplay(ctx context.Context, s *stage, o Options) ([]Figure, error) {
	if err := s.fillLetters(ctx, 4*o.Jobs); err != nil {
		return nil, err
	}
	for _, sql := range oldReplaySQL {
		if _, err := s.pool.Exec(ctx, s.sql(sql)); err != nil {
			return nil, err
		}
	}
	queue, err := s.letters()
	if err != nil {
		return nil, err
	}
	clock, err := startClock(ctx, s.pool)
	if err != nil {
		return nil, err
	}
	result, err := queue.ReplayAll(ctx, deadletter.Filter{Reasons: []classify.Reason{classify.Timeout}}, deadletter.ReplayAllOptions{
		Pace: deadletter.Pace{Breaker: 0.5},
	})
	if err != nil {
		return nil, err
	}
	if len(result.Replayed) != o.Jobs {
		return nil, fmt.Errorf("replayed %d of %d", len(result.Replayed), o.Jobs)
	}
	return clock.figures(ctx, "replayed", o.Jobs)
}

// importing exports Jobs dead letters, and imports them: a dry run, and into the empty table.
func importing(ctx context.Context, s *stage, o Options) ([]Figure, error) {
	if err := s.fillLetters(ctx, o.Jobs); err != nil {
		return nil, err
	}
	queue, err := s.letters()
	if err != nil {
		return nil, err
	}
	var file bytes.Buffer
	steps := []struct {
		name string
		do   func() (int64, error)
	}{
		{"exported", func() (int64, error) {
			return queue.Export(ctx, &file, deadletter.Filter{}, deadletter.FormatJSONL)
		}},
		{"checked", func() (int64, error) {
			return deadletter.CheckImport(ctx, bytes.NewReader(file.Bytes()), deadletter.FormatJSONL, nil)
		}},
		{"tried out", func() (int64, error) {
			r, err := queue.Import(ctx, bytes.NewReader(file.Bytes()), deadletter.FormatJSONL, deadletter.ImportOptions{DryRun: true})
			return r.Skipped, err
		}},
		{"emptied", func() (int64, error) {
			_, err := s.pool.Exec(ctx, s.sql(`truncate public.soniq_dead_letter_jobs`))
			return int64(o.Jobs), err
		}},
		{"imported", func() (int64, error) {
			r, err := queue.Import(ctx, bytes.NewReader(file.Bytes()), deadletter.FormatJSONL, deadletter.ImportOptions{})
			return r.Imported, err
		}},
	}
	var all []Figure
	for _, step := range steps {
		clock, err := startClock(ctx, s.pool)
		if err != nil {
			return nil, err
		}
		n, err := step.do()
		if err != nil {
			return nil, err
		}
		if n != int64(o.Jobs) {
			return nil, fmt.Errorf("%s %d of %d", step.name, n, o.Jobs)
		}
		if step.name == "emptied" {
			continue
		}
		figures, err := clock.figures(ctx, step.name, o.Jobs)
		if err != nil {
			return nil, err
		}
		all = append(all, figures...)
	}
	return all, nil
}

// massDeath lets Jobs fail for good at once while a hook is on that nobody sends to.
func massDeath(ctx context.Context, s *stage, o Options) ([]Figure, error) {
	const hookSQL = `insert into public.soniq_hooks (name, kind, url) values ('pager', 'webhook', 'http://127.0.0.1:9/')`
	if _, err := s.pool.Exec(ctx, s.sql(hookSQL)); err != nil {
		return nil, err
	}
	if err := s.fill(ctx, o.Jobs); err != nil {
		return nil, err
	}
	clock, err := startClock(ctx, s.pool)
	if err != nil {
		return nil, err
	}
	left := newCountdown(o.Jobs)
	if err := s.work(ctx, s.pool, left, left.wait); err != nil {
		return nil, err
	}
	figures, err := clock.figures(ctx, "died", o.Jobs)
	if err != nil {
		return nil, err
	}
	var told int
	if err := s.pool.QueryRow(ctx, s.sql(`select count(*) from public.soniq_hook_deliveries`)).Scan(&told); err != nil {
		return nil, err
	}
	if told != o.Jobs {
		return nil, fmt.Errorf("%d of %d deaths are for the hook", told, o.Jobs)
	}
	return figures, nil
}

// A clock measures what something takes: the time, and that of the processors of the server's
// backends where these can be read, which says more on a busy machine.
type clock struct {
	pool    *pgxpool.Pool
	began   time.Time
	backend map[int]float64
}

func startClock(ctx context.Context, pool *pgxpool.Pool) (*clock, error) {
	backends, err := backendSeconds(ctx, pool)
	return &clock{pool, time.Now(), backends}, err
}

func (c *clock) figures(ctx context.Context, what string, n int) ([]Figure, error) {
	took := time.Since(c.began)
	figures := []Figure{perSecond(what, n, took)}
	after, err := backendSeconds(ctx, c.pool)
	if err != nil || len(after) == 0 {
		return figures, err
	}
	var seconds float64
	for pid, s := range after {
		seconds += s - c.backend[pid]
	}
	return append(figures, Figure{Name: what + ", server's processor", Value: seconds / float64(n) * 1e6, Unit: "µs/job", Lower: true}), nil
}

// backendSeconds are the seconds of processor time of each backend of the database, by its process.
// It is empty where the server isn't on this machine, or this is no Linux.
func backendSeconds(ctx context.Context, pool *pgxpool.Pool) (map[int]float64, error) {
	rows, err := pool.Query(ctx, `select pid from pg_stat_activity where datname = current_database() and backend_type = 'client backend'`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	seconds := map[int]float64{}
	for rows.Next() {
		var pid int
		if err := rows.Scan(&pid); err != nil {
			return nil, err
		}
		if s, ok := processSeconds(pid); ok {
			seconds[pid] = s
		}
	}
	return seconds, rows.Err()
}

// ticks is how many of its units of time the kernel counts a second, on all machines that Go runs on.
const ticks = 100

func processSeconds(pid int) (float64, bool) {
	f, err := os.Open("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, false
	}
	defer func() { _ = f.Close() }()
	text, err := io.ReadAll(io.LimitReader(f, 4096))
	// The name, in brackets, may have spaces.
	name, rest, found := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	if err != nil || !found || !strings.HasSuffix(name, "(postgres") || len(fields) < 13 {
		return 0, false
	}
	user, err1 := strconv.ParseFloat(fields[11], 64)
	system, err2 := strconv.ParseFloat(fields[12], 64)
	return (user + system) / ticks, err1 == nil && err2 == nil
}
