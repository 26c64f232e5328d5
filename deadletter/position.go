package deadletter

import (
	"context"
	"fmt"

	"soniq/internal/feed"
)

// A Position is a position among the dead letters: everything up to it has been read. It
// survives what moves a database to another server: a restored dump or backup, a failover,
// a logical switch-over. docs/channel.md describes the order. The zero value is before
// everything.
//
// Keep its text, from [Position.String], and don't compare two of them: what it is made of may
// change.
type Position = feed.Cursor

// Position returns the position after the dead letters that are there: what
// [SubscribeOptions.From] needs to follow what dies from now on.
//
// Errors: those of the database.
func (q *Queue) Position(ctx context.Context) (Position, error) {
	end, err := feed.End(ctx, q.pool)
	if err != nil {
		return Position{}, fmt.Errorf("read the position of the last dead letter: %w", err)
	}
	return end, nil
}

// ParsePosition reads the text of a position. The text of version 0.1, XID/ID, is read too, and
// an empty text, or 0, is the zero position.
//
// Errors: a text of another form.
func ParsePosition(text string) (Position, error) {
	return feed.ParseCursor(text)
}
