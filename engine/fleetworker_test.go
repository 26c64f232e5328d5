package engine_test

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"soniq/engine"
	"soniq/internal/hub"
	"soniq/internal/pause"
)

// The test binary is a process of a fleet where these are set: the database, and how many
// workers it has.
const (
	fleetURL     = "SONIQ_TEST_FLEET_URL"
	fleetWorkers = "SONIQ_TEST_FLEET_WORKERS"
)

// fleetProcess has the workers of one process, which share a hub. It tells what happens, with
// the number of the worker: 'up WORKER ID', 'hears WORKER', 'started WORKER JOB ATTEMPT', and
// 'called WORKER' and 'looks WORKER', after which the worker stands still until 'go called
// WORKER' or 'go looks WORKER' comes in. 'drain WORKER' tells a worker to stop, 'release' lets
// the jobs end that are held, and 'see WORKER' has a worker look at the others: 'saw WORKER'. It
// ends with its workers, or with its input.
type fleetProcess struct {
	said sync.Mutex

	mu      sync.Mutex
	release chan struct{}
	waits   map[string]chan struct{}
	workers map[string]fleetMember
	// over is closed when the input has ended.
	over chan struct{}
}

// fleetMember is a worker, and what tells it to stop.
type fleetMember struct {
	*engine.Worker
	ctx   context.Context
	drain context.CancelFunc
}

func runFleetProcess(url string) int {
	p := &fleetProcess{
		release: make(chan struct{}), waits: map[string]chan struct{}{}, workers: map[string]fleetMember{},
		over: make(chan struct{}),
	}
	if err := p.work(url); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func (p *fleetProcess) say(words ...any) {
	p.said.Lock()
	defer p.said.Unlock()
	fmt.Println(words...)
}

func (p *fleetProcess) work(url string) error {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return err
	}
	config.MaxConns = 4
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		return err
	}
	defer pool.Close()
	workers, err := strconv.Atoi(os.Getenv(fleetWorkers))
	if err != nil {
		return err
	}
	// A worker that can't start ends the process.
	running, all := errgroup.WithContext(context.Background())
	for i := range workers {
		worker, err := engine.NewWorker(pool, p.registry(i), engine.WorkerConfig{
			Concurrency: 2, ShutdownTimeout: time.Millisecond, SafetyPoll: 8 * time.Minute,
			Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		})
		if err != nil {
			return err
		}
		worker.AtHubStep(func(step hub.Step) { p.standStill(fmt.Sprint(step, " ", i)) })
		ctx, cancel := context.WithCancel(all)
		defer cancel()
		p.workers[strconv.Itoa(i)] = fleetMember{worker, ctx, cancel}
		p.say("up", i, worker.ID())
		running.Go(func() error {
			defer cancel()
			return worker.Run(ctx)
		})
		running.Go(func() error {
			for !worker.Hears() {
				if pause.For(ctx, 10*time.Millisecond) != nil {
					return nil
				}
			}
			p.say("hears", i)
			return nil
		})
	}
	go p.read()
	return running.Wait()
}

// standStill says that a worker is at a step, and waits until it may go on.
func (p *fleetProcess) standStill(step string) {
	wait := make(chan struct{})
	p.mu.Lock()
	p.waits[step] = wait
	p.mu.Unlock()
	p.say(step)
	select {
	case <-wait:
	case <-p.over:
	}
}

// read does what the input says.
func (p *fleetProcess) read() {
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		what, which, _ := strings.Cut(in.Text(), " ")
		p.mu.Lock()
		switch what {
		case "go":
			if wait := p.waits[which]; wait != nil {
				close(wait)
				delete(p.waits, which)
			}
		case "drain":
			p.workers[which].drain()
		case "see":
			go p.see(which)
		case "release":
			close(p.release)
			p.release = make(chan struct{})
		}
		p.mu.Unlock()
	}
	close(p.over)
	for _, w := range p.workers {
		w.drain()
	}
}

// see has a worker look at the others.
func (p *fleetProcess) see(which string) {
	w := p.workers[which]
	for w.ctx.Err() == nil {
		if w.LookAtOthers(w.ctx) == nil {
			p.say("saw", which)
			return
		}
	}
}

// registry has jobs that end at once, jobs that are held, and such of which the worker runs one
// at a time.
func (p *fleetProcess) registry(worker int) *engine.Registry {
	reg := engine.NewRegistry()
	tells := func(job *engine.Job) { p.say("started", worker, job.ID, job.Attempts) }
	holds := func(ctx context.Context, job *engine.Job) (any, error) {
		p.mu.Lock()
		release := p.release
		p.mu.Unlock()
		tells(job)
		select {
		case <-release:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		return nil, nil
	}
	engine.HandleRaw(reg, "quick", func(_ context.Context, job *engine.Job) (any, error) { tells(job); return nil, nil })
	engine.HandleRaw(reg, "held", holds)
	engine.HandleRaw(reg, "narrow", holds, engine.Concurrency(1))
	return reg
}
