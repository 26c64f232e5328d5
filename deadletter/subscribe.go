package deadletter

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"soniq/deadletter/classify"
	"soniq/internal/feed"
	"soniq/internal/pg"
	"soniq/internal/redact"
	"soniq/notify"
)

// An Event is a notification on the channel soniq_dead_letter: one for each death. It
// names a row, and has neither arguments nor error text: [Queue.Get] reads them.
type Event = feed.Event

// ParseEvent reads the payload of a notification.
//
// Errors: a payload that isn't JSON, has another version or has no id. Anybody who can
// connect to the database can send one.
func ParseEvent(payload string) (Event, error) { return feed.ParseEvent(payload) }

// SubscribeOptions are the options of [Subscribe]. The zero value works.
type SubscribeOptions struct {
	// Schema is the schema of Soniq's tables. Each schema has a channel of its
	// own: <schema>.soniq_dead_letter, and soniq_dead_letter for public. Default
	// "public".
	Schema string
	// Logger logs lost connections and payloads that can't be read. Default
	// slog.Default().
	Logger *slog.Logger
	// OnConnect is called before the first event, and whenever events may have been
	// missed: after a lost connection, or if fn was so slow that events were dropped.
	// Read the table then; a later event may be about a row that was read there. It is
	// called by the same goroutine as fn. Default nil.
	OnConnect func(context.Context)
	// From has fn called for each dead letter after a position, from the table and in its
	// order, and then for each new one: none is missed and none comes twice, whatever
	// happens to the connection or the database. Each event has its Position; start from the
	// last one that you have dealt with. The zero Position is the beginning, and
	// [Queue.Position] is now. A transaction that stays open anywhere on the server delays
	// the dead letters that were written since it began. Default nil: fn is called for
	// notifications only.
	From *Position
	// Eager delivers an announced dead letter at once where From is set, even if an older
	// transaction is open. It is then out of order, and its Position is that of the event
	// before it: a program that starts again from there may get it again. Default false.
	Eager bool
	// Poll is how often the table is read without a notification, where From is set: behind a
	// pooler that swallows notifications, that is all there is. Default 5 s.
	Poll time.Duration
}

// Subscribe calls fn for each new dead letter, whatever program made it, and blocks
// until ctx ends. Then it returns nil. One goroutine calls fn, in the order of the
// commits. fn should return when its context ends.
//
// PostgreSQL notifies only sessions that are connected: set From to miss nothing, or see
// OnConnect for events that were missed. Through a pooler in transaction mode no
// notification arrives, which the log says once: there only From delivers. A payload that
// can't be read is logged and skipped.
//
// Errors: a configuration that can't work; with From, that the role may not read the
// dead letters. A lost connection isn't one: Subscribe connects again.
func Subscribe(ctx context.Context, cfg *pgx.ConnConfig, o SubscribeOptions, fn func(context.Context, Event)) error {
	schema, err := pg.NewSchema(o.Schema)
	if err != nil {
		return fmt.Errorf("subscribe to dead letters: Schema: %w", err)
	}
	o.Logger = redact.Logger(cmp.Or(o.Logger, slog.Default()))
	meanwhile := "until they arrive, no dead letter is delivered (connect directly, or set From to have the table read)"
	if o.From != nil {
		meanwhile = "" // the listener's own: the table is read
	}
	listener, err := notify.NewListener(notify.Config{ConnConfig: cfg, Logger: o.Logger, Meanwhile: meanwhile})
	if err != nil {
		return fmt.Errorf("subscribe to dead letters: %w", err)
	}
	group, ctx := errgroup.WithContext(ctx)
	if o.From != nil {
		f := newFollower(cfg, schema, o)
		listener.Handle(schema.Channel(notify.DeadLetter), f)
		group.Go(func() error { return f.run(ctx, fn) })
	} else {
		s := &subscription{feed.NewLive[Event](o.Logger), o.Logger}
		listener.Handle(schema.Channel(notify.DeadLetter), s)
		group.Go(func() error {
			s.Deliver(ctx, o.OnConnect, fn)
			return nil
		})
	}
	group.Go(func() error { return listener.Run(ctx) })
	if err := group.Wait(); err != nil {
		return fmt.Errorf("subscribe to dead letters: %w", err)
	}
	return nil
}

// A subscription queues notifications for a slow subscriber.
type subscription struct {
	*feed.Live[Event]
	log *slog.Logger
}

// Notify implements notify.Handler.
func (s *subscription) Notify(ctx context.Context, payload string) {
	if e, ok := readEvent(ctx, s.log, payload); ok {
		s.Push(e)
	}
}

func readEvent(ctx context.Context, log *slog.Logger, payload string) (e Event, ok bool) {
	e, err := ParseEvent(payload)
	if err != nil {
		log.WarnContext(ctx, "skipped a dead-letter notification", "error", err, "payload", pg.Storable(payload, classify.MaxNameBytes))
	}
	return e, err == nil
}
