package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"soniq/deadletter"
	"soniq/engine"
	"soniq/internal/pause"
)

// The three ways to the cluster, in the order of workers and producers.
var ways = []string{"PgBouncer", "HAProxy", "all hosts"}

// ack is an enqueue that was answered.
type ack struct {
	job  uuid.UUID
	name string
	way  int
	at   time.Time
}

// load is all that uses the database, and what it has seen.
type load struct {
	*cluster
	soniq   string
	rate    int
	server  *http.Server
	address string
	workers []*process
	watcher *watcher

	mu         sync.Mutex
	acks       []ack
	refused    map[string]int // errors of enqueues, by way
	sample     map[string]string
	executions []execution
	seen       map[string]map[uuid.UUID]int
	hooked     map[uuid.UUID]int
	paused     bool // producers
}

func newLoad(c *cluster, soniq string, rate int) (*load, error) {
	l := &load{
		cluster: c, soniq: soniq, rate: rate, refused: map[string]int{}, sample: map[string]string{},
		seen: map[string]map[uuid.UUID]int{}, hooked: map[uuid.UUID]int{}, paused: true,
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	l.address = "http://" + listener.Addr().String()
	mux := http.NewServeMux()
	mux.HandleFunc("POST /w/{worker}/{name}", l.handle)
	mux.HandleFunc("POST /hook", l.receive)
	l.server = &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	go func() { _ = l.server.Serve(listener) }()
	return l, nil
}

// work is what a job is enqueued with.
type work struct {
	N  int       `json:"n"`
	At time.Time `json:"at"`
}

// handle is the endpoint that runs the jobs.
func (l *load) handle(w http.ResponseWriter, r *http.Request) {
	x := execution{Name: r.PathValue("name"), At: time.Now()}
	x.Worker, _ = strconv.Atoi(r.PathValue("worker"))
	x.Attempt, _ = strconv.Atoi(r.Header.Get("Soniq-Attempt"))
	var args work
	id, err := uuid.Parse(r.Header.Get("Soniq-Job-Id"))
	if err == nil {
		err = json.NewDecoder(r.Body).Decode(&args)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	x.Job, x.Enqueued = id, args.At
	l.mu.Lock()
	l.executions = append(l.executions, x)
	l.mu.Unlock()
	switch x.Name {
	case "slow": // runs through whatever happens meanwhile
		_ = pause.For(r.Context(), 8*time.Second)
	default:
		_ = pause.For(r.Context(), time.Duration(args.N%200)*time.Millisecond)
	}
	switch {
	case x.Name == "bad":
		http.Error(w, "this can't be done", http.StatusUnprocessableEntity)
	case x.Name == "flaky" && x.Attempt == 1:
		http.Error(w, "not at once", http.StatusInternalServerError)
	default:
		w.WriteHeader(http.StatusNoContent)
	}
}

// receive is the hook's receiver.
func (l *load) receive(w http.ResponseWriter, r *http.Request) {
	var event struct {
		Data struct {
			ID uuid.UUID `json:"id"`
		} `json:"data"`
	}
	if err := json.NewDecoder(r.Body).Decode(&event); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	l.mu.Lock()
	l.hooked[event.Data.ID]++
	l.mu.Unlock()
	w.WriteHeader(http.StatusNoContent)
}

// prepare makes the tables, the log and the hook.
func (l *load) prepare(ctx context.Context) error {
	for _, args := range [][]string{
		{"setup"},
		{"hooks", "add", "webhook", l.address + "/hook", "--name", "drill", "--allow", "127.0.0.0/8"},
	} {
		if _, err := l.output(ctx, l.program(l.viaHAProxy(), "", args...)); err != nil {
			return err
		}
	}
	return execute(ctx, l.viaHAProxy(), logSQL...)
}

// urls of a way: that of the database, and the one to listen on, if it is another.
func (l *load) urls(way int) (database, listen string) {
	return []string{l.viaPgBouncer(), l.viaHAProxy(), l.viaHosts()}[way], []string{l.viaHAProxy(), "", ""}[way]
}

func (l *load) program(database, listen string, args ...string) *exec.Cmd {
	cmd := l.command(false, append([]string{"nice", "-n", "5", l.soniq}, args...)...)
	cmd.Env = append(slices.Clone(cmd.Env), "SONIQ_DATABASE_URL="+database)
	if listen != "" {
		cmd.Env = append(cmd.Env, "SONIQ_LISTEN_URL="+listen)
	}
	return cmd
}

// begin starts workers, followers and producers.
func (l *load) begin(ctx context.Context, group *errgroup.Group) error {
	for way := range ways {
		if err := l.startWorker(way); err != nil {
			return err
		}
		if err := l.produce(ctx, group, way); err != nil {
			return err
		}
	}
	for _, way := range []int{0, 2} {
		if err := l.subscribe(ctx, group, way); err != nil {
			return err
		}
	}
	l.watcher = &watcher{load: l, name: "watch by " + ways[1], cursor: "0"}
	l.seen[l.watcher.name] = map[uuid.UUID]int{}
	return l.watcher.begin()
}

func (l *load) startWorker(way int) error {
	own := fmt.Sprintf("w%d", way+1)
	config := fmt.Sprintf("queues: [shared, %s]\nconcurrency: 20\nresult_ttl: 7d\njobs:\n", own)
	for _, name := range slices.Sorted(maps.Keys(requests)) {
		config += fmt.Sprintf("  %s: {http: %q, queue: shared, timeout: 2m, max_attempts: 20, retry: [500ms]}\n", name,
			fmt.Sprintf("%s/w/%d/%s", l.address, way+1, name))
	}
	path := filepath.Join(l.dir, own+".yaml")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		return err
	}
	database, listen := l.urls(way)
	p, err := l.start("worker-"+own, l.program(database, listen, "worker", "--config", path, "--hook-allow", "127.0.0.0/8"))
	l.workers = append(l.workers, p)
	return err
}

// produce enqueues a third of the jobs by one way. A job whose enqueue failed is not tried again.
func (l *load) produce(ctx context.Context, group *errgroup.Group, way int) error {
	database, _ := l.urls(way)
	config, err := pgxpool.ParseConfig(database)
	if err != nil {
		return err
	}
	config.MaxConns = 4
	if way == 0 {
		config.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return err
	}
	client, err := engine.NewClient(pool, engine.ClientConfig{})
	if err != nil {
		return err
	}
	const each = 2
	var running sync.WaitGroup
	for i := range each {
		running.Add(1)
		group.Go(func() error {
			defer running.Done()
			interval := time.Duration(len(ways)*each) * time.Second / time.Duration(l.rate)
			ticks := time.NewTicker(interval)
			defer ticks.Stop()
			for n := i*101 + way*37; ; n++ {
				select {
				case <-ctx.Done():
					return nil
				case <-ticks.C:
				}
				if !l.isPaused() {
					l.enqueue(ctx, client, way, n)
				}
			}
		})
	}
	group.Go(func() error {
		running.Wait()
		pool.Close()
		return nil
	})
	return nil
}

func (l *load) enqueue(ctx context.Context, client *engine.Client, way, n int) {
	name := "ok"
	switch {
	case n%200 == 7:
		name = "slow"
	case n%10 == 1:
		name = "bad"
	case n%10 == 6:
		name = "flaky"
	}
	queue := []string{"shared", "w1", "w2", "w3"}[n%4]
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	got, err := client.Enqueue(ctx, name, work{N: n, At: time.Now()}, engine.Queue(queue))
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.refused[ways[way]]++
		l.sample[ways[way]] = err.Error()
		return
	}
	l.acks = append(l.acks, ack{got.ID, name, way, time.Now()})
}

func (l *load) isPaused() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.paused
}

func (l *load) setPaused(paused bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.paused = paused
}

// subscribe follows the dead letters by the Go package.
func (l *load) subscribe(ctx context.Context, group *errgroup.Group, way int) error {
	name := "Subscribe by " + ways[way]
	l.seen[name] = map[uuid.UUID]int{}
	database, _ := l.urls(way)
	config, err := pgx.ParseConfig(database)
	if err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(l.dir, "log", fmt.Sprintf("subscribe-%d.log", way+1)), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	group.Go(func() error {
		defer log.Close()
		return deadletter.Subscribe(ctx, config, deadletter.SubscribeOptions{
			From: &deadletter.Position{}, Logger: slog.New(slog.NewTextHandler(log, nil)),
		}, func(_ context.Context, e deadletter.Event) { l.saw(name, e.ID) })
	})
	return nil
}

func (l *load) saw(follower string, id uuid.UUID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seen[follower][id]++
}

// A watcher follows the dead letters by 'soniq dead-letter watch'. It is killed now and then, and goes
// on after the cursor of the last line that it printed.
type watcher struct {
	*load
	name    string
	cursor  string
	process *process
	read    chan struct{} // closed when all that it printed is read
}

func (w *watcher) begin() error {
	cmd := w.program(w.viaHAProxy(), "", "dead-letter", "watch", "--json", "--from", w.cursor)
	out, in, err := os.Pipe()
	if err != nil {
		return err
	}
	cmd.Stdout = in
	w.process, err = w.start("watch", cmd)
	_ = in.Close()
	if err != nil {
		return err
	}
	w.read = make(chan struct{})
	go func() {
		defer close(w.read)
		defer out.Close()
		w.follow(out)
	}()
	return nil
}

func (w *watcher) follow(printed io.Reader) {
	lines := bufio.NewReader(printed)
	for {
		text, err := lines.ReadBytes('\n')
		if err != nil {
			return // a line that isn't whole was not printed
		}
		var line struct {
			ID     uuid.UUID `json:"id"`
			Cursor string    `json:"cursor"`
		}
		if json.Unmarshal(bytes.TrimSpace(text), &line) == nil && line.Cursor != "" {
			w.saw(w.name, line.ID)
			w.cursor = line.Cursor
		}
	}
}

func (w *watcher) end() {
	w.process.end(syscall.SIGKILL, time.Second)
	<-w.read
}

// restart kills it and starts another one.
func (w *watcher) restart() error {
	w.end()
	return w.begin()
}

// end stops the workers, and what they still wanted from the endpoint.
func (l *load) end() {
	if l.watcher != nil && l.watcher.process != nil {
		l.watcher.end()
	}
	var ending sync.WaitGroup
	for _, p := range l.workers {
		ending.Go(func() { p.end(syscall.SIGTERM, 30*time.Second) })
	}
	ending.Wait()
	_ = l.server.Close()
}

// runSince lists the workers that have run a job which was enqueued after a time; ackedSince the
// ways by which a producer was answered.
func (l *load) runSince(at time.Time) map[int]bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	since := map[int]bool{}
	for _, x := range slices.Backward(l.executions) {
		if x.At.Before(at) {
			break
		}
		if x.Enqueued.After(at) {
			since[x.Worker] = true
		}
	}
	return since
}

func (l *load) ackedSince(at time.Time) map[int]bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	since := map[int]bool{}
	for _, a := range slices.Backward(l.acks) {
		if a.at.Before(at) {
			break
		}
		since[a.way] = true
	}
	return since
}

// flows waits until each worker runs jobs that were enqueued after a time, and each way takes
// jobs.
func (l *load) flows(ctx context.Context, patience time.Duration, after time.Time) error {
	return until(ctx, patience, "all workers and producers at work", func(context.Context) error {
		for _, p := range l.workers {
			if !p.running() {
				return fmt.Errorf("%s has ended", p.name)
			}
		}
		run, acked := l.runSince(after), l.ackedSince(after)
		if len(run) < len(ways) || len(acked) < len(ways) {
			return fmt.Errorf("workers %v run, producers %v are answered", slices.Sorted(maps.Keys(run)), slices.Sorted(maps.Keys(acked)))
		}
		return nil
	})
}

// drained waits until nothing is left to do.
func (l *load) drained(ctx context.Context, patience time.Duration) error {
	return until(ctx, patience, "an empty queue", func(ctx context.Context) error {
		var left, pending int
		err := query(ctx, l.viaHAProxy(), `select (select count(*) from public.soniq_jobs where status in ('queued', 'processing')),
			(select count(*) from public.soniq_hook_deliveries where state = 'pending')`, []any{&left, &pending})
		if err == nil && left+pending > 0 {
			err = fmt.Errorf("%d jobs and %d deliveries are left", left, pending)
		}
		return err
	})
}

// times are when jobs ran, for each worker and for all (0), in order; those of producers likewise.
func (l *load) times() (ran, acked map[int][]time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	ran, acked = map[int][]time.Time{}, map[int][]time.Time{}
	for _, x := range l.executions {
		ran[0] = append(ran[0], x.At)
		ran[x.Worker] = append(ran[x.Worker], x.At)
	}
	for _, a := range l.acks {
		acked[0] = append(acked[0], a.at)
		acked[a.way+1] = append(acked[a.way+1], a.at)
	}
	for _, all := range []map[int][]time.Time{ran, acked} {
		for _, times := range all {
			slices.SortFunc(times, func(a, b time.Time) int { return cmp.Compare(a.UnixNano(), b.UnixNano()) })
		}
	}
	return ran, acked
}
