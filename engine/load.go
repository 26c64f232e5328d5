package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/cenkalti/backoff/v5"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/semaphore"

	"soniq/deadletter/classify"
	"soniq/internal/pg"
)

// A role that may insert jobs decides how large their arguments are. They can be 255 MB,
// or ten bytes that are gigabytes as text, since jsonb stores 1e131071 as a digit and
// an exponent. So a worker reads them in three ways:
//
//   - Small arguments, of up to 16 KiB in their row, are returned by the claim.
//   - Medium ones, of up to middleArgs when decompressed, are read by one statement
//     for all jobs of a claim.
//   - Of the others, one at a time is measured. It is read once MaxArgsMemory has room
//     for it. Over MaxArgsBytes it is not read, and the job becomes a dead letter.
//
// Measuring has three steps, each of which costs no more than the one before allows:
// the size in the row, which decompresses nothing; the size of the decompressed
// jsonb; the length of the text.

const (
	// middleArgs is the most bytes of arguments that are read together with others.
	middleArgs = 64 << 10
	// middlePatience is short, since the fetcher waits. Arguments that it is too short
	// for are read one by one.
	middlePatience = time.Second
	// loadPatience limits the time to read one job's arguments, and loadTries is how
	// often it is tried.
	loadPatience = 30 * time.Second
	loadTries    = 3
	// heavyBytes is the size in the row from which moving a dead letter takes so long
	// that the outcomes of other jobs would wait.
	heavyBytes = 1 << 20
)

// $1 the ids, $2 the token.
const middleArgsSQL = `
select a.id, left(a.args::text, 65537)
from (
  select j.id, j.args
  from unnest((select $1::uuid[])) as k (id)
  join public.soniq_jobs j on j.id = k.id
  where j.claim_token = $2
    and pg_column_size(j.args) <= 65536
  offset 0
) a
where pg_column_size(array[a.args]) <= 65536`

// $1 job, $2 token, $3 most bytes of text. At worst jsonb is four times as long as the
// text: a digit has 3 bytes as text and 12 as jsonb. If it is longer than that, the
// text is too long in any case, and is not made.
const measureArgsSQL = `
select b.stored, b.raw, case when b.raw <= 4 * $3::bigint + 1024 then octet_length(b.args::text) end
from (
  select a.args, a.stored, case when a.stored <= 4 * $3::bigint + 1024 then pg_column_size(array[a.args]) end as raw
  from (
    select j.args, pg_column_size(j.args) as stored
    from public.soniq_jobs j
    where j.id = $1
      and j.claim_token = $2
      and j.status = 'processing'
    offset 0
  ) a
  offset 0
) b`

const readArgsSQL = `
select j.args::text
from public.soniq_jobs j
where j.id = $1
  and j.claim_token = $2
  and j.status = 'processing'`

// loader reads the arguments that a claim did not return.
type loader struct {
	pool *pg.Pool
	// max limits the arguments of one job, in bytes of JSON.
	max int
	// room is what all jobs together may hold; size is its whole size.
	room *semaphore.Weighted
	size int64
	// turn is held while a job's arguments are measured and read: one job at a time.
	turn *semaphore.Weighted
}

func newLoader(pool *pg.Pool, config WorkerConfig) *loader {
	return &loader{
		pool: pool, max: config.MaxArgsBytes, size: config.MaxArgsMemory,
		room: semaphore.NewWeighted(config.MaxArgsMemory), turn: semaphore.NewWeighted(1),
	}
}

// heldArgs is the room that a job's arguments take, until its handler has returned and
// its outcome was written. Each of the two calls release.
type heldArgs struct {
	room  *semaphore.Weighted
	bytes int64
	users atomic.Int32
}

func (l *loader) hold(job *Job, bytes int) {
	job.held = &heldArgs{room: l.room, bytes: int64(bytes)}
	job.held.users.Store(2)
}

// release is called twice. Nil is a job that holds no room.
func (h *heldArgs) release() {
	if h != nil && h.users.Add(-1) == 0 {
		h.room.Release(h.bytes)
	}
}

// loadMiddle reads the medium arguments of a claim's jobs. What it can't read is left
// to load.
func (l *loader) loadMiddle(ctx context.Context, token int64, jobs []*Job) {
	var ids []uuid.UUID
	missing := map[uuid.UUID]*Job{}
	for _, job := range jobs {
		if len(job.Args) > l.max {
			job.Args = nil
		} else if job.Args == nil {
			ids = append(ids, job.ID)
			missing[job.ID] = job
		}
	}
	if len(ids) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, middlePatience)
	defer cancel()
	rows, _ := l.pool.Query(ctx, middleArgsSQL, ids, token)
	var id uuid.UUID
	var args []byte
	// load meets the error again, and reports it.
	_, _ = pgx.ForEachRow(rows, []any{&id, &args}, func() error {
		whole := len(args) <= middleArgs || utf8.RuneCount(args) <= middleArgs
		if job := missing[id]; job != nil && whole && len(args) <= l.max && l.room.TryAcquire(int64(len(args))) {
			job.Args = args
			l.hold(job, len(args))
		}
		args = nil
		return nil
	})
}

// load reads the arguments of a job, when it is the job's turn and there is room. The
// error is an *invalidArgumentsError for arguments that can't be read, and errNoClaim
// for a job whose claim was lost.
func (l *loader) load(ctx context.Context, job *Job) error {
	if err := l.turn.Acquire(ctx, 1); err != nil {
		return err
	}
	defer l.turn.Release(1)
	bytes, err := tryLoad(ctx, func(ctx context.Context) (int, error) { return l.measure(ctx, job) })
	if err != nil {
		return err
	}
	if err := l.room.Acquire(ctx, int64(bytes)); err != nil {
		return err
	}
	args, err := tryLoad(ctx, func(ctx context.Context) (args []byte, err error) {
		err = l.pool.QueryRow(ctx, readArgsSQL, job.ID, job.token).Scan(&args)
		return args, err
	})
	if err == nil && len(args) > bytes {
		// The row has been changed since they were measured.
		err = l.tooLarge(int64(len(args)))
	}
	if err != nil {
		l.room.Release(int64(bytes))
		return err
	}
	job.Args = json.RawMessage(args)
	l.hold(job, bytes)
	return nil
}

// measure returns the length of the arguments as text, or an *invalidArgumentsError.
func (l *loader) measure(ctx context.Context, job *Job) (int, error) {
	var stored int64
	var raw, text *int64
	if err := l.pool.QueryRow(ctx, measureArgsSQL, job.ID, job.token, l.max).Scan(&stored, &raw, &text); err != nil {
		return 0, err
	}
	job.stored = stored
	switch {
	case text != nil && *text <= int64(l.max):
		return int(*text), nil
	case text != nil:
		return 0, l.tooLarge(*text)
	case raw != nil:
		return 0, l.tooLarge(*raw)
	}
	return 0, l.tooLarge(stored)
}

// tooLarge is the error for arguments that are not read. bytes is the length of their
// text or, if that is not known, the size of what is stored.
func (l *loader) tooLarge(bytes int64) error {
	return &invalidArgumentsError{&largeArgumentsError{bytes: bytes, limit: int64(l.max)}}
}

// largeArgumentsError is the error for arguments over MaxArgsBytes.
type largeArgumentsError struct{ bytes, limit int64 }

func (e *largeArgumentsError) Error() string {
	return fmt.Sprintf("the arguments are %d bytes, over the worker's limit of %d (MaxArgsBytes, --max-args-size); "+
		"store large data elsewhere and enqueue a reference to it", e.bytes, e.limit)
}

// ErrorCode is the dead letter's error_code.
func (e *largeArgumentsError) ErrorCode() string { return "arguments_too_large" }

// errNoClaim is the error for a row that is no longer under the job's claim.
var errNoClaim = errors.New("the claim of the job is lost")

// tryLoad calls read until the database answers or ctx ends. What the server refuses,
// and what takes too long loadTries times, concerns these arguments alone: that is
// an error.
func tryLoad[T any](ctx context.Context, read func(context.Context) (T, error)) (T, error) {
	slow := 0
	return backoff.Retry(ctx, func() (value T, err error) {
		patient, cancel := context.WithTimeout(ctx, loadPatience)
		defer cancel()
		value, err = read(patient)
		var invalid *invalidArgumentsError
		switch {
		case err == nil:
		case errors.As(err, &invalid):
			err = backoff.Permanent(err)
		case errors.Is(err, pgx.ErrNoRows):
			err = backoff.Permanent(errNoClaim)
		case pg.IsDataError(err):
			err = backoff.Permanent(&invalidArgumentsError{fmt.Errorf("the arguments can't be read: %w", err)})
		case patient.Err() != nil && ctx.Err() == nil:
			if slow++; slow >= loadTries {
				err = backoff.Permanent(fmt.Errorf("read arguments: %w", err))
			}
		}
		return value, err
	},
		backoff.WithBackOff(&backoff.ExponentialBackOff{
			InitialInterval: 100 * time.Millisecond, RandomizationFactor: 0.5, Multiplier: 2, MaxInterval: 5 * time.Second,
		}),
		backoff.WithMaxElapsedTime(0),
	)
}

const weighSQL = `
select pg_column_size(j.args)
from public.soniq_jobs j
where j.id = $1`

// weigh reads the size of arguments that the claim did not return. It may fail: the
// size only decides which settler moves the dead letter.
func (e *execution) weigh(ctx context.Context) {
	if e.job.Args != nil || e.loader == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, middlePatience)
	defer cancel()
	_ = e.loader.pool.QueryRow(ctx, weighSQL, e.job.ID).Scan(&e.job.stored)
}

// prepare reads the arguments that the claim did not return. ok is false if it can't,
// and o is then the outcome of the attempt.
func (e *execution) prepare(ctx context.Context) (o Outcome, ok bool) {
	if e.job.Args != nil || e.loader == nil {
		return Outcome{}, true
	}
	err := e.loader.load(ctx, e.job)
	var invalid *invalidArgumentsError
	switch {
	case err == nil:
		e.started = time.Now()
		return Outcome{}, true
	case errors.As(err, &invalid):
		return e.fail(classify.KindDecode, invalid.err, "", ""), false
	case errors.Is(context.Cause(ctx), ErrCancelled):
		return e.cancelled(classify.ReadTree(ErrCancelled)), false
	case ctx.Err() != nil, errors.Is(err, errNoClaim):
		return Outcome{Kind: OutcomeReleased}, false
	}
	return e.fail(classify.KindError, err, "", ""), false
}
