package recordfile

import (
	"fmt"
	"slices"

	"soniq/internal/pg"
	"soniq/internal/redact"
	"soniq/internal/suggest"
)

// unknownColumns are the columns of a file that no dead letter has.
type unknownColumns struct {
	names []string
	// cells are those of the record that was read last.
	cells cells
}

// mostUnknown is how many of them a file may have.
const mostUnknown = 100

// add passes over a column, unless its name is nearly that of one that isn't there: then it is
// probably meant to be that one.
func (u *unknownColumns) add(name string, there func(known string) bool) error {
	shownName := pg.HeadText(redact.Text(pg.HeadText(name, 4<<10)), shownBytes)
	if slices.Contains(u.names, shownName) {
		return nil
	}
	if meant := suggest.Closest(name, header); meant != "" && !there(meant) {
		return fmt.Errorf("unknown column %s: is it %s?", quoted(name), meant)
	}
	if len(u.names) == mostUnknown {
		return fmt.Errorf("more than %d unknown columns, such as %s", mostUnknown, quoted(name))
	}
	u.names = append(u.names, shownName)
	return nil
}
