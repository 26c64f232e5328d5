// Package jobargs reads the arguments of claimed jobs within a limit of memory.
//
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
package jobargs

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

	"soniq/internal/pg"
)

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

// Loader reads the arguments that a claim did not return.
type Loader struct {
	pool *pg.Pool
	// max limits the arguments of one job, in bytes of JSON.
	max int
	// room is what all jobs together may hold; size is its whole size.
	room *semaphore.Weighted
	size int64
	// turn is held while a job's arguments are measured and read: one job at a time.
	turn *semaphore.Weighted
}

// New returns a loader of arguments of up to limit bytes of JSON each, and up to memory
// bytes of all running jobs together.
func New(pool *pg.Pool, limit int, memory int64) *Loader {
	return &Loader{
		pool: pool, max: limit, size: memory,
		room: semaphore.NewWeighted(memory), turn: semaphore.NewWeighted(1),
	}
}

// Limit is how many bytes of JSON the arguments of one job may have.
func (l *Loader) Limit() int { return l.max }

// Held is the room that a job's arguments take, until its handler has returned and
// its outcome was written. Each of the two calls Release. Nil is no room.
type Held struct {
	room  *semaphore.Weighted
	bytes int64
	users atomic.Int32
}

func (l *Loader) hold(bytes int) *Held {
	held := &Held{room: l.room, bytes: int64(bytes)}
	held.users.Store(2)
	return held
}

// Release is called twice.
func (h *Held) Release() {
	if h != nil && h.users.Add(-1) == 0 {
		h.room.Release(h.bytes)
	}
}

// LoadMiddle reads the medium arguments of a claim's jobs, and calls got with those that
// it has read. What it can't read is left to Load, which meets the error again and reports
// it.
func (l *Loader) LoadMiddle(ctx context.Context, token int64, ids []uuid.UUID, got func(id uuid.UUID, args json.RawMessage, held *Held)) {
	ctx, cancel := context.WithTimeout(ctx, middlePatience)
	defer cancel()
	rows, _ := l.pool.Query(ctx, middleArgsSQL, ids, token)
	var id uuid.UUID
	var args []byte
	_, _ = pgx.ForEachRow(rows, []any{&id, &args}, func() error {
		whole := len(args) <= middleArgs || utf8.RuneCount(args) <= middleArgs
		if whole && len(args) <= l.max && l.room.TryAcquire(int64(len(args))) {
			got(id, args, l.hold(len(args)))
		}
		args = nil
		return nil
	})
}

// Loaded are arguments, or what is known of those that could not be read.
type Loaded struct {
	Args json.RawMessage
	Held *Held
	// Stored is their size in the row, 0 if that is unknown.
	Stored int64
}

// Load reads the arguments of a job, when it is the job's turn and there is room. l.Stored
// may be known after an error.
//
// Errors: *[InvalidError] for arguments that can't be read, [ErrNoClaim] for a job whose
// claim was lost, and those of ctx and of the database.
func (l *Loader) Load(ctx context.Context, id uuid.UUID, token int64) (loaded Loaded, err error) {
	if err := l.turn.Acquire(ctx, 1); err != nil {
		return loaded, err
	}
	defer l.turn.Release(1)
	bytes, err := tryLoad(ctx, func(ctx context.Context) (bytes int, err error) {
		loaded.Stored, bytes, err = l.measure(ctx, id, token)
		return bytes, err
	})
	if err != nil {
		return loaded, err
	}
	if err := l.room.Acquire(ctx, int64(bytes)); err != nil {
		return loaded, err
	}
	args, err := tryLoad(ctx, func(ctx context.Context) (args []byte, err error) {
		err = l.pool.QueryRow(ctx, readArgsSQL, id, token).Scan(&args)
		return args, err
	})
	if err == nil && len(args) > bytes {
		// The row has been changed since they were measured.
		err = l.tooLarge(int64(len(args)))
	}
	if err != nil {
		l.room.Release(int64(bytes))
		return loaded, err
	}
	loaded.Args, loaded.Held = args, l.hold(bytes)
	return loaded, nil
}

// measure returns the size in the row and the length of the arguments as text, or an
// *InvalidError.
func (l *Loader) measure(ctx context.Context, id uuid.UUID, token int64) (stored int64, bytes int, err error) {
	var raw, text *int64
	if err := l.pool.QueryRow(ctx, measureArgsSQL, id, token, l.max).Scan(&stored, &raw, &text); err != nil {
		return 0, 0, err
	}
	switch {
	case text != nil && *text <= int64(l.max):
		return stored, int(*text), nil
	case text != nil:
		return stored, 0, l.tooLarge(*text)
	case raw != nil:
		return stored, 0, l.tooLarge(*raw)
	}
	return stored, 0, l.tooLarge(stored)
}

// tooLarge is the error for arguments that are not read. bytes is the length of their
// text or, if that is not known, the size of what is stored.
func (l *Loader) tooLarge(bytes int64) error {
	return &InvalidError{&largeError{bytes: bytes, limit: int64(l.max)}}
}

// largeError is the error for arguments over MaxArgsBytes.
type largeError struct{ bytes, limit int64 }

func (e *largeError) Error() string {
	return fmt.Sprintf("the arguments are %d bytes, over the worker's limit of %d (MaxArgsBytes, --max-args-size); "+
		"store large data elsewhere and enqueue a reference to it", e.bytes, e.limit)
}

// ErrorCode is the dead letter's error_code.
func (e *largeError) ErrorCode() string { return "arguments_too_large" }

// InvalidError is the error for arguments that can't be read.
type InvalidError struct{ Err error }

func (e *InvalidError) Error() string { return e.Err.Error() }

// Unwrap returns what is wrong with them.
func (e *InvalidError) Unwrap() error { return e.Err }

// ErrNoClaim is the error for a row that is no longer under the job's claim.
var ErrNoClaim = errors.New("the claim of the job is lost")

// tryLoad calls read until the database answers or ctx ends. What the server refuses,
// and what takes too long loadTries times, concerns these arguments alone: that is
// an error.
func tryLoad[T any](ctx context.Context, read func(context.Context) (T, error)) (T, error) {
	slow := 0
	return backoff.Retry(ctx, func() (value T, err error) {
		patient, cancel := context.WithTimeout(ctx, loadPatience)
		defer cancel()
		value, err = read(patient)
		var invalid *InvalidError
		switch {
		case err == nil:
		case errors.As(err, &invalid):
			err = backoff.Permanent(err)
		case errors.Is(err, pgx.ErrNoRows):
			err = backoff.Permanent(ErrNoClaim)
		case pg.IsDataError(err):
			err = backoff.Permanent(&InvalidError{fmt.Errorf("the arguments can't be read: %w", err)})
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

// Weigh returns the size of a job's arguments in its row, 0 if it can't be read.
func (l *Loader) Weigh(ctx context.Context, id uuid.UUID) (stored int64) {
	ctx, cancel := context.WithTimeout(ctx, middlePatience)
	defer cancel()
	_ = l.pool.QueryRow(ctx, weighSQL, id).Scan(&stored)
	return stored
}
