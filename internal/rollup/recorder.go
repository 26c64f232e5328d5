package rollup

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgconn"

	"soniq/internal/pause"
	"soniq/internal/pg"
)

const (
	// flushEvery is how often a worker that has something to add adds it.
	flushEvery = time.Minute
	// flushTimeout bounds one statement, and lastTimeout the one when the worker stops.
	flushTimeout = 15 * time.Second
	lastTimeout  = 2 * time.Second
	// refusedEvery is how often a worker whose role may not write tries again.
	refusedEvery = time.Hour
	// maxPending bounds what waits while the table can't be written: as many names as there may be, for some
	// minutes. What comes then is counted in the minutes and names that are there.
	maxPending = 5 * MaxNames
)

// Attempt is an attempt of a job whose outcome was written.
type Attempt struct {
	Queue, JobName string
	// Ended is when it ended, by the server's clock.
	Ended time.Time
	// Failed is true if it failed, whether the job is tried again or not; else the job is done.
	Failed bool
	// Resolved is true if the job was the replay of a dead letter, and is done.
	Resolved bool
	// Waited is how long the job had been due, and Ran how long its handler ran.
	Waited, Ran time.Duration
}

// key is what attempts are counted by. minute is in minutes since 1970.
type key struct {
	minute         int64
	queue, jobName string
}

// counts is a row of attempts.
type counts struct {
	completed, failed, resolved int64
	waited, ran                 time.Duration
	waits, runs                 Histogram
}

// A Recorder counts the attempts of one worker, and adds them to the table.
type Recorder struct {
	pool   *pg.Pool
	logger *slog.Logger

	mu      sync.Mutex
	pending map[key]*counts
	// refused is when the role was last found not to be allowed to write; zero if it may.
	refused time.Time
	told    bool
}

// NewRecorder returns the recorder of a worker.
func NewRecorder(pool *pg.Pool, logger *slog.Logger) *Recorder {
	return &Recorder{pool: pool, logger: logger, pending: map[key]*counts{}}
}

// Add counts an attempt. It doesn't block.
func (r *Recorder) Add(a Attempt) {
	k := key{a.Ended.Unix() / 60, a.Queue, a.JobName}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.refused.IsZero() && time.Since(r.refused) < refusedEvery {
		return
	}
	c := r.pending[k]
	if c == nil {
		if len(r.pending) >= maxPending {
			k = key{k.minute, Other, Other}
		}
		if c = r.pending[k]; c == nil {
			if len(r.pending) >= maxPending+60 {
				return // a clock that leaps, or a table that nobody can write for an hour
			}
			c = &counts{}
			r.pending[k] = c
		}
	}
	c.add(a)
}

func (c *counts) add(a Attempt) {
	switch {
	case a.Failed:
		c.failed++
	default:
		c.completed++
	}
	if a.Resolved {
		c.resolved++
	}
	a.Waited, a.Ran = max(a.Waited, 0), max(a.Ran, 0)
	c.waited = time.Duration(plus(int64(c.waited), int64(a.Waited)))
	c.ran = time.Duration(plus(int64(c.ran), int64(a.Ran)))
	c.waits.Add(a.Waited)
	c.runs.Add(a.Ran)
}

func (c *counts) merge(other *counts) {
	c.completed, c.failed, c.resolved = c.completed+other.completed, c.failed+other.failed, c.resolved+other.resolved
	c.waited = time.Duration(plus(int64(c.waited), int64(other.waited)))
	c.ran = time.Duration(plus(int64(c.ran), int64(other.ran)))
	c.waits.Merge(other.waits)
	c.runs.Merge(other.runs)
}

// Run adds what was counted once a minute until ctx ends, and then once more. It returns nil. Workers that start
// together write at different times.
func (r *Recorder) Run(ctx context.Context) error {
	wait := time.Duration(rand.Int64N(int64(flushEvery))) + flushEvery/10
	for pause.For(ctx, wait) == nil {
		r.flush(ctx, flushTimeout)
		wait = flushEvery
	}
	r.flush(context.WithoutCancel(ctx), lastTimeout)
	return nil
}

// Flush adds what was counted at once.
func (r *Recorder) Flush(ctx context.Context) { r.flush(ctx, flushTimeout) }

func (r *Recorder) flush(ctx context.Context, timeout time.Duration) {
	r.mu.Lock()
	batch := r.pending
	r.pending = map[key]*counts{}
	r.mu.Unlock()
	if len(batch) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	err := write(ctx, r.pool, batch)
	r.mu.Lock()
	defer r.mu.Unlock()
	var denied *pg.DeniedError
	switch {
	case err == nil:
		r.refused = time.Time{}
		return
	case errors.As(err, &denied), pg.IsCode(err, pg.InsufficientPrivilege), pg.IsCode(err, pg.UndefinedTable):
		r.refused = time.Now()
		r.tell("the charts of the past lack what this worker does; its jobs are not affected", err)
		return
	case !certain(err):
		// It may have been committed: to write it again could count it twice.
		return
	}
	r.tell("the counts for the charts of the past can't be written; trying again each minute", err)
	r.back(batch)
}

// tell logs a failure once. Other parts report a database that is away.
func (r *Recorder) tell(message string, err error) {
	if !r.told {
		r.told = true
		r.logger.Warn(message, "error", err)
	}
}

// certain reports whether a statement that failed has certainly done nothing.
func certain(err error) bool {
	var server *pgconn.PgError
	return errors.As(err, &server) || pgconn.SafeToRetry(err)
}

// back keeps for the next time what could not be written.
func (r *Recorder) back(batch map[key]*counts) {
	for k, c := range batch {
		if there := r.pending[k]; there != nil {
			c.merge(there)
		} else if len(r.pending) >= maxPending {
			continue
		}
		r.pending[k] = c
	}
}

// stored is a name as the table has it.
func stored(name string) string {
	name = strings.ReplaceAll(strings.ToValidUTF8(name, "\uFFFD"), "\x00", "\uFFFD")
	if utf8.RuneCountInString(name) > maxName {
		name = string([]rune(name)[:maxName-1]) + "…"
	}
	return name
}
