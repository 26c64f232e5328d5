package engine_test

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq"
	"soniq/engine"
	"soniq/hooks"
	"soniq/internal/devdb"
	"soniq/internal/pg"
	"soniq/internal/testdb"
)

// noise is a text that can't be compressed: it takes pages of its own.
func noise(bytes int) string {
	b := make([]byte, bytes/2)
	_, _ = rand.Read(b)
	return hex.EncodeToString(b)
}

// smallDisk is a disk that may be filled, with what fills it and frees it.
func smallDisk(t *testing.T) (disk string, fill, free func()) {
	t.Helper()
	disk = os.Getenv("SONIQ_TEST_SMALL_DISK")
	if disk == "" {
		t.Skip("SONIQ_TEST_SMALL_DISK names no disk that may be filled; 'make faults' mounts one")
	}
	ballast := filepath.Join(disk, "ballast")
	free = func() {
		if err := os.Remove(ballast); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
	}
	t.Cleanup(free)
	fill = func() {
		t.Helper()
		f, err := os.OpenFile(ballast, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		zeros := make([]byte, 4096)
		for err == nil {
			_, err = f.Write(zeros)
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
	}
	return disk, fill, free
}

// tablespace makes the tablespace small on a disk.
func tablespace(t *testing.T, server *devdb.Server, admin *pgxpool.Pool, disk string) {
	t.Helper()
	dir, err := os.MkdirTemp(disk, "space-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	info, err := os.Stat(filepath.Join(server.Dir(), "data"))
	if err != nil {
		t.Fatal(err)
	}
	owner := info.Sys().(*syscall.Stat_t)
	if err := os.Chown(dir, int(owner.Uid), int(owner.Gid)); err != nil {
		t.Fatal(err)
	}
	exec(t, admin, `create tablespace small location '`+dir+`'`)
}

// The disk of the tables is full. What needs no room is written, and hooks go on; each
// other verdict is kept in memory and written once there is room. 'make faults' mounts
// the small disk.
func TestWorker_diskIsFull_outcomesWaitAndAreWrittenOnce(t *testing.T) {
	for name, c := range map[string]struct {
		// small: all of the database is there, not the jobs and the dead letters alone.
		small bool
	}{"of the jobs": {false}, "of the database": {true}} {
		t.Run(name, func(t *testing.T) {
			server := testdb.StartServer(t)
			admin := connect(t, server.URL())
			disk, fill, free := smallDisk(t)
			tablespace(t, server, admin, disk)
			config := admin.Config().Copy()
			if c.small {
				exec(t, admin, `create database small tablespace small`)
				config.ConnConfig.Database = "small"
			}
			pool, err := pgxpool.NewWithConfig(t.Context(), config)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(pool.Close)
			if _, err := soniq.Setup(t.Context(), pool, soniq.Config{}); err != nil {
				t.Fatal(err)
			}
			if !c.small {
				exec(t, pool, `alter table soniq_jobs set tablespace small; alter table soniq_dead_letter_jobs set tablespace small`)
			}
			fullDisk(t, pool, fill, free, c.small)
		})
	}
}

func fullDisk(t *testing.T, pool *pgxpool.Pool, fill, free func(), marksNeedRoom bool) {
	var log journal
	reg := engine.NewRegistry()
	ends := newEnds(reg)
	runs := map[string]*atomic.Int32{"big": {}, "dies": {}}
	result := noise(100_000)
	for name, n := range runs {
		engine.HandleRaw(reg, name, func(context.Context, *engine.Job) (any, error) {
			n.Add(1)
			ends.started <- struct{}{}
			<-ends.release
			if name == "dies" {
				return nil, engine.Permanent(errors.New("never"))
			}
			return result, nil
		})
	}
	w := start(t, pool, reg, engine.WorkerConfig{
		Concurrency: 60, Logger: slog.New(slog.NewMultiHandler(log.logger().Handler(), slog.NewTextHandler(t.Output(), nil))),
	})
	client := newClient(t, pool)
	const each = 20
	var bigs, dies []uuid.UUID
	for range each {
		bigs = append(bigs, enqueue(t, client, "big", nil))
		dies = append(dies, enqueue(t, client, "dies", map[string]string{"x": noise(100_000)}))
	}
	snoozed := enqueue(t, client, "snooze", nil)
	for range 2*each + 1 {
		receive(t, "the start of a job", ends.started)
	}
	// A death whose delivery is due while the disk is full.
	var sent atomic.Int32
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		sent.Add(1)
	}))
	t.Cleanup(receiver.Close)
	exec(t, pool, `insert into soniq_hooks (name, kind, url, settings) values ('one', 'webhook', $1, '{"allow": ["127.0.0.0/8"]}')`, receiver.URL)
	exec(t, pool, `
		insert into soniq_dead_letter_jobs (id, job_name, args, queue, priority, max_attempts, attempts, dead_letter_reason, original_created_at, moved_to_dead_letter_at)
		values (gen_random_uuid(), 'before', '{}', 'default', 1, 1, 1, 'timeout', now(), now())`)
	fill()
	close(ends.release)
	w.waitFor(t, "the outcome that needs no room", func(all []engine.Outcome) bool {
		for _, o := range all {
			if o.Job.ID == snoozed {
				return true
			}
		}
		return false
	})
	for _, kind := range []engine.OutcomeKind{engine.OutcomeDone, engine.OutcomeDeadLetter} {
		waitTrue(t, "the error of both", func() bool {
			return slices.ContainsFunc(strings.Split(log.String(), "\n"), func(line string) bool {
				return strings.Contains(line, "outcome="+string(kind)) && strings.Contains(line, "make room on the disk of the database server")
			})
		})
	}
	_, err := client.Enqueue(t.Context(), "big", map[string]string{"x": noise(100_000)})
	if !pg.IsCode(err, pg.DiskFull) || strings.Contains(err.Error(), "\n") {
		t.Errorf("enqueue says %v", err)
	}
	d, err := hooks.NewDispatcher(pool, hooks.Config{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	dispatched := make(chan error, 1)
	go func() { dispatched <- d.RunAlone(ctx, pool.Config().ConnConfig) }()
	t.Cleanup(func() {
		cancel()
		if err := <-dispatched; err != nil {
			t.Error(err)
		}
	})
	if !marksNeedRoom {
		waitUntil(t, pool, "all verdicts to be kept", `select count(*) = $1 from soniq_kept_outcomes`, 2*each)
		waitTrue(t, "the delivery", func() bool { return sent.Load() == 1 })
		waitUntil(t, pool, "its mark", `select exists (select from soniq_hook_deliveries where state = 'delivered')`)
	}
	if n := strings.Count(log.String(), "the database refuses the outcome of a job"); n != 2 {
		t.Errorf("two faults are told %d times", n)
	}
	free()
	w.waitFor(t, "all outcomes", func(o []engine.Outcome) bool { return len(o) == 2*each+1 })
	waitUntil(t, pool, "the marks of all deliveries", `select count(*) = $1 from soniq_hook_deliveries where state = 'delivered'`, each+1)
	if err := w.stop(); err != nil {
		t.Error(err)
	}
	for name, n := range runs {
		if n.Load() != each {
			t.Errorf("%d jobs %s ran %d times", each, name, n.Load())
		}
	}
	if n := queryValue[int](t, pool, `select count(*) from soniq_jobs where id = any($1) and status = 'done' and attempts = 1 and length(result::text) > 100000`, bigs); n != each {
		t.Errorf("%d of %d are done with their results", n, each)
	}
	if n := queryValue[int](t, pool, `select count(*) from soniq_dead_letter_jobs where id = any($1) and last_error = 'never' and dead_letter_reason = 'permanent_failure'`, dies); n != each {
		t.Errorf("%d of %d are dead letters with their verdicts", n, each)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	seen := map[uuid.UUID]int{}
	for _, o := range w.outcomes {
		if seen[o.Job.ID]++; seen[o.Job.ID] > 1 {
			t.Errorf("%s has two outcomes", o)
		}
	}
}

// The disk of the whole server is full. When it finds no room for its WAL, it crashes, and
// it may not come back before there is room. No job runs twice, and each verdict is
// written once.
func TestWorker_diskOfTheWALIsFull_outcomesAreWrittenOnce(t *testing.T) {
	disk, fill, free := smallDisk(t)
	server := testdb.StartServerIn(t, disk)
	pool := connect(t, server.URL())
	var log journal
	reg := engine.NewRegistry()
	ends := newEnds(reg)
	w := start(t, pool, reg, engine.WorkerConfig{
		Concurrency: 20, Logger: slog.New(slog.NewMultiHandler(log.logger().Handler(), slog.NewTextHandler(t.Output(), nil))),
	})
	ids := enqueueEach(t, pool, slices.Sorted(maps.Keys(endings))...)
	for range ids {
		receive(t, "the start of a job", ends.started)
	}
	fill()
	waitTrue(t, "the server to crash", func() bool {
		_, err := pool.Exec(t.Context(), `select pg_switch_wal() from (select pg_current_xact_id()) x`)
		return err != nil && !pg.Refused(err)
	})
	close(ends.release)
	waitTrue(t, "a try to write an outcome", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.outcomes) > 0 || strings.Contains(log.String(), "outcomes can't be written; trying until they are")
	})
	free()
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.waitFor(t, "all outcomes", func(o []engine.Outcome) bool { return len(o) == len(ids) })
	if err := w.stop(); err != nil {
		t.Error(err)
	}
	ends.wantEach(t, w, pool, ids, false)
}
