package deadletter

import (
	"context"
	"log/slog"

	"github.com/jackc/pgx/v5"

	"soniq/internal/feed"
	"soniq/internal/pg"
)

// A follower passes notifications to what reads the table.
type follower struct {
	log  *slog.Logger
	feed *feed.Follower
}

func newFollower(cfg *pgx.ConnConfig, schema pg.Schema, o SubscribeOptions) *follower {
	return &follower{log: o.Logger, feed: feed.New(feed.Config{
		ConnConfig: cfg, Schema: schema, Logger: o.Logger,
		From: *o.From, Poll: o.Poll, Eager: o.Eager, OnConnect: o.OnConnect,
	})}
}

// Connected implements notify.Handler.
func (f *follower) Connected(context.Context) { f.feed.Connected() }

// Notify implements notify.Handler.
func (f *follower) Notify(ctx context.Context, payload string) {
	if e, ok := readEvent(ctx, f.log, payload); ok {
		f.feed.Announced(e.ID)
	}
}

func (f *follower) run(ctx context.Context, fn func(context.Context, Event)) error {
	return f.feed.Run(ctx, func(ctx context.Context, r feed.Row) { fn(ctx, r.Event()) })
}
