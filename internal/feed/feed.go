// Package feed reads the dead letters in an order in which none is missed and none comes twice.
package feed

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
	// maxAwaited bounds what false notifications can use up.
	maxAwaited = 1 << 16
	// movedAt is a time that Go and JSON can hold.
	movedAt = "least(greatest(d.moved_to_dead_letter_at, timestamptz '0001-01-01 00:00:00+00'), timestamptz '9999-12-31 23:59:59+00')"
)

// followColumns are what scanRow reads, in its order.
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

// End returns the position after what can be read now. db rewrites the schema's name.
//
// Errors: those of the database.
func End(ctx context.Context, db pg.Querier) (Cursor, error) {
	var c Cursor
	var xid string
	err := db.QueryRow(ctx, positionSQL).Scan(&c.Epoch, &xid, pg.ScanID(&c.ID))
	if errors.Is(err, pgx.ErrNoRows) {
		return Cursor{}, nil
	}
	if err == nil {
		c.XID, err = strconv.ParseUint(xid, 10, 64)
	}
	return c, denied(err)
}

// A Row is a dead letter, as the notification of its death describes it.
type Row struct {
	ID                                        uuid.UUID
	JobName, Queue, Reason, Kind, Fingerprint string
	Attempts                                  int
	MovedAt                                   time.Time
	ReplayOf                                  *uuid.UUID
	// At is a position from which nothing is missed: that of the row or, if it is out of its
	// turn, of the one before.
	At Cursor
}

// Config configures a [Follower].
type Config struct {
	// ConnConfig is the server that is read.
	ConnConfig *pgx.ConnConfig
	Schema     pg.Schema
	// Logger takes a warning when the table can't be read.
	Logger *slog.Logger
	// From is the position to begin after.
	From Cursor
	// Poll is how often it looks without a notification. Default 5 s.
	Poll time.Duration
	// Eager delivers what was announced at once, even if an older transaction is open.
	Eager bool
	// OnConnect is called by Run when the listener has connected. Default none.
	OnConnect func(context.Context)
}

// A Follower reads the dead letters after a position, in their order.
type Follower struct {
	cfg Config
	// wake has one value if something was announced since the last look.
	wake    chan struct{}
	awaited awaited
	// connected is true if it has begun to listen since the last look.
	connected atomic.Bool

	conn *pgx.Conn
	at   Cursor
	// early was delivered before its turn: the rows' own positions, which may not be reached.
	early map[Cursor]struct{}
}

// New returns a follower. It does not connect.
func New(cfg Config) *Follower {
	cfg.ConnConfig = cfg.ConnConfig.Copy()
	pg.PinSession(cfg.ConnConfig)
	cfg.ConnConfig.ConnectTimeout = cmp.Or(cfg.ConnConfig.ConnectTimeout, followTimeout)
	cfg.Poll = cmp.Or(cfg.Poll, followPoll)
	return &Follower{cfg: cfg, at: cfg.From, wake: make(chan struct{}, 1), early: make(map[Cursor]struct{})}
}

// Connected has the follower look at once: something may have been missed. It does not block.
func (f *Follower) Connected() {
	f.connected.Store(true)
	f.rouse()
}

// Announced has the follower look for a dead letter until it has read it. It does not block.
func (f *Follower) Announced(id uuid.UUID) {
	f.awaited.add(id)
	f.rouse()
}

func (f *Follower) rouse() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// denied names the grant that a role lacks which may not read the dead letters.
func denied(err error) error {
	var already *pg.DeniedError
	if !pg.IsCode(err, pg.InsufficientPrivilege) || errors.As(err, &already) {
		return err
	}
	return fmt.Errorf("%w; the role needs: grant select on soniq_dead_letter_feed, soniq_dead_letter_jobs", err)
}

// Run calls fn for each dead letter until ctx ends. It tries again after errors, but for one.
//
// Errors: the server's, that the role may not read the dead letters.
func (f *Follower) Run(ctx context.Context, fn func(context.Context, Row)) error {
	defer func() { f.disconnect() }()
	soon := followSoon
	lost := false
	for ctx.Err() == nil {
		if f.connected.Swap(false) && f.cfg.OnConnect != nil {
			f.cfg.OnConnect(ctx)
		}
		n, err := f.look(ctx, fn)
		if err != nil {
			f.disconnect()
			if pg.IsCode(err, pg.InsufficientPrivilege) {
				return denied(err)
			}
			if !lost && ctx.Err() == nil {
				f.cfg.Logger.WarnContext(ctx, "can't read the dead letters; trying again", "error", err)
			}
		}
		lost = err != nil
		if n == followBatch && err == nil {
			continue
		}
		wait := f.cfg.Poll
		if f.awaited.any() || lost {
			wait = min(soon, f.cfg.Poll)
			soon = min(2*soon, f.cfg.Poll)
		} else {
			soon = followSoon
		}
		if wait == f.cfg.Poll {
			f.awaited.clear() // it may have been deleted
		}
		select {
		case <-ctx.Done():
		case <-f.wake:
			soon = followSoon
		case <-time.After(wait):
		}
	}
	return nil
}

// look reads one batch, and returns how many there were.
func (f *Follower) look(ctx context.Context, fn func(context.Context, Row)) (int, error) {
	events, err := f.query(ctx, followSQL, f.at.Epoch, strconv.FormatUint(f.at.XID, 10), f.at.ID, followBatch)
	if err != nil {
		return 0, err
	}
	for _, e := range events {
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		f.awaited.remove(e.ID)
		if _, early := f.early[e.At]; !early {
			fn(ctx, e)
		}
		f.at = e.At
	}
	// Also those whose row was replayed or deleted before its turn.
	maps.DeleteFunc(f.early, func(at Cursor, _ struct{}) bool { return !at.after(f.at) })
	if f.cfg.Eager && len(events) < followBatch {
		err = f.anticipate(ctx, fn)
	}
	return len(events), err
}

// anticipate delivers what was announced and must wait for an older transaction.
func (f *Follower) anticipate(ctx context.Context, fn func(context.Context, Row)) error {
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
		if _, early := f.early[e.At]; early || !e.At.after(f.at) {
			continue
		}
		f.early[e.At] = struct{}{}
		e.At = f.at
		fn(ctx, e)
	}
	return nil
}

func (f *Follower) query(ctx context.Context, sql string, args ...any) ([]Row, error) {
	ctx, cancel := context.WithTimeout(ctx, followTimeout)
	defer cancel()
	if f.conn == nil {
		conn, err := pg.Connect(ctx, f.cfg.ConnConfig)
		if err != nil {
			return nil, err
		}
		f.conn = conn
	}
	rows, err := pg.Plain(f.conn).Query(ctx, f.cfg.Schema.SQL(sql), args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, scanRow)
}

func (f *Follower) disconnect() {
	if f.conn == nil {
		return
	}
	// It may be dead: no farewell is waited for.
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = f.conn.Close(ctx)
	f.conn = nil
}

func scanRow(row pgx.CollectableRow) (Row, error) {
	var r Row
	var replayOf pgtype.UUID
	var xid string
	err := row.Scan(&r.ID, &r.JobName, &r.Queue, &r.Reason, &r.Kind, &r.Fingerprint, &r.Attempts,
		&r.MovedAt, &replayOf, &r.At.Epoch, &xid)
	if err != nil {
		return Row{}, err
	}
	r.ReplayOf, r.MovedAt, r.At.ID = pg.OptionalID(replayOf), r.MovedAt.UTC(), r.ID
	r.At.XID, err = strconv.ParseUint(xid, 10, 64)
	return r, err
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
	if len(a.ids) < maxAwaited {
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
