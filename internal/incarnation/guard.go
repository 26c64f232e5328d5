package incarnation

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"soniq/internal/pause"
	"soniq/internal/pg"
)

const (
	// lookEvery is how often a program that runs looks whether the database is still the one. A dispatcher
	// looks at once when the server was started anew or is another one.
	lookEvery = 5 * time.Minute
	// A hold is told again after tellAgain, and after twice as long each time, up to tellAtMost.
	tellAgain  = 5 * time.Minute
	tellAtMost = 6 * time.Hour
)

// A Guard looks again and again whether the database is the one, for a program that runs. It adopts a
// database that names none, and a standby that was promoted, if this program has worked with the primary
// before: then the whole installation has moved. A program that starts on a promoted copy can't tell that
// from a clone for tests.
type Guard struct {
	pool *pg.Pool
	log  *slog.Logger
	read func(context.Context, pg.Querier) (View, error) // Read, but for tests

	mu    sync.Mutex
	known *ID // the database that was the one, as this program has seen it
	// past are those that were known before, on earlier timelines.
	past []ID
	// position is how far that one's WAL was.
	position int64
	looked   time.Time
	server   time.Time
	reason   string
	warned   bool
}

// NewGuard returns a guard that has not looked yet.
func NewGuard(pool *pg.Pool, log *slog.Logger) *Guard {
	return &Guard{pool: pool, log: log, read: Read}
}

// Held returns why hooks and schedules must hold; empty: they need not. It looks at the database where the
// last look is old or server, the start of the server that the caller has just met, is another one.
//
// Errors: those of the database; nothing may be sent then.
func (g *Guard) Held(ctx context.Context, server time.Time) (string, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if server.Equal(g.server) && time.Since(g.looked) < lookEvery && g.reason == "" {
		return "", nil
	}
	return g.look(ctx)
}

// look reads the table, and adopts what may be adopted without asking.
func (g *Guard) look(ctx context.Context) (string, error) {
	v, err := g.read(ctx, g.pool)
	if pg.IsCode(err, pg.InsufficientPrivilege) {
		g.warn(err)
		g.looked, g.reason = time.Now(), ""
		return "", nil
	}
	if err != nil {
		return "", err
	}
	reason := v.Held()
	switch {
	case v.Standby:
	case reason == "" && len(v.Rows) == 0:
		err = adoptFirst(ctx, g.pool, v.Now)
	case reason != "" && g.promoted(v):
		if err = adopt(ctx, g.pool, v.Now, "promotion", ""); err == nil {
			g.log.Warn("the database's standby has become its primary; it is the one from now on",
				"timeline", v.Now.Timeline, "timeline_before", g.known.Timeline)
			reason = ""
		}
	}
	if pg.IsCode(err, pg.InsufficientPrivilege) {
		g.warn(err)
		err = nil
	}
	if err != nil {
		return "", fmt.Errorf("write where the database belongs: %w", err)
	}
	if older := g.older(v); reason == "" && older != "" {
		reason = older
	}
	if reason == "" && !v.Standby {
		g.know(v.Now)
		g.position = v.Position
	}
	g.looked, g.server, g.reason = time.Now(), v.Server, reason
	return reason, nil
}

// remembered is how many failovers back a program knows its way.
const remembered = 64

// know makes this the database that is the one.
func (g *Guard) know(now ID) {
	if g.known != nil && *g.known != now {
		g.past = append(g.past, *g.known)
		g.past = g.past[max(0, len(g.past)-remembered):]
	}
	g.known = &now
}

// promoted reports whether the database that this program knew has gone on on a later timeline. The table names the
// timeline that the program knew. Or it names one before it, which the program knew too: the next failover has lost
// the row of the last one. Or one after it, which others have adopted since.
func (g *Guard) promoted(v View) bool {
	others, _ := v.others()
	if g.known == nil || g.known.Timeline == 0 || g.known.System == "" || len(others) != 1 {
		return false
	}
	from := others[0].ID
	for _, id := range []ID{from, v.Now} {
		if id.System != g.known.System || id.Database != g.known.Database {
			return false
		}
	}
	replaced := func(r Row) bool { return r.Replaced != nil && r.ID == *g.known }
	return v.Now.Timeline > g.known.Timeline && v.Now.Timeline > from.Timeline &&
		(from == *g.known || slices.Contains(g.past, from) || from.Timeline > g.known.Timeline && slices.ContainsFunc(v.Rows, replaced))
}

// older returns why hooks must hold on a server whose WAL is not as far as it was: its disk was set back, or this is
// a copy of that disk, which nothing else tells from the original. Only a program that lives through it knows.
func (g *Guard) older(v View) string {
	if v.Standby || g.known == nil || v.Position == 0 || v.Position >= g.position || v.Now != *g.known {
		return ""
	}
	return fmt.Sprintf("%s: its WAL ends at %s, and was at %s", setBack, lsn(v.Position), lsn(g.position))
}

const (
	setBack       = "this is an older state of the database that this program has worked with, or a copy of its disk"
	remedySetBack = "if this database takes the other's place, restart this program; if not, connect it to the other (docs/restore.md)"
)

// lsn is a position as PostgreSQL writes it.
func lsn(position int64) string { return fmt.Sprintf("%X/%X", position>>32, uint32(position)) } //nolint:gosec // the lower half

// warn tells once that the rights are missing.
func (g *Guard) warn(err error) {
	if !g.warned {
		g.warned = true
		g.log.Warn("can't tell whether this database is a copy, whose hooks must hold",
			"error", err, "remedy", "grant select, insert, update on soniq_incarnations to the role")
	}
}

// Run looks until ctx ends, and tells of a hold by a line at ERROR: at once, and again at growing distance.
// It returns nil.
func (g *Guard) Run(ctx context.Context) error {
	var told, again time.Time
	distance := tellAgain
	last := ""
	for ctx.Err() == nil {
		reason, err := g.Held(ctx, time.Time{})
		if err != nil && ctx.Err() == nil {
			g.log.Debug("looking where the database belongs failed; trying again later", "error", err)
		}
		now := time.Now()
		switch {
		case err != nil:
		case reason == "":
			if last != "" {
				g.log.Info("hooks go on: this database is the one", "held_for", now.Sub(told).Round(time.Second).String())
			}
			last, distance = "", tellAgain
		case reason != last || now.After(again):
			if reason != last {
				told, distance = now, tellAgain
			}
			remedy := Remedy
			if strings.HasPrefix(reason, setBack) {
				remedy = remedySetBack
			}
			g.log.Error("hooks hold: "+reason, "remedy", remedy)
			last, again = reason, now.Add(distance)
			distance = min(2*distance, tellAtMost)
		}
		wait := lookEvery
		if err != nil {
			wait = time.Minute
		}
		if pause.For(ctx, wait) != nil {
			return nil
		}
	}
	return nil
}
