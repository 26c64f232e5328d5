package deadletter

import (
	"bytes"
	"cmp"
	"fmt"
	"strconv"
	"strings"

	"github.com/google/uuid"
)

// A Position is a position among the dead letters: everything up to it has been read. It
// survives what moves a database to another server: a restored dump or backup, a failover,
// a logical switch-over. docs/channel.md describes the order. The zero value is before
// everything.
//
// Keep its text, from [Position.String], and don't compare two of them: what it is made of may
// change.
type Position struct {
	epoch int64
	xid   uint64
	id    uuid.UUID
}

// String returns the position's text, which [ParsePosition] reads.
func (p Position) String() string {
	return fmt.Sprintf("%d/%d/%s", p.epoch, p.xid, p.id)
}

// ParsePosition reads the text of a position. The text of version 0.1, XID/ID, is read too, and
// an empty text, or 0, is the zero position.
//
// Errors: a text of another form.
func ParsePosition(text string) (Position, error) {
	if text == "" || text == "0" {
		return Position{}, nil
	}
	parts := strings.Split(text, "/")
	if len(parts) == 2 {
		parts = append([]string{"0"}, parts...)
	}
	if len(parts) != 3 {
		return Position{}, fmt.Errorf("cursor %.100q: want EPOCH/XID/ID", text)
	}
	epoch, epochErr := strconv.ParseInt(parts[0], 10, 64)
	xid, xidErr := strconv.ParseUint(parts[1], 10, 64)
	id, idErr := uuid.Parse(parts[2])
	if err := cmp.Or(epochErr, xidErr, idErr); err != nil {
		return Position{}, fmt.Errorf("cursor %.100q: want EPOCH/XID/ID: %w", text, err)
	}
	if epoch < 0 || len(parts[2]) != len(id.String()) {
		return Position{}, fmt.Errorf("cursor %.100q: want EPOCH/XID/ID", text)
	}
	return Position{epoch, xid, id}, nil
}

func (p Position) after(other Position) bool {
	return cmp.Or(cmp.Compare(p.epoch, other.epoch), cmp.Compare(p.xid, other.xid), bytes.Compare(p.id[:], other.id[:])) > 0
}

// MarshalText implements [encoding.TextMarshaler], so that a position is a string in JSON.
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
