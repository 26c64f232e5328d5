package engine_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/engine"
	"soniq/internal/claim"
	"soniq/internal/liveness"
	"soniq/internal/maintenance"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
	"soniq/notify"
)

const heldSQL = `
select exists (
  select from soniq_workers o
  join pg_locks l on l.pid = o.backend_pid
  where o.id = $1
    and l.locktype = 'advisory'
    and l.granted
    and (l.classid::bigint << 32) | l.objid::bigint = o.lock_key
)`

// Two workers of one process share the connection that listens and its lock, and those
// of two pools don't. All share hostname and pid, as containers do.
func TestWorker_sameHostnameAndPID_eachAdvertisesTheLockOfItsConnection(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	noop(reg, "a")
	first, second := start(t, pool, reg, engine.WorkerConfig{}), start(t, pool, reg, engine.WorkerConfig{})
	third := start(t, connect(t, pool.Config().ConnString()), reg, engine.WorkerConfig{})
	for _, w := range []*running{first, second, third} {
		waitUntil(t, pool, "an advertised lock", heldSQL, w.ID())
	}
	if n := queryValue[int](t, pool, `select count(distinct lock_key) from soniq_workers`); n != 2 {
		t.Errorf("%d locks, want 2", n)
	}
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	if !queryValue[bool](t, pool, `select status = 'stopped' and lock_key is null and backend_pid is null from soniq_workers where id = $1`, first.ID()) {
		t.Error("a worker that stopped advertises a lock")
	}
}

// busyBesideAnother starts a worker that runs a job until release is closed, and
// another one that sees the first one's lock.
func busyBesideAnother(t *testing.T, pool *pgxpool.Pool) (w *running, id uuid.UUID, release chan struct{}) {
	t.Helper()
	reg := engine.NewRegistry()
	started, release := slowJob(reg, "slow")
	w = start(t, pool, reg, engine.WorkerConfig{Concurrency: 1})
	start(t, pool, reg, engine.WorkerConfig{Concurrency: 1, Queues: []string{"other"}})
	waitUntil(t, pool, "both locks", advertisingSQL, 2)
	id = enqueue(t, newClient(t, pool), "slow", nil)
	receive(t, "start", started)
	return w, id, release
}

func TestWorker_listenerKilled_takesAnotherLockAndKeepsItsJob(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	client := newClient(t, pool)
	w, id, release := busyBesideAnother(t, pool)
	defer close(release)
	const keySQL = `select lock_key from soniq_workers where id = $1`
	before := queryValue[int64](t, pool, keySQL, w.ID())
	// So old that without another heartbeat it would be dead.
	exec(t, pool, `update soniq_workers set last_heartbeat = now() - interval '20 s' where id = $1`, w.ID())
	exec(t, pool, `select pg_terminate_backend(backend_pid) from soniq_workers where id = $1`, w.ID())
	waitUntil(t, pool, "another lock", `
		select coalesce(lock_key <> $2 and last_heartbeat > now() - interval '10 s', false) from soniq_workers where id = $1`,
		w.ID(), before)
	if job := getJob(t, client, id); job.Status != engine.StatusProcessing || job.Attempts != 1 {
		t.Errorf("the job is %s after %d attempts", job.Status, job.Attempts)
	}
}

// The heartbeat that takes the lost lock back may find one before it that waits
// for the pool. Others bury a worker after 2 s.
func TestWorker_listenerKilledAndPoolInUse_takesItsLockBackInTime(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	small := narrow(t, pool)
	reg := engine.NewRegistry()
	noop(reg, "a")
	// It always waits: the next heartbeat is due before this one is written.
	w := start(t, small, reg, engine.WorkerConfig{}, engine.Timing{Beat: 20 * time.Millisecond})
	waitUntil(t, pool, "the lock", advertisingSQL, 1)
	conn, err := small.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	const beatenSQL = `select last_heartbeat from soniq_workers where id = $1`
	beat := func() time.Time {
		t.Helper()
		before := queryValue[time.Time](t, pool, beatenSQL, w.ID())
		waitUntil(t, pool, "a heartbeat", `select last_heartbeat > $2 from soniq_workers where id = $1`, w.ID(), before)
		return queryValue[time.Time](t, pool, beatenSQL, w.ID())
	}
	// With a heartbeat that waits as always it would be 2 s, each time; a busy
	// machine can only add to what it is.
	silence := time.Hour
	for tries := 0; silence > 1400*time.Millisecond; tries++ {
		if tries == 5 {
			t.Fatalf("silent for %s, and no less in %d tries", silence, tries)
		}
		waitUntil(t, pool, "the lock", advertisingSQL, 1)
		beat()
		last := beat()
		exec(t, pool, `select pg_terminate_backend(backend_pid) from soniq_workers where id = $1`, w.ID())
		silence = min(silence, beat().Sub(last))
	}
}

// pooled is a connection that goes through a pooler: the process that the
// server greeted with is not the one that runs the statements.
type pooled struct{ net.Conn }

func (p pooled) Read(b []byte) (int, error) {
	n, err := p.Conn.Read(b)
	// BackendKeyData: its type, its length, the process.
	if i := bytes.Index(b[:n], []byte{'K', 0, 0, 0, 12}); i >= 0 && i+8 < n {
		b[i+8]++
	}
	return n, err
}

func TestWorker_behindAPooler_advertisesNoLock(t *testing.T) {
	t.Parallel()
	pool, sent := traced(t, testdb.NewURL(t))
	reg := engine.NewRegistry()
	noop(reg, "a")
	config := pool.Config().ConnConfig
	dial := config.DialFunc
	config.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		return pooled{conn}, err
	}
	wantsNoLock(t, start(t, pool, reg, engine.WorkerConfig{ListenConfig: config}), sent)
	if n := queryValue[int](t, pool, `
		select count(*) from pg_locks l join pg_database d on d.oid = l.database
		where l.locktype = 'advisory' and d.datname = current_database()`); n != 0 {
		t.Errorf("%d locks are left with the pooler", n)
	}
}

func TestWorker_listensInAnotherDatabase_advertisesNoLock(t *testing.T) {
	t.Parallel()
	reg := engine.NewRegistry()
	noop(reg, "a")
	config, err := pgx.ParseConfig(testdb.EmptyURL(t))
	if err != nil {
		t.Fatal(err)
	}
	pool, sent := traced(t, testdb.NewURL(t))
	wantsNoLock(t, start(t, pool, reg, engine.WorkerConfig{ListenConfig: config}), sent)
}

// wantsNoLock has the worker look, and look again: the first may have come
// before the listener.
func wantsNoLock(t *testing.T, w *running, sent *statements) {
	t.Helper()
	for n := range 2 {
		waitTrue(t, "a look", func() bool {
			w.WakeDetector()
			_, looks := sent.count()
			return looks > n+1
		})
	}
	if w.Advertises() {
		t.Error("it advertises a lock")
	}
}

func TestRecovery_plans_readNoMoreThanTheyReturn(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	ours := "go/0.1.0"
	worker := addWorker(t, pool, &ours, nil, 0, time.Hour)
	exec(t, pool, `
		insert into soniq_jobs (id, job_name, args, status, worker_id, claim_token)
		select gen_random_uuid(), 'a', '{}', s.status, case when s.status <> 'queued' then $1::uuid end, 1
		from (select case when n % 2000 = 0 then 'processing' when n % 2 = 0 then 'done' else 'queued' end as status
			from generate_series(1, 20000) n) s`, worker)
	exec(t, pool, `analyze`)
	for name, q := range map[string]struct {
		sql  string
		args []any
	}{
		"look":   {liveness.LookSQL, []any{worker, nil, nil}},
		"dead":   {maintenance.WorkersJobsSQL, []any{worker, 1000}},
		"strays": {maintenance.OrphansSQL, []any{worker, time.Hour, []int64{1}, 1000}},
	} {
		rows, _ := pool.Query(t.Context(), "explain "+q.sql, q.args...)
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		plan := strings.Join(lines, "\n")
		if strings.Contains(plan, "Seq Scan on soniq_jobs") || !strings.Contains(plan, "idx_soniq_jobs_processing") {
			t.Errorf("%s:\n%s", name, plan)
		}
	}
}

// Between the look and the burial, the worker can come back, and another
// observer can be at it.
func TestWorker_buries_onlyWhoIsStillDead(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	client := newClient(t, pool)
	reg := engine.NewRegistry()
	noop(reg, "a")
	w, err := engine.NewWorker(pool, reg, engine.WorkerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	ours := "go/0.1.0"
	dead := addWorker(t, pool, &ours, nil, time.Minute, time.Hour)
	id := enqueue(t, client, "a", nil)
	exec(t, pool, `update soniq_jobs set status = 'processing', attempts = 1, worker_id = $2, claim_token = 1 where id = $1`, id, dead)
	beaten := queryValue[time.Time](t, pool, `select last_heartbeat from soniq_workers where id = $1`, dead)
	wants := func(job engine.JobStatus, worker string) {
		t.Helper()
		if j := getJob(t, client, id); j.Status != job || j.Attempts != 1 {
			t.Errorf("the job is %s after %d attempts, want %s", j.Status, j.Attempts, job)
		}
		if s := queryValue[string](t, pool, `select status from soniq_workers where id = $1`, dead); s != worker {
			t.Errorf("the worker is %s, want %s", s, worker)
		}
	}
	bury := func(heartbeat time.Time) {
		t.Helper()
		if err := w.MarkDead(t.Context(), liveness.Peer{ID: dead, Ours: true, Busy: true, Heartbeat: heartbeat}); err != nil {
			t.Fatal(err)
		}
	}
	bury(beaten.Add(-time.Second))
	wants(engine.StatusProcessing, "active")

	tx := testkit.LockJob(t, pool, id)
	bury(beaten)
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	wants(engine.StatusProcessing, "active")

	bury(beaten)
	wants(engine.StatusQueued, "stopped")
}

func TestWorker_prune_forgetsOnlyTheLongGone(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	noop(reg, "a")
	w, err := engine.NewWorker(pool, reg, engine.WorkerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	const day = 24 * time.Hour
	ours := "go/0.1.0"
	gone := addWorker(t, pool, &ours, nil, 25*time.Hour, 2*day)
	gonePython := addWorker(t, pool, nil, nil, 31*day, 40*day)
	kept := []any{
		addWorker(t, pool, &ours, nil, 23*time.Hour, 2*day),
		addWorker(t, pool, nil, nil, 29*day, 40*day),
		addWorker(t, pool, &ours, nil, 2*day, 3*day), // has a job
	}
	const jobSQL = `insert into soniq_jobs (id, job_name, args, status, worker_id) values (gen_random_uuid(), 'a', '{}', $1, $2)`
	exec(t, pool, jobSQL, engine.StatusProcessing, kept[2])
	exec(t, pool, jobSQL, engine.StatusDone, gone)
	exec(t, pool, `
		insert into soniq_task_registry (task_name, worker_id, last_seen_at)
		values ('old', 'w', now() - interval '31 days'), ('kept', 'w', now() - interval '29 days')`)

	// Python Soniq cleans up just now.
	conn, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	const lockSQL = `select pg_advisory_lock(4325948971829913621)`
	if _, err := conn.Exec(t.Context(), lockSQL); err != nil {
		t.Fatal(err)
	}
	if err := w.Prune(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := queryValue[int](t, pool, `select count(*) from soniq_workers`); n != 5 {
		t.Errorf("%d workers are left, want 5: somebody else has the lock", n)
	}
	if _, err := conn.Exec(t.Context(), strings.Replace(lockSQL, "lock", "unlock", 1)); err != nil {
		t.Fatal(err)
	}
	if err := w.Prune(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := queryValue[int](t, pool, `select count(*) from soniq_workers where id in ($1, $2)`, gone, gonePython); n != 0 {
		t.Errorf("%d of 2 are left", n)
	}
	if n := queryValue[int](t, pool, `select count(*) from soniq_workers where id in ($1, $2, $3)`, kept...); n != 3 {
		t.Errorf("%d of 3 are left", n)
	}
	if names := queryValue[string](t, pool, `select string_agg(task_name, ' ') from soniq_task_registry`); names != "kept" {
		t.Errorf("the names are %s", names)
	}
}

// Where Python made the tables, to delete a worker is to write to each of its
// jobs.
func TestWorker_prune_keepsWorkersOfKeptJobsBehindPythonsKey(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	exec(t, pool, `alter table soniq_jobs add constraint soniq_jobs_worker_id_fkey
		foreign key (worker_id) references soniq_workers (id) on delete set null`)
	reg := engine.NewRegistry()
	noop(reg, "a")
	w, err := engine.NewWorker(pool, reg, engine.WorkerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	ours := "go/0.1.0"
	gone, kept := addWorker(t, pool, &ours, nil, 25*time.Hour, 48*time.Hour), addWorker(t, pool, &ours, nil, 25*time.Hour, 48*time.Hour)
	exec(t, pool, `insert into soniq_jobs (id, job_name, args, status, worker_id) values (gen_random_uuid(), 'a', '{}', 'done', $1)`, kept)
	if err := w.Prune(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := queryValue[string](t, pool, `select string_agg(id::text, ' ') from soniq_workers`); got != kept.String() {
		t.Errorf("left are %s; want %s, and not %s", got, kept, gone)
	}
}

// idleBesideBusy starts a worker that runs a job until rest is called, and an idle
// one beside it, whose statements are counted.
func idleBesideBusy(t *testing.T, config engine.WorkerConfig) (sent *statements, rest func()) {
	t.Helper()
	url := testdb.NewURL(t)
	pool, sent := traced(t, url)
	reg := engine.NewRegistry()
	started, release := slowJob(reg, "slow")
	busy := start(t, connect(t, url), reg, engine.WorkerConfig{})
	id := enqueue(t, newClient(t, pool), "slow", nil)
	receive(t, "start", started)
	idle := engine.NewRegistry()
	noop(idle, "idle")
	start(t, pool, idle, config)
	waitUntil(t, pool, "both locks", advertisingSQL, 2)
	return sent, func() {
		close(release)
		busy.waitForJob(t, id)
	}
}

// A busy worker finds jobs that nobody was told of: between two of them it is
// watched on.
func TestWorker_peerNoLongerBusy_isWatchedForAWhile(t *testing.T) {
	t.Parallel()
	sent, rest := idleBesideBusy(t, engine.WorkerConfig{Queues: []string{"idle"}})
	_, looks := sent.count()
	waitTrue(t, "looks at a busy one", func() bool { _, now := sent.count(); return now >= looks+4 })
	rest()
	// One look may be under way, and one may follow by a notification.
	_, looks = sent.count()
	waitTrue(t, "looks at one that was busy", func() bool { _, now := sent.count(); return now >= looks+4 })
}

// The bar is 150 a minute, with an idle worker's 20 among them.
func TestWorker_watchingABusyPeer_sendsFewStatements(t *testing.T) {
	t.Parallel()
	sent, rest := idleBesideBusy(t, engine.WorkerConfig{SafetyPoll: 30 * time.Second, Queues: []string{"idle"}})
	began := time.Now()
	before, looks := sent.count()
	waitTrue(t, "looks", func() bool {
		_, now := sent.count()
		return now >= looks+6
	})
	all, _ := sent.count()
	took := time.Since(began)
	if took < 2500*time.Millisecond {
		t.Errorf("6 looks took %s", took)
	}
	// A periodic task or two may run in that time.
	if other := all - before - 6; other > 4 {
		t.Errorf("%d statements beside the 6 looks in %s", other, took)
	}
	rest()
}

// The listener ends before the jobs do. A worker that drains must not look like
// one that was killed.
func TestWorker_draining_withdrawsItsLockAndKeepsItsJob(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	client := newClient(t, pool)
	w, id, release := busyBesideAnother(t, pool)
	stopped := make(chan error, 1)
	go func() { stopped <- w.stop() }()
	waitUntil(t, pool, "the lock's withdrawal", `
		select lock_key is null and status = 'active' from soniq_workers where id = $1`, w.ID())
	if job := getJob(t, client, id); job.Status != engine.StatusProcessing || job.Attempts != 1 {
		t.Errorf("the job is %s after %d attempts", job.Status, job.Attempts)
	}
	close(release)
	if err := receive(t, "stop", stopped); err != nil {
		t.Error(err)
	}
	if job := getJob(t, client, id); job.Status != engine.StatusDone || job.Attempts != 1 {
		t.Errorf("in the end the job is %s after %d attempts", job.Status, job.Attempts)
	}
}

// A deafService counts how often it hears that notifications don't arrive, and that they do.
type deafService struct{ deaf, hears atomic.Int32 }

func (*deafService) Channels() map[string]notify.Handler { return nil }

func (*deafService) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

func (s *deafService) Listening(healthy bool) {
	if healthy {
		s.hears.Add(1)
	} else {
		s.deaf.Add(1)
	}
}

// A worker that no notification reaches finds new jobs by polling, and says so
// once: here its listener is in another database, as behind a pooler in
// transaction mode. Its services are told, so that dispatchers of hooks poll too.
func TestWorker_notificationsDontArrive_pollsAndWarnsOnce(t *testing.T) {
	t.Parallel()
	reg := engine.NewRegistry()
	noop(reg, "a")
	config, err := pgx.ParseConfig(testdb.EmptyURL(t))
	if err != nil {
		t.Fatal(err)
	}
	pool := testdb.New(t)
	client := newClient(t, pool)
	var log journal
	service := &deafService{}
	w := start(t, pool, reg, engine.WorkerConfig{ListenConfig: config, Logger: log.logger(), Services: []engine.BackgroundService{service}})
	const warning = "notifications don't arrive"
	waitTrue(t, "the warning", func() bool { return strings.Contains(log.String(), warning) })
	for range 3 {
		begun := time.Now()
		id := enqueue(t, client, "a", nil)
		w.waitForJob(t, id)
		if took := time.Since(begun); took > 5*time.Second {
			t.Errorf("a job took %s to be found", took)
		}
	}
	if n := strings.Count(log.String(), warning); n != 1 {
		t.Errorf("it warned %d times:\n%s", n, log.String())
	}
	if service.deaf.Load() == 0 || service.hears.Load() > 0 {
		t.Errorf("its service heard %d times that notifications don't arrive, and %d times that they do", service.deaf.Load(), service.hears.Load())
	}
}

// While the listener is away the worker polls, and once it is back it does not.
func TestWorker_listenerAway_pollsUntilItIsBack(t *testing.T) {
	t.Parallel()
	url := testdb.NewURL(t)
	pool, sent := tracedFor(t, url, claim.WholeSQL)
	client := newClient(t, connect(t, url))
	reg := engine.NewRegistry()
	noop(reg, "a")
	config := pool.Config().ConnConfig
	dial := config.DialFunc
	var away atomic.Bool
	config.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if away.Load() {
			return nil, errors.New("no route")
		}
		return dial(ctx, network, addr)
	}
	w := start(t, pool, reg, engine.WorkerConfig{ListenConfig: config})
	waitTrue(t, "trust in notifications", w.Hears)
	away.Store(true)
	exec(t, pool, `select pg_terminate_backend(pid) from pg_stat_activity
		where datname = current_database() and application_name = 'soniq-listener'`)
	waitTrue(t, "the loss", func() bool { return !w.Hears() })
	id := enqueue(t, client, "a", nil)
	w.waitForJob(t, id)
	away.Store(false)
	waitTrue(t, "trust again", w.Hears)
	_, before := sent.count()
	id = enqueue(t, client, "a", nil)
	w.waitForJob(t, id)
	if _, n := sent.count(); n-before > 4 {
		t.Errorf("%d claims for one job", n-before)
	}
}

// Handlers may hold the whole pool of the only worker that could notice.
func TestWorker_poolInUse_recoversTheJobsOfTheDead(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	small := narrow(t, pool)
	reg := engine.NewRegistry()
	noop(reg, "a")
	w := start(t, small, reg, engine.WorkerConfig{Concurrency: 1}, engine.Timing{Trust: -1, Dead: 200 * time.Millisecond})
	waitUntil(t, pool, "the lock", advertisingSQL, 1)
	conn, err := small.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	client := newClient(t, pool)
	ours := "go/0.1.0"
	dead := addWorker(t, pool, &ours, nil, time.Minute, time.Hour)
	id := enqueue(t, client, "orphan", nil)
	exec(t, pool, `update soniq_jobs set status = 'processing', attempts = 1, worker_id = $2 where id = $1`, id, dead)
	waitTrue(t, "the recovery", func() bool {
		w.WakeDetector()
		return queryValue[bool](t, pool, `select status = 'queued' from soniq_jobs where id = $1`, id)
	})
}

// A worker at rest looks each 30 s; the lock of one that joins and dies before
// that would never have been seen.
func TestWorker_anotherJoins_isSeenAtOnce(t *testing.T) {
	t.Parallel()
	url := testdb.NewURL(t)
	pool, sent := traced(t, url)
	reg := engine.NewRegistry()
	noop(reg, "a")
	start(t, pool, reg, engine.WorkerConfig{})
	waitUntil(t, pool, "the lock", advertisingSQL, 1)
	waitTrue(t, "a first look", func() bool { _, looks := sent.count(); return looks > 0 })
	begun := time.Now()
	other := start(t, connect(t, url), reg, engine.WorkerConfig{})
	waitTrue(t, "the other's lock", other.Advertises)
	_, before := sent.count()
	waitTrue(t, "a look after that", func() bool { _, looks := sent.count(); return looks > before })
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("the one who joined was seen after %s", took)
	}
}
