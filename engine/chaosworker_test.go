package engine_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/engine"
	"soniq/internal/pause"
)

// The test binary is a worker of the chaos suite where these are set: the
// database, the file for the records, the name under which it writes to the
// database, and engine.Timing's three as durations.
const (
	chaosURL     = "SONIQ_TEST_CHAOS_URL"
	chaosRecords = "SONIQ_TEST_CHAOS_RECORDS"
	chaosName    = "SONIQ_TEST_CHAOS_NAME"
	chaosTiming  = "SONIQ_TEST_CHAOS_TIMING"
)

// What a run of a handler came to, as its record says.
const (
	ranWell        = "well"
	ranBadly       = "badly"
	ranPermanent   = "permanent"
	ranInvalid     = "invalid"
	ranSnoozed     = "snoozed"
	ranPanicked    = "panicked"
	ranInterrupted = "interrupted" // given back at shutdown
)

// chaosWorker is a worker that writes down what its handlers do, before and
// after, where no fault of the database or the network reaches: a line that was
// written to a file outlives a killed process.
type chaosWorker struct {
	records *os.File
	pool    *pgxpool.Pool
}

// runChaosWorker works until its input ends.
func runChaosWorker(url string) int {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	if err := workInChaos(ctx, url); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func workInChaos(ctx context.Context, url string) error {
	records, err := os.OpenFile(os.Getenv(chaosRecords), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer records.Close()
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return err
	}
	config.MaxConns = 6
	config.ConnConfig.RuntimeParams["application_name"] = os.Getenv(chaosName)
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return err
	}
	defer pool.Close()
	c := &chaosWorker{records: records, pool: pool}
	w, err := engine.NewWorker(pool, c.registry(), engine.WorkerConfig{
		Concurrency: 16, ShutdownTimeout: 20 * time.Millisecond, ResultTTL: 24 * time.Hour,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		return err
	}
	var timing engine.Timing
	if _, err := fmt.Sscan(os.Getenv(chaosTiming), &timing.Beat, &timing.Trust, &timing.Dead); err != nil {
		return err
	}
	w.SetTiming(timing)
	c.record("worker", w.ID())
	return w.Run(ctx)
}

func (c *chaosWorker) record(what string, args ...any) {
	line := what
	for _, arg := range args {
		line += fmt.Sprint(" ", arg)
	}
	// One write a line: a killed process leaves whole lines.
	if _, err := io.WriteString(c.records, line+"\n"); err != nil {
		panic(err)
	}
}

// chaosKind is a kind of job: how often it occurs, what its handler does, and
// how it must end.
type chaosKind struct {
	name string
	// weight is how many of a thousand jobs are of this kind.
	weight   int
	attempts int
	// dead has the reasons under which it may die; none if it must be done.
	dead []string
	run  func(c *chaosWorker, ctx context.Context, job *engine.Job) error
	opts []engine.HandleOption
}

// many is more attempts than any fault uses up.
const many = 1000

// A job that dies after fewer attempts can also die of its workers' deaths.
const exhausted = "max_retries_exceeded"

var errChaos = errors.New("chaos")

var chaosKinds = []chaosKind{
	{name: "plain", weight: 590, attempts: many, run: func(*chaosWorker, context.Context, *engine.Job) error { return nil }},
	{name: "nap", weight: 120, attempts: many, run: func(_ *chaosWorker, ctx context.Context, job *engine.Job) error {
		return pause.For(ctx, time.Duration(job.ID[15])*time.Millisecond/4)
	}},
	// Long enough that a worker which was taken for dead meets the next one at
	// its job.
	{name: "long", weight: 20, attempts: many, run: func(_ *chaosWorker, ctx context.Context, job *engine.Job) error {
		return pause.For(ctx, 2*time.Second+time.Duration(job.ID[15])*16*time.Millisecond)
	}},
	{name: "flaky", weight: 90, attempts: many, run: func(_ *chaosWorker, _ context.Context, job *engine.Job) error {
		if job.Attempts < 3 {
			return errChaos
		}
		return nil
	}},
	{name: "panics", weight: 30, attempts: many, run: func(_ *chaosWorker, _ context.Context, job *engine.Job) error {
		if job.Attempts == 1 {
			panic("chaos")
		}
		return nil
	}},
	{name: "snoozes", weight: 20, attempts: many, run: func(_ *chaosWorker, _ context.Context, job *engine.Job) error {
		if job.ScheduledAt == nil {
			return engine.Snooze(50 * time.Millisecond)
		}
		return nil
	}},
	{name: "ledger", weight: 60, attempts: many, run: (*chaosWorker).enter},
	{
		name: "permanent", weight: 30, attempts: 3, dead: []string{"permanent_failure", exhausted},
		run: func(*chaosWorker, context.Context, *engine.Job) error { return engine.Permanent(errChaos) },
	},
	{
		name: "fails", weight: 20, attempts: 3, dead: []string{exhausted},
		run: func(*chaosWorker, context.Context, *engine.Job) error { return errChaos },
	},
	{
		name: "invalid", weight: 10, attempts: 3, dead: []string{"invalid_arguments", exhausted},
		run: func(*chaosWorker, context.Context, *engine.Job) error { return engine.InvalidArguments(errChaos) },
	},
	{
		name: "slow", weight: 9, attempts: 2, dead: []string{"timeout", exhausted},
		run:  func(_ *chaosWorker, ctx context.Context, _ *engine.Job) error { return pause.For(ctx, time.Hour) },
		opts: []engine.HandleOption{engine.Timeout(100 * time.Millisecond)},
	},
	// Few: each of these takes two workers with it.
	{
		name: "kills", attempts: 2, dead: []string{exhausted},
		run: func(_ *chaosWorker, ctx context.Context, _ *engine.Job) error {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			return pause.For(ctx, time.Hour)
		},
	},
}

// enter does what must be done once, together with the job's end.
func (c *chaosWorker) enter(ctx context.Context, job *engine.Job) error {
	return pgx.BeginFunc(ctx, c.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `insert into chaos_ledger (job) values ($1)`, job.ID); err != nil {
			return err
		}
		return engine.CompleteTx(ctx, tx, nil)
	})
}

func (c *chaosWorker) registry() *engine.Registry {
	reg := engine.NewRegistry()
	for _, kind := range chaosKinds {
		opts := append(kind.opts, engine.Retry(engine.Delays{20 * time.Millisecond}))
		engine.HandleRaw(reg, kind.name, func(ctx context.Context, job *engine.Job) (_ any, err error) {
			token := engine.TokenOf(ctx)
			c.record("begin", job.ID, token, job.Attempts, job.WorkerID)
			outcome := ranPanicked
			defer func() { c.record("end", job.ID, token, outcome) }()
			err = kind.run(c, ctx, job)
			outcome = cameTo(ctx, kind.name, err)
			return nil, err
		}, opts...)
	}
	return reg
}

func cameTo(ctx context.Context, kind string, err error) string {
	switch {
	case err == nil:
		return ranWell
	case errors.Is(context.Cause(ctx), engine.ErrShutdown):
		return ranInterrupted
	case kind == "permanent":
		return ranPermanent
	case kind == "invalid":
		return ranInvalid
	case kind == "snoozes":
		return ranSnoozed
	}
	return ranBadly
}

// chaosRun is a run of a handler, as its worker recorded it.
type chaosRun struct {
	process  string
	job      uuid.UUID
	token    int64
	attempts int
	worker   uuid.UUID
	// outcome is empty where the process ended before the handler did.
	outcome string
}

// readRecords returns the runs of one process, and its workers.
func readRecords(process, path string) (runs []*chaosRun, workers []uuid.UUID, err error) {
	file, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil, nil // killed before it wrote a word
	}
	if err != nil {
		return nil, nil, err
	}
	defer file.Close()
	type claim struct {
		job   uuid.UUID
		token int64
	}
	begun := map[claim]*chaosRun{}
	for lines := bufio.NewScanner(file); lines.Scan(); {
		what, rest, _ := strings.Cut(lines.Text(), " ")
		in := strings.NewReader(rest)
		switch what {
		case "worker":
			id, err := uuid.Parse(rest)
			if err != nil {
				return nil, nil, err
			}
			workers = append(workers, id)
		case "begin":
			r := &chaosRun{process: process}
			var job, worker string
			if _, err := fmt.Fscan(in, &job, &r.token, &r.attempts, &worker); err != nil {
				return nil, nil, fmt.Errorf("record %q: %w", lines.Text(), err)
			}
			r.job, r.worker = uuid.MustParse(job), uuid.MustParse(worker)
			runs = append(runs, r)
			begun[claim{r.job, r.token}] = r
		case "end":
			var job, outcome string
			var token int64
			if _, err := fmt.Fscan(in, &job, &token, &outcome); err != nil {
				return nil, nil, fmt.Errorf("record %q: %w", lines.Text(), err)
			}
			begun[claim{uuid.MustParse(job), token}].outcome = outcome
		}
	}
	return runs, workers, nil
}
