package rolling

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"soniq/internal/eventually"
	"soniq/internal/testdb"
)

// receiver takes webhooks and notes which dead letters they are about.
type receiver struct {
	*httptest.Server
	mu   sync.Mutex
	seen map[string]int
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	r := &receiver{seen: map[string]int{}}
	r.Server = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		var event struct {
			Type string `json:"type"`
			Data struct {
				ID string `json:"id"`
			} `json:"data"`
		}
		if err := json.NewDecoder(req.Body).Decode(&event); err != nil {
			t.Errorf("webhook: %v", err)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.seen[event.Type+" "+event.Data.ID]++
	}))
	t.Cleanup(r.Close)
	return r
}

// letters is how many dead letters were told of.
func (r *receiver) letters() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.seen)
}

// fleet is a database with programs of both releases.
type fleet struct {
	t          *testing.T
	old, fresh program
	pool       *pgxpool.Pool
	dir        string
	hook       *receiver
	enqueued   []string
}

// newFleet is on a database that 0.1.0 set up, with a hook that 0.1.0 added.
func newFleet(t *testing.T) (*fleet, bool) {
	t.Helper()
	old, fresh, ok := builds(t)
	if !ok {
		return nil, false
	}
	url, dir := testdb.EmptyURL(t), t.TempDir()
	f := &fleet{t: t, old: old.on(url, dir), fresh: fresh.on(url, dir), pool: openPool(t, url), dir: dir, hook: newReceiver(t)}
	f.old.ok(t, "", "setup")
	f.old.ok(t, "", "hooks", "add", "webhook", f.hook.URL, "--name", "w", "--allow", "127.0.0.0/8")
	return f, true
}

// worker starts one of p. Its jobs write their ids to a file of its own; 'flaky' dies until a file 'mended'
// is there.
func (f *fleet) worker(p program, handlers ...string) *running {
	args := []string{"worker", "--concurrency", "4", "--result-ttl", "1h"}
	for _, h := range handlers {
		command := "echo $SONIQ_JOB_ID >> " + f.ran(p)
		switch h {
		case "flaky":
			command = "test -e mended || exit 78; " + command
		case "shared":
			command += "; sleep 0.02"
		case "slow":
			command = "while ! test -e mended; do sleep 0.05; done; " + command
		}
		args = append(args, "--handle", h+"=exec:"+command)
	}
	return p.start(f.t, args...)
}

// ran is the file of ids of the jobs that p's workers have run.
func (f *fleet) ran(p program) string { return filepath.Base(p.path) + ".ran" }

func (f *fleet) ids(p program) []string {
	f.t.Helper()
	data, err := os.ReadFile(filepath.Join(f.dir, f.ran(p)))
	if err != nil && !os.IsNotExist(err) {
		f.t.Fatal(err)
	}
	return strings.Fields(string(data))
}

// enqueue adds n jobs by p's command.
func (f *fleet) enqueue(p program, name string, n int) {
	f.t.Helper()
	out := p.ok(f.t, strings.Repeat(fmt.Sprintf("{\"job_name\": %q}\n", name), n), "enqueue", "--from", "-")
	ids := strings.Fields(out)
	if len(ids) != n {
		f.t.Fatalf("enqueue printed %q", out)
	}
	f.enqueued = append(f.enqueued, ids...)
}

func (f *fleet) mend() {
	f.t.Helper()
	if err := os.WriteFile(filepath.Join(f.dir, "mended"), nil, 0o600); err != nil {
		f.t.Fatal(err)
	}
}

// await waits for a query that answers with a number.
func (f *fleet) await(what string, want int, sql string, args ...any) {
	f.t.Helper()
	eventually.True(f.t, what, func() bool { return value[int](f.t, f.pool, sql, args...) == want })
}

const (
	doneSQL      = `select count(*)::int from soniq_jobs where status = 'done' and job_name = $1`
	deadSQL      = `select count(*)::int from soniq_dead_letter_jobs`
	deliveredSQL = `select count(*)::int from soniq_hook_deliveries where state = 'delivered'`
)

// Programs of both releases work on one database: whoever enqueues, runs, buries, tells and replays.
func TestRolling_bothReleases_shareTheWork(t *testing.T) {
	t.Parallel()
	f, ok := newFleet(t)
	if !ok {
		return
	}
	handlers := []string{"shared", "flaky", "slow"}
	oldWorker := f.worker(f.old, append(handlers, "for.old")...)
	f.enqueue(f.old, "shared", 20)
	f.await("the old worker's jobs", 20, doneSQL, "shared")
	f.fresh.ok(t, "", "setup")
	freshWorker := f.worker(f.fresh, append(handlers, "for.new")...)
	f.await("the new worker", 2, `select count(*)::int from soniq_workers where status = 'active'`)

	// Jobs flow both ways.
	f.enqueue(f.old, "shared", 60)
	f.enqueue(f.fresh, "shared", 60)
	f.enqueue(f.old, "for.new", 5)
	f.enqueue(f.fresh, "for.old", 5)
	f.await("jobs for both", 140, doneSQL, "shared")
	f.await("jobs for the new worker", 5, doneSQL, "for.new")
	f.await("jobs for the old worker", 5, doneSQL, "for.old")
	if o, n := len(f.ids(f.old)), len(f.ids(f.fresh)); o < 30 || n < 10 || o+n != 150 {
		t.Errorf("the old worker has run %d jobs, the new one %d, want 150 in all and some each", o, n)
	}

	// Dead letters, by both; each is told of.
	f.enqueue(f.old, "flaky", 10)
	f.enqueue(f.fresh, "flaky", 10)
	f.await("dead letters", 20, deadSQL)
	f.await("their deliveries", 20, deliveredSQL)
	if n := f.hook.letters(); n != 20 {
		t.Errorf("%d dead letters were told of, want 20", n)
	}
	f.replays()
	f.takesOver(oldWorker)
	freshWorker.stop(t)
	f.exactlyOnce()
}

// replays has dead letters replayed by both, who see what the other did and why.
func (f *fleet) replays() {
	t := f.t
	t.Helper()
	f.mend()
	var letters []string
	if err := f.pool.QueryRow(t.Context(), `select array_agg(id::text) from soniq_dead_letter_jobs`).Scan(&letters); err != nil {
		t.Fatal(err)
	}
	f.old.ok(t, "", append([]string{"dead-letter", "replay", "--because", "by the old one"}, letters[:10]...)...)
	f.fresh.ok(t, "", append([]string{"dead-letter", "replay", f.reasonFlag(), "by the new one"}, letters[10:]...)...)
	f.await("replays that resolve", 20, deadSQL+` where state = 'resolved'`)
	for _, p := range []program{f.old, f.fresh} {
		for letter, why := range map[string]string{letters[0]: "by the old one", letters[19]: "by the new one"} {
			if history := p.ok(t, "", "dead-letter", "history", letter, "--json"); !strings.Contains(history, why) {
				t.Errorf("%s does not show %q in the history: %.2000s", filepath.Base(p.path), why, history)
			}
		}
		if list := p.ok(t, "", "dead-letter", "list", "--json"); strings.Count(list, `"resolved"`) != 20 {
			t.Errorf("%s lists %.2000s", filepath.Base(p.path), list)
		}
	}
	f.old.ok(t, "", "queue", "pause", "default")
	f.fresh.ok(t, "", "queue", "resume", "default")
}

// reasonFlag is how a person says why to the new command.
func (f *fleet) reasonFlag() string {
	f.t.Helper()
	if strings.Contains(f.fresh.ok(f.t, "", "dead-letter", "replay", "--help"), "--comment") {
		return "--comment"
	}
	return "--because"
}

// takesOver kills the old worker in the middle of a job, which the new one then runs.
func (f *fleet) takesOver(oldWorker *running) {
	t := f.t
	t.Helper()
	if err := os.Remove(filepath.Join(f.dir, "mended")); err != nil {
		t.Fatal(err)
	}
	// The new worker runs it if it is quicker: until the old one has one.
	held := `select count(*)::int from soniq_jobs j join soniq_workers w on w.id = j.worker_id
		where j.job_name = 'slow' and j.status = 'processing' and w.pid = $1`
	for range 8 {
		f.enqueue(f.old, "slow", 1)
	}
	eventually.True(t, "a job of the old worker", func() bool { return value[int](t, f.pool, held, oldWorker.cmd.Process.Pid) > 0 })
	n := value[int](t, f.pool, held, oldWorker.cmd.Process.Pid)
	oldWorker.kill(t)
	f.mend()
	began := time.Now()
	f.await("its jobs by the new one", 8, doneSQL, "slow")
	t.Logf("%d jobs of the old worker, which was killed, were run after %s", n, time.Since(began).Round(time.Millisecond))
}

// exactlyOnce looks that no job was lost, and none but the killed worker's was run twice.
func (f *fleet) exactlyOnce() {
	t := f.t
	t.Helper()
	if n := value[int](t, f.pool, `select count(*)::int from soniq_jobs where status in ('queued', 'processing')`); n != 0 {
		t.Errorf("%d jobs are left", n)
	}
	lost := value[[]string](t, f.pool, `
		select coalesce(array_agg(e.id), '{}') from unnest($1::text[]) e (id)
		where not exists (select from soniq_jobs j where j.id::text = e.id)
		  and not exists (select from soniq_dead_letter_jobs d where d.id::text = e.id)`, f.enqueued)
	if len(lost) > 0 {
		t.Errorf("lost: %q", lost)
	}
	ids := slices.Concat(f.ids(f.old), f.ids(f.fresh))
	slices.Sort(ids)
	if n := len(ids) - len(slices.Compact(slices.Clone(ids))); n > 0 {
		t.Errorf("%d jobs were run twice", n)
	}
}

// Under the new schema an idle worker of 0.1.0 is still woken, and after 'migrate down' a new one starts.
func TestRolling_down_givesTheOldOneItsSchema(t *testing.T) {
	t.Parallel()
	f, ok := newFleet(t)
	if !ok {
		return
	}
	f.fresh.ok(t, "", "setup")
	oldWorker := f.worker(f.old, "for.old", "flaky")
	awake := func(what string) {
		t.Helper()
		n := value[int](t, f.pool, doneSQL, "for.old")
		began := time.Now()
		f.enqueue(f.old, "for.old", 1)
		f.await(what, n+1, doneSQL, "for.old")
		// The safety poll is 30 s.
		if d := time.Since(began); d > 10*time.Second {
			t.Errorf("%s took %s", what, d)
		}
	}
	f.await("the old worker, which waits", 1, `select count(distinct worker_id)::int from soniq_waiters`)
	awake("a job on the new schema")
	f.await("the old worker, which waits again", 1, `select count(distinct worker_id)::int from soniq_waiters`)
	awake("another one")
	oldWorker.stop(t)

	f.fresh.ok(t, "", "migrate", "down", "--to", "0160", "--yes")
	if out := f.old.ok(t, "", "setup"); !strings.Contains(out, "up to date") {
		t.Errorf("setup of 0.1.0 afterwards: %s", out)
	}
	oldWorker = f.worker(f.old, "for.old", "flaky")
	f.await("the old worker, which waits on the old schema", 1, `select count(distinct worker_id)::int from soniq_hunger`)
	awake("a job on the old schema")
	f.enqueue(f.old, "flaky", 3)
	f.await("dead letters", 3, deadSQL)
	f.await("their deliveries", 3, deliveredSQL)
	oldWorker.stop(t)
	f.fresh.ok(t, "", "setup")
	f.fresh.ok(t, "", "migrate", "check")
	f.exactlyOnce()
}

// 0.1.0 found its tables by the search_path. This release names the schema, and says so where it isn't told
// which; the old worker goes on there, unwoken.
func TestRolling_tablesOfTheSearchPath_areFoundByName(t *testing.T) {
	t.Parallel()
	old, fresh, ok := builds(t)
	if !ok {
		return
	}
	url, dir := testdb.EmptyURL(t), t.TempDir()
	separator := "?"
	if strings.Contains(url, "?") {
		separator = "&"
	}
	f := &fleet{t: t, old: old.on(url+separator+"search_path=app", dir), fresh: fresh.on(url+separator+"search_path=app", dir), dir: dir}
	f.pool = openPool(t, f.old.url)
	if _, err := f.pool.Exec(t.Context(), `create schema app`); err != nil {
		t.Fatal(err)
	}
	f.old.ok(t, "", "setup")
	for _, args := range [][]string{{"setup"}, {"migrate", "check"}, {"worker", "--handle", "x=exec:true"}} {
		out, err := f.fresh.command(t, args...).CombinedOutput()
		// The worker's log is JSON, which escapes quotes.
		text := strings.ReplaceAll(string(out), `\"`, `"`)
		if err == nil || !strings.Contains(text, `schema "app" of the search_path has`) || !strings.Contains(string(out), "--schema") {
			t.Errorf("%q without a schema: %v: %s", args, err, out)
		}
	}
	// The rest of it needs no search_path.
	f.fresh.url = url
	f.fresh.ok(t, "", "setup", "--schema", "app")
	f.fresh.ok(t, "", "migrate", "check", "--schema", "app")
	f.enqueue(f.old, "for.old", 3)
	oldWorker := f.worker(f.old, "for.old")
	f.await("jobs that the old worker finds when it starts", 3, doneSQL, "for.old")
	freshWorker := f.fresh.start(t, "worker", "--schema", "app", "--result-ttl", "1h", "--handle", "for.new=exec:true")
	f.await("the new worker, which waits", 2, `select count(distinct worker_id)::int from soniq_waiters`)
	f.enqueue(f.old, "for.new", 2)
	f.await("jobs of the old command for the new worker", 2, doneSQL, "for.new")
	oldWorker.stop(t)
	freshWorker.stop(t)
	f.exactlyOnce()
}

// load is statements of producers and workers, under way while the schema changes.
type load struct {
	mu       sync.Mutex
	inserted int
	longest  time.Duration
	which    string
}

// statements are what goes on meanwhile.
var statements = map[string]string{
	"enqueue":     `insert into soniq_jobs (id, job_name, args) values (gen_random_uuid(), 'load', '{}')`,
	"beat":        `update soniq_workers set last_heartbeat = last_heartbeat`,
	"dead letter": `insert into soniq_dead_letter_jobs (id, job_name, args, queue, priority, max_attempts, attempts, dead_letter_reason, original_created_at, moved_to_dead_letter_at) values (gen_random_uuid(), 'n', '{}', 'default', 100, 3, 3, 'timeout', now(), now())`,
	"read":        `select count(*) from soniq_dead_letter_jobs where queue = 'default'`,
	"hunger":      `insert into soniq_hunger as h (queue, worker_id, epoch) values ('mail', '00000000-0000-4000-8000-000000000001', 1) on conflict (queue, worker_id) do update set epoch = excluded.epoch where h.epoch < excluded.epoch`,
	"turn":        `insert into soniq_chores (name, begun_at) values ('mine', now()) on conflict (name) do update set begun_at = excluded.begun_at where soniq_chores.begun_at < now()`,
}

// run runs one kind of statement, again and again, until ctx ends.
func (l *load) run(ctx context.Context, pool *pgxpool.Pool, name string) error {
	tick := time.NewTicker(30 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		began := time.Now()
		// It ends even where ctx has.
		if _, err := pool.Exec(context.WithoutCancel(ctx), statements[name]); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		l.mu.Lock()
		if d := time.Since(began); d > l.longest {
			l.longest, l.which = d, name
		}
		if name == "enqueue" {
			l.inserted++
		}
		l.mu.Unlock()
	}
}

// A database of 0.1.0 is upgraded while its worker works, producers enqueue and a transaction stays open for
// a while: no job is lost, and nobody waits for two seconds.
func TestUpgrade_underLoad_losesNothingAndBlocksNobody(t *testing.T) {
	t.Parallel()
	f, ok := newFleet(t)
	if !ok {
		return
	}
	oldWorker := f.worker(f.old, "load")
	f.await("the old worker", 1, `select count(*)::int from soniq_workers where status = 'active'`)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	l := &load{}
	var g errgroup.Group
	for name := range statements {
		g.Go(func() error { return l.run(ctx, f.pool, name) })
	}
	// A transaction that has used all tables which change.
	tx, err := f.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{statements["enqueue"], `select count(*) from soniq_hunger`, `select count(*) from soniq_chores`, statements["dead letter"], `select count(*) from soniq_hooks`} {
		if _, err := tx.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	setup := f.fresh.start(t, "setup")
	eventually.True(t, "setup that waits, again and again", func() bool { return strings.Count(setup.String(), "has waited") >= 4 })
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := setup.cmd.Wait(); err != nil {
		t.Fatalf("setup: %v: %s", err, setup.String())
	}
	stop()
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	// With the transaction's own.
	f.await("all jobs", l.inserted+1, doneSQL, "load")
	if n := value[int](t, f.pool, `select count(*)::int from soniq_jobs`); n != l.inserted+1 {
		t.Errorf("%d jobs are there, of %d", n, l.inserted+1)
	}
	if ids := f.ids(f.old); len(ids) != l.inserted+1 {
		t.Errorf("the worker has run %d jobs, of %d", len(ids), l.inserted+1)
	}
	t.Logf("%d jobs; the longest statement, %s, took %s", l.inserted, l.which, l.longest.Round(time.Millisecond))
	if l.longest > 2*time.Second {
		t.Errorf("%s waited %s", l.which, l.longest)
	}
	oldWorker.stop(t)
	f.fresh.ok(t, "", "migrate", "check")
}
