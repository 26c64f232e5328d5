package feed

import (
	"bytes"
	"cmp"
	"fmt"
	"strconv"
	"strings"

	"github.com/google/uuid"
)

// A Cursor is a position in the order of the feed. The zero value is before everything.
type Cursor struct {
	Epoch int64
	XID   uint64
	ID    uuid.UUID
}

// String returns the text that [ParseCursor] reads.
func (c Cursor) String() string {
	return fmt.Sprintf("%d/%d/%s", c.Epoch, c.XID, c.ID)
}

// ParseCursor reads the text of a cursor, and that of version 0.1, XID/ID.
//
// Errors: a text of another form.
func ParseCursor(text string) (Cursor, error) {
	if text == "" || text == "0" {
		return Cursor{}, nil
	}
	parts := strings.Split(text, "/")
	if len(parts) == 2 {
		parts = append([]string{"0"}, parts...)
	}
	if len(parts) != 3 {
		return Cursor{}, fmt.Errorf("cursor %.100q: want EPOCH/XID/ID", text)
	}
	epoch, epochErr := strconv.ParseInt(parts[0], 10, 64)
	xid, xidErr := strconv.ParseUint(parts[1], 10, 64)
	id, idErr := uuid.Parse(parts[2])
	if err := cmp.Or(epochErr, xidErr, idErr); err != nil {
		return Cursor{}, fmt.Errorf("cursor %.100q: want EPOCH/XID/ID: %w", text, err)
	}
	if epoch < 0 || len(parts[2]) != len(id.String()) {
		return Cursor{}, fmt.Errorf("cursor %.100q: want EPOCH/XID/ID", text)
	}
	return Cursor{epoch, xid, id}, nil
}

func (c Cursor) after(other Cursor) bool {
	return cmp.Or(cmp.Compare(c.Epoch, other.Epoch), cmp.Compare(c.XID, other.XID), bytes.Compare(c.ID[:], other.ID[:])) > 0
}

// MarshalText implements [encoding.TextMarshaler], so that a cursor is a string in JSON.
//
// Errors: none.
func (c Cursor) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
//
// Errors: those of [ParseCursor].
func (c *Cursor) UnmarshalText(text []byte) error {
	parsed, err := ParseCursor(string(text))
	if err != nil {
		return err
	}
	*c = parsed
	return nil
}
