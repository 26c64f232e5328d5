package app

import (
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/internal/cli/terminal"
	"soniq/internal/pg"
)

const (
	// sameClock is by how much this machine's clock and the database's may differ to
	// count as one: less than a second is seen in no age.
	sameClock = time.Second
	// otherClock is by how much they must differ for a command to say so.
	otherClock = time.Minute
)

const clockSQL = `select clock_timestamp()`

// readClock sets Now to the database's clock, which has dated all rows: ages, and the
// ends of --since and --until, are measured by it. What says when it was read is this
// machine's clock, so a slow answer counts as a difference only if it is certainly one.
// A database that doesn't tell the time leaves Now as it is; the command's own
// statements say what is wrong with it.
func (a *App) readClock(pool *pgxpool.Pool) {
	here := a.Now
	var server time.Time
	before := here()
	if err := (pg.Schema{}).Pool(pool).QueryRow(a.Ctx, clockSQL).Scan(&server); err != nil {
		return
	}
	took := here().Sub(before)
	ahead := before.Add(took / 2).Sub(server)
	if ahead.Abs() <= sameClock+took/2 {
		return
	}
	a.Now = func() time.Time { return here().Add(-ahead) }
	if ahead.Abs() < otherClock {
		return
	}
	direction := "ahead of"
	if ahead < 0 {
		direction = "behind"
	}
	a.Note("this machine's clock is %s %s the database's, which dates and ages are by",
		terminal.Age(time.Time{}.Add(ahead.Abs()), time.Time{}), direction)
}
