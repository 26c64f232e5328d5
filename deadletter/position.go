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
type Position struct{ cursor feed.Cursor }

// Position returns the position after the dead letters that are there: what
// [SubscribeOptions.From] needs to follow what dies from now on.
//
// Errors: those of the database.
func (q *Queue) Position(ctx context.Context) (Position, error) {
	end, err := feed.End(ctx, q.pool)
	if err != nil {
		return Position{}, fmt.Errorf("read the position of the last dead letter: %w", err)
	}
	return Position{end}, nil
}

// String returns the position's text, which [ParsePosition] reads.
func (p Position) String() string { return p.cursor.String() }

// ParsePosition reads the text of a position. The text of version 0.1, XID/ID, is read too, and
// an empty text, or 0, is the zero position.
//
// Errors: a text of another form.
func ParsePosition(text string) (Position, error) {
	c, err := feed.ParseCursor(text)
	return Position{c}, err
}

// MarshalText implements [encoding.TextMarshaler], so that a position is a string in JSON.
//
// Errors: none.
func (p Position) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
//
// Errors: those of [ParsePosition].
func (p *Position) UnmarshalText(text []byte) error {
	parsed, err := ParsePosition(string(text))
	if err != nil {
		return err
	}
	*p = parsed
	return nil
}
