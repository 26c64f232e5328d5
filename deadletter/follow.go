package deadletter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"soniq/internal/pg"
)

const (
	// followTimeout bounds the connect and each query of a follower: a connection whose
	// other end is gone says nothing.
	followTimeout = 10 * time.Second
	// followSoon is the first of the looks, each twice as long after the one before, that
	// wait for a dead letter which was announced and can't be read yet: an older
	// transaction is still open.
	followSoon = 50 * time.Millisecond
	// followPoll is how often it looks without a notification.
	followPoll = 5 * time.Second
	// followBatch is how many dead letters are read at once.
	followBatch = 1000
)

// followColumns are what scanEvent reads, in its order.
var followColumns = `
select d.id, ` + pg.BoundedText("d.job_name", 2000) + `, ` + pg.BoundedText("d.queue", 2000) + `,
  d.dead_letter_reason, coalesce(d.error_kind, ''), coalesce(d.fingerprint, ''), d.attempts,
  ` + movedAt + `, d.replay_of, d.moved_epoch, coalesce(d.moved_xid::text, '0')`

// followSQL reads what comes after a position. docs/channel.md says why this order and no
// other misses nothing.
var followSQL = followColumns + `
from public.soniq_dead_letter_feed d
where (d.moved_epoch, d.moved_xid, d.id) > ($1::bigint, $2::text::xid8, $3::uuid)
order by d.moved_epoch, d.moved_xid, d.id
limit $4`

// announcedSQL reads what was announced and can't be read in the order yet.
var announcedSQL = followColumns + `
from public.soniq_dead_letter_jobs d
where d.id = any ($1::uuid[])
order by d.moved_epoch, d.moved_xid, d.id`

// positionSQL reads the last position that can be read now.
const positionSQL = `
select d.moved_epoch, d.moved_xid::text, d.id
from public.soniq_dead_letter_feed d
order by d.moved_epoch desc, d.moved_xid desc, d.id desc
limit 1`

// Position returns the position after the dead letters that are there: what
// [SubscribeOptions.From] needs to follow what dies from now on.
//
// Errors: those of the database.
func (q *Queue) Position(ctx context.Context) (Position, error) {
	var p Position
	var xid string
	err := q.pool.QueryRow(ctx, positionSQL).Scan(&p.epoch, &xid, pg.ScanID(&p.id))
	if errors.Is(err, pgx.ErrNoRows) {
		return Position{}, nil
	}
	if err == nil {
		p.xid, err = strconv.ParseUint(xid, 10, 64)
	}
	if err != nil {
		return Position{}, fmt.Errorf("read the position of the last dead letter: %w", err)
	}
	return p, nil
}

// A follower reads the dead letters after a position, in their order.
type follower struct {
	cfg    *pgx.ConnConfig
	schema pg.Schema
	log    *slog.Logger
	poll   time.Duration
	// wake has one value if something was announced since the last look.
	wake    chan struct{}
	awaited awaited
	// connected is true if it has begun to listen since the last look.
	connected atomic.Bool

	onConnect func(context.Context)
	eager     bool

	conn *pgx.Conn
	at   Position
	// early was delivered before its turn.
	early map[uuid.UUID]struct{}
}

func newFollower(cfg *pgx.ConnConfig, schema pg.Schema, o SubscribeOptions) *follower {
	cfg = cfg.Copy()
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = followTimeout
	}
	return &follower{
		cfg: cfg, schema: schema, log: o.Logger, poll: cmp.Or(o.Poll, followPoll), at: *o.From,
		wake: make(chan struct{}, 1), onConnect: o.OnConnect, eager: o.Eager,
		early: make(map[uuid.UUID]struct{}),
	}
}

// Connected implements notify.Handler.
func (f *follower) Connected(context.Context) {
	f.connected.Store(true)
	f.rouse()
}

// Notify implements notify.Handler.
func (f *follower) Notify(ctx context.Context, payload string) {
	e, ok := readEvent(ctx, f.log, payload)
	if !ok {
		return
	}
	f.awaited.add(e.ID)
	f.rouse()
}

func (f *follower) rouse() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// run calls fn for each dead letter until ctx ends.
func (f *follower) run(ctx context.Context, fn func(context.Context, Event)) {
	defer func() { f.disconnect() }()
	soon := followSoon
	lost := false
	for ctx.Err() == nil {
		if f.connected.Swap(false) && f.onConnect != nil {
			f.onConnect(ctx)
		}
		n, err := f.look(ctx, fn)
		if err != nil {
			f.disconnect()
			if !lost && ctx.Err() == nil {
				f.log.WarnContext(ctx, "can't read the dead letters; trying again", "error", err)
			}
		}
		lost = err != nil
		if n == followBatch && err == nil {
			continue
		}
		wait := f.poll
		if f.awaited.any() || lost {
			wait = min(soon, f.poll)
			soon = min(2*soon, f.poll)
		} else {
			soon = followSoon
		}
		if wait == f.poll {
			f.awaited.clear() // it may have been deleted
		}
		select {
		case <-ctx.Done():
		case <-f.wake:
			soon = followSoon
		case <-time.After(wait):
		}
	}
}

// look reads one batch, and returns how many there were.
func (f *follower) look(ctx context.Context, fn func(context.Context, Event)) (int, error) {
	events, err := f.query(ctx, followSQL, f.at.epoch, strconv.FormatUint(f.at.xid, 10), f.at.id, followBatch)
	if err != nil {
		return 0, err
	}
	for _, e := range events {
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		f.awaited.remove(e.ID)
		if _, early := f.early[e.ID]; early {
			delete(f.early, e.ID)
		} else {
			fn(ctx, e)
		}
		f.at = *e.Position
	}
	if f.eager && len(events) < followBatch {
		err = f.anticipate(ctx, fn)
	}
	return len(events), err
}

// anticipate delivers what was announced and must wait for an older transaction.
func (f *follower) anticipate(ctx context.Context, fn func(context.Context, Event)) error {
	ids := f.awaited.take()
	if len(ids) == 0 {
		return nil
	}
	events, err := f.query(ctx, announcedSQL, ids)
	if err != nil {
		for _, id := range ids {
			f.awaited.add(id)
		}
		return err
	}
	for _, e := range events {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		// It may have been announced twice, or long after it was read.
		if _, early := f.early[e.ID]; early || !e.Position.after(f.at) {
			continue
		}
		f.early[e.ID] = struct{}{}
		at := f.at
		e.Position = &at
		fn(ctx, e)
	}
	return nil
}

func (f *follower) query(ctx context.Context, sql string, args ...any) ([]Event, error) {
	ctx, cancel := context.WithTimeout(ctx, followTimeout)
	defer cancel()
	if f.conn == nil {
		conn, err := pgx.ConnectConfig(ctx, f.cfg)
		if err != nil {
			return nil, err
		}
		f.conn = conn
	}
	rows, err := f.conn.Query(ctx, f.schema.SQL(sql), args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, scanEvent)
}

func (f *follower) disconnect() {
	if f.conn == nil {
		return
	}
	// It may be dead: no farewell is waited for.
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = f.conn.Close(ctx)
	f.conn = nil
}

func scanEvent(row pgx.CollectableRow) (Event, error) {
	e := Event{Version: eventVersion, Position: &Position{}}
	var replayOf pgtype.UUID
	var xid string
	err := row.Scan(&e.ID, &e.JobName, &e.Queue, (*string)(&e.Reason), (*string)(&e.Kind), &e.Fingerprint, &e.Attempts,
		&e.MovedAt, &replayOf, &e.Position.epoch, &xid)
	if err != nil {
		return Event{}, err
	}
	e.ReplayOf, e.MovedAt, e.Position.id = pg.OptionalID(replayOf), e.MovedAt.UTC(), e.ID
	e.Position.xid, err = strconv.ParseUint(xid, 10, 64)
	return e, err
}

// awaited is what was announced and not yet read. A program that sends false notifications
// can't fill it without bound.
type awaited struct {
	mu  sync.Mutex
	ids map[uuid.UUID]struct{}
}

func (a *awaited) add(id uuid.UUID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ids == nil {
		a.ids = make(map[uuid.UUID]struct{})
	}
	if len(a.ids) < maxPending {
		a.ids[id] = struct{}{}
	}
}

func (a *awaited) remove(id uuid.UUID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.ids, id)
}

// take returns what is awaited, and awaits it no more.
func (a *awaited) take() []uuid.UUID {
	a.mu.Lock()
	defer a.mu.Unlock()
	ids := slices.Collect(maps.Keys(a.ids))
	clear(a.ids)
	return ids
}

func (a *awaited) any() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.ids) > 0
}

func (a *awaited) clear() {
	a.mu.Lock()
	defer a.mu.Unlock()
	clear(a.ids)
}
